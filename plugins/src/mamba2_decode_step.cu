#include "aim_kernels/mamba2_decode_step.h"

#include "device_math.cuh"
#include "launch.cuh"
#include "reduce.cuh"
#include "step.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "mamba2_decode_step";
constexpr int kThreads = 256;

int64_t d_inner_of(const Mamba2DecodeStepParams& p) noexcept { return static_cast<int64_t>(p.nheads) * p.headdim; }

int64_t bc_width_of(const Mamba2DecodeStepParams& p) noexcept { return static_cast<int64_t>(p.ngroups) * p.d_state; }

struct FinishArgs {
    Mamba2DecodeStepParams p;
    int64_t d_inner;
    int64_t conv_dim;
    const float* gated;  // (rows, d_inner): y * silu(z)
};

// What must wait for every block of the update: the norm, which needs whole groups, and the convolution's window,
// which all of those blocks still read. A row has one block for each group and one for the window.
__global__ __launch_bounds__(kThreads) void finish_kernel(FinishArgs a) {
    __shared__ float scratch[kThreads / 32];
    const Mamba2DecodeStepParams& p = a.p;
    const int parts = p.ngroups + 1;
    const int part = static_cast<int>(blockIdx.x) % parts;
    const int64_t row = static_cast<int>(blockIdx.x) / parts;
    if (row_is_inactive(p.active, row)) return;

    if (part == p.ngroups) {
        const int halo = p.d_conv - 1;
        const int64_t x_at = row * p.zxbcdt_row_stride + a.d_inner;
        for (int64_t channel = threadIdx.x; channel < a.conv_dim; channel += kThreads) {
            const int64_t at = (row * a.conv_dim + channel) * halo;
            for (int k = 0; k + 1 < halo; ++k) {
                store_any(p.conv_state_out, p.conv_state_dtype, at + k,
                          load_any(p.conv_state_in, p.conv_state_dtype, at + k + 1));
            }
            store_any(p.conv_state_out, p.conv_state_dtype, at + halo - 1, load_any(p.zxbcdt, p.dtype, x_at + channel));
        }
        return;
    }

    const int64_t group_size = a.d_inner / p.ngroups;
    const int64_t first = part * group_size;
    const float* gated = a.gated + row * a.d_inner + first;
    float sum = 0.0f;
    for (int64_t i = threadIdx.x; i < group_size; i += kThreads) sum = fmaf(gated[i], gated[i], sum);
    sum = block_sum<kThreads>(sum, scratch);
    const float scale = 1.0f / sqrtf(sum / static_cast<float>(group_size) + p.eps);
    for (int64_t i = threadIdx.x; i < group_size; i += kThreads) {
        store_any(p.out, p.dtype, row * p.out_row_stride + first + i, gated[i] * (scale * p.norm_weight[first + i]));
    }
}

}  // namespace

size_t workspace_bytes(const Mamba2DecodeStepParams& p) noexcept {
    if (p.rows < 1 || p.nheads < 1 || p.headdim < 1) return 0;
    return static_cast<size_t>(p.rows * d_inner_of(p)) * sizeof(float);
}

Status validate_shapes(const Mamba2DecodeStepParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positive(kOp, "nheads", p.nheads));
    AIM_CHECK(check_steps_of_16(kOp, "headdim", p.headdim, 128));
    AIM_CHECK(check_steps_of_16(kOp, "d_state", p.d_state, 256));
    AIM_CHECK(check_ngroups(kOp, p.ngroups, "nheads", p.nheads));
    AIM_CHECK(check_state_size(kOp, p.nheads, p.headdim, p.d_state));
    AIM_CHECK(check_d_conv(kOp, p.d_conv));
    AIM_CHECK(check_eps(kOp, p.eps));
    AIM_CHECK(check_activation_dtype(kOp, p.dtype));
    AIM_CHECK(check_state_dtype(kOp, "conv_state", p.conv_state_dtype));
    AIM_CHECK(check_state_dtype(kOp, "ssm_state", p.ssm_state_dtype));
    AIM_CHECK(check_input_strides(kOp, "zxbcdt", p.zxbcdt_row_stride, 0));
    return check_output_strides(kOp, "out", p.rows, 1, d_inner_of(p), p.out_row_stride, 0);
}

Status validate(const Mamba2DecodeStepParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    const struct {
        const char* name;
        const void* pointer;
    } required[] = {
        {"zxbcdt", p.zxbcdt},
        {"conv_weight", p.conv_weight},
        {"A", p.A},
        {"norm_weight", p.norm_weight},
        {"conv_state_in", p.conv_state_in},
        {"conv_state_out", p.conv_state_out},
        {"ssm_state_in", p.ssm_state_in},
        {"ssm_state_out", p.ssm_state_out},
        {"out", p.out},
        {"workspace", p.workspace},
    };
    for (const auto& entry : required) AIM_CHECK(check_pointer(kOp, entry.name, entry.pointer));
    AIM_CHECK(check_aligned_16(kOp, "ssm_state_in", p.ssm_state_in));
    AIM_CHECK(check_aligned_16(kOp, "ssm_state_out", p.ssm_state_out));
    AIM_CHECK(check_aligned_16(kOp, "workspace", p.workspace));
    const size_t needed = workspace_bytes(p);
    if (p.workspace_size < needed) {
        return fail(Status::kWorkspaceTooSmall, "%s: the workspace has %zu bytes; needed: %zu", kOp, p.workspace_size,
                    needed);
    }
    return Status::kSuccess;
}

Status launch(const Mamba2DecodeStepParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    const DeviceInfo device = device_info();
    AIM_CHECK(device.status);
    const int64_t d_inner = d_inner_of(p);
    const int64_t bc_width = bc_width_of(p);
    const int64_t item = static_cast<int64_t>(dtype_size(p.dtype));
    const unsigned char* z = static_cast<const unsigned char*>(p.zxbcdt);

    StepArgs step;
    step.rows = p.rows;
    step.nheads = p.nheads;
    step.headdim = p.headdim;
    step.d_state = p.d_state;
    step.ngroups = p.ngroups;
    step.dtype = p.dtype;
    step.state_dtype = p.ssm_state_dtype;
    step.dt_softplus = true;
    step.z = z;
    step.x = z + d_inner * item;
    step.B = z + 2 * d_inner * item;
    step.C = z + (2 * d_inner + bc_width) * item;
    step.dt = z + (2 * d_inner + 2 * bc_width) * item;
    step.x_row_stride = step.dt_row_stride = step.B_row_stride = step.C_row_stride = step.z_row_stride =
        p.zxbcdt_row_stride;
    step.y = p.workspace;
    step.y_row_stride = d_inner;
    step.y_dtype = DType::kFloat32;
    step.A = p.A;
    step.D = p.D;
    step.dt_bias = p.dt_bias;
    step.state_in = p.ssm_state_in;
    step.state_out = p.ssm_state_out;
    step.active = p.active;
    step.conv_weight = p.conv_weight;
    step.conv_bias = p.conv_bias;
    step.conv_state = p.conv_state_in;
    step.conv_state_dtype = p.conv_state_dtype;
    step.d_conv = p.d_conv;
    AIM_CHECK(launch_step(kOp, step, true, device.sm_count, stream));

    const FinishArgs finish = {p, d_inner, d_inner + 2 * bc_width, static_cast<const float*>(p.workspace)};
    return launch_kernel(kOp, finish_kernel, p.rows * (p.ngroups + 1), kThreads, 0, stream, finish);
}

}  // namespace aim_kernels
