#include "aim_kernels/mamba2_layers.h"

#include "aim_kernels/ada_ln_norm.h"
#include "aim_kernels/linear.h"
#include "aim_kernels/linear_quantized.h"
#include "aim_kernels/mamba2_decode_step.h"
#include "launch.cuh"
#include "layers.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "mamba2_layers";

int64_t d_inner_of(const Mamba2LayersParams& p) noexcept { return static_cast<int64_t>(p.nheads) * p.headdim; }

int64_t conv_dim_of(const Mamba2LayersParams& p) noexcept {
    return d_inner_of(p) + 2 * static_cast<int64_t>(p.ngroups) * p.d_state;
}

const void* past(const void* base, DType dtype, int64_t elements) noexcept {
    return static_cast<const unsigned char*>(base) + elements * static_cast<int64_t>(dtype_size(dtype));
}

void* past(void* base, DType dtype, int64_t elements) noexcept {
    return static_cast<unsigned char*>(base) + elements * static_cast<int64_t>(dtype_size(dtype));
}

// One layer's call of mamba2_decode_step but for its buffers.
Mamba2DecodeStepParams step_of(const Mamba2LayersParams& p, int64_t layer) noexcept {
    const int64_t inner = d_inner_of(p), conv = conv_dim_of(p), window = conv * (p.d_conv - 1), state = inner * p.d_state;
    Mamba2DecodeStepParams step;
    step.rows = p.rows;
    step.nheads = p.nheads;
    step.headdim = p.headdim;
    step.d_state = p.d_state;
    step.ngroups = p.ngroups;
    step.d_conv = p.d_conv;
    step.eps = p.eps;
    step.dtype = p.dtype;
    step.conv_state_dtype = p.conv_state_dtype;
    step.ssm_state_dtype = p.ssm_state_dtype;
    step.zxbcdt_row_stride = inner + conv + p.nheads;
    step.conv_weight = p.conv_weight + layer * conv * p.d_conv;
    step.conv_bias = p.conv_bias + layer * conv;
    step.A = p.A + layer * p.nheads;
    step.D = p.D + layer * p.nheads;
    step.dt_bias = p.dt_bias + layer * p.nheads;
    step.norm_weight = p.gated_norm_weight + layer * inner;
    step.conv_state_in = past(p.conv_state_in, p.conv_state_dtype, layer * window);
    step.conv_state_out = past(p.conv_state_out, p.conv_state_dtype, layer * window);
    step.ssm_state_in = past(p.ssm_state_in, p.ssm_state_dtype, layer * state);
    step.ssm_state_out = past(p.ssm_state_out, p.ssm_state_dtype, layer * state);
    step.conv_state_row_stride = p.layers * window;
    step.ssm_state_row_stride = p.layers * state;
    step.out_row_stride = inner;
    step.active = p.active;
    return step;
}

// The chain's buffers, one after another in the workspace.
struct ChainBuffers {
    size_t hidden, x, zxbcdt, inner, step;  // bytes
    size_t total() const noexcept { return hidden + x + zxbcdt + inner + step; }
};

ChainBuffers buffers_of(const Mamba2LayersParams& p) noexcept {
    const size_t item = dtype_size(p.dtype);
    const auto bytes = [&](int64_t width) { return aligned(static_cast<size_t>(p.rows * width) * item); };
    return {bytes(p.d_model), bytes(p.d_model), bytes(d_inner_of(p) + conv_dim_of(p) + p.nheads), bytes(d_inner_of(p)),
            aligned(workspace_bytes(step_of(p, 0)))};
}

