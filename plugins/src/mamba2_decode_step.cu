#include "aim_kernels/mamba2_decode_step.h"

#include "dependent.cuh"
#include "device_math.cuh"
#include "reduce.cuh"
#include "step.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "mamba2_decode_step";
constexpr int kThreads = 256;
// Values of a group that a thread keeps from the norm's first pass to its second; larger groups are read twice.
constexpr int kHeld = 8;

int64_t d_inner_of(const Mamba2DecodeStepParams& p) noexcept { return static_cast<int64_t>(p.nheads) * p.headdim; }

int64_t bc_width_of(const Mamba2DecodeStepParams& p) noexcept { return static_cast<int64_t>(p.ngroups) * p.d_state; }

int64_t conv_row_stride_of(const Mamba2DecodeStepParams& p) noexcept {
    if (p.conv_state_row_stride != 0) return p.conv_state_row_stride;
    return (d_inner_of(p) + 2 * bc_width_of(p)) * (p.d_conv - 1);
}

struct FinishArgs {
    Mamba2DecodeStepParams p;
    int64_t d_inner;
    int64_t conv_row_stride;
    int64_t group_size;  // d_inner / ngroups
    const float* gated;  // (rows, d_inner): y * silu(z)
};

// What must wait for every block of the update: the norm, which needs whole groups, and the convolution's window of B
// and C, which all of those blocks still read. One block a row and group; all that it reads is in flight at once.
__global__ __launch_bounds__(kThreads) void finish_kernel(FinishArgs a) {
    __shared__ float scratch[kThreads / 32];
    const Mamba2DecodeStepParams& p = a.p;
    const int block = static_cast<int>(blockIdx.x);
    const int group = p.ngroups > 1 ? block % p.ngroups : 0;
    const int64_t row = p.ngroups > 1 ? block / p.ngroups : block;
    wait_for_previous();
    let_next_start();
    if (row_is_inactive(p.active, row)) return;

    const int tid = static_cast<int>(threadIdx.x);
    const int64_t first = group * a.group_size;
    const float* gated = a.gated + row * a.d_inner + first;
    const float* norm_weight = p.norm_weight + first;
    float value[kHeld], weight[kHeld];
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
        const int64_t i = tid + k * kThreads;
        value[k] = i < a.group_size ? gated[i] : 0.0f;
        weight[k] = i < a.group_size ? norm_weight[i] : 0.0f;
    }

    const int halo = p.d_conv - 1;
    for (int channel = tid; channel < 2 * p.d_state; channel += kThreads) {
        // The group's part of B, then of C.
        const int64_t of_c = channel < p.d_state ? 0 : static_cast<int64_t>(p.ngroups - 1) * p.d_state;
        const int64_t at = a.d_inner + static_cast<int64_t>(group) * p.d_state + of_c + channel;
        const int64_t window_at = row * a.conv_row_stride + at * halo;
        // Of the largest window, 3, two values stay. A smaller one loads its last again: no branch to wait at.
        unsigned kept[2];
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            const int from = k + 1 < halo ? k + 1 : halo - 1;
            kept[k] = load_bits(p.conv_state_in, p.conv_state_dtype, window_at + from);
        }
        const unsigned newest = load_bits(p.zxbcdt, p.dtype, row * p.zxbcdt_row_stride + a.d_inner + at);
#pragma unroll
        for (int k = 0; k < 2; ++k) {
            if (k + 1 < halo) store_bits(p.conv_state_out, p.conv_state_dtype, window_at + k, kept[k]);
        }
        store_any(p.conv_state_out, p.conv_state_dtype, window_at + halo - 1, value_of(newest, p.dtype));
    }

    float sum = 0.0f;
#pragma unroll
    for (int k = 0; k < kHeld; ++k) sum = fmaf(value[k], value[k], sum);
    for (int64_t i = tid + kHeld * kThreads; i < a.group_size; i += kThreads) sum = fmaf(gated[i], gated[i], sum);
    sum = block_sum<kThreads>(sum, scratch);
    const float scale = 1.0f / sqrtf(sum / static_cast<float>(a.group_size) + p.eps);
    const int64_t out_at = row * p.out_row_stride + first;
