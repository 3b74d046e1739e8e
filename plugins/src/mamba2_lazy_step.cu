#include "aim_kernels/mamba2_lazy_step.h"

#include <algorithm>

#include "lazy.cuh"
#include "lazy_mma.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "mamba2_lazy_step";
constexpr int kCopied = 5;

// A state as it comes and as it goes, of which a row has so many words of 4 bytes.
struct Carried {
    const char* name;
    const void* in;
    void* out;
    int64_t words;
};

void carried(const Mamba2LazyStepParams& p, Carried (&all)[kCopied]) noexcept {
    const Mamba2DecodeStepParams& s = p.step;
    const int64_t d_inner = static_cast<int64_t>(s.nheads) * s.headdim;
    const int64_t item = static_cast<int64_t>(dtype_size(s.ssm_state_dtype));
    all[0] = {"ssm_state", s.ssm_state_in, s.ssm_state_out, d_inner * s.d_state * item / 4};
    all[1] = {"x_history", p.x_history_in, p.x_history_out, p.capacity * d_inner * item / 4};
    all[2] = {"B_history", p.B_history_in, p.B_history_out,
              static_cast<int64_t>(p.capacity) * s.ngroups * s.d_state * item / 4};
    all[3] = {"dt_history", p.dt_history_in, p.dt_history_out, static_cast<int64_t>(s.nheads) * p.capacity};
    all[4] = {"counters", p.counters_in, p.counters_out, 3 * static_cast<int64_t>(s.nheads)};
}

struct CopyArgs {
    const unsigned* in;
    unsigned* out;
    int64_t words;
    const int32_t* active;
};

__global__ __launch_bounds__(kLazyThreads) void copy_kernel(CopyArgs a) {
    wait_for_previous();
    let_next_start();
    const int64_t row = blockIdx.x;
    if (row_is_inactive(a.active, row)) return;
    for (int64_t i = threadIdx.x; i < a.words; i += kLazyThreads) a.out[row * a.words + i] = a.in[row * a.words + i];
}

// All of a group's heads a block, which then has no second kernel behind it; with few rows so few heads that as many
// multiprocessors as can be have a block.
void share_heads(const Mamba2LazyStepParams& p, int sm_count, LazyMmaArgs& m) noexcept {
    const int64_t groups = p.step.rows * p.step.ngroups;
    const int all = m.lazy.s.group_heads;
    int chunks = static_cast<int>(ceil_div(all, kMmaChannels / p.step.headdim));
    while (chunks < all && groups * (chunks + 1) <= sm_count) ++chunks;
    const int heads = static_cast<int>(ceil_div(all, chunks));
    m.lazy.chunk_heads = heads;
    m.lazy.group_chunks = static_cast<int>(ceil_div(all, heads));
    m.whole = heads == all;
}

// What lazy_mma_kernel has constants for.
bool is_aim(const Mamba2LazyStepParams& p) noexcept {
    return p.step.headdim == 64 && p.step.d_state == 128 && p.step.d_conv == 4 &&
           p.step.dtype != DType::kFloat32 && p.step.conv_state_dtype == DType::kFloat16 &&
           reinterpret_cast<uintptr_t>(p.step.conv_weight) % 16 == 0;
}

Status launch_mma(const Mamba2LazyStepParams& p, LazyMmaArgs& m, bool copied, cudaStream_t stream) noexcept {
    m.norm_weight = p.step.norm_weight;
    m.eps = p.step.eps;
    m.out = p.step.out;
    m.out_row_stride = p.step.out_row_stride;
    const int64_t blocks = p.step.rows * p.step.ngroups * m.lazy.group_chunks;
    const auto kernel = is_aim(p) ? lazy_mma_kernel<true> : lazy_mma_kernel<false>;
    // It reads states before it waits, and so may not overlap the kernel that copied them.
    const size_t smem = lazy_mma_shared(m.lazy);
    AIM_CHECK(copied ? launch_kernel(kOp, kernel, blocks, kMmaThreads, smem, stream, m)
                     : launch_dependent(kOp, kernel, blocks, kMmaThreads, stream, m, smem));
    return m.whole ? Status::kSuccess : launch_finish(kOp, p.step, stream);
}

}  // namespace

size_t workspace_bytes(const Mamba2LazyStepParams& p) noexcept { return workspace_bytes(p.step); }

Status validate_shapes(const Mamba2LazyStepParams& p) noexcept {
    AIM_CHECK(check_decode_step_shapes(kOp, p.step));
    if (p.capacity < 2 || p.capacity > kLazyCapacity) {
        return fail(Status::kUnsupportedShape, "%s: capacity is %d; supported: 2 to %d", kOp, p.capacity,
                    kLazyCapacity);
    }
    if (p.fold_every >= 1 && p.fold_every <= p.capacity) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: fold_every is %d; supported: 1 to capacity, here %d", kOp,
                p.fold_every, p.capacity);
}

Status validate(const Mamba2LazyStepParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    AIM_CHECK(check_decode_step(kOp, p.step));
    Carried all[kCopied];
    carried(p, all);
    for (const Carried& state : all) {
        AIM_CHECK(check_pointer(kOp, state.name, state.in));
        AIM_CHECK(check_pointer(kOp, state.name, state.out));
        AIM_CHECK(check_aligned_16(kOp, state.name, state.in));
        AIM_CHECK(check_aligned_16(kOp, state.name, state.out));
    }
    return Status::kSuccess;
}

Status launch(const Mamba2LazyStepParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    const DeviceInfo device = device_info();
    AIM_CHECK(device.status);
    Carried all[kCopied];
    carried(p, all);
    bool copied = false;
    for (const Carried& state : all) {
        if (state.in == state.out) continue;
        copied = true;
        const CopyArgs copy = {static_cast<const unsigned*>(state.in), static_cast<unsigned*>(state.out), state.words,
                               p.step.active};
        AIM_CHECK(launch_dependent(kOp, copy_kernel, p.step.rows, kLazyThreads, stream, copy));
    }
    LazyArgs args = {};
    args.s = step_args(p.step);
    args.s.group_heads = p.step.nheads / p.step.ngroups;
    args.x_history = p.x_history_out;
    args.B_history = p.B_history_out;
    args.dt_history = p.dt_history_out;
    args.counters = p.counters_out;
    args.capacity = p.capacity;
    args.fold_every = p.fold_every;
    if (p.step.ssm_state_dtype == DType::kFloat16 && device.tensor_cores) {
        LazyMmaArgs mma = {};
        mma.lazy = args;
        share_heads(p, device.sm_count, mma);
        if (lazy_mma_shared(mma.lazy) <= static_cast<size_t>(device.shared_bytes)) {
            return launch_mma(p, mma, copied, stream);
        }
    }
    args.chunk_heads = std::min(kLazyChannels / p.step.headdim, args.s.group_heads);
    args.group_chunks = static_cast<int>(ceil_div(args.s.group_heads, args.chunk_heads));
    const int64_t blocks = p.step.rows * p.step.ngroups * args.group_chunks;
    const auto kernel = p.step.ssm_state_dtype == DType::kFloat16 ? lazy_kernel<__half> : lazy_kernel<float>;
    AIM_CHECK(launch_dependent(kOp, kernel, blocks, kLazyThreads, stream, args));
    return launch_finish(kOp, p.step, stream);
}

}  // namespace aim_kernels
