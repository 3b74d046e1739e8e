// Top-k, top-p and the draw of few codes: a bound that few keys reach, their ranks by bins, and each one's weight once.
#pragma once

#include "sample_draw.cuh"

namespace aim_kernels {
namespace {

// Bins of values: no larger value has a lesser one, whatever is rounded. What overflows or is no number has the first.
struct Bins {
    float low, scale;

    __device__ Bins(uint32_t least, uint32_t most)
        : low(value_of_key(least)), scale(static_cast<float>(kBins - 1) / (value_of_key(most) - low)) {}

    __device__ __forceinline__ int of(uint32_t key) const {
        return static_cast<int>(fminf(fmaxf((value_of_key(key) - low) * scale, 0.0f), static_cast<float>(kBins - 1)));
    }
};

// A key that k keys or more reach, and few more: about the k-th of what is the largest of four neighbours each. That is a
// quarter of the work, and such neighbours seldom have two of a few. kMinusInfinity where the fours are less than k.
template <typename Row>
__device__ __forceinline__ uint32_t bound_of(const Row& row, Shared& s, Scratch& scratch, uint32_t most,
                                             uint32_t least, int k) {
    const Bins bins(least, most);
    int bin[kChunks];
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
        bin[c] = row.top(c) == 0 ? -1 : bins.of(row.top(c));
        if (bin[c] >= 0) atomicAdd(&s.bins[0][bin[c]], 1u);
    }
    __syncthreads();
    const int own = kBins - kOwn * (static_cast<int>(threadIdx.x) + 1);
    const uint2 count = *reinterpret_cast<const uint2*>(s.bins[0] + own);
    uint32_t total;
    const uint32_t upto = block_scan(count.x + count.y, total, scratch), wanted = static_cast<uint32_t>(k);
    if (upto - count.x - count.y < wanted && upto >= wanted) s.first_bin = own + (upto - count.x >= wanted ? 1 : 0);
    __syncthreads();
    const int first = s.first_bin;
    uint32_t bound = kNan;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
        if (bin[c] >= first) bound = min(bound, row.top(c));
    }
    bound = ~block_max(~bound, scratch);
    return bound == kNan ? kMinusInfinity : bound;
}

// Which keys are `least` or more: how many they are; they are in s.few where they fit.
template <typename Row>
__device__ __forceinline__ int find_few(Row& row, const Image& image, Shared& s, uint32_t least) {
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    // A bit a key; and of the lanes up to this one, a byte a chunk, which is 128 at most: the even chunks, the odd ones.
    uint32_t chosen = 0, even = 0, odd = 0;
    const auto choose = [&] {
        chosen = 0;
#pragma unroll
        for (int i = 0; i < kChunks * 4; ++i) chosen |= (row.key[i] >= least ? 1u : 0u) << i;
        const uint32_t pairs = chosen - (chosen >> 1 & 0x55555555u);
        const uint32_t fours = (pairs & 0x33333333u) + (pairs >> 2 & 0x33333333u);
        even = warp_scan(fours & 0x0f0f0f0fu);
        odd = warp_scan(fours >> 4 & 0x0f0f0f0fu);
    };
    const auto segment_of = [&](int tile, int chunk) { return (tile * kChunks + chunk) * kWarps + warp; };
    row.for_tiles(image, [&](int tile) {
        choose();
        const uint32_t of_warp[2] = {__shfl_sync(kAllLanes, even, 31), __shfl_sync(kAllLanes, odd, 31)};
        if (lane < kChunks) {
            s.count[segment_of(tile, lane)] = (lane % 2 == 0 ? of_warp[0] : of_warp[1]) >> lane / 2 * 8 & 0xff;
        }
    });
    __syncthreads();
    if (warp == 0) {
        const uint32_t n = scan_segments(s.count, image.segments / 32);
        if (lane == 0) s.found = static_cast<int>(n);
    }
    __syncthreads();
    const int n = s.found;
    if (n > kFew) return n;
    row.for_tiles(image, [&](int tile) {
        if (!Row::kCached) choose();
        // Few lanes have more than one or two: their logits are read again, for a register cannot be chosen by a number.
        for (; chosen != 0; chosen &= chosen - 1) {
            const int bit = __ffs(chosen) - 1, c = bit / 4, code = Row::code(tile, c) + bit % 4;
            const int upto = static_cast<int>((c % 2 == 0 ? even : odd) >> c / 2 * 8 & 0xff);
            const int at = static_cast<int>(s.count[segment_of(tile, c)]) + upto - __popc(chosen >> c * 4 & 0xf);
            const uint32_t key = guided_key(image, image.cond[code], image.uncond[code]);
            s.few[at] = static_cast<uint64_t>(key) << 32 | static_cast<unsigned>(code);
        }
    });
    __syncthreads();
    return n;
}

