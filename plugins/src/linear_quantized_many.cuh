// linear_quantized of many rows on sm_90a, as linear_many.cuh, with the weights as the products' first matrix: y^T = W x^T.
// A warpgroup makes 64 features of ROWS rows. It takes codes from the ring into registers, where they become 16-bit numbers,
// while the products of those before run; x goes from the ring straight into the products. One warp fills the ring, or those
// that multiply do in turn.
//
// A few blocks, a cluster, may share in_features out (`splits`): each sends of its sums what another one writes, and adds
// what it is sent to its own in a fixed order.
#pragma once

#include "linear_quantized_many.h"
#include "tile_copy.cuh"

#if defined(AIM_KERNELS_EMULATED) || CUDART_VERSION >= 12000

#include "cluster.cuh"
#include "dependent.cuh"
#include "device_math.cuh"
#include "linear_quantized.cuh"
#include "linear_quantized_many_parts.cuh"
#include "mma.cuh"
#include "tile_layout.h"
#include "wgmma.cuh"

namespace aim_kernels {
namespace detail {

struct LinearQuantizedManyArgs {
    TileMap x, weight;
    LinearQuantizedParams p;
    int chunks;      // of in_features, in all
    int share;       // of them, a block's; with 4 bits whole groups
    int split_bits;  // splits are 1 << split_bits
    int row_tiles, stages;
};

// A core is eight rows of a warp's 16 features.
template <int BITS, int ROWS, int FEATURES>
struct LinearQuantizedMany {
    static constexpr int kWarps = FEATURES / 16, kCores = ROWS / 8;
    // Sums of a thread, with 4 bits also those of a group.
    static constexpr int kSums = ROWS / 2;
    // Whether a warp of its own fills the ring. It waits for nothing else, but takes registers: those of two blocks of eight
    // warps with many sums are all that a multiprocessor has.
    static constexpr bool kFiller = 8 / BITS * ROWS * FEATURES < 128 * 128;
    static constexpr int kThreads = kWarps * 32 + (kFiller ? 32 : 0);
    static constexpr int kBlocks = 8 / BITS * kSums <= 64 ? 2 : 1;
    // Of a chunk, 64 of in_features, a part's codes are in registers at a time: times 16 of them. The rest is what measured
    // best: all of a chunk with 4 bits, which take more instructions; a loop over pairs of chunks.
    static constexpr int kPart = ROWS == 256 ? 1 : BITS == 4 && kFiller ? 4 : 2, kParts = 4 / kPart;
    static constexpr bool kPairs = BITS == 4 || FEATURES > 64;
    // A chunk's slot is given back within the next chunk, before anyone waits for the chunk after that, or, with one part,
    // after it. With fewer stages a block would wait for itself.
    static constexpr int kLeastStages = kParts == 1 ? 3 : 2;
};

constexpr __host__ __device__ int quantized_many_stage(int bits, int rows, int features) {
    return rows * kTileColumns * 2 + features * kTileColumns * bits / 8;
}
// Bytes that a block of a cluster is sent, for the cores that it writes.
constexpr __host__ __device__ int quantized_bytes_sent(int rows, int features, int splits) {
    return (splits - 1) * (features / 16) * (rows / 8 / splits) * 32 * static_cast<int>(sizeof(float4));
}
// Of shared memory beside the stages: barriers, to align them, what is sent.
constexpr int kQuantizedBarriers = (2 * kMostStages + 1) * static_cast<int>(sizeof(uint64_t));
constexpr int quantized_many_other(int rows, int features, int splits) {
    return kQuantizedBarriers + kTileAlign + quantized_bytes_sent(rows, features, splits);
}

template <typename T, int BITS, int ROWS, int FEATURES>
__global__ void __launch_bounds__(LinearQuantizedMany<BITS, ROWS, FEATURES>::kThreads,
                                  LinearQuantizedMany<BITS, ROWS, FEATURES>::kBlocks)
    linear_quantized_many(const __grid_constant__ LinearQuantizedManyArgs a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL) || defined(AIM_KERNELS_EMULATED)
    using Shape = LinearQuantizedMany<BITS, ROWS, FEATURES>;
    constexpr int kStageBytes = quantized_many_stage(BITS, ROWS, FEATURES), kXBytes = ROWS * kTileColumns * 2;
    constexpr int kGroupChunks = 2;  // 128 of in_features share a scale, with 4 bits
    const int splits = 1 << a.split_bits;
    AIM_DYNAMIC_SMEM(memory);
    uint64_t* full = reinterpret_cast<uint64_t*>(memory);
    uint64_t *free = full + kMostStages, *received = free + kMostStages;
    unsigned char* ring = memory + kQuantizedBarriers;
    ring += (kTileAlign - reinterpret_cast<uintptr_t>(ring) % kTileAlign) % kTileAlign;
    float* sent = reinterpret_cast<float*>(ring + a.stages * kStageBytes);
    const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
    const int rank = static_cast<int>(blockIdx.x) % splits, tile = static_cast<int>(blockIdx.x) >> a.split_bits;
    const int row0 = tile % a.row_tiles * ROWS, feature0 = tile / a.row_tiles * FEATURES;
    const int first_chunk = rank * a.share, count = max(min(a.share, a.chunks - first_chunk), 0);
    // The cores that this block writes.
    const int cores = Shape::kCores >> a.split_bits, first = rank * cores, last = first + cores;
    if (tid == 0) {
        for (int i = 0; i < a.stages; ++i) {
            barrier_init(full + i, 1);
            barrier_init(free + i, Shape::kWarps);
        }
        barrier_init(received, 1);
        fence_barriers();
        barrier_expect(received, static_cast<unsigned>(quantized_bytes_sent(ROWS, FEATURES, splits)));
    }
    __syncthreads();
    if (splits > 1) cluster_arrive();

