#include "aim_kernels/sample.h"

#include "dependent.cuh"
#include "device_math.cuh"
#include "sample_cluster_draw.cuh"

namespace aim_kernels {
namespace {

constexpr const char* kOp = "sample";

template <bool CACHED, bool WIDE>
__global__ __launch_bounds__(kThreads) void sample_kernel(SampleArgs a) {
    __shared__ Shared s;
    Scratch<kWarps> scratch = {s.partial, 0};
    const SampleParams& p = a.p;
    wait_for_previous();
    let_next_start();
    if (row_is_inactive(p.active, blockIdx.x)) return;
    Image image = image_of(a, blockIdx.x);
    const int position = p.position[image.index];

    Row<CACHED, WIDE> row;
    if constexpr (CACHED) row.read(image, 0);
    if (threadIdx.x == 0) {
        s.uniform = philox_uniform(p.sampling->seed, p.image_index[image.index], static_cast<uint32_t>(position));
    }
    uint32_t most = 0, least = kNan;  // of the finite logits the least is only where a search begins
    row.for_tiles(image, [&](int) {
#pragma unroll
        for (int i = 0; i < kChunks * 4; ++i) {
            most = max(most, row.key[i]);
            if (row.key[i] > kMinusInfinity) least = min(least, row.key[i]);
        }
    });
    most = block_max(most, scratch);
    least = ~block_max(~least, scratch);
    if (most <= kMinusInfinity || most >= kInfinity) {
        if (threadIdx.x == 0) refuse(p, image.index, position);
        return;
    }
    image.largest = static_cast<double>(value_of_key(most));

    const int top_k = p.sampling->top_k;
    const int k = top_k > 0 && top_k < p.vocab_size ? top_k : p.vocab_size;
    uint32_t lo = kMinusInfinity;
    int n = p.vocab_size;
    // As soon as n are one a thread, sorting finds the k-th.
    if (k < p.vocab_size) {
        search(most, least, k, lo, n, [&](uint32_t key) {
            uint32_t count = 0;
            row.for_tiles(image, [&](int) {
#pragma unroll
                for (int i = 0; i < kChunks * 4; ++i) count += row.key[i] >= key;
            });
            return block_sum(count, scratch);
        });
    }
    if (n <= kThreads) {
        draw_from_few(row, image, s, scratch, a, lo, n, k, position);
    } else {
        draw_from_many(row, image, s, scratch, a, lo, least, most, position);
    }
}

}  // namespace

Status validate_shapes(const SampleParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "batch", p.batch));
    if (p.vocab_size < 1 || p.vocab_size > kLargestVocab) {
        return fail(Status::kUnsupportedShape, "%s: vocab_size is %d; supported: 1 to %d", kOp, p.vocab_size,
                    kLargestVocab);
    }
    return check_positive(kOp, "num_tokens", p.num_tokens);
}

Status validate(const SampleParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    AIM_CHECK(check_pointer(kOp, "logits", p.logits));
    AIM_CHECK(check_pointer(kOp, "sampling", p.sampling));
    AIM_CHECK(check_pointer(kOp, "image_index", p.image_index));
    AIM_CHECK(check_pointer(kOp, "token", p.token));
    AIM_CHECK(check_pointer(kOp, "position", p.position));
    AIM_CHECK(check_pointer(kOp, "tokens", p.tokens));
    return check_pointer(kOp, "status", p.status);
}

Status launch(const SampleParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    const DeviceInfo device = device_info();
    AIM_CHECK(device.status);
    int bits = 0;
    while (1 << bits < p.vocab_size) ++bits;
    const SampleArgs args = {p, static_cast<double>(uint64_t{1} << (62 - bits))};
    const bool wide = vectorizable(p.logits, p.vocab_size, p.vocab_size, DType::kFloat32);
    // More clusters than the device has room for at once take longer than a block an image.
    const bool room = device.dependent_launch && p.batch <= device.sm_count / kBlocks;
    if (wide && room && p.vocab_size > kFew && p.vocab_size <= kClusterCodes) {
        return launch_dependent(kOp, sample_cluster_kernel, p.batch * kBlocks, kBlockThreads, stream, args,
                                sizeof(ClusterShared), kBlocks);
    }
    if (p.vocab_size > kTile) {
        return wide ? launch_dependent(kOp, sample_kernel<false, true>, p.batch, kThreads, stream, args)
                    : launch_dependent(kOp, sample_kernel<false, false>, p.batch, kThreads, stream, args);
    }
    return wide ? launch_dependent(kOp, sample_kernel<true, true>, p.batch, kThreads, stream, args)
                : launch_dependent(kOp, sample_kernel<true, false>, p.batch, kThreads, stream, args);
}

}  // namespace aim_kernels
