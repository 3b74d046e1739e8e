#include "step_call.h"

#include <algorithm>

#include "pointers.h"

namespace aim_edge {

aim_kernels::Mamba2DecodeStepParams mamba2_decode_step_params(const Call& call) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::Mamba2DecodeStepParams p;
    p.rows = size[kRows];
    p.nheads = narrow(size[kNheads]);
    p.headdim = narrow(size[kHeaddim]);
    p.d_state = narrow(size[kDState]);
    p.ngroups = narrow(size[kNgroups]);
    p.d_conv = narrow(size[kDConv]);
    p.eps = call.reals.eps;
    p.dtype = call.activations;
    p.conv_state_dtype = call.states;
    p.ssm_state_dtype = call.states;
    p.zxbcdt = call.inputs[mamba2_decode_step::zxbcdt];
    p.conv_weight = floats(call.inputs[mamba2_decode_step::conv_weight]);
    p.conv_bias = floats(call.inputs[mamba2_decode_step::conv_bias]);
    p.A = floats(call.inputs[mamba2_decode_step::A]);
    p.D = floats(call.inputs[mamba2_decode_step::D]);
    p.dt_bias = floats(call.inputs[mamba2_decode_step::dt_bias]);
    p.norm_weight = floats(call.inputs[mamba2_decode_step::norm_weight]);
    p.conv_state_in = call.inputs[mamba2_decode_step::conv_state];
    p.ssm_state_in = call.inputs[mamba2_decode_step::ssm_state];
    p.active = ints(call.inputs[mamba2_decode_step::active]);
    p.out = call.outputs[mamba2_decode_step::out];
    p.conv_state_out = call.outputs[mamba2_decode_step::conv_state_out];
    p.ssm_state_out = call.outputs[mamba2_decode_step::ssm_state_out];
    p.workspace = call.workspace;
    p.workspace_size = call.workspace_size;
    const int64_t inner = size[kNheads] * size[kHeaddim];
    p.zxbcdt_row_stride = 2 * inner + 2 * size[kNgroups] * size[kDState] + size[kNheads];
    p.out_row_stride = inner;
    return p;
}

aim_kernels::Mamba2LayersParams mamba2_layers_params(const Call& call) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::Mamba2LayersParams p;
    p.rows = size[kRows];
    p.layers = narrow(size[kLayers]);
    p.d_model = narrow(size[kDModel]);
    p.nheads = narrow(size[kNheads]);
    p.headdim = narrow(size[kHeaddim]);
    p.d_state = narrow(size[kDState]);
    p.ngroups = narrow(size[kNgroups]);
    p.d_conv = narrow(size[kDConv]);
    p.eps = call.reals.eps;
    p.dtype = call.activations;
    p.conv_state_dtype = call.states;
    p.ssm_state_dtype = call.states;
    p.residual = floats(call.inputs[mamba2_layers::residual]);
    p.modulation = floats(call.inputs[mamba2_layers::modulation]);
    p.norm_weight = floats(call.inputs[mamba2_layers::norm_weight]);
    p.in_proj = call.inputs[mamba2_layers::in_proj];
    p.conv_weight = floats(call.inputs[mamba2_layers::conv_weight]);
    p.conv_bias = floats(call.inputs[mamba2_layers::conv_bias]);
    p.A = floats(call.inputs[mamba2_layers::A]);
    p.D = floats(call.inputs[mamba2_layers::D]);
    p.dt_bias = floats(call.inputs[mamba2_layers::dt_bias]);
    p.gated_norm_weight = floats(call.inputs[mamba2_layers::gated_norm_weight]);
    p.out_proj = call.inputs[mamba2_layers::out_proj];
    p.conv_state_in = call.inputs[mamba2_layers::conv_state];
    p.ssm_state_in = call.inputs[mamba2_layers::ssm_state];
    p.active = ints(call.inputs[mamba2_layers::active]);
    p.residual_out = static_cast<float*>(call.outputs[mamba2_layers::residual_out]);
    p.conv_state_out = call.outputs[mamba2_layers::conv_state_out];
    p.ssm_state_out = call.outputs[mamba2_layers::ssm_state_out];
    p.workspace = call.workspace;
    p.workspace_size = call.workspace_size;
    p.exchange = call.exchange;
    return p;
}

// The same tensors at the same numbers, with the scales after them. No tensor is of the activations' type, float16.
static_assert(int{mamba2_layers_quantized::ssm_state} == int{mamba2_layers::ssm_state});
static_assert(int{mamba2_layers_quantized::ssm_state_out} == int{mamba2_layers::ssm_state_out});

aim_kernels::Mamba2LayersParams mamba2_layers_quantized_params(const Call& call) noexcept {
    aim_kernels::Mamba2LayersParams p = mamba2_layers_params(call);
    p.dtype = aim_kernels::DType::kFloat16;
    p.weight_bits = 8;
    p.in_words = call.sizes.of[kInWords];
    p.out_words = call.sizes.of[kOutWords];
    p.in_proj_scale = floats(call.inputs[mamba2_layers_quantized::in_proj_scale]);
    p.out_proj_scale = floats(call.inputs[mamba2_layers_quantized::out_proj_scale]);
    p.active = ints(call.inputs[mamba2_layers_quantized::active]);
    return p;
}

