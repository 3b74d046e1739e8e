#include "aim_kernels/sample.h"

#include "dependent.cuh"
#include "device_math.cuh"
#include "sample_few.cuh"

namespace aim_kernels {
namespace {

constexpr const char* kOp = "sample";

template <bool CACHED, bool WIDE>
__global__ __launch_bounds__(kThreads) void sample_kernel(SampleArgs a) {
    __shared__ Shared s;
    Scratch scratch = {s.partial, 0};
    const SampleParams& p = a.p;
    for (int i = 0; i < 2; ++i) reinterpret_cast<uint2*>(s.bins[i])[threadIdx.x] = make_uint2(0, 0);
    if (threadIdx.x == 0) s.first_bin = kBins, s.least_weight = 1.0;  // where top-p leaves the largest alone
    wait_for_previous();
    let_next_start();
    if (row_is_inactive(p.active, blockIdx.x)) return;
    Image image = image_of(a, blockIdx.x);
    const int position = p.position[image.index];

    Row<CACHED, WIDE> row;
    const auto draw_uniform = [&] {
        if (threadIdx.x == 0) s.uniform = uniform_of(image, position);
    };
    if constexpr (CACHED) {
        row.read(image, 0, draw_uniform);
    } else {
        draw_uniform();
    }
    // Of each chunk's four the largest. The least of those, of a finite logit, is where bins or a search begin.
    uint32_t most = 0, least = kNan;
    row.for_tiles(image, [&](int) {
#pragma unroll
        for (int c = 0; c < kChunks; ++c) {
            const uint32_t top = row.top(c);
            most = max(most, top);
            if (top > kMinusInfinity) least = min(least, top);
        }
    });
    block_range(most, least, scratch);
    if (most <= kMinusInfinity || most >= kInfinity) {
        if (threadIdx.x == 0) refuse(p, image.index, position);
        return;
    }
    image.largest = static_cast<double>(value_of_key(most));

    const int top_k = p.sampling->top_k;
    const int k = top_k > 0 && top_k < p.vocab_size ? top_k : p.vocab_size;
    uint32_t lo = kMinusInfinity;
    int n = p.vocab_size;
    if constexpr (CACHED) {
        if (k <= kFew) {
            if (n > kFew) lo = bound_of(row, s, scratch, most, least, k);
            n = find_few(row, image, s, lo);
        }
    }
    if (!CACHED || k > kFew || n > kFew) {
        n = p.vocab_size, lo = kMinusInfinity;
        least = least_of(row, image, scratch);
        if (k < n) search(most, least, k, lo, n, [&](uint32_t key) { return count_from(row, image, scratch, key); });
        if (n <= kFew) n = find_few(row, image, s, lo);
    }
    if (n <= kFew) {
        draw_from_few(image, s, scratch, p, Bins(max(lo, least), most), n, k, position);
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
    AIM_CHECK(check_device());
    int bits = 0;
    while (1 << bits < p.vocab_size) ++bits;
    const SampleArgs args = {p, static_cast<double>(uint64_t{1} << (62 - bits))};
    const bool wide = vectorizable(p.logits, p.vocab_size, p.vocab_size, DType::kFloat32);
    if (p.vocab_size > kTile) {
        return wide ? launch_dependent(kOp, sample_kernel<false, true>, p.batch, kThreads, stream, args)
                    : launch_dependent(kOp, sample_kernel<false, false>, p.batch, kThreads, stream, args);
    }
    return wide ? launch_dependent(kOp, sample_kernel<true, true>, p.batch, kThreads, stream, args)
                : launch_dependent(kOp, sample_kernel<true, false>, p.batch, kThreads, stream, args);
}

}  // namespace aim_kernels