#pragma unroll
    for (int k = 0; k < kHeld; ++k) {
        const int64_t i = tid + k * kThreads;
        if (i < a.group_size) store_any(p.out, p.dtype, out_at + i, value[k] * (scale * weight[k]));
    }
    for (int64_t i = tid + kHeld * kThreads; i < a.group_size; i += kThreads) {
        store_any(p.out, p.dtype, out_at + i, gated[i] * (scale * norm_weight[i]));
    }
}

}  // namespace

size_t workspace_bytes(const Mamba2DecodeStepParams& p) noexcept {
    if (p.rows < 1 || p.nheads < 1 || p.headdim < 1) return 0;
    return static_cast<size_t>(p.rows * d_inner_of(p)) * sizeof(float);
}

namespace detail {

Status check_decode_step_shapes(const char* op, const Mamba2DecodeStepParams& p) noexcept {
    AIM_CHECK(check_positive(op, "rows", p.rows));
    AIM_CHECK(check_positive(op, "nheads", p.nheads));
    AIM_CHECK(check_steps_of_16(op, "headdim", p.headdim, 128));
    AIM_CHECK(check_steps_of_16(op, "d_state", p.d_state, 256));
    AIM_CHECK(check_ngroups(op, p.ngroups, "nheads", p.nheads));
    AIM_CHECK(check_state_size(op, p.nheads, p.headdim, p.d_state));
    AIM_CHECK(check_d_conv(op, p.d_conv));
    AIM_CHECK(check_eps(op, p.eps));
    AIM_CHECK(check_activation_dtype(op, p.dtype));
    AIM_CHECK(check_state_dtype(op, "conv_state", p.conv_state_dtype));
    AIM_CHECK(check_state_dtype(op, "ssm_state", p.ssm_state_dtype));
    AIM_CHECK(check_input_strides(op, "zxbcdt", p.zxbcdt_row_stride, 0));
    return check_output_strides(op, "out", p.rows, 1, d_inner_of(p), p.out_row_stride, 0);
}

Status check_decode_step(const char* op, const Mamba2DecodeStepParams& p) noexcept {
    AIM_CHECK(check_decode_step_shapes(op, p));
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
    for (const auto& entry : required) AIM_CHECK(check_pointer(op, entry.name, entry.pointer));
    AIM_CHECK(check_aligned_16(op, "ssm_state_in", p.ssm_state_in));
    AIM_CHECK(check_aligned_16(op, "ssm_state_out", p.ssm_state_out));
    AIM_CHECK(check_aligned_16(op, "workspace", p.workspace));
    const size_t needed = workspace_bytes(p);
    if (p.workspace_size < needed) {
        return fail(Status::kWorkspaceTooSmall, "%s: the workspace has %zu bytes; needed: %zu", op, p.workspace_size,
                    needed);
    }
    return Status::kSuccess;
}

StepArgs step_args(const Mamba2DecodeStepParams& p) noexcept {
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
    step.conv_state_in = p.conv_state_in;
    step.conv_state_out = p.conv_state_out;
    step.conv_state_dtype = p.conv_state_dtype;
    step.d_conv = p.d_conv;
    step.conv_state_row_stride = conv_row_stride_of(p);
    step.state_row_stride = p.ssm_state_row_stride != 0 ? p.ssm_state_row_stride : d_inner * p.d_state;
    return step;
}

Status launch_finish(const char* op, const Mamba2DecodeStepParams& p, cudaStream_t stream) noexcept {
    const int64_t d_inner = d_inner_of(p);
    const FinishArgs finish = {p, d_inner, conv_row_stride_of(p), d_inner / p.ngroups,
                               static_cast<const float*>(p.workspace)};
    return launch_dependent(op, finish_kernel, p.rows * p.ngroups, kThreads, stream, finish);
}

}  // namespace detail

Status validate_shapes(const Mamba2DecodeStepParams& p) noexcept { return check_decode_step_shapes(kOp, p); }

Status validate(const Mamba2DecodeStepParams& p) noexcept { return check_decode_step(kOp, p); }

Status launch(const Mamba2DecodeStepParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    const DeviceInfo device = device_info();
    AIM_CHECK(device.status);
    AIM_CHECK(launch_step(kOp, step_args(p), true, device.sm_count, stream));
    return launch_finish(kOp, p, stream);
}

}  // namespace aim_kernels