Status launch_chain(const Mamba2LayersParams& p, cudaStream_t stream) noexcept {
    const ChainBuffers bytes = buffers_of(p);
    unsigned char* hidden = static_cast<unsigned char*>(p.workspace);
    unsigned char *x = hidden + bytes.hidden, *zxbcdt = x + bytes.x, *inner = zxbcdt + bytes.zxbcdt;
    unsigned char* scratch = inner + bytes.inner;
    const int64_t d_inner = d_inner_of(p), width = d_inner + conv_dim_of(p) + p.nheads;

    // The first layer has no branch before it: its gate, any, meets zeros.
    AIM_CHECK(clear_workspace(kOp, hidden, bytes.hidden, stream));
    AdaLnNormParams norm;
    norm.rows = p.rows;
    norm.vectors = 3 * static_cast<int64_t>(p.layers);
    norm.d_model = p.d_model;
    norm.eps = p.eps;
    norm.dtype = p.dtype;
    norm.hidden = hidden;
    norm.residual = p.residual;
    norm.modulation = p.modulation;
    norm.weight = p.norm_weight;
    norm.x = x;
    norm.residual_out = p.residual_out;
    for (int32_t layer = 0; layer < p.layers; ++layer) {
        norm.gate_index = layer == 0 ? 0 : 3 * layer - 1;
        norm.shift_index = 3 * layer;
        norm.scale_index = 3 * layer + 1;
        norm.weight = p.norm_weight + static_cast<int64_t>(layer) * p.d_model;
        AIM_CHECK(launch(norm, stream));
        norm.residual = p.residual_out;
        Product product = {p.in_proj, p.in_proj_scale, static_cast<int>(width), p.d_model};
        AIM_CHECK(launch_product(p, product, layer, x, zxbcdt, false, stream));
        Mamba2DecodeStepParams step = step_of(p, layer);
        step.zxbcdt = zxbcdt;
        step.out = inner;
        step.workspace = scratch;
        step.workspace_size = bytes.step;
        AIM_CHECK(launch(step, stream));
        product = {p.out_proj, p.out_proj_scale, p.d_model, static_cast<int>(d_inner)};
        AIM_CHECK(launch_product(p, product, layer, inner, hidden, false, stream));
    }
    // Once more for the last branch; the x that it also makes is nobody's.
    norm.gate_index = 3 * p.layers - 1;
    return launch(norm, stream);
}

// What integer weights ask for beyond the rest.
Status check_weights(const Mamba2LayersParams& p) noexcept {
    if (p.weight_bits == 0) return Status::kSuccess;
    if (p.weight_bits != 8) {
        return fail(Status::kUnsupportedShape, "%s: weight_bits is %d; supported: 0 (weights of dtype) and 8", kOp,
                    static_cast<int>(p.weight_bits));
    }
    const int64_t inner = d_inner_of(p);
    if (p.d_model % 32 != 0 || inner % 32 != 0) {
        return fail(Status::kUnsupportedShape,
                    "%s: d_model is %d and nheads * headdim %lld; with weight_bits 8 supported: steps of 32", kOp, p.d_model,
                    static_cast<long long>(inner));
    }
    if ((p.in_words != 0 && p.in_words != p.d_model / 4) || (p.out_words != 0 && p.out_words != inner / 4)) {
        return fail(Status::kUnsupportedShape,
                    "%s: in_proj has %lld words a feature and out_proj %lld; expected %d and %lld", kOp,
                    static_cast<long long>(p.in_words), static_cast<long long>(p.out_words), p.d_model / 4,
                    static_cast<long long>(inner / 4));
    }
    if (p.dtype == DType::kFloat32) {
        return fail(Status::kUnsupportedDType,
                    "%s: dtype is %d; with weight_bits 8 supported: float16 (1) and bfloat16 (2)", kOp,
                    static_cast<int>(p.dtype));
    }
    return Status::kSuccess;
}

}  // namespace

namespace detail {

Status launch_product(const Mamba2LayersParams& p, const Product& m, int64_t layer, const void* x, void* y,
                      bool float32_y, cudaStream_t stream) noexcept {
    const int64_t weights = layer * m.features * m.inputs;
    if (p.weight_bits == 8) {
        LinearQuantizedParams quantized;
        quantized.rows = p.rows;
        quantized.in_features = m.inputs;
        quantized.out_features = m.features;
        quantized.bits = 8;
        quantized.dtype = p.dtype;
        quantized.float32_y = float32_y;
        quantized.x = x;
        quantized.weight = static_cast<const int8_t*>(m.weight) + weights;
        quantized.scale = m.scale + layer * m.features;
        quantized.y = y;
        return launch(quantized, stream);
    }
    LinearParams linear;
    linear.rows = p.rows;
    linear.in_features = m.inputs;
    linear.out_features = m.features;
    linear.dtype = p.dtype;
    linear.float32_y = float32_y;
    linear.x = x;
    linear.weight = past(m.weight, p.dtype, weights);
    linear.y = y;
    return launch(linear, stream);
}

}  // namespace detail

