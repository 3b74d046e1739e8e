// Between segments: from each segment's final state from zero to its true initial state, in order. One thread an
// element of the state, so that the walk over the segments is the only thing that is sequential.
#include "device_math.cuh"
#include "launch.cuh"
#include "scan.cuh"

namespace aim_kernels {
namespace detail {
namespace {

constexpr int kThreads = 256;

__global__ __launch_bounds__(kThreads) void pass_kernel(ScanArgs a) {
    const SelectiveScanParams& p = a.p;
    const int per_row = p.nheads * p.headdim * p.d_state;
    const int blocks_a_row = (per_row + kThreads - 1) / kThreads;
    const int block = static_cast<int>(blockIdx.x);
    const int at = block % blocks_a_row * kThreads + static_cast<int>(threadIdx.x);
    const int64_t row = block / blocks_a_row;
    if (at >= per_row || row_is_inactive(p.active, row)) return;

    const int head = at / (p.d_state * p.headdim);
    const float A = p.kind == ScanKind::kMamba1 ? p.A[at] : 1.0f;
    float state = p.ssm_state_in != nullptr ? load_any(p.ssm_state_in, p.state_dtype, row * per_row + at) : 0.0f;
    for (int64_t segment = 0; segment < a.segments; ++segment) {
        const int64_t slot = row * a.segments + segment;
        float* entry = a.states + slot * per_row + at;
        const float initial = state;
        if (segment + 1 < a.segments) state = fmaf(expf(A * a.decays[slot * p.nheads + head]), state, *entry);
        *entry = initial;
    }
}

}  // namespace

Status launch_pass(const ScanArgs& args, cudaStream_t stream) noexcept {
    const SelectiveScanParams& p = args.p;
    const int64_t per_row = static_cast<int64_t>(p.nheads) * p.headdim * p.d_state;
    const int64_t blocks = p.rows * ceil_div(per_row, kThreads);
    return launch_kernel("selective_scan", pass_kernel, blocks, kThreads, 0, stream, args);
}

}  // namespace detail
}  // namespace aim_kernels
