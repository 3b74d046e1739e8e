// A product's weights as they come from the ring, unit by unit: sums of a warp's share of the inputs, and over the warps.
#pragma once

#include "layers_parts.cuh"

namespace aim_kernels {
namespace detail {

// A warp's share of a product's input, in registers for all units, and how these lie.
template <int CHUNKS>
struct Share {
    uint4 v[CHUNKS];
    int chunks, line_bytes, unit_features;
};

// CHUNKS: of 32 inputs, a warp's. `inputs`: those of the product, as a constant where there is one.
template <int CHUNKS, typename Of>
__device__ __forceinline__ Share<CHUNKS> share_of(const Of& of, const Product& m, int inputs) {
    Share<CHUNKS> share;
    share.chunks = inputs / kProductChunk;
    share.line_bytes = Of::kExact ? inputs * 2 + 64 : m.line;
    const int fit = kUnitBytes / share.line_bytes;
    share.unit_features = !Of::kExact ? m.a_unit : fit < 16 ? fit : 16;
    const int g = of.lane / 4, q = of.lane % 4;
    // Past the last row that one again: sums that are not used.
    const auto* mine = of.x + min(g, of.rows - 1) * of.x_stride() + of.warp * kProductChunk + q * 8;
#pragma unroll
    for (int i = 0; i < CHUNKS; ++i) {
        share.v[i] = make_uint4(0, 0, 0, 0);
        if (of.warp + i * kResidentWarps < share.chunks) {
            share.v[i] = *reinterpret_cast<const uint4*>(mine + i * kResidentWarps * kProductChunk);
        }
    }
    return share;
}

// The next units' `features` features, times the share: partial sums for each feature and row, a warp's side by side.
template <int CHUNKS, typename Of>
__device__ __forceinline__ void add_units(Of& of, const Share<CHUNKS>& share, int features, float* partial) {
    using T = typename Of::T;
    constexpr int PIECE = kResidentWarps * kProductChunk * sizeof(T);  // bytes from one of a warp's chunks to the next
    constexpr int ROWS = Of::kRows;
    const int g = of.lane / 4, q = of.lane % 4;
    const bool wide = share.unit_features > 8;
    float* line = partial + (g * ROWS + 2 * q) * kPartialLine + of.warp;
    for (int first = 0; first < features;
         first += share.unit_features, line += share.unit_features * ROWS * kPartialLine) {
        // Past a unit's last feature that one again: sums that are not used.
        const int last = min(share.unit_features, features - first) - 1;
        const unsigned char* unit =
            of.ring.units + of.place * kUnitBytes + of.warp * (kProductChunk * sizeof(T)) + q * 16;
        const unsigned char *upper = unit + min(g, last) * share.line_bytes,
                            *lower = unit + min(g + 8, last) * share.line_bytes;
        float sum[4] = {}, more[4] = {};
        barrier_wait(of.ring.full + of.place, of.parity);
#pragma unroll
        for (int i = 0; i < CHUNKS; ++i) {
            if (of.warp + i * kResidentWarps >= share.chunks) break;
            const uint4 u = *reinterpret_cast<const uint4*>(upper + i * PIECE);
            uint4 l = u;
            if (wide) l = *reinterpret_cast<const uint4*>(lower + i * PIECE);
            const unsigned low[4] = {u.x, l.x, u.y, l.y}, high[4] = {u.z, l.z, u.w, l.w};
            mma<T>(sum, low, share.v[i].x, share.v[i].y);
            mma<T>(more, high, share.v[i].z, share.v[i].w);
        }
        __syncwarp();
        if (of.lane == 0) barrier_arrive(of.ring.empty + of.place);
        if (++of.place == of.a.units) of.place = 0, of.parity ^= 1;
        if (2 * q < ROWS) {
            if (g <= last) line[0] = sum[0] + more[0], line[kPartialLine] = sum[1] + more[1];
            if (wide && g + 8 <= last) {
                line[8 * ROWS * kPartialLine] = sum[2] + more[2];
                line[(8 * ROWS + 1) * kPartialLine] = sum[3] + more[3];
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
