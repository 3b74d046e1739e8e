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
#include "tile_layout.h"
#include "wgmma.cuh"

namespace aim_kernels {
namespace detail {

struct LinearManyArgs {
    TileMap x, weight;
    LinearParams p;
    int chunks;  // of in_features, in all
    int share;   // of them, a block's
    int splits, row_tiles, tiles, stages;
};

// Tiles of so many features and more aren't shared out: it's no gain, and their registers are few enough without.
constexpr int kUnsplitFeatures = 208;

// A core is a warp's 16 rows of eight features. A product that adds to the one before takes 84 cycles at least, so a block of
// few features has two sums, of every other 16 of in_features.
template <int ROWS, int N>
struct LinearMany {
    static constexpr int kWarps = ROWS / 16, kThreads = kWarps * 32 + 32, kCores = N / 8;
    static constexpr int kSums = ROWS / 64 * N < 168 ? 2 : 1;
    static constexpr bool kSplits = N < kUnsplitFeatures;
};

// Of shared memory through which a warp writes: 16 rows of 128 bytes, eight of them in different banks.
constexpr int kWritePitch = 128 + 16, kWriteBytes = 16 * kWritePitch;

constexpr __host__ __device__ int linear_many_stage(int rows, int features) { return (rows + features) * kTileColumns * 2; }
// Cores that a block of a cluster writes, and the bytes that it is sent for them; the last may have less.
constexpr __host__ __device__ int cores_written(int features, int splits) { return (features / 8 + splits - 1) / splits; }
constexpr __host__ __device__ int bytes_sent(int rows, int features, int splits) {
    return (splits - 1) * (rows / 16) * cores_written(features, splits) * 32 * static_cast<int>(sizeof(float4));
}
// Of shared memory beside the stages: to align them, what is sent, what is written, barriers.
constexpr int linear_many_other(int rows, int features, int splits) {
    return kTileAlign + bytes_sent(rows, features, splits) + rows / 16 * kWriteBytes +
           (2 * kMostStages + 1) * static_cast<int>(sizeof(uint64_t));
}

// Sums of a warp, 16 rows from `row`, to y: cores of `first` to `last`, by way of `mine`, so that 128 bytes of a row go at
// once.
template <typename Y, int SIZE>
__device__ __forceinline__ void write_cores(const LinearParams& p, int row, int feature0, const float (&sum)[SIZE], int first,
                                            int last, unsigned char* mine) {
    constexpr int kCores = SIZE / 4;
    constexpr int kTogether = 16 / static_cast<int>(sizeof(Y));  // cores, and neighbours in 16 bytes
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int core = lane % 8 * kTogether / 8, feature = feature0 + lane % 8 * kTogether;
    Y* y = static_cast<Y*>(p.y) + (row + lane / 8) * p.out_features + feature;
#pragma unroll
    for (int from = 0; from < kCores; from += kTogether) {
        if (from + kTogether <= first || from >= last) continue;
        __syncwarp();
#pragma unroll
        for (int j = from; j < min(from + kTogether, kCores); j += 2) {
            if constexpr (sizeof(Y) == 2) {
                const unsigned v[4] = {pack2<Y>(sum[4 * j], sum[4 * j + 1]), pack2<Y>(sum[4 * j + 2], sum[4 * j + 3]),
                                       pack2<Y>(sum[4 * j + 4], sum[4 * j + 5]), pack2<Y>(sum[4 * j + 6], sum[4 * j + 7])};
                store_matrices(mine + lane % 16 * kWritePitch + (j - from + lane / 16) * 16, v);
            } else {
#pragma unroll
                for (int i = 0; i < 4; ++i) {  // two cores, two rows
                    unsigned char* to = mine + (lane / 4 + i % 2 * 8) * kWritePitch + (j - from + i / 2) * 32 + lane % 4 * 8;
                    *reinterpret_cast<float2*>(to) = make_float2(sum[4 * j + 2 * i], sum[4 * j + 2 * i + 1]);
                }
            }
        }
        __syncwarp();
        const bool here = from + core >= first && from + core < min(last, kCores) && feature + from * 8 < p.out_features;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (!here || row + i * 4 + lane / 8 >= p.rows) continue;
            const unsigned char* piece = mine + (i * 4 + lane / 8) * kWritePitch + lane % 8 * 16;
            *reinterpret_cast<uint4*>(y + i * 4 * p.out_features + from * 8) = *reinterpret_cast<const uint4*>(piece);
        }
    }
}

template <typename T, int ROWS, int N>
__global__ void __launch_bounds__(LinearMany<ROWS, N>::kThreads, 1) linear_many(const __grid_constant__ LinearManyArgs a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(AIM_KERNELS_EMULATED)
    using Shape = LinearMany<ROWS, N>;
    constexpr int kStageBytes = linear_many_stage(ROWS, N), kRowBytes = kTileColumns * 2;
    const int splits = Shape::kSplits ? a.splits : 1;
    AIM_DYNAMIC_SMEM(memory);
    unsigned char* ring = memory + (kTileAlign - reinterpret_cast<uintptr_t>(memory) % kTileAlign) % kTileAlign;
    float* sent = reinterpret_cast<float*>(ring + a.stages * kStageBytes);
    unsigned char* written = ring + a.stages * kStageBytes + bytes_sent(ROWS, N, splits);
    uint64_t* full = reinterpret_cast<uint64_t*>(written + Shape::kWarps * kWriteBytes);
    uint64_t *free = full + a.stages, *received = free + a.stages;
    const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
    const int rank = static_cast<int>(blockIdx.x) % splits, first_tile = static_cast<int>(blockIdx.x) / splits;
    const int next_tile = static_cast<int>(gridDim.x) / splits;  // from one of a block's to the next
    const int first_chunk = rank * a.share, count = max(min(a.share, a.chunks - first_chunk), 0);
    // The cores that this block writes.
    const int cores = cores_written(N, splits), first = min(rank * cores, Shape::kCores);
    const int last = min(first + cores, Shape::kCores);
    if (tid == 0) {
        for (int i = 0; i < a.stages; ++i) {
            barrier_init(full + i, 1);
            barrier_init(free + i, Shape::kWarps);
        }
        barrier_init(received, 1);
        fence_barriers();
        const int bytes = (splits - 1) * Shape::kWarps * (last - first) * 32 * static_cast<int>(sizeof(float4));
        barrier_expect(received, static_cast<unsigned>(bytes));
    }
    __syncthreads();
    if (splits > 1) cluster_arrive();

    if (warp == Shape::kWarps) {
        const int held = min(a.stages, count);
        const auto column = [&](int i) { return (first_chunk + i) * kTileColumns; };
        const auto bring_weights = [&](int stage, int feature0, int i) {
            barrier_expect(full + stage, kStageBytes);
            copy_tile(ring + stage * kStageBytes + ROWS * kRowBytes, a.weight, column(i), feature0, full + stage);
        };
        if (lane == 0) {
            prefetch_map(a.weight);
            prefetch_map(a.x);
            // The header says who may have written them.
            for (int i = 0; i < held; ++i) bring_weights(i, first_tile / a.row_tiles * N, i);
        }
        __syncwarp();
        wait_for_previous();
        let_next_start();
        int stage = 0, parity = 1, ahead = held;  // stages whose weights are on their way
        for (int tile = first_tile; lane == 0 && tile < a.tiles; tile += next_tile) {
            const int row0 = tile % a.row_tiles * ROWS, feature0 = tile / a.row_tiles * N;
            for (int i = 0; i < count; ++i) {
                if (--ahead < 0) {
                    barrier_wait(free + stage, parity);
                    bring_weights(stage, feature0, i);
                }
                copy_tile(ring + stage * kStageBytes, a.x, column(i), row0, full + stage);
                if (++stage == a.stages) stage = 0, parity ^= 1;
            }
        }
        __syncwarp();
        if (splits > 1) cluster_wait();
        return;
    }

    wait_for_previous();
    let_next_start();
    int stage = 0, parity = 0;
    for (int tile = first_tile; tile < a.tiles; tile += next_tile) {
        float sums[Shape::kSums][N / 2] = {};
        auto& sum = sums[0];
        int before = -1;  // the stage that the products before are of
        for (int i = 0; i < count; ++i) {
            const unsigned char* from = ring + stage * kStageBytes;
            barrier_wait(full + stage, parity);
            const auto rows = swizzled_matrix(from + warp / 4 * 64 * kRowBytes);
            const auto features = swizzled_matrix(from + ROWS * kRowBytes);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < kTileColumns / 16; ++k) wgmma<T>(sums[k % Shape::kSums], rows + k * 2, features + k * 2, true);
            wgmma_commit();
            wgmma_wait<1>();
            if (before >= 0 && lane == 0) barrier_arrive(free + before);
            before = stage;
            if (++stage == a.stages) stage = 0, parity ^= 1;
        }
        wgmma_wait<0>();
        if (before >= 0 && lane == 0) barrier_arrive(free + before);
#pragma unroll
        for (int i = 0; Shape::kSums > 1 && i < N / 2; ++i) sum[i] += sums[Shape::kSums - 1][i];

        if (splits > 1) {
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
                for (int other = 0; other < splits - 1; ++other) {
                    const int slot = (other * Shape::kWarps + warp) * cores + j - first;
                    const float4 part = *reinterpret_cast<const float4*>(sent + (slot * 32 + lane) * 4);
                    sum[4 * j] += part.x, sum[4 * j + 1] += part.y, sum[4 * j + 2] += part.z, sum[4 * j + 3] += part.w;
                }
            }
        }
        const int row = tile % a.row_tiles * ROWS + warp * 16, feature0 = tile / a.row_tiles * N;
        if (a.p.float32_y) {
            write_cores<float>(a.p, row, feature0, sum, first, last, written + warp * kWriteBytes);
        } else {
            write_cores<T>(a.p, row, feature0, sum, first, last, written + warp * kWriteBytes);
        }
    }
#endif
}

}  // namespace detail
}  // namespace aim_kernels

#endif  // CUDART_VERSION