    const auto bring_weights = [&](int chunk, int slot) {
        barrier_expect(full + slot, kStageBytes);
        copy_tile(ring + slot * kStageBytes + kXBytes, a.weight, (first_chunk + chunk) * kTileColumns * BITS / 16, feature0,
                  full + slot);
    };
    const auto bring_x = [&](int chunk, int slot) {
        copy_tile(ring + slot * kStageBytes, a.x, (first_chunk + chunk) * kTileColumns, row0, full + slot);
    };
    const auto fill = [&](int chunk, int slot, unsigned turn) {
        barrier_wait(free + slot, turn);
        bring_weights(chunk, slot);
        bring_x(chunk, slot);
    };
    const int held = min(a.stages, count);
    const bool fills = warp == (Shape::kFiller ? Shape::kWarps : 0);
    if (fills && lane == 0) {
        prefetch_map(a.weight);
        prefetch_map(a.x);
        for (int i = 0; i < held; ++i) bring_weights(i, i);  // the header says who may have written them
    }
    __syncwarp();
    wait_for_previous();
    let_next_start();
    for (int i = 0; fills && lane == 0 && i < held; ++i) bring_x(i, i);
    __syncwarp();
    if (Shape::kFiller && fills) {
        int slot = 0;
        unsigned turn = 0;
        for (int i = held; lane == 0 && i < count; ++i) {
            fill(i, slot, turn);
            if (++slot == a.stages) slot = 0, turn ^= 1;
        }
        __syncwarp();
        if (splits > 1) cluster_wait();
        return;
    }

