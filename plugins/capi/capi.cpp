// The C ABI: copies each plain struct into the operator's own and calls it. It decides nothing else.
#include "aim_kernels_c.h"

#include <cstddef>

#include "aim_kernels/aim_kernels.h"
#include "host.h"

namespace {

using namespace aim_kernels;

// What does not fit any value of the enum stays what it is, for the operator's own check to refuse.
DType dtype_of(int32_t value) { return static_cast<DType>(value); }

template <typename Params>
Status check_struct(const char* op, const Params* params) {
    if (params == nullptr) return detail::fail(Status::kNullPointer, "%s: params is null; it is required", op);
    if (params->size == sizeof(Params)) return Status::kSuccess;
    return detail::fail(Status::kVersionMismatch,
                        "%s: the caller's params have %llu bytes; this library, version %d, expects %zu", op,
                        static_cast<unsigned long long>(params->size), version(), sizeof(Params));
}

AdaLnNormParams convert(const aim_ada_ln_norm_params& from) {
    AdaLnNormParams to;
    to.rows = from.rows;
    to.vectors = from.vectors;
    to.d_model = from.d_model;
    to.gate_index = from.gate_index;
    to.shift_index = from.shift_index;
    to.scale_index = from.scale_index;
    to.eps = from.eps;
    to.dtype = dtype_of(from.dtype);
    to.hidden = from.hidden;
    to.residual = from.residual;
    to.modulation = from.modulation;
    to.weight = from.weight;
    to.x = from.x;
    to.residual_out = from.residual_out;
    return to;
}

EmbedNormParams convert(const aim_embed_norm_params& from) {
    EmbedNormParams to;
    to.embedding.positions = from.positions;
    to.embedding.vocab_size = from.vocab_size;
    to.embedding.num_positions = from.num_positions;
    to.embedding.position_offset = from.position_offset;
    to.embedding.token = from.token;
    to.embedding.position = from.position;
    to.embedding.class_embedding = from.class_embedding;
    to.embedding.table = from.table;
    to.embedding.position_table = from.position_table;
    to.rows = from.rows;
    to.vectors = from.vectors;
    to.d_model = from.d_model;
    to.shift_index = from.shift_index;
    to.scale_index = from.scale_index;
    to.eps = from.eps;
    to.dtype = dtype_of(from.dtype);
    to.modulation = from.modulation;
    to.weight = from.weight;
    to.x = from.x;
    to.residual = from.residual;
    return to;
}

FinalNormParams convert(const aim_final_norm_params& from) {
    FinalNormParams to;
    to.rows = from.rows;
    to.vectors = from.vectors;
    to.d_model = from.d_model;
    to.gate_index = from.gate_index;
    to.eps = from.eps;
    to.final_eps = from.final_eps;
    to.dtype = dtype_of(from.dtype);
    to.hidden = from.hidden;
    to.residual = from.residual;
    to.modulation = from.modulation;
    to.final_modulation = from.final_modulation;
    to.norm_f = from.norm_f;
    to.norm_final = from.norm_final;
    to.x = from.x;
    return to;
}

CachedAttentionParams convert(const aim_cached_attention_params& from) {
    CachedAttentionParams to;
    to.rows = from.rows;
    to.positions = from.positions;
    to.num_tokens = from.num_tokens;
    to.nheads = from.nheads;
    to.headdim = from.headdim;
    to.dtype = dtype_of(from.dtype);
    to.state_dtype = dtype_of(from.state_dtype);
    to.qkv = from.qkv;
    to.rotary = from.rotary;
    to.position = from.position;
    to.k_cache = from.k_cache;
    to.v_cache = from.v_cache;
    to.out = from.out;
    to.workspace = from.workspace;
    to.workspace_size = static_cast<size_t>(from.workspace_size);
    return to;
}

CausalConv1dParams convert(const aim_causal_conv1d_params& from) {
    CausalConv1dParams to;
    to.rows = from.rows;
    to.length = from.length;
    to.channels = from.channels;
    to.d_conv = from.d_conv;
    to.dtype = dtype_of(from.dtype);
    to.state_dtype = dtype_of(from.state_dtype);
    to.activation = static_cast<Activation>(from.activation);
    to.x = from.x;
    to.x_row_stride = from.x_row_stride;
    to.x_time_stride = from.x_time_stride;
    to.weight = from.weight;
    to.bias = from.bias;
    to.conv_state_in = from.conv_state_in;
    to.conv_state_out = from.conv_state_out;
    to.y = from.y;
    to.y_row_stride = from.y_row_stride;
    to.y_time_stride = from.y_time_stride;
    to.active = from.active;
    return to;
}

SelectiveScanParams convert(const aim_selective_scan_params& from) {
    SelectiveScanParams to;
    to.kind = static_cast<ScanKind>(from.kind);
    to.rows = from.rows;
    to.length = from.length;
    to.nheads = from.nheads;
    to.headdim = from.headdim;
    to.d_state = from.d_state;
    to.ngroups = from.ngroups;
    to.dtype = dtype_of(from.dtype);
    to.state_dtype = dtype_of(from.state_dtype);
    to.dt_softplus = from.dt_softplus != 0;
    to.x = from.x;
    to.x_row_stride = from.x_row_stride;
    to.x_time_stride = from.x_time_stride;
    to.dt = from.dt;
    to.dt_row_stride = from.dt_row_stride;
    to.dt_time_stride = from.dt_time_stride;
    to.B = from.B;
    to.B_row_stride = from.B_row_stride;
    to.B_time_stride = from.B_time_stride;
    to.C = from.C;
    to.C_row_stride = from.C_row_stride;
    to.C_time_stride = from.C_time_stride;
    to.z = from.z;
    to.z_row_stride = from.z_row_stride;
    to.z_time_stride = from.z_time_stride;
    to.y = from.y;
    to.y_row_stride = from.y_row_stride;
    to.y_time_stride = from.y_time_stride;
    to.A = from.A;
    to.D = from.D;
    to.dt_bias = from.dt_bias;
    to.ssm_state_in = from.ssm_state_in;
    to.ssm_state_out = from.ssm_state_out;
    to.active = from.active;
    to.workspace = from.workspace;
    to.workspace_size = static_cast<size_t>(from.workspace_size);
    return to;
}

RmsNormGatedParams convert(const aim_rms_norm_gated_params& from) {
    RmsNormGatedParams to;
    to.rows = from.rows;
    to.length = from.length;
    to.d = from.d;
    to.ngroups = from.ngroups;
    to.eps = from.eps;
    to.dtype = dtype_of(from.dtype);
    to.y = from.y;
    to.y_row_stride = from.y_row_stride;
    to.y_time_stride = from.y_time_stride;
    to.z = from.z;
    to.z_row_stride = from.z_row_stride;
    to.z_time_stride = from.z_time_stride;
    to.weight = from.weight;
    to.out = from.out;
    to.out_row_stride = from.out_row_stride;
    to.out_time_stride = from.out_time_stride;
    to.active = from.active;
    return to;
}

LinearParams convert(const aim_linear_params& from) {
    LinearParams to;
    to.rows = from.rows;
    to.in_features = from.in_features;
    to.out_features = from.out_features;
    to.dtype = dtype_of(from.dtype);
    to.float32_y = from.float32_y != 0;
    to.x = from.x;
    to.weight = from.weight;
    to.y = from.y;
    return to;
}

SwiGluParams convert(const aim_swi_glu_params& from) {
    SwiGluParams to;
    to.rows = from.rows;
    to.width = from.width;
    to.dtype = dtype_of(from.dtype);
    to.gate = from.gate;
    to.up = from.up;
    to.y = from.y;
    return to;
}

LinearQuantizedParams convert(const aim_linear_quantized_params& from) {
    LinearQuantizedParams to;
    to.rows = from.rows;
    to.in_features = from.in_features;
    to.out_features = from.out_features;
    to.bits = from.bits;
    to.group_size = from.group_size;
    to.dtype = dtype_of(from.dtype);
    to.float32_y = from.float32_y != 0;
    to.x = from.x;
    to.weight = from.weight;
    to.scale = from.scale;
    to.y = from.y;
    return to;
}

GroupNormSiluParams convert(const aim_group_norm_silu_params& from) {
    GroupNormSiluParams to;
    to.batch = from.batch;
    to.channels = from.channels;
    to.height = from.height;
    to.width = from.width;
    to.groups = from.groups;
    to.layout = static_cast<Layout>(from.layout);
    to.dtype = dtype_of(from.dtype);
    to.silu = from.silu != 0;
    to.eps = from.eps;
    to.x = from.x;
    to.weight = from.weight;
    to.bias = from.bias;
    to.y = from.y;
    to.residual = from.residual;
    to.sum = from.sum;
    to.workspace = from.workspace;
    to.workspace_size = static_cast<size_t>(from.workspace_size);
    return to;
}

NormConvParams convert(const aim_norm_conv_params& from) {
    NormConvParams to;
    to.batch = from.batch;
    to.in_channels = from.in_channels;
    to.height = from.height;
    to.width = from.width;
    to.out_channels = from.out_channels;
    to.groups = from.groups;
    to.kind = static_cast<ConvKind>(from.kind);
    to.dtype = dtype_of(from.dtype);
    to.eps = from.eps;
    to.x = from.x;
    to.affine = from.affine;
    to.weight = from.weight;
    to.bias = from.bias;
    to.residual = from.residual;
    to.next_weight = from.next_weight;
    to.next_bias = from.next_bias;
    to.y = from.y;
    to.next_affine = from.next_affine;
    to.workspace = from.workspace;
    to.workspace_size = static_cast<size_t>(from.workspace_size);
    return to;
}

Mamba2DecodeStepParams convert(const aim_mamba2_decode_step_params& from) {
    Mamba2DecodeStepParams to;
    to.rows = from.rows;
    to.nheads = from.nheads;
    to.headdim = from.headdim;
    to.d_state = from.d_state;
    to.ngroups = from.ngroups;
    to.d_conv = from.d_conv;
    to.eps = from.eps;
    to.dtype = dtype_of(from.dtype);
    to.conv_state_dtype = dtype_of(from.conv_state_dtype);
    to.ssm_state_dtype = dtype_of(from.ssm_state_dtype);
    to.zxbcdt = from.zxbcdt;
    to.zxbcdt_row_stride = from.zxbcdt_row_stride;
    to.conv_weight = from.conv_weight;
    to.conv_bias = from.conv_bias;
    to.A = from.A;
    to.D = from.D;
    to.dt_bias = from.dt_bias;
    to.norm_weight = from.norm_weight;
    to.conv_state_in = from.conv_state_in;
    to.conv_state_out = from.conv_state_out;
    to.ssm_state_in = from.ssm_state_in;
    to.ssm_state_out = from.ssm_state_out;
    to.out = from.out;
    to.out_row_stride = from.out_row_stride;
    to.active = from.active;
    to.workspace = from.workspace;
    to.workspace_size = static_cast<size_t>(from.workspace_size);
    return to;
}

Mamba2LazyStepParams convert(const aim_mamba2_lazy_step_params& from) {
    Mamba2LazyStepParams to;
    to.step = convert(from.step);
    to.capacity = from.capacity;
    to.fold_every = from.fold_every;
    to.x_history_in = from.x_history_in;
    to.x_history_out = from.x_history_out;
    to.B_history_in = from.B_history_in;
    to.B_history_out = from.B_history_out;
    to.dt_history_in = from.dt_history_in;
    to.dt_history_out = from.dt_history_out;
    to.counters_in = from.counters_in;
    to.counters_out = from.counters_out;
    return to;
}

// One struct under two names, since the device reads it.
static_assert(sizeof(aim_sampling) == 40 && sizeof(Sampling) == sizeof(aim_sampling) &&
                  offsetof(Sampling, top_p) == offsetof(aim_sampling, top_p) &&
                  offsetof(Sampling, guidance_scale) == offsetof(aim_sampling, guidance_scale) &&
                  offsetof(Sampling, temperature) == offsetof(aim_sampling, temperature) &&
                  offsetof(Sampling, top_k) == offsetof(aim_sampling, top_k),
              "aim_sampling and Sampling have one layout");

Mamba2LayersParams convert(const aim_mamba2_layers_params& from) {
    Mamba2LayersParams to;
    to.rows = from.rows;
    to.layers = from.layers;
    to.d_model = from.d_model;
    to.nheads = from.nheads;
    to.headdim = from.headdim;
    to.d_state = from.d_state;
    to.ngroups = from.ngroups;
    to.d_conv = from.d_conv;
    to.eps = from.eps;
    to.residual = from.residual;
    to.modulation = from.modulation;
    to.norm_weight = from.norm_weight;
    to.in_proj = from.in_proj;
    to.conv_weight = from.conv_weight;
    to.conv_bias = from.conv_bias;
    to.A = from.A;
    to.D = from.D;
    to.dt_bias = from.dt_bias;
    to.gated_norm_weight = from.gated_norm_weight;
    to.out_proj = from.out_proj;
    to.weight_bits = from.weight_bits;
    to.in_proj_scale = from.in_proj_scale;
    to.out_proj_scale = from.out_proj_scale;
    to.conv_state_in = from.conv_state_in;
    to.conv_state_out = from.conv_state_out;
    to.ssm_state_in = from.ssm_state_in;
    to.ssm_state_out = from.ssm_state_out;
    to.residual_out = from.residual_out;
    to.active = from.active;
    to.workspace = from.workspace;
    to.workspace_size = from.workspace_size;
    to.exchange = from.exchange;
    to.dtype = dtype_of(from.dtype);
    to.conv_state_dtype = dtype_of(from.conv_state_dtype);
    to.ssm_state_dtype = dtype_of(from.ssm_state_dtype);
    return to;
}

Mamba2StepParams convert(const aim_mamba2_step_params& from) {
    Mamba2StepParams to;
    to.layers = convert(from.layers);
    to.ends.positions = from.positions;
    to.ends.vocab_size = from.vocab_size;
    to.ends.num_positions = from.num_positions;
    to.ends.position_offset = from.position_offset;
    to.ends.token = from.token;
    to.ends.position = from.position;
    to.ends.class_embedding = from.class_embedding;
    to.ends.table = from.table;
    to.ends.head = from.head;
    to.ends.head_scale = from.head_scale;
    to.ends.position_table = from.position_table;
    to.ends.final_modulation = from.final_modulation;
    to.ends.norm_f = from.norm_f;
    to.ends.norm_final = from.norm_final;
    to.ends.logits = from.logits;
    return to;
}

SampleParams convert(const aim_sample_params& from) {
    SampleParams to;
    to.batch = from.batch;
    to.vocab_size = from.vocab_size;
    to.num_tokens = from.num_tokens;
    to.logits = from.logits;
    to.sampling = reinterpret_cast<const Sampling*>(from.sampling);
    to.image_index = from.image_index;
    to.token = from.token;
    to.position = from.position;
    to.tokens = from.tokens;
    to.status = from.status;
    to.active = from.active;
    return to;
}

ImageParams convert(const aim_image_params& from) {
    ImageParams to;
    to.batch = from.batch;
    to.channels = from.channels;
    to.height = from.height;
    to.width = from.width;
    to.image = from.image;
    to.pixels = from.pixels;
    to.status = from.status;
    return to;
}

template <typename Params>
int run(const char* op, const Params* params, void* stream) {
    const Status status = check_struct(op, params);
    if (status != Status::kSuccess) return static_cast<int>(status);
    return static_cast<int>(launch(convert(*params), static_cast<cudaStream_t>(stream)));
}

// What `bytes_of` says of these sizes.
template <typename Params, typename BytesOf>
int ask(const char* op, const Params* params, uint64_t* bytes, BytesOf bytes_of) {
    Status status = check_struct(op, params);
    if (status == Status::kSuccess && bytes == nullptr) {
        status = detail::fail(Status::kNullPointer, "%s: bytes is null; it is required", op);
    }
    if (status == Status::kSuccess) status = validate_shapes(convert(*params));
    if (status == Status::kSuccess) *bytes = bytes_of(convert(*params));
    return static_cast<int>(status);
}

template <typename Params>
int workspace(const char* op, const Params* params, uint64_t* bytes) {
    return ask(op, params, bytes, [](const auto& converted) { return workspace_bytes(converted); });
}

}  // namespace

