// Top-k, top-p and the draw of any number of codes, among which a block searches; and what all draws end in.
#pragma once

#include "sample_row.cuh"

namespace aim_kernels {
namespace {

__device__ __forceinline__ void finish(const SampleParams& p, int64_t image, int position, int token) {
    p.token[image] = token;
    p.position[image] = position + 1;
    if (position >= 0 && position < p.num_tokens) p.tokens[image * p.num_tokens + position] = token;
}

// For logits that are not finite. Of several such steps the first is told.
__device__ __forceinline__ void refuse(const SampleParams& p, int64_t image, int position) {
    if (p.status[image] == 0) p.status[image] = position + 1;
    finish(p, image, position, 0);
}

// The sum that top-p takes away: everything up to it goes. Such that nothing is above it: the largest alone stays.
__device__ __forceinline__ uint64_t cut_of(double top_p, uint64_t total) {
    const double share = 1.0 - top_p;
    return share < 1.0 ? static_cast<uint64_t>(share * static_cast<double>(total)) : total;
}

// Searches for the k-th key until few are left or it is found: count_from(lo) = n >= k > count_from(hi).
template <typename Count>
__device__ __forceinline__ void search(uint32_t most, uint32_t least, int k, uint32_t& lo, int& n, Count count_from) {
    uint32_t hi = most + 1;
    for (int round = 0; n > kFew && hi - lo > 1; ++round) {
        const uint32_t middle = middle_key(lo, hi, least, round);
        const int count = static_cast<int>(count_from(middle));
        if (count >= k) {
            lo = middle;
            n = count;
        } else {
            hi = middle;
        }
    }
}

// The least weight that top-p lets stay, of keys from `kth` to `most`; sum_of(lo, hi) is the weights of keys in (lo, hi].
template <typename Sum>
__device__ __forceinline__ double least_that_stays(const Image& image, double top_p, uint32_t kth, uint32_t least,
                                                   uint32_t most, Sum sum_of) {
    if (!(top_p < 1.0)) return 0.0;
    uint32_t lo = kth - 1, hi = most;
    const uint64_t total = sum_of(lo, hi), cut = cut_of(top_p, total);
    const uint32_t faint = key_of(static_cast<float>(image.largest) - 46.0f);
    uint64_t below = 0;
    for (int round = 0; cut < total && hi - lo > 1; ++round) {
        const uint32_t middle = middle_key(lo, hi, max(least, faint), round);
        const uint64_t sum = sum_of(lo, middle);
        if (below + sum > cut) {
            hi = middle;
        } else {
            lo = middle;
            below += sum;
        }
    }
    return image.weight(hi);
}

// How many keys are `least` or more; and the least of a finite logit.
template <typename Row>
__device__ __forceinline__ int count_from(Row& row, const Image& image, Scratch& scratch, uint32_t least) {
    uint32_t count = 0;
    row.for_tiles(image, [&](int) {
#pragma unroll
        for (int i = 0; i < kChunks * 4; ++i) count += row.key[i] >= least;
    });
    return static_cast<int>(block_sum(count, scratch));
}

template <typename Row>
__device__ __forceinline__ uint32_t least_of(Row& row, const Image& image, Scratch& scratch) {
    uint32_t most = 0, least = kNan;
    row.for_tiles(image, [&](int) {
#pragma unroll
        for (int i = 0; i < kChunks * 4; ++i) {
            if (row.key[i] > kMinusInfinity) least = min(least, row.key[i]);
        }
    });
    block_range(most, least, scratch);
    return least;
}

// Any number of keys, those from `kth` on: weights are computed anew in each pass, from the keys.
template <typename Row>
__device__ __forceinline__ void draw_from_many(Row& row, const Image& image, Shared& s, Scratch& scratch,
                                               const SampleArgs& a, uint32_t kth, uint32_t least, uint32_t most,
                                               int position) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    // The weights of keys in (lo, hi].
    auto sum_of = [&](uint32_t lo, uint32_t hi) {
        uint64_t sum = 0;
        row.for_tiles(image, [&](int) {
#pragma unroll 1
            for (int c = 0; c < kChunks; ++c) {
                uint32_t key[4];
                row.pick(c, key);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    if (key[i] > lo && key[i] <= hi) sum += image.integer(image.weight(key[i]));
                }
            }
        });
        return block_sum(sum, scratch);
    };
    const double least_weight = least_that_stays(image, a.p.sampling->top_p, kth, least, most, sum_of);
    auto weight_of = [&](uint32_t key) -> uint64_t {
        if (key < kth) return 0;
        const double exact = image.weight(key);
        return exact >= least_weight ? image.integer(exact) : 0;
    };
    row.for_tiles(image, [&](int tile) {
#pragma unroll 1
        for (int c = 0; c < kChunks; ++c) {
            uint32_t key[4];
            row.pick(c, key);
            uint64_t sum = 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) sum += weight_of(key[i]);
            sum = warp_sum(sum);
            if (lane == 0) s.segment[(tile * kChunks + c) * kWarps + warp] = sum;
        }
    });
    __syncthreads();
    if (warp == 0) {
        const int per_lane = image.segments / 32;
        const uint64_t total = scan_segments(s.segment, per_lane);
        const uint64_t target = static_cast<uint64_t>(s.uniform * static_cast<double>(total));
        // The last segment that begins at or below the target holds it: empty ones begin where the next does.
        int found = -1;
        for (int i = lane * per_lane; i < (lane + 1) * per_lane; ++i) {
            if (s.segment[i] <= target) found = i;
        }
        found = static_cast<int>(warp_max(static_cast<uint32_t>(found + 1))) - 1;
        if (lane == 0) s.found = found, s.before = s.segment[found], s.target = target;
    }
    __syncthreads();
    if (s.found % kWarps != warp) return;
    row.for_tiles(image, [&](int tile) {
        const int c = s.found / kWarps - tile * kChunks;
        if (c < 0 || c >= kChunks) return;
        uint32_t key[4];
        row.pick(c, key);
        uint64_t weight[4], sum = 0;
#pragma unroll
        for (int i = 0; i < 4; ++i) sum += weight[i] = weight_of(key[i]);
        uint64_t before = s.before + warp_scan(sum) - sum;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (before <= s.target && before + weight[i] > s.target) {
                finish(a.p, image.index, position, Row::code(tile, c) + i);
            }
            before += weight[i];
        }
    });
}

}  // namespace
}  // namespace aim_kernels