// From the modulation on a step's tensors are those of Mamba2Layers, as many numbers further on.
constexpr int kLayersAt = int{mamba2_step::modulation} - int{mamba2_layers::modulation};
static_assert(int{mamba2_step::ssm_state} == int{mamba2_layers::ssm_state} + kLayersAt);
static_assert(int{mamba2_step::ssm_state_out} == int{mamba2_layers::ssm_state_out});
static_assert(int{mamba2_step_quantized::ssm_state} == int{mamba2_step::ssm_state});

aim_kernels::Mamba2StepParams mamba2_step_params(const Call& call) noexcept {
    Call layers = call;
    std::copy(call.inputs + kLayersAt, call.inputs + kMaxInputs, layers.inputs);
    aim_kernels::Mamba2StepParams p;
    p.layers = mamba2_layers_params(layers);
    p.layers.residual = nullptr;
    p.layers.residual_out = nullptr;
    p.layers.active = ints(call.inputs[mamba2_step::active]);
    p.ends.positions = call.sizes.of[kPositions];
    p.ends.vocab_size = narrow(call.sizes.of[kVocabSize]);
    p.ends.num_positions = narrow(call.sizes.of[kNumPositions]);
    p.ends.position_offset = narrow(call.sizes.of[kPositionOffset]);
    p.ends.token = ints(call.inputs[mamba2_step::token]);
    p.ends.position = ints(call.inputs[mamba2_step::position]);
    p.ends.class_embedding = floats(call.inputs[mamba2_step::class_embedding]);
    p.ends.table = call.inputs[mamba2_step::table];
    p.ends.head = p.ends.table;
    p.ends.position_table = call.inputs[mamba2_step::position_table];
    p.ends.final_modulation = floats(call.inputs[mamba2_step::final_modulation]);
    p.ends.norm_f = floats(call.inputs[mamba2_step::norm_f]);
    p.ends.norm_final = floats(call.inputs[mamba2_step::norm_final]);
    p.ends.logits = static_cast<float*>(call.outputs[mamba2_step::logits]);
    return p;
}

aim_kernels::Mamba2StepParams mamba2_step_quantized_params(const Call& call) noexcept {
    aim_kernels::Mamba2StepParams p = mamba2_step_params(call);
    p.layers.weight_bits = 8;
    p.layers.in_words = call.sizes.of[kInWords];
    p.layers.out_words = call.sizes.of[kOutWords];
    p.layers.in_proj_scale = floats(call.inputs[mamba2_step_quantized::in_proj_scale]);
    p.layers.out_proj_scale = floats(call.inputs[mamba2_step_quantized::out_proj_scale]);
    p.layers.active = ints(call.inputs[mamba2_step_quantized::active]);
    p.ends.head = call.inputs[mamba2_step_quantized::head];
    p.ends.head_scale = floats(call.inputs[mamba2_step_quantized::head_scale]);
    return p;
}

// The same tensors at the same numbers, with the history after them.
static_assert(int{mamba2_lazy_step::ssm_state} == int{mamba2_decode_step::ssm_state});
static_assert(int{mamba2_lazy_step::ssm_state_out} == int{mamba2_decode_step::ssm_state_out});

aim_kernels::Mamba2LazyStepParams mamba2_lazy_step_params(const Call& call) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::Mamba2LazyStepParams p;
    p.step = mamba2_decode_step_params(call);
    p.step.active = ints(call.inputs[mamba2_lazy_step::active]);
    p.capacity = narrow(size[kCapacity]);
    p.fold_every = narrow(size[kFoldEvery]);
    p.x_history_in = call.inputs[mamba2_lazy_step::x_history];
    p.B_history_in = call.inputs[mamba2_lazy_step::B_history];
    p.dt_history_in = floats(call.inputs[mamba2_lazy_step::dt_history]);
    p.counters_in = floats(call.inputs[mamba2_lazy_step::counters]);
    p.x_history_out = call.outputs[mamba2_lazy_step::x_history_out];
    p.B_history_out = call.outputs[mamba2_lazy_step::B_history_out];
    p.dt_history_out = static_cast<float*>(call.outputs[mamba2_lazy_step::dt_history_out]);
    p.counters_out = static_cast<float*>(call.outputs[mamba2_lazy_step::counters_out]);
    return p;
}

aim_kernels::AdaLnNormParams ada_ln_norm_params(const Call& call) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::AdaLnNormParams p;
    p.rows = size[kRows];
    p.vectors = size[kVectors];
    p.d_model = size[kDModel];
    p.gate_index = narrow(size[kGateIndex]);
    p.shift_index = narrow(size[kShiftIndex]);
    p.scale_index = narrow(size[kScaleIndex]);
    p.eps = call.reals.eps;
    p.dtype = call.activations;
    p.hidden = call.inputs[ada_ln_norm::hidden];
    p.residual = floats(call.inputs[ada_ln_norm::residual]);
    p.modulation = floats(call.inputs[ada_ln_norm::modulation]);
    p.weight = floats(call.inputs[ada_ln_norm::weight]);
    p.x = call.outputs[ada_ln_norm::x];
    p.residual_out = static_cast<float*>(call.outputs[ada_ln_norm::residual_out]);
    return p;
}