int aim_cached_attention(const aim_cached_attention_params* p, void* stream) {
    return run("cached_attention", p, stream);
}
int aim_causal_conv1d(const aim_causal_conv1d_params* p, void* stream) { return run("causal_conv1d", p, stream); }
int aim_selective_scan(const aim_selective_scan_params* p, void* stream) { return run("selective_scan", p, stream); }
int aim_ada_ln_norm(const aim_ada_ln_norm_params* p, void* stream) { return run("ada_ln_norm", p, stream); }
int aim_embed_norm(const aim_embed_norm_params* p, void* stream) { return run("embed_norm", p, stream); }
int aim_final_norm(const aim_final_norm_params* p, void* stream) { return run("final_norm", p, stream); }
int aim_linear(const aim_linear_params* p, void* stream) { return run("linear", p, stream); }
int aim_swi_glu(const aim_swi_glu_params* p, void* stream) { return run("swi_glu", p, stream); }
int aim_linear_quantized(const aim_linear_quantized_params* p, void* stream) {
    return run("linear_quantized", p, stream);
}
int aim_rms_norm_gated(const aim_rms_norm_gated_params* p, void* stream) { return run("rms_norm_gated", p, stream); }
int aim_group_norm_silu(const aim_group_norm_silu_params* p, void* stream) { return run("group_norm_silu", p, stream); }

