// What a warp of linear_quantized_many reads and writes: codes out of the ring, and sums to y.
#pragma once

#include "aim_kernels/linear_quantized.h"
#include "mma.cuh"
#include "tile_copy.cuh"

namespace aim_kernels {
namespace detail {

// A lane's codes of `TIMES` times 16 of in_features, `part` of a chunk, as they are in the ring: for each, words that hold
// what wgmma's first matrix has of it in features g and g + 8, first 2q and its neighbour, then 2q + 8.
template <int BITS, int TIMES>
__device__ __forceinline__ void load_codes(unsigned (&words)[TIMES * 4], const unsigned char* codes, int warp, int lane,
                                           int part) {
    constexpr int kRowBytes = kTileColumns * BITS / 8, kPieces = kRowBytes / 16;
    const int g = lane / 4, q = lane % 4;
#pragma unroll
    for (int i = 0; i < TIMES; ++i) {
        const int byte = (part * TIMES + i) * 2 * BITS;  // of the 16's first
        const int piece = byte / 16 ^ g * kRowBytes / 128 % kPieces;
        const unsigned char* from = codes + (warp * 16 + g) * kRowBytes + piece * 16 + byte % 16;
        if (BITS == 8) from += q / 2 * 4;
#pragma unroll
        for (int j = 0; j < 4; ++j) {
            words[i * 4 + j] = *reinterpret_cast<const unsigned*>(from + j % 2 * 8 * kRowBytes + j / 2 * BITS);
        }
    }
}

// A warp's sums, cores `first` to `last`, to y: `row` and `feature` are its first ones.
template <typename T, int CORES>
__device__ __forceinline__ void write_sums(const LinearQuantizedParams& p, int row, int feature, const float (&sum)[CORES * 4],
                                           int first, int last) {
    const int lane = static_cast<int>(threadIdx.x) % 32, g = lane / 4, q = lane % 4;
    if (p.float32_y) {
        // A store is four rows of eight features, 32 bytes each.
        float* y = static_cast<float*>(p.y) + (row + q * 2) * p.out_features + feature + g;
        const bool low = feature + g < p.out_features, high = feature + g + 8 < p.out_features;
#pragma unroll
        for (int core = 0; core < CORES; ++core) {
            if (core < first || core >= last) continue;
#pragma unroll
            for (int i = 0; i < 2; ++i) {
                if (row + core * 8 + q * 2 + i >= p.rows) continue;
                float* of = y + (core * 8 + i) * p.out_features;
                if (low) of[0] = sum[core * 4 + i];
                if (high) of[8] = sum[core * 4 + i + 2];
            }
        }
        return;
    }
    // Two cores are four 8x8 matrices, transposed so that a quad has eight features of a row. It exchanges them, so that its
    // lane q has matrix q's, which is 16 bytes at once.
#pragma unroll
    for (int core = 0; core < CORES; core += 2) {
        if (core + 2 <= first || core >= last) continue;
        unsigned v[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) v[i] = transpose8x8(pack2<T>(sum[core * 4 + i * 2], sum[core * 4 + i * 2 + 1]));
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
        const int mine = core + q / 2, at = row + mine * 8 + g, of = feature + q % 2 * 8;
        if (mine < first || mine >= last || at >= p.rows || of >= p.out_features) continue;  // which is in steps of 8
        T* y = static_cast<T*>(p.y) + at * p.out_features + of;
        *reinterpret_cast<uint4*>(y) = make_uint4(v[0], v[1], v[2], v[3]);
    }
}

}  // namespace detail
}  // namespace aim_kernels
