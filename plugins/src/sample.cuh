// What the sampler is made of: float32 as ordered integers, Philox, and sums and scans over a block.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace aim_kernels {
namespace detail {

// Each warp pays for every step of a scan, and each thread's few instructions are issued once a warp: few threads.
constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
constexpr int kChunks = 8;                     // of four codes a thread
constexpr int kTile = kThreads * kChunks * 4;  // codes that a block holds in registers
constexpr int kFew = 1024;                     // codes that it draws from by their ranks
constexpr int kOwn = kFew / kThreads;          // a thread's of them, neighbours
constexpr unsigned kAllLanes = 0xffffffffu;

// Keys compare as the numbers do. -0 gets the key of +0, for the two are equal, and every NaN the largest.
constexpr uint32_t kMinusInfinity = 0x007fffffu, kInfinity = 0xff800000u, kNan = 0xffffffffu;

__device__ __forceinline__ uint32_t key_of(float value) {
    if (value != value) return kNan;
    const uint32_t bits = value == 0.0f ? 0u : __float_as_uint(value);
    return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float value_of_key(uint32_t key) {
    return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// A key between lo and hi, which are 2 apart or more, to halve a search. Halving the range of the values closes in on
// what is dense; 32 times halving that of the keys ends whatever the values are. `least`: no value of interest is less.
__device__ __forceinline__ uint32_t middle_key(uint32_t lo, uint32_t hi, uint32_t least, int round) {
    if (round >= 12) return lo + (hi - lo) / 2;
    const uint32_t middle = key_of(0.5f * value_of_key(max(lo, least)) + 0.5f * value_of_key(hi - 1));
    return min(max(middle, lo + 1), hi - 1);
}

// runtime/philox.py has the definition.
__device__ __forceinline__ double philox_uniform(uint64_t seed, uint64_t image_index, uint32_t step) {
    uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
    uint32_t c0 = step, c1 = static_cast<uint32_t>(image_index), c2 = static_cast<uint32_t>(image_index >> 32), c3 = 0;
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const uint64_t a = static_cast<uint64_t>(0xD2511F53u) * c0, b = static_cast<uint64_t>(0xCD9E8D57u) * c2;
        c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
        c1 = static_cast<uint32_t>(b);
        c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
        c3 = static_cast<uint32_t>(a);
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
    // 53 bits are a float64 without rounding.
    const uint64_t bits = (static_cast<uint64_t>(c0 >> 5) << 26) + (c1 >> 6);
    return static_cast<double>(bits) * (1.0 / 9007199254740992.0);
}

// Two sets in turns: its next sum may begin while a slow warp still reads the one before.
struct Scratch {
    uint64_t (*partial)[kWarps];
    int turn;

    __device__ __forceinline__ uint64_t* next() {
        turn ^= 1;
        return partial[turn];
    }

    // A lane's part of what the warps left there.
    static __device__ __forceinline__ uint64_t part_of(const uint64_t* partial) {
        const int lane = static_cast<int>(threadIdx.x) % 32;
        return lane < kWarps ? partial[lane] : 0;
    }
};

// Inclusive.
template <typename T>
__device__ __forceinline__ T warp_scan(T value) {
    const int lane = static_cast<int>(threadIdx.x) % 32;
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
        const T other = __shfl_up_sync(kAllLanes, value, offset);
        if (lane >= offset) value += other;
    }
    return value;
}

template <typename T>
__device__ __forceinline__ T warp_sum(T value) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(kAllLanes, value, offset);
    return value;
}

__device__ __forceinline__ uint32_t warp_max(uint32_t value) {
#if !defined(AIM_KERNELS_EMULATED) && __CUDA_ARCH__ >= 800
    return __reduce_max_sync(kAllLanes, value);
#else
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value = max(value, __shfl_xor_sync(kAllLanes, value, offset));
    return value;
#endif
}

template <typename T>
__device__ __forceinline__ T block_sum(T value, Scratch& scratch) {
    uint64_t* partial = scratch.next();
    value = warp_sum(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    return warp_sum(static_cast<T>(scratch.part_of(partial)));
}

__device__ __forceinline__ uint32_t block_max(uint32_t value, Scratch& scratch) {
    uint64_t* partial = scratch.next();
    value = warp_max(value);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = value;
    __syncthreads();
    return warp_max(static_cast<uint32_t>(scratch.part_of(partial)));
}

// The largest, and the least, of a block.
__device__ __forceinline__ void block_range(uint32_t& most, uint32_t& least, Scratch& scratch) {
    uint64_t* partial = scratch.next();
    most = warp_max(most), least = warp_max(~least);
    if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = static_cast<uint64_t>(most) << 32 | least;
    __syncthreads();
    const uint64_t part = scratch.part_of(partial);
    most = warp_max(static_cast<uint32_t>(part >> 32)), least = ~warp_max(static_cast<uint32_t>(part));
}

// Inclusive, in the order of the threads; `total` is that of all.
template <typename T>
__device__ __forceinline__ T block_scan(T value, T& total, Scratch& scratch) {
    uint64_t* partial = scratch.next();
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    value = warp_scan(value);
    if (lane == 31) partial[warp] = value;
    __syncthreads();
    const T upto = warp_scan(static_cast<T>(scratch.part_of(partial)));
    total = __shfl_sync(kAllLanes, upto, 31);
    const T before = __shfl_sync(kAllLanes, upto, max(warp - 1, 0));
    return warp == 0 ? value : before + value;
}

// One warp makes each of 32 * per_lane entries the sum of those before it, and returns the sum of all.
template <typename T>
__device__ __forceinline__ T scan_segments(T* segment, int per_lane) {
    T* mine = segment + static_cast<int>(threadIdx.x) % 32 * per_lane;
    T sum = 0;
    for (int i = 0; i < per_lane; ++i) sum += mine[i];
    const T upto = warp_scan(sum);
    T before = upto - sum;
    for (int i = 0; i < per_lane; ++i) {
        const T value = mine[i];
        mine[i] = before;
        before += value;
    }
    __syncwarp();
    return __shfl_sync(kAllLanes, upto, 31);
}

}  // namespace detail
}  // namespace aim_kernels
