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
constexpr int kFew = kThreads;      // that the first block sorts, as sample_kernel
constexpr int kOwn = kFew / kBlockThreads;

// Of each block; what is from `counts` on is used in the first one only.
struct ClusterShared {
    uint64_t partial[2][kBlockWarps];
    uint64_t slot[2][kBlocks];  // what each block has to say to the others, in turns
    uint64_t verdict;           // the first block's, of top-k
    uint64_t slots_there[2], verdict_there, counts_there, few_there;  // barriers
    double uniform, least_weight;
    alignas(16) uint32_t bins[kBins];  // counts; in the first block then how many keys of all lie above a bin
    int first_bin, few;
    uint64_t counts[kBlocks][kBlockThreads];  // of each block's bins, four a word
    uint32_t next[kBins];                     // where the next key of a bin goes among the sorted
    uint64_t found[kFew];                     // a key in the high half, its code in the low
    alignas(16) uint32_t sort[2][kFew];
};

// One block's part of an image, and what it knows of the others.
struct Part {
    ClusterShared& s;
    const Image& image;
    Scratch<kBlockWarps> scratch;
    int rank, turn = 0;
    unsigned parities = 0;  // of the slots' barriers, a bit each
    float low = 0.0f, scale = 0.0f;  // the bins' first value, and how many a unit has
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

    // Before anything is sent. By all threads; another block may send only after cluster_wait.
    __device__ __forceinline__ void open() {
        if (threadIdx.x == 0) {
            for (uint64_t* barrier : {s.slots_there, s.slots_there + 1, &s.verdict_there, &s.counts_there, &s.few_there}) {
                barrier_init(barrier, 1);
            }
            fence_barriers();
            barrier_expect(s.slots_there, sizeof(s.slot[0]));
            barrier_expect(s.slots_there + 1, sizeof(s.slot[0]));
            barrier_expect(&s.verdict_there, sizeof(s.verdict));
            if (rank == 0) barrier_expect(&s.counts_there, sizeof(s.counts));
        }
        cluster_arrive();
        cluster_wait();
    }

    // Every block's value, to all of them: s.slot of what is returned. After a barrier of the block since the call before.
    // A barrier's next bytes are announced before this block's next value, which whoever sends them has to have.
    __device__ __forceinline__ const uint64_t* exchange(uint64_t value) {
        const int now = turn;
        turn ^= 1;
        if (threadIdx.x < kBlocks) send(s.slot[now] + rank, static_cast<int>(threadIdx.x), value, s.slots_there + now);
        barrier_wait(s.slots_there + now, parities >> now & 1);
        parities ^= 1u << now;
        if (threadIdx.x == 0) barrier_expect(s.slots_there + now, sizeof(s.slot[0]));
        return s.slot[now];
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
    __device__ __forceinline__ int bin_of(uint32_t of) const {
        return static_cast<int>(fminf(fmaxf((value_of_key(of) - low) * scale, 0.0f), static_cast<float>(kBins - 1)));
    }

    // The keys of the fewest bins from the top that hold k: a bit an item. `few`: how many they are in all blocks, `before`
    // in the blocks before this one.
    __device__ __forceinline__ unsigned choose(uint32_t most, uint32_t least, int k, int& few, int& before) {
        low = value_of_key(least), scale = static_cast<float>(kBins - 1) / (value_of_key(most) - low);
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
            if (key[i] != 0) atomicAdd(&s.bins[bin_of(key[i])], 1u);
        }
        __syncthreads();
        // Thread 0 has the top. A block has 2048 codes, and so a count 16 bits.
        const int own = kBins - kOwn * (static_cast<int>(threadIdx.x) + 1);
        const uint4 mine = *reinterpret_cast<const uint4*>(s.bins + own);
        const uint64_t words = static_cast<uint64_t>(mine.w << 16 | mine.z) << 32 | (mine.y << 16 | mine.x);
        send(s.counts[rank] + threadIdx.x, 0, words, &s.counts_there);
        if (rank == 0) judge(own, k);
        barrier_wait(&s.verdict_there, 0);
        const uint64_t verdict = s.verdict;
        few = static_cast<int>(verdict >> 32);
        before = static_cast<int>(verdict >> 16 & 0xffff);
        const int first_bin = static_cast<int>(verdict & 0xffff);
        unsigned chosen = 0;
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
            if (key[i] != 0 && bin_of(key[i]) >= first_bin) chosen |= 1u << i;
        }
        return chosen;
    }

    // By the first block: from which bin on keys are chosen, and how many they are, to every block. A count of all blocks
    // has 15 bits.
    __device__ __forceinline__ void judge(int own, int k) {
        const int thread = static_cast<int>(threadIdx.x);
        barrier_wait(&s.counts_there, 0);
        uint64_t of_block[kBlocks], all = 0;
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) all += of_block[block] = s.counts[block][thread];
        uint64_t total;
        int upto = static_cast<int>(block_scan(sum_of_four(all), total, scratch) - sum_of_four(all));
#pragma unroll
        for (int i = kOwn - 1; i >= 0; --i) {
            const int above = upto;
            s.bins[own + i] = s.next[own + i] = static_cast<uint32_t>(above);
            upto += static_cast<int>(all >> 16 * i & 0xffff);
            if (above < k && upto >= k) s.first_bin = own + i, s.few = upto;
        }
        __syncthreads();
        // What of this thread's bins is chosen: whole words, none, or the upper part of one.
        const int under = s.first_bin - own;
        const uint64_t mask = under <= 0 ? ~uint64_t{0} : under >= kOwn ? 0 : ~uint64_t{0} << 16 * under;
        uint64_t counts[2] = {0, 0};  // of four blocks each
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
            counts[block / 4] |= sum_of_four(of_block[block] & mask) << block % 4 * 16;
        }
        counts[0] = block_sum(counts[0], scratch), counts[1] = block_sum(counts[1], scratch);
        if (thread == 0 && s.few <= kFew) announce(s.few);
        if (thread >= 32) return;
        __syncwarp();
        if (thread >= kBlocks) return;
        uint64_t before = 0;
#pragma unroll
        for (int block = 0; block < kBlocks; ++block) {
            if (block < thread) before += counts[block / 4] >> block % 4 * 16 & 0xffff;
        }
        const uint64_t few = static_cast<uint64_t>(s.few);
        send(&s.verdict, thread, few << 32 | before << 16 | static_cast<uint64_t>(s.first_bin), &s.verdict_there);
    }

    // By one thread of the first block: how many keys it gets, before anyone can know that they are to be sent.
    __device__ __forceinline__ void announce(int few) {
        barrier_expect(&s.few_there, static_cast<unsigned>(few) * sizeof(uint64_t));
    }

    static __device__ __forceinline__ uint64_t sum_of_four(uint64_t words) {
        return (words & 0xffff) + (words >> 16 & 0xffff) + (words >> 32 & 0xffff) + (words >> 48);
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

    // The chosen keys and their codes to the first block, in the order of the codes.
    __device__ __forceinline__ void gather(unsigned chosen, int before) {
        uint64_t total;
        const int mine = __popc(chosen), upto = static_cast<int>(block_scan(static_cast<uint64_t>(mine), total, scratch));
        int at = before + upto - mine;
#pragma unroll
        for (int i = 0; i < kItems; ++i) {
            if ((chosen >> i & 1u) == 0) continue;
            send(s.found + at, 0, static_cast<uint64_t>(key[i]) << 32 | static_cast<unsigned>(code(i)), &s.few_there);
            ++at;
        }
    }
};

}  // namespace
}  // namespace aim_kernels