int aim_norm_conv(const aim_norm_conv_params* p, void* stream) { return run("norm_conv", p, stream); }
int aim_mamba2_decode_step(const aim_mamba2_decode_step_params* p, void* stream) {
    return run("mamba2_decode_step", p, stream);
}
int aim_mamba2_layers(const aim_mamba2_layers_params* p, void* stream) { return run("mamba2_layers", p, stream); }
int aim_mamba2_step(const aim_mamba2_step_params* p, void* stream) { return run("mamba2_step", p, stream); }
int aim_mamba2_lazy_step(const aim_mamba2_lazy_step_params* p, void* stream) {
    return run("mamba2_lazy_step", p, stream);
}
int aim_sample(const aim_sample_params* p, void* stream) { return run("sample", p, stream); }
int aim_image_to_uint8(const aim_image_params* p, void* stream) { return run("image_to_uint8", p, stream); }

int aim_cached_attention_workspace(const aim_cached_attention_params* p, uint64_t* bytes) {
    return workspace("cached_attention", p, bytes);
}
int aim_selective_scan_workspace(const aim_selective_scan_params* p, uint64_t* bytes) {
    return workspace("selective_scan", p, bytes);
}
int aim_group_norm_silu_workspace(const aim_group_norm_silu_params* p, uint64_t* bytes) {
    return workspace("group_norm_silu", p, bytes);
}

