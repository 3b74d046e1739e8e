// A product in the resident kernel: chunks, what the four lanes of a weight row load at a time, 16 bytes each; a warp's
// share of them, unit by unit as the weights come from the ring; sums over the warps.
#pragma once

#include "layers_parts.cuh"
#include "linear_quantized.cuh"
#include "mma.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kChunkBytes = 64;

template <typename W>
struct Chunk;

// sum and more, which are independent, += a chunk of 16 features, of which a lane has 16 bytes of two, times a chunk of
// the rows, of which it has as many numbers of one.
template <>
struct Chunk<__half> {
    static constexpr int kInputs = kChunkBytes / 2, kVectors = 1;
    static __device__ __forceinline__ void multiply(const uint4& u, const uint4& l, const uint4 (&v)[kVectors],
                                                    float (&sum)[4], float (&more)[4]) {
        const unsigned low[4] = {u.x, l.x, u.y, l.y}, high[4] = {u.z, l.z, u.w, l.w};
        mma<__half>(sum, low, v[0].x, v[0].y);
        mma<__half>(more, high, v[0].z, v[0].w);
    }
};

// The codes as float16, exactly; whoever takes the sum scales it.
template <>
struct Chunk<int8_t> {
    static constexpr int kInputs = kChunkBytes, kVectors = 2;
    static __device__ __forceinline__ void multiply(const uint4& u, const uint4& l, const uint4 (&v)[kVectors],
                                                    float (&sum)[4], float (&more)[4]) {
        word(u.x, l.x, v[0].x, v[0].y, sum);
        word(u.y, l.y, v[0].z, v[0].w, more);
        word(u.z, l.z, v[1].x, v[1].y, sum);
        word(u.w, l.w, v[1].z, v[1].w, more);
    }
    static __device__ __forceinline__ void word(unsigned u, unsigned l, unsigned v0, unsigned v1, float (&sum)[4]) {
        unsigned upper[2], lower[2];
        spread8(u, upper, __half());
        spread8(l, lower, __half());
        const unsigned codes[4] = {upper[0], lower[0], upper[1], lower[1]};
        mma<__half>(sum, codes, v0, v1);
    }
};

// A warp's share of a product's input, in registers for all units, and how these lie. W: of the weights. MOST: inputs, at
// most.
template <typename W, int MOST>
struct Share {
    static constexpr int ROUND = kResidentWarps * Chunk<W>::kInputs;  // from one of a warp's chunks to the next
    static constexpr int CHUNKS = (MOST + ROUND - 1) / ROUND;         // a warp's, at most
    uint4 v[CHUNKS][Chunk<W>::kVectors];
    int chunks, line_bytes, unit_features;
};

// `inputs`: those of the product, as a constant where there is one.
template <typename W, int MOST, typename Of>
__device__ __forceinline__ Share<W, MOST> share_of(const Of& of, const Product& m, int inputs) {
    using C = Chunk<W>;
    Share<W, MOST> share;
    share.chunks = inputs / C::kInputs;
    share.line_bytes = Of::kExact ? inputs * static_cast<int>(sizeof(W)) + 64 : m.line;
    const int fit = kUnitBytes / share.line_bytes;
    share.unit_features = !Of::kExact ? m.a_unit : fit < 16 ? fit : 16;
    const int g = of.lane / 4, q = of.lane % 4;
    // Past the last row that one again: sums that are not used.
    const auto* mine = of.x + min(g, of.rows - 1) * of.x_stride() + of.warp * C::kInputs + q * (C::kInputs / 4);
#pragma unroll
    for (int i = 0; i < share.CHUNKS; ++i) {
#pragma unroll
        for (int j = 0; j < C::kVectors; ++j) {
            share.v[i][j] = make_uint4(0, 0, 0, 0);
            if (of.warp + i * kResidentWarps >= share.chunks) continue;
            share.v[i][j] = *reinterpret_cast<const uint4*>(mine + i * share.ROUND + j * 8);
        }
    }
    return share;
}

// The next units' `features` features, times the share: partial sums for each feature and row, a warp's side by side.
template <typename W, int MOST, typename Of>
__device__ __forceinline__ void add_units(Of& of, const Share<W, MOST>& share, int features, float* partial) {
    constexpr int PIECE = kResidentWarps * kChunkBytes;  // from one of a warp's chunks to the next
    constexpr int ROWS = Of::kRows;
    const int g = of.lane / 4, q = of.lane % 4;
    const bool wide = share.unit_features > 8;
    float* line = partial + (g * ROWS + 2 * q) * kPartialLine + of.warp;
    for (int first = 0; first < features;
         first += share.unit_features, line += share.unit_features * ROWS * kPartialLine) {
        // Past a unit's last feature that one again: sums that are not used.
        const int last = min(share.unit_features, features - first) - 1;
        const unsigned char* unit = of.ring.units + of.place * kUnitBytes + of.warp * kChunkBytes + q * 16;
        const unsigned char *upper = unit + min(g, last) * share.line_bytes,
                            *lower = unit + min(g + 8, last) * share.line_bytes;
        // Four sums side by side: a product waits for the one before it in its sum.
        float sums[2][2][4] = {}, sum[4];
        barrier_wait(of.ring.full + of.place, of.parity);
#pragma unroll
        for (int i = 0; i < share.CHUNKS; ++i) {
            // Without a branch where there is none to leave out: the loads of a unit then go out together.
            if ((i + 1) * kResidentWarps > share.chunks && of.warp + i * kResidentWarps >= share.chunks) break;
            const uint4 u = *reinterpret_cast<const uint4*>(upper + i * PIECE);
            uint4 l = u;
            if (wide) l = *reinterpret_cast<const uint4*>(lower + i * PIECE);
            Chunk<W>::multiply(u, l, share.v[i], sums[i % 2][0], sums[i % 2][1]);
        }
        __syncwarp();
        // Every lane for itself: by one for all, racecheck does not see that the others are done.
        barrier_arrive(of.ring.empty + of.place);
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[i] = (sums[0][0][i] + sums[0][1][i]) + (sums[1][0][i] + sums[1][1][i]);
        if (++of.place == of.a.units) of.place = 0, of.parity ^= 1;
        if (2 * q < ROWS) {
            if (g <= last) line[0] = sum[0], line[kPartialLine] = sum[1];
            if (wide && g + 8 <= last) {
                line[8 * ROWS * kPartialLine] = sum[2];
                line[(8 * ROWS + 1) * kPartialLine] = sum[3];
            }
        }
    }
}

// All warps' partial sums of a feature and row.
__device__ __forceinline__ float sum_warps(const float* from) {
    float part[4] = {};
#pragma unroll
    for (int i = 0; i < kResidentWarps; ++i) part[i % 4] += from[i];
    return (part[0] + part[1]) + (part[2] + part[3]);
}

}  // namespace detail
}  // namespace aim_kernels
