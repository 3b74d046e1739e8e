// The draw by a cluster of blocks an image, for as many codes as they hold in registers: each block has a run of the
// codes, and the few that top-k leaves go to the first block, which sorts them. It draws what sample_kernel draws: all
// that decides is integers.
#pragma once

#include "cluster.cuh"
#include "dependent.cuh"
#include "sample_draw.cuh"

namespace aim_kernels {
namespace {

constexpr int kBlocks = 8;          // of a cluster
constexpr int kBlockThreads = 256;
constexpr int kBlockWarps = kBlockThreads / 32;
constexpr int kItems = 8;           // codes of a thread, neighbours
constexpr int kBlockCodes = kBlockThreads * kItems;
constexpr int kClusterCodes = kBlocks * kBlockCodes;
constexpr int kBins = 4 * kBlockThreads;
constexpr int kFew = 1024;          // that the first block sorts
constexpr int kOwn = kFew / kBlockThreads;

// Of each block; keys, codes and what sorts them are used in the first one only.
struct ClusterShared {
    uint64_t partial[2][kBlockWarps];
    uint64_t slot[2][kBlocks];  // what each block has to say to the others, in turns
    alignas(16) uint32_t bins[kBins];
    double uniform, least_weight;
    int first_bin, few;
    uint32_t key[kFew];
    uint16_t code[kFew];
    alignas(16) uint32_t sort[2][kFew];
};

// One block's part of an image, and what it knows of the others.
struct Part {
    ClusterShared& s;
    const Image& image;
    Scratch<kBlockWarps> scratch;
    int rank, turn = 0;
    uint32_t key[kItems];  // 0, less than any logit's, past the last code

    __device__ Part(ClusterShared& shared, const Image& of)
        : s(shared), image(of), scratch{shared.partial, 0}, rank(static_cast<int>(blockIdx.x) % kBlocks) {}

    __device__ __forceinline__ int code(int item) const {
        return rank * kBlockCodes + static_cast<int>(threadIdx.x) * kItems + item;
    }

    __device__ __forceinline__ void read() {
        float cond[kItems] = {}, uncond[kItems] = {};
#pragma unroll
        for (int i = 0; i < kItems; i += 4) {
            if (code(i) >= image.vocab_size) continue;
            const float4 a = *reinterpret_cast<const float4*>(image.cond + code(i));
            const float4 b = *reinterpret_cast<const float4*>(image.uncond + code(i));
            cond[i] = a.x, cond[i + 1] = a.y, cond[i + 2] = a.z, cond[i + 3] = a.w;
            uncond[i] = b.x, uncond[i + 1] = b.y, uncond[i + 2] = b.z, uncond[i + 3] = b.w;
        }
#pragma unroll
        for (int i = 0; i < kItems; ++i) key[i] = code(i) < image.vocab_size ? guided_key(image, cond[i], uncond[i]) : 0;
    }

    // Every block's value, to all of them: s.slot of what is returned.
    __device__ __forceinline__ const uint64_t* exchange(uint64_t value) {
        turn ^= 1;
        if (threadIdx.x < kBlocks) peer_of(s.slot[turn], static_cast<int>(threadIdx.x))[rank] = value;
        cluster_arrive();
        cluster_wait();
        return s.slot[turn];
    }

    __device__ __forceinline__ uint64_t cluster_sum(uint64_t value) {
        const uint64_t* all = exchange(block_sum(value, scratch));
        uint64_t sum = 0;
        for (int i = 0; i < kBlocks; ++i) sum += all[i];
        return sum;
    }

    // The largest key, and the least of a finite number: where a search begins.
    __device__ __forceinline__ void range(uint32_t& most, uint32_t& least) {
        most = 0, least = kNan;
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
            most = max(most, key[i]);
            if (key[i] > kMinusInfinity) least = min(least, key[i]);
        }
        most = warp_max(most), least = ~warp_max(~least);
        uint64_t* partial = scratch.next();
        if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = static_cast<uint64_t>(most) << 32 | ~least;
        __syncthreads();
        uint32_t low = 0;
        for (int i = 0; i < kBlockWarps; ++i) {
            most = max(most, static_cast<uint32_t>(partial[i] >> 32));
            low = max(low, static_cast<uint32_t>(partial[i]));
        }
        const uint64_t* all = exchange(static_cast<uint64_t>(most) << 32 | low);
        for (int i = 0; i < kBlocks; ++i) {
            most = max(most, static_cast<uint32_t>(all[i] >> 32));
            low = max(low, static_cast<uint32_t>(all[i]));
        }
        least = ~low;
    }

