// linear of many rows on sm_90a. A block makes ROWS rows of N features over its share of in_features: one warp brings
// tiles of x and of the weights into a ring, and a warpgroup for each 64 rows multiplies them. A few blocks, a cluster, may
// share in_features out (`splits`), so that all of them together read less: each sends of its sums what another one writes,
// and adds what it is sent to its own in a fixed order.
#pragma once

#include "linear_many.h"
#include "tile_copy.cuh"

#if defined(AIM_KERNELS_EMULATED) || CUDART_VERSION >= 12000

#include "cluster.cuh"
#include "dependent.cuh"
#include "device_math.cuh"
#include "mma.cuh"
#include "wgmma.cuh"

namespace aim_kernels {
namespace detail {

struct LinearManyArgs {
    TileMap x, weight;
    LinearParams p;
    int chunks;  // of in_features, in all
    int share;   // of them, a block's
    int splits, row_tiles, stages;
};

// A core is a warp's 16 rows of eight features.
template <int ROWS, int N>
struct LinearMany {
    static constexpr int kWarps = ROWS / 16, kThreads = kWarps * 32 + 32, kCores = N / 8;
};

constexpr __host__ __device__ int linear_many_stage(int rows, int features) { return (rows + features) * kTileColumns * 2; }
// Cores that a block of a cluster writes, and the bytes that it is sent for them; the last may have less.
constexpr __host__ __device__ int cores_written(int features, int splits) { return (features / 8 + splits - 1) / splits; }
constexpr __host__ __device__ int bytes_sent(int rows, int features, int splits) {
    return (splits - 1) * (rows / 16) * cores_written(features, splits) * 32 * static_cast<int>(sizeof(float4));
}
constexpr int kTileAlign = 1024;
// Of shared memory beside the stages: to align them, what is sent, barriers of up to 16 stages.
constexpr int kMostStages = 16;
constexpr int linear_many_other(int rows, int features, int splits) {
    return kTileAlign + bytes_sent(rows, features, splits) + (2 * kMostStages + 1) * static_cast<int>(sizeof(uint64_t));
}

// Four cores of a warp to y, those of `first` to `last`: a lane has two neighbours of each in row `row` and in row + 8. A
// quad exchanges them, so that its lane q has one core's eight, which is 16 bytes at once.
template <typename T, int SIZE>
__device__ __forceinline__ void write_cores(const LinearParams& p, int row, int feature0, const float (&sum)[SIZE],
                                            int four, int first, int last) {
    const int q = static_cast<int>(threadIdx.x) % 4, core = four + q, feature = feature0 + core * 8;
    const bool mine = core >= first && core < last && feature < p.out_features;  // which is in steps of 8
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        unsigned v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int at = 4 * (four + i) + 2 * half;
            v[i] = at < SIZE ? pack2<T>(sum[min(at, SIZE - 2)], sum[min(at + 1, SIZE - 1)]) : 0;
        }
        // v[q] of lane i to be v[i] of lane q: first between neighbours, then between pairs of them.
#pragma unroll
        for (int step = 1; step < 4; step *= 2) {
            const bool upper = (q & step) != 0;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if ((i & step) != 0) continue;
                unsigned &low = v[i], &high = v[i + step];
                const unsigned other = __shfl_xor_sync(0xffffffffu, upper ? low : high, step);
                if (upper) {
                    low = other;
                } else {
                    high = other;
                }
            }
        }
        if (!mine || row + half * 8 >= p.rows) continue;
        T* y = static_cast<T*>(p.y) + (row + half * 8) * p.out_features + feature;
        *reinterpret_cast<uint4*>(y) = make_uint4(v[0], v[1], v[2], v[3]);
    }
}

// A warp's cores of `first` to `last` to y as they are: a quad's two neighbours each are a sector of 32 bytes.
template <int SIZE>
__device__ __forceinline__ void write_sums(const LinearParams& p, int row, int feature0, const float (&sum)[SIZE], int first,
                                           int last) {
    float* y = static_cast<float*>(p.y) + row * p.out_features + feature0 + static_cast<int>(threadIdx.x) % 4 * 2;
    const int rows = static_cast<int>(p.rows) - row, end = min(last, static_cast<int>(p.out_features - feature0) / 8);
#pragma unroll
    for (int core = 0; core < SIZE / 4; ++core) {
        if (core < first || core >= end) continue;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            if (half * 8 >= rows) continue;
            *reinterpret_cast<float2*>(y + half * 8 * p.out_features + core * 8) =
                make_float2(sum[4 * core + 2 * half], sum[4 * core + 2 * half + 1]);
        }
    }
}