    // Features past the last repeat it: what they give is not written.
    const int feature = feature0 + warp * 16 + lane / 4, groups = BITS == 4 ? (a.chunks + 1) / kGroupChunks : 1;
    const float* scale_low = a.p.scale + min(static_cast<int64_t>(feature), a.p.out_features - 1) * groups;
    const float* scale_high = a.p.scale + min(static_cast<int64_t>(feature) + 8, a.p.out_features - 1) * groups;
    float low = BITS == 8 ? *scale_low : 0.0f, high = BITS == 8 ? *scale_high : 0.0f;
    const PairOfWord<T, BITS> pair_of(BITS == 8 ? lane % 2 : lane % 4);
    constexpr int kGroupSums = BITS == 4 ? Shape::kSums : 1;
    float sum[Shape::kSums] = {}, group[kGroupSums];
    constexpr int kTimes = Shape::kPart, kParts = Shape::kParts;
    unsigned words[kTimes * 4], codes[2][kTimes][4];
    const unsigned char* from = ring;
    int slot = 0, before = 0;
    unsigned turn = 0, turn_before = 0;
    if (count > 0) {
        barrier_wait(full, 0);
        load_codes<BITS, kTimes>(words, from + kXBytes, warp, lane, 0);
    }
    // A chunk. Which of the codes' registers its first part takes is a constant.
    const auto multiply = [&](int i, auto first_codes) {
        const int previous = before;
        const auto rows = swizzled_matrix(from);
        if (BITS == 4 && i % kGroupChunks == 0) {
            low = scale_low[(first_chunk + i) / kGroupChunks], high = scale_high[(first_chunk + i) / kGroupChunks];
        }
#pragma unroll
        for (int part = 0; part < kParts; ++part) {
            // The products of the part before the last are done, so that its codes may go.
            unsigned(&mine)[kTimes][4] = codes[(decltype(first_codes)::value + part) % 2];
#pragma unroll
            for (int j = 0; j < kTimes * 4; ++j) mine[j / 4][j % 4] = pair_of(words[j]);
            if (part + 1 < kParts) load_codes<BITS, kTimes>(words, from + kXBytes, warp, lane, part + 1);
            wgmma_fence();
#pragma unroll
            for (int k = 0; k < kTimes; ++k) {
                const auto x = along_k(rows, (part * kTimes + k) * 2);
                if constexpr (BITS == 8) {
                    wgmma<T>(sum, mine[k], x, true);
                } else {
                    wgmma<T>(group, mine[k], x, i % kGroupChunks + part + k > 0);
                }
            }
            wgmma_commit();
            if (part + 1 == kParts) {
                // Without a filler the warps take turns at filling the slot before anew, while products run.
                const int next = i - 1 + a.stages;
                const bool turns = i > 0 && next < count && i % Shape::kWarps == warp && lane == 0;
                if (!Shape::kFiller && turns) fill(next, before, turn_before);
                before = slot, turn_before = turn;
                from += kStageBytes;
                if (++slot == a.stages) slot = 0, turn ^= 1, from = ring;
                if (i + 1 < count) {
                    barrier_wait(full + slot, turn);
                    load_codes<BITS, kTimes>(words, from + kXBytes, warp, lane, 0);
                }
            }
            wgmma_wait<1>();
            if (part == 0 && i > 0 && lane == 0) barrier_arrive(free + previous);
        }
        if constexpr (BITS == 4) {
            if (i % kGroupChunks + 1 < kGroupChunks && i + 1 < count) return;
            wgmma_wait<0>();
#pragma unroll
            for (int j = 0; j < Shape::kSums; ++j) sum[j] = fmaf(group[j], j % 4 < 2 ? low : high, sum[j]);
        }
    };
    constexpr std::integral_constant<int, 0> even{};
    constexpr std::integral_constant<int, kParts % 2> odd{};
    int i = 0;
#pragma unroll 1
    for (; i + (Shape::kPairs ? 1 : 0) < count; i += Shape::kPairs ? 2 : 1) {
        multiply(i, even);
        if (Shape::kPairs) multiply(i + 1, odd);
    }
    if (Shape::kPairs && i < count) {
        wgmma_wait<0>();
        multiply(i, even);
    }
    wgmma_wait<0>();

    if (splits > 1) {
        cluster_wait();  // for the others' barriers
#pragma unroll
        for (int j = 0; j < Shape::kCores; ++j) {
            const int owner = (j << a.split_bits) / Shape::kCores;
            if (owner == rank) continue;
            const int from = rank - (rank > owner ? 1 : 0), at = (from * Shape::kWarps + warp) * cores + j - owner * cores;
            const float values[4] = {sum[4 * j], sum[4 * j + 1], sum[4 * j + 2], sum[4 * j + 3]};
            send(sent + (at * 32 + lane) * 4, owner, values, received);
        }
        barrier_wait(received, 0);
#pragma unroll 1
        for (int other = 0; other < splits - 1; ++other) {
            const float* from = sent + (((other * Shape::kWarps + warp) * cores - first) * 32 + lane) * 4;
#pragma unroll
            for (int j = 0; j < Shape::kCores; ++j) {
                if (j < first || j >= last) continue;
                const float4 part = *reinterpret_cast<const float4*>(from + j * 128);
                sum[4 * j] += part.x, sum[4 * j + 1] += part.y, sum[4 * j + 2] += part.z, sum[4 * j + 3] += part.w;
            }
        }
    }
    if constexpr (BITS == 8) {
#pragma unroll
        for (int j = 0; j < Shape::kSums; ++j) sum[j] *= j % 4 < 2 ? low : high;
    }
    write_sums<T, Shape::kCores>(a.p, row0, feature0 + warp * 16, sum, first, last);
#endif
}

}  // namespace detail
}  // namespace aim_kernels

#endif  // CUDART_VERSION