    // A value's bin: no larger value has a lesser one, whatever is rounded. What overflows or is no number has the first.
    static __device__ __forceinline__ int bin_of(uint32_t key, float least, float scale) {
        return static_cast<int>(fminf(fmaxf((value_of_key(key) - least) * scale, 0.0f), static_cast<float>(kBins - 1)));
    }

    // The keys of the fewest bins from the top that hold k: a bit an item. `few`: how many they are in all blocks, `before`
    // in the blocks before this one.
    __device__ __forceinline__ unsigned choose(uint32_t most, uint32_t least, int k, int& few, int& before) {
        const int thread = static_cast<int>(threadIdx.x);
        const float low = value_of_key(least), scale = static_cast<float>(kBins - 1) / (value_of_key(most) - low);
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
            if (key[i] != 0) atomicAdd(&s.bins[bin_of(key[i], low, scale)], 1u);
        }
        cluster_arrive();
        cluster_wait();
        // Thread 0 has the top: counts then are those of a bin and all above it.
        const int own = kBins - kOwn * (thread + 1);
        uint32_t all[kOwn] = {}, lower[kOwn] = {};
        for (int block = 0; block < kBlocks; ++block) {
            const uint4 got = *reinterpret_cast<const uint4*>(peer_of(s.bins, block) + own);
            const uint32_t counts[kOwn] = {got.x, got.y, got.z, got.w};
#pragma unroll
            for (int i = 0; i < kOwn; ++i) {
                all[i] += counts[i];
                if (block < rank) lower[i] += counts[i];
            }
        }
        uint64_t total;
        uint32_t upto = static_cast<uint32_t>(block_scan(all[0] + all[1] + all[2] + all[3], total, scratch));
        upto -= all[0] + all[1] + all[2] + all[3];
#pragma unroll
        for (int i = kOwn - 1; i >= 0; --i) {
            const uint32_t above = upto;
            upto += all[i];
            if (above < static_cast<uint32_t>(k) && upto >= static_cast<uint32_t>(k)) s.first_bin = own + i, s.few = upto;
        }
        __syncthreads();
        few = s.few;
        uint32_t lower_sum = 0;
#pragma unroll
        for (int i = 0; i < kOwn; ++i) lower_sum += own + i >= s.first_bin ? lower[i] : 0;
        before = static_cast<int>(block_sum(lower_sum, scratch));
        unsigned chosen = 0;
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
            if (key[i] != 0 && bin_of(key[i], low, scale) >= s.first_bin) chosen |= 1u << i;
        }
        return chosen;
    }

    // As sample_kernel searches: count(key >= lo) = n >= k > count(key >= hi).
    __device__ __forceinline__ void search(uint32_t most, uint32_t least, int k, uint32_t& lo, int& n) {
        uint32_t hi = most + 1;
        for (int round = 0; n > kFew && hi - lo > 1; ++round) {
            const uint32_t middle = middle_key(lo, hi, least, round);
            const int count = static_cast<int>(cluster_sum(__popc(mask_from(middle))));
            if (count >= k) {
                lo = middle, n = count;
            } else {
                hi = middle;
            }
        }
    }

    __device__ __forceinline__ unsigned mask_from(uint32_t least) const {
        unsigned mask = 0;
#pragma unroll
        for (int i = 0; i < kItems; ++i) mask |= (key[i] >= least ? 1u : 0u) << i;
        return mask;
    }

    __device__ __forceinline__ uint64_t block_count(unsigned chosen) {
        return block_sum(static_cast<uint32_t>(__popc(chosen)), scratch);
    }

    // An item that is known at run time only, so that a loop with exp in it need not be unrolled. Its weight, where the key
    // lies in (lo, hi] and the weight is `floor` or more.
    __device__ __forceinline__ uint64_t weight_in(int item, uint32_t lo, uint32_t hi, double floor) const {
        uint32_t of = key[0];
#pragma unroll
        for (int i = 1; i < kItems; ++i) of = item == i ? key[i] : of;
        if (of <= lo || of > hi) return 0;
        const double exact = image.weight(of);
        return exact >= floor ? image.integer(exact) : 0;
    }

    // The chosen keys and their codes to the first block, in the order of the codes. Then all but that one are done.
    __device__ __forceinline__ void gather(unsigned chosen, int before) {
        uint64_t total;
        const int mine = __popc(chosen), upto = static_cast<int>(block_scan(static_cast<uint64_t>(mine), total, scratch));
        uint32_t* keys = peer_of(s.key, 0);
        uint16_t* codes = peer_of(s.code, 0);
        int at = before + upto - mine;
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
            if ((chosen >> i & 1u) == 0) continue;
            keys[at] = key[i], codes[at] = static_cast<uint16_t>(code(i));
            ++at;
        }
        cluster_arrive();
        cluster_wait();
    }
};

}  // namespace
}  // namespace aim_kernels