// By bins: as many of a thread's keys lie above one as above its bin, and in it above the key. 0 is no key.
__device__ __forceinline__ void find_ranks(const uint32_t (&key)[kOwn], const Bins& bins, Shared& s,
                                           Scratch& scratch, int (&rank)[kOwn]) {
    int bin[kOwn], at[kOwn] = {};
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
        bin[i] = bins.of(key[i]);
        if (key[i] != 0) at[i] = static_cast<int>(atomicAdd(&s.bins[1][bin[i]], 1u));
    }
    __syncthreads();
    // A bin's keys begin where the larger ones end.
    const int own = kBins - kOwn * (static_cast<int>(threadIdx.x) + 1);
    const uint2 count = *reinterpret_cast<const uint2*>(s.bins[1] + own);
    uint32_t total;
    const uint32_t begin = block_scan(count.x + count.y, total, scratch) - count.x - count.y;
    *reinterpret_cast<uint2*>(s.bins[1] + own) = make_uint2((begin + count.y) << 16 | count.x, begin << 16 | count.y);
    __syncthreads();
    int end[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
        const uint32_t word = s.bins[1][bin[i]];
        rank[i] = static_cast<int>(word >> 16);
        end[i] = rank[i] + static_cast<int>(word & 0xffff);
        at[i] += rank[i];
        if (key[i] != 0) s.binned[at[i]] = key[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
        if (key[i] == 0) continue;
        for (int other = rank[i], last = end[i]; other < last; ++other) {
            const uint32_t that = s.binned[other];
            rank[i] += that > key[i] || (that == key[i] && other < at[i]);
        }
    }
}

// s.few has n of the largest keys, k of them or more: top-k exactly, top-p and the draw.
__device__ __forceinline__ void draw_from_few(const Image& image, Shared& s, Scratch& scratch,
                                              const SampleParams& p, const Bins& bins, int n, int k, int position) {
    const int first = static_cast<int>(threadIdx.x) * kOwn;
    uint32_t key[kOwn];
    int rank[kOwn];
#pragma unroll
    for (int i = 0; i < kOwn; ++i) key[i] = first + i < n ? static_cast<uint32_t>(s.few[first + i] >> 32) : 0;
    find_ranks(key, bins, s, scratch, rank);
    double exact[kOwn] = {};
    if (first < n) {
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            exact[i] = image.weight_at_once(key[i]);
            if (key[i] != 0) s.sorted[rank[i]] = key[i], s.weight[rank[i]] = exact[i];
        }
    }
    __syncthreads();
    const uint32_t kth = s.sorted[k - 1];
    const double top_p = p.sampling->top_p;
    double least_weight = 0.0;
    uint64_t total, weight[kOwn];
    if (top_p < 1.0) {
        double sorted[kOwn];
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            const int other = kFew - 1 - (first + i);  // from the least on
            sorted[i] = other < n && s.sorted[other] >= kth ? s.weight[other] : 0.0;
            weight[i] = image.integer(sorted[i]);
        }
        uint64_t upto = block_scan(weight[0] + weight[1], total, scratch);
        const uint64_t cut = cut_of(top_p, total);
#pragma unroll
        for (int i = kOwn - 1; i >= 0; --i) {
            if (upto > cut && upto - weight[i] <= cut) s.least_weight = sorted[i];
            upto -= weight[i];
        }
        __syncthreads();
        least_weight = s.least_weight;
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
        weight[i] = key[i] != 0 && key[i] >= kth && exact[i] >= least_weight ? image.integer(exact[i]) : 0;
    }
    uint64_t upto = block_scan(weight[0] + weight[1], total, scratch);
    const uint64_t target = static_cast<uint64_t>(s.uniform * static_cast<double>(total));
#pragma unroll
    for (int i = kOwn - 1; i >= 0; --i) {
        if (upto > target && upto - weight[i] <= target) {
            finish(p, image.index, position, static_cast<int>(s.few[first + i] & 0xffff));
        }
        upto -= weight[i];
    }
}

}  // namespace
}  // namespace aim_kernels