template <typename T, int ROWS, int N>
__global__ void __launch_bounds__(LinearMany<ROWS, N>::kThreads) linear_many(const __grid_constant__ LinearManyArgs a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(AIM_KERNELS_EMULATED)
    using Shape = LinearMany<ROWS, N>;
    constexpr int kStageBytes = linear_many_stage(ROWS, N), kRowBytes = kTileColumns * 2;
    AIM_DYNAMIC_SMEM(memory);
    unsigned char* ring = memory + (kTileAlign - reinterpret_cast<uintptr_t>(memory) % kTileAlign) % kTileAlign;
    float* sent = reinterpret_cast<float*>(ring + a.stages * kStageBytes);
    uint64_t* full = reinterpret_cast<uint64_t*>(ring + a.stages * kStageBytes + bytes_sent(ROWS, N, a.splits));
    uint64_t *free = full + a.stages, *received = free + a.stages;
    const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
    const int rank = static_cast<int>(blockIdx.x) % a.splits, tile = static_cast<int>(blockIdx.x) / a.splits;
    const int row0 = tile % a.row_tiles * ROWS, feature0 = tile / a.row_tiles * N;
    const int first_chunk = rank * a.share, count = max(min(a.share, a.chunks - first_chunk), 0);
    // The cores that this block writes.
    const int cores = cores_written(N, a.splits), first = min(rank * cores, Shape::kCores);
    const int last = min(first + cores, Shape::kCores);
    if (tid == 0) {
        for (int i = 0; i < a.stages; ++i) {
            barrier_init(full + i, 1);
            barrier_init(free + i, Shape::kWarps);
        }
        barrier_init(received, 1);
        fence_barriers();
        const int bytes = (a.splits - 1) * Shape::kWarps * (last - first) * 32 * static_cast<int>(sizeof(float4));
        barrier_expect(received, static_cast<unsigned>(bytes));
    }
    __syncthreads();
    if (a.splits > 1) cluster_arrive();

    if (warp == Shape::kWarps) {
        const int held = min(a.stages, count);
        const auto bring_weights = [&](int i) {
            uint64_t* arrived = full + i % a.stages;
            barrier_expect(arrived, kStageBytes);
            copy_tile(ring + i % a.stages * kStageBytes + ROWS * kRowBytes, a.weight, (first_chunk + i) * kTileColumns,
                      feature0, arrived);
        };
        if (lane == 0) {
            prefetch_map(a.weight);
            prefetch_map(a.x);
            for (int i = 0; i < held; ++i) bring_weights(i);  // the header says who may have written them
        }
        __syncwarp();
        wait_for_previous();
        let_next_start();
        for (int i = 0; lane == 0 && i < count; ++i) {
            if (i >= held) {
                barrier_wait(free + i % a.stages, i / a.stages % 2 ^ 1);
                bring_weights(i);
            }
            copy_tile(ring + i % a.stages * kStageBytes, a.x, (first_chunk + i) * kTileColumns, row0, full + i % a.stages);
        }
        __syncwarp();
        if (a.splits > 1) cluster_wait();
        return;
    }

    wait_for_previous();
    let_next_start();
    float sum[N / 2] = {};
    for (int i = 0; i < count; ++i) {
        const unsigned char* from = ring + i % a.stages * kStageBytes;
        barrier_wait(full + i % a.stages, i / a.stages % 2);
        const auto rows = swizzled_matrix(from + warp / 4 * 64 * kRowBytes);
        const auto features = swizzled_matrix(from + ROWS * kRowBytes);
        wgmma_fence();
#pragma unroll
        for (int k = 0; k < kTileColumns / 16; ++k) wgmma<T>(sum, rows + k * 2, features + k * 2, true);
        wgmma_commit();
        wgmma_wait<1>();
        if (i > 0 && lane == 0) barrier_arrive(free + (i - 1) % a.stages);
    }
    wgmma_wait<0>();

    if (a.splits > 1) {
        cluster_wait();  // for the others' barriers
#pragma unroll
        for (int j = 0; j < Shape::kCores; ++j) {
            const int owner = j / cores;
            if (owner == rank) continue;
            const int slot = ((rank - (rank > owner ? 1 : 0)) * Shape::kWarps + warp) * cores + j - owner * cores;
            const float values[4] = {sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]};
            send(sent + (slot * 32 + lane) * 4, owner, values, received);
        }
        barrier_wait(received, 0);
#pragma unroll
        for (int j = 0; j < Shape::kCores; ++j) {
            if (j < first || j >= last) continue;
            for (int other = 0; other < a.splits - 1; ++other) {
                const int slot = (other * Shape::kWarps + warp) * cores + j - first;
                const float4 part = *reinterpret_cast<const float4*>(sent + (slot * 32 + lane) * 4);
                sum[4 * j] += part.x, sum[4 * j + 1] += part.y, sum[4 * j + 2] += part.z, sum[4 * j + 3] += part.w;
            }
        }
    }
    const int row = row0 + warp * 16 + lane / 4;
    if (a.p.float32_y) {
        write_sums(a.p, row, feature0, sum, first, last);
        return;
    }
#pragma unroll
    for (int four = 0; four < Shape::kCores; four += 4) {
        if (four + 4 <= first || four >= last) continue;
        write_cores<T>(a.p, row, feature0, sum, four, first, last);
    }
#endif
}

}  // namespace detail
}  // namespace aim_kernels

#endif  // CUDART_VERSION
