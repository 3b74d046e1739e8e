// What sample_cluster.cuh leaves: a few keys in the first block, or any number in all of them; and the kernel.
#pragma once

#include "sample_cluster.cuh"

namespace aim_kernels {
namespace {

// Bitonic, ascending, kOwn neighbouring keys a thread, which hold them afterwards; `buffers` has all of them, too.
__device__ __forceinline__ const uint32_t* sort_few(uint32_t (&key)[kOwn], uint32_t (*buffers)[kFew]) {
    const int first = static_cast<int>(threadIdx.x) * kOwn;
    int turn = 0;
#pragma unroll
    for (int size = 2; size <= kFew; size *= 2) {
#pragma unroll
        for (int stride = size / 2; stride > 0; stride /= 2) {
            uint32_t other[kOwn];
            if (stride < kOwn) {
#pragma unroll
                for (int i = 0; i < kOwn; ++i) other[i] = key[i ^ stride];
            } else if (stride < kOwn * 32) {
#pragma unroll
                for (int i = 0; i < kOwn; ++i) other[i] = __shfl_xor_sync(kAllLanes, key[i], stride / kOwn);
            } else {
                uint32_t* buffer = buffers[turn];
                turn ^= 1;
                *reinterpret_cast<uint4*>(buffer + first) = make_uint4(key[0], key[1], key[2], key[3]);
                __syncthreads();
                const uint4 got = *reinterpret_cast<const uint4*>(buffer + (first ^ stride));
                other[0] = got.x, other[1] = got.y, other[2] = got.z, other[3] = got.w;
            }
#pragma unroll
            for (int i = 0; i < kOwn; ++i) {
                const bool ascending = ((first + i) & size) == 0, lower = ((first + i) & stride) == 0;
                key[i] = ascending == lower ? min(key[i], other[i]) : max(key[i], other[i]);
            }
        }
    }
    *reinterpret_cast<uint4*>(buffers[turn] + first) = make_uint4(key[0], key[1], key[2], key[3]);
    __syncthreads();
    return buffers[turn];
}

// The same by bins, each of which has few keys: as many lie above a key as above its bin, and in it above the key.
__device__ __forceinline__ const uint32_t* sort_binned(const Part& part, uint32_t (&key)[kOwn], int n) {
    ClusterShared& s = part.s;
    const int first = static_cast<int>(threadIdx.x) * kOwn;
    int bin[kOwn] = {}, at[kOwn] = {};
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
        if (first + i < kFew - n) s.sort[1][first + i] = 0;
        if (key[i] == 0) continue;  // past the last one
        bin[i] = part.bin_of(key[i]);
        at[i] = static_cast<int>(atomicAdd(&s.next[bin[i]], 1u));
        s.sort[0][at[i]] = key[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
        if (key[i] == 0) continue;
        const int begin = static_cast<int>(s.bins[bin[i]]), end = static_cast<int>(s.next[bin[i]]);
        int before = begin;
        for (int other = begin; other < end; ++other) {
            const uint32_t that = s.sort[0][other];
            before += that > key[i] || (that == key[i] && other < at[i]);
        }
        s.sort[1][kFew - 1 - before] = key[i];
    }
    __syncthreads();
    const uint4 got = *reinterpret_cast<const uint4*>(s.sort[1] + first);
    key[0] = got.x, key[1] = got.y, key[2] = got.z, key[3] = got.w;
    return s.sort[1];
}

__device__ __forceinline__ uint64_t sum_of(const uint64_t (&values)[kOwn]) {
    return values[0] + values[1] + values[2] + values[3];
}

// By the first block: s.found has n of the largest keys, k of them or more. top-k exactly, top-p and the draw.
__device__ __forceinline__ void draw_few(Part& part, const SampleParams& p, int n, int k, bool binned, int position) {
    ClusterShared& s = part.s;
    const Image& image = part.image;
    const int first = static_cast<int>(threadIdx.x) * kOwn;
    uint32_t key[kOwn], sorted[kOwn];
    barrier_wait(&s.few_there, 0);
#pragma unroll
    for (int i = 0; i < kOwn; ++i) sorted[i] = key[i] = first + i < n ? static_cast<uint32_t>(s.found[first + i] >> 32) : 0;
    const uint32_t kth = (binned ? sort_binned(part, sorted, n) : sort_few(sorted, s.sort))[kFew - k];
    const double top_p = p.sampling->top_p;
    double least_weight = 0.0;
    uint64_t total, weight[kOwn];
    if (top_p < 1.0) {
        double exact[kOwn];
#pragma unroll
        for (int i = 0; i < kOwn; ++i) {
            exact[i] = sorted[i] >= kth ? image.weight_at_once(sorted[i]) : 0.0;
            weight[i] = image.integer(exact[i]);
        }
        uint64_t upto = block_scan(sum_of(weight), total, part.scratch);
        const uint64_t cut = cut_of(top_p, total);
#pragma unroll
        for (int i = kOwn - 1; i >= 0; --i) {
            if (upto > cut && upto - weight[i] <= cut) s.least_weight = exact[i];
            upto -= weight[i];
        }
        __syncthreads();
        least_weight = s.least_weight;
    }
#pragma unroll
    for (int i = 0; i < kOwn; ++i) {
        const double exact = key[i] >= kth ? image.weight_at_once(key[i]) : -1.0;
        weight[i] = exact >= least_weight ? image.integer(exact) : 0;
    }
    uint64_t upto = block_scan(sum_of(weight), total, part.scratch);
    const uint64_t target = static_cast<uint64_t>(s.uniform * static_cast<double>(total));
#pragma unroll
    for (int i = kOwn - 1; i >= 0; --i) {
        if (upto > target && upto - weight[i] <= target) {
            finish(p, image.index, position, static_cast<int>(s.found[first + i] & 0xffff));
        }
        upto -= weight[i];
    }
}

// By all blocks, each over its own codes: any number of keys, those from `kth` on.
__device__ __forceinline__ void draw_many(Part& part, const SampleParams& p, uint32_t kth, uint32_t least, uint32_t most,
                                          int position) {
    const Image& image = part.image;
    // The weights of keys in (lo, hi] from `floor` on.
    auto sum_in = [&](uint32_t lo, uint32_t hi, double floor) {
        uint64_t sum = 0;
#pragma unroll 1
        for (int i = 0; i < kItems; ++i) sum += part.weight_in(i, lo, hi, floor);
        return sum;
    };
    const auto sum_of = [&](uint32_t lo, uint32_t hi) { return part.cluster_sum(sum_in(lo, hi, 0.0)); };
    const double floor = least_that_stays(image, p.sampling->top_p, kth, least, most, sum_of);
    const uint64_t mine = sum_in(kth - 1, most, floor);
    uint64_t total;
    uint64_t upto = block_scan(mine, total, part.scratch);
    const uint64_t* all = part.exchange(total);
    uint64_t before = 0;
    total = 0;
    for (int i = 0; i < kBlocks; ++i) {
        before += i < part.rank ? all[i] : 0;
        total += all[i];
    }
    const uint64_t target = static_cast<uint64_t>(part.s.uniform * static_cast<double>(total));
    upto += before - mine;
    if (upto > target || upto + mine <= target) return;
#pragma unroll 1
    for (int i = 0; i < kItems; ++i) {
        const uint64_t weight = part.weight_in(i, kth - 1, most, floor);
        if (upto <= target && upto + weight > target) finish(p, image.index, position, part.code(i));
        upto += weight;
    }
}

// A cluster an image.
__global__ __launch_bounds__(kBlockThreads) void sample_cluster_kernel(SampleArgs a) {
    AIM_DYNAMIC_SMEM(smem);
    ClusterShared& s = *reinterpret_cast<ClusterShared*>(smem);
    const SampleParams& p = a.p;
    reinterpret_cast<uint4*>(s.bins)[threadIdx.x] = make_uint4(0, 0, 0, 0);
    Image image;
    Part part(s, image);
    part.open();
    wait_for_previous();
    let_next_start();
    const int64_t index = blockIdx.x / kBlocks;
    if (row_is_inactive(p.active, index)) return;
    image = image_of(a, index);
    part.read();
    const int position = p.position[index];
    if (threadIdx.x == 0) {
        s.uniform = philox_uniform(p.sampling->seed, p.image_index[index], static_cast<uint32_t>(position));
        s.least_weight = 1.0;  // where top-p leaves the largest alone
    }
    uint32_t most, least;
    part.range(most, least);
    if (most <= kMinusInfinity || most >= kInfinity) {
        if (part.rank == 0 && threadIdx.x == 0) refuse(p, index, position);
        return;
    }
    image.largest = static_cast<double>(value_of_key(most));
    const int top_k = p.sampling->top_k, k = top_k > 0 && top_k < p.vocab_size ? top_k : p.vocab_size;
    int n = p.vocab_size, before = 0;
    unsigned chosen = 0;
    uint32_t lo = kMinusInfinity;
    if (k <= kFew) chosen = part.choose(most, least, k, n, before);
    const bool binned = n <= kFew;
    if (k < p.vocab_size && !binned) {
        n = p.vocab_size;
        search(most, least, k, lo, n, [&](uint32_t key) { return part.cluster_sum(__popc(part.mask_from(key))); });
        chosen = part.mask_from(lo);
        if (n <= kFew && part.rank == 0 && threadIdx.x == 0) part.announce(n);
        const uint64_t* all = part.exchange(part.block_count(chosen));
        before = 0;
        for (int i = 0; i < part.rank; ++i) before += static_cast<int>(all[i]);
    }
    if (n > kFew) {
        draw_many(part, p, lo, least, most, position);
        return;
    }
    part.gather(chosen, before);
    if (part.rank == 0) draw_few(part, p, n, k, binned, position);
}

}  // namespace
}  // namespace aim_kernels