int aim_norm_conv_workspace(const aim_norm_conv_params* p, uint64_t* bytes) { return workspace("norm_conv", p, bytes); }
int aim_mamba2_decode_step_workspace(const aim_mamba2_decode_step_params* p, uint64_t* bytes) {
    return workspace("mamba2_decode_step", p, bytes);
}
int aim_mamba2_layers_workspace(const aim_mamba2_layers_params* p, uint64_t* bytes) {
    return workspace("mamba2_layers", p, bytes);
}
int aim_mamba2_layers_exchange(const aim_mamba2_layers_params* p, uint64_t* bytes) {
    return ask("mamba2_layers", p, bytes, [](const auto& converted) { return exchange_bytes(converted); });
}
int aim_mamba2_layers_resident(const aim_mamba2_layers_params* p) {
    return check_struct("mamba2_layers", p) == Status::kSuccess && resident(convert(*p));
}
int aim_mamba2_step_workspace(const aim_mamba2_step_params* p, uint64_t* bytes) {
    return workspace("mamba2_step", p, bytes);
}
int aim_mamba2_step_resident(const aim_mamba2_step_params* p) {
    return check_struct("mamba2_step", p) == Status::kSuccess && resident(convert(*p));
}
int aim_mamba2_lazy_step_workspace(const aim_mamba2_lazy_step_params* p, uint64_t* bytes) {
    return workspace("mamba2_lazy_step", p, bytes);
}

int aim_version(void) { return version(); }
int aim_check_device(void) { return static_cast<int>(check_device()); }
const char* aim_last_error(void) { return last_error(); }
const char* aim_status_message(int status) { return status_message(static_cast<Status>(status)); }
const char* aim_supported_archs(void) { return supported_archs(); }
