// Top-k, top-p and the draw: of few codes, which a block sorts, and of many, among which it searches.
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

// Bins of values: no larger value has a lesser one, whatever is rounded. What overflows or is no number has the first.
struct Bins {
    float low, scale;

    __device__ Bins(uint32_t least, uint32_t most)
        : low(value_of_key(least)), scale(static_cast<float>(kBins - 1) / (value_of_key(most) - low)) {}

    __device__ __forceinline__ int of(uint32_t key) const {
        return static_cast<int>(fminf(fmaxf((value_of_key(key) - low) * scale, 0.0f), static_cast<float>(kBins - 1)));
    }
};

// How many keys are `least` or more; and the least of a finite logit.
template <typename Row>
__device__ __forceinline__ int count_from(Row& row, const Image& image, Scratch<kWarps>& scratch, uint32_t least) {
    uint32_t count = 0;
    row.for_tiles(image, [&](int) {
#pragma unroll
        for (int i = 0; i < kChunks * 4; ++i) count += row.key[i] >= least;
    });
    return static_cast<int>(block_sum(count, scratch));
}

template <typename Row>
__device__ __forceinline__ uint32_t least_of(Row& row, const Image& image, Scratch<kWarps>& scratch) {
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

// A key that k keys or more reach, and few more: about the k-th of what is the largest of four neighbours each. That is a
// quarter of the work, and such neighbours seldom have two of a few. kMinusInfinity where the fours are less than k.
template <typename Row>
__device__ __forceinline__ uint32_t bound_of(const Row& row, Shared& s, Scratch<kWarps>& scratch, uint32_t most,
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
                                           Scratch<kWarps>& scratch, int (&rank)[kOwn]) {
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
__device__ __forceinline__ void draw_from_few(const Image& image, Shared& s, Scratch<kWarps>& scratch,
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

// Any number of keys, those from `kth` on: weights are computed anew in each pass, from the keys.
template <typename Row>
__device__ __forceinline__ void draw_from_many(Row& row, const Image& image, Shared& s, Scratch<kWarps>& scratch,
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