aim_kernels::EmbedNormParams embed_norm_params(const Call& call) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::EmbedNormParams p;
    p.embedding.positions = size[kPositions];
    p.embedding.vocab_size = narrow(size[kVocabSize]);
    p.embedding.num_positions = narrow(size[kNumPositions]);
    p.embedding.position_offset = narrow(size[kPositionOffset]);
    p.embedding.token = ints(call.inputs[embed_norm::token]);
    p.embedding.position = ints(call.inputs[embed_norm::position]);
    p.embedding.class_embedding = floats(call.inputs[embed_norm::class_embedding]);
    p.embedding.table = call.inputs[embed_norm::table];
    p.embedding.position_table = call.inputs[embed_norm::position_table];
    p.rows = size[kRows];
    p.vectors = size[kVectors];
    p.d_model = size[kDModel];
    p.shift_index = narrow(size[kShiftIndex]);
    p.scale_index = narrow(size[kScaleIndex]);
    p.eps = call.reals.eps;
    p.dtype = call.activations;
    p.modulation = floats(call.inputs[embed_norm::modulation]);
    p.weight = floats(call.inputs[embed_norm::weight]);
    p.x = call.outputs[embed_norm::x];
    p.residual = static_cast<float*>(call.outputs[embed_norm::residual]);
    return p;
}

aim_kernels::FinalNormParams final_norm_params(const Call& call) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::FinalNormParams p;
    p.rows = size[kRows];
    p.vectors = size[kVectors];
    p.d_model = size[kDModel];
    p.gate_index = narrow(size[kGateIndex]);
    p.eps = call.reals.eps;
    p.final_eps = call.reals.final_eps;
    p.dtype = call.activations;
    p.hidden = call.inputs[final_norm::hidden];
    p.residual = floats(call.inputs[final_norm::residual]);
    p.modulation = floats(call.inputs[final_norm::modulation]);
    p.final_modulation = floats(call.inputs[final_norm::final_modulation]);
    p.norm_f = floats(call.inputs[final_norm::norm_f]);
    p.norm_final = floats(call.inputs[final_norm::norm_final]);
    p.x = call.outputs[final_norm::x];
    return p;
}

aim_kernels::CachedAttentionParams cached_attention_params(const Call& call) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::CachedAttentionParams p;
    p.rows = size[kRows];
    p.positions = size[kPositions];
    p.num_tokens = narrow(size[kNumTokens]);
    p.nheads = narrow(size[kNheads]);
    p.headdim = narrow(size[kHeaddim]);
    p.dtype = call.activations;
    p.state_dtype = call.states;
    p.qkv = call.inputs[cached_attention::qkv];
    p.rotary = floats(call.inputs[cached_attention::rotary]);
    p.position = ints(call.inputs[cached_attention::position]);
    p.k_cache = call.outputs[cached_attention::k_cache_out];  // brought over where it is not the input: keeps_states
    p.v_cache = call.outputs[cached_attention::v_cache_out];
    p.out = call.outputs[cached_attention::out];
    p.workspace = call.workspace;
    p.workspace_size = call.workspace_size;
    return p;
}

// The tensors of those that give float32 have the same numbers.
static_assert(int{linear_float32::weight} == int{linear::weight});
static_assert(int{linear_quantized_float32::scale} == int{linear_quantized::scale});

aim_kernels::LinearParams linear_params(const Call& call, bool float32_y) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::LinearParams p;
    p.rows = size[kRows];
    p.in_features = size[kInFeatures];
    p.out_features = size[kOutFeatures];
    p.dtype = call.activations;
    p.float32_y = float32_y;
    p.x = call.inputs[linear::x];
    p.weight = call.inputs[linear::weight];
    p.y = call.outputs[linear::y];
    return p;
}

aim_kernels::SwiGluParams swi_glu_params(const Call& call) noexcept {
    aim_kernels::SwiGluParams p;
    p.rows = call.sizes.of[kRows];
    p.width = call.sizes.of[kD];
    p.dtype = call.activations;
    p.gate = call.inputs[swi_glu::gate];
    p.up = call.inputs[swi_glu::up];
    p.y = call.outputs[swi_glu::y];
    return p;
}

aim_kernels::LinearQuantizedParams linear_quantized_params(const Call& call, bool float32_y) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::LinearQuantizedParams p;
    p.rows = size[kRows];
    p.in_features = size[kInFeatures];
    p.out_features = size[kOutFeatures];
    p.bits = narrow(size[kBits]);
    p.group_size = narrow(size[kGroupSize]);
    p.words = size[kWords];
    p.scales = size[kScales];
    p.dtype = call.activations;
    p.float32_y = float32_y;
    p.x = call.inputs[linear_quantized::x];
    p.weight = call.inputs[linear_quantized::weight];
    p.scale = floats(call.inputs[linear_quantized::scale]);
    p.y = call.outputs[linear_quantized::y];
    return p;
}

}  // namespace aim_edge