size_t workspace_bytes(const Mamba2LayersParams& p) noexcept {
    if (p.rows < 1 || p.nheads < 1 || p.headdim < 1 || p.d_model < 1 || p.d_state < 1 || p.ngroups < 1) return 0;
    // Whichever form it will be: a network asks before it knows its device.
    const size_t chain = buffers_of(p).total(), one = resident_workspace(p);
    return chain > one ? chain : one;
}

Status validate_shapes(const Mamba2LayersParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positive(kOp, "layers", p.layers));
    if (p.d_model < 8 || p.d_model > 8192 || p.d_model % 8 != 0) {
        return fail(Status::kUnsupportedShape, "%s: d_model is %d; supported: 8 to 8192 in steps of 8", kOp, p.d_model);
    }
    AIM_CHECK(check_positive(kOp, "nheads", p.nheads));
    AIM_CHECK(check_steps_of_16(kOp, "headdim", p.headdim, 128));
    AIM_CHECK(check_steps_of_16(kOp, "d_state", p.d_state, 256));
    AIM_CHECK(check_ngroups(kOp, p.ngroups, "nheads", p.nheads));
    AIM_CHECK(check_state_size(kOp, p.nheads, p.headdim, p.d_state));
    AIM_CHECK(check_d_conv(kOp, p.d_conv));
    AIM_CHECK(check_eps(kOp, p.eps));
    AIM_CHECK(check_activation_dtype(kOp, p.dtype));
    AIM_CHECK(check_weights(p));
    AIM_CHECK(check_state_dtype(kOp, "conv_state", p.conv_state_dtype));
    return check_state_dtype(kOp, "ssm_state", p.ssm_state_dtype);
}

Status validate(const Mamba2LayersParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    const struct {
        const char* name;
        const void* pointer;
    } required[] = {
        {"residual", p.residual},
        {"modulation", p.modulation},
        {"norm_weight", p.norm_weight},
        {"in_proj", p.in_proj},
        {"conv_weight", p.conv_weight},
        {"conv_bias", p.conv_bias},
        {"A", p.A},
        {"D", p.D},
        {"dt_bias", p.dt_bias},
        {"gated_norm_weight", p.gated_norm_weight},
        {"out_proj", p.out_proj},
        {"conv_state_in", p.conv_state_in},
        {"conv_state_out", p.conv_state_out},
        {"ssm_state_in", p.ssm_state_in},
        {"ssm_state_out", p.ssm_state_out},
        {"residual_out", p.residual_out},
        {"workspace", p.workspace},
    };
    for (const auto& entry : required) {
        AIM_CHECK(check_pointer(kOp, entry.name, entry.pointer));
        AIM_CHECK(check_aligned_16(kOp, entry.name, entry.pointer));
    }
    if (p.exchange != nullptr) AIM_CHECK(check_aligned_16(kOp, "exchange", p.exchange));
    if (p.weight_bits != 0) {
        AIM_CHECK(check_pointer(kOp, "in_proj_scale", p.in_proj_scale));
        AIM_CHECK(check_pointer(kOp, "out_proj_scale", p.out_proj_scale));
    }
    const size_t needed = workspace_bytes(p);
    if (p.workspace_size < needed) {
        return fail(Status::kWorkspaceTooSmall, "%s: the workspace has %zu bytes; needed: %zu", kOp, p.workspace_size,
                    needed);
    }
    return Status::kSuccess;
}

bool resident(const Mamba2LayersParams& p) noexcept {
    const DeviceInfo device = device_info();
    return device.status == Status::kSuccess && validate_shapes(p) == Status::kSuccess && resident_fits(p, nullptr, device);
}

size_t exchange_bytes(const Mamba2LayersParams& p) noexcept {
    return resident(p) ? resident_exchange(p, device_info()) : 0;
}

Status launch(const Mamba2LayersParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    const DeviceInfo device = device_info();
    AIM_CHECK(device.status);
    return resident_fits(p, nullptr, device) ? launch_resident(p, nullptr, device, stream) : launch_chain(p, stream);
}

}  // namespace aim_kernels
