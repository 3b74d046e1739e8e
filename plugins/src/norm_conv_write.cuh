// What norm_conv_wgmma.cuh does with its accumulators: bias, residual, y and the statistics of y.
#pragma once

#include "mma.cuh"
#include "norm_conv.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kTilePixels = kTile * kTile, kPixelVectors = kOutBlock / 8;

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// Four lanes' four values each: lane i's value j becomes lane j's value i.
__device__ __forceinline__ void exchange_in_quad(unsigned (&v)[4], int q) {
    const bool odd = q & 1, high = q & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const unsigned got = __shfl_xor_sync(0xffffffffu, odd ? v[i] : v[i + 1], 1);
        (odd ? v[i] : v[i + 1]) = got;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const unsigned got = __shfl_xor_sync(0xffffffffu, high ? v[i] : v[i + 2], 2);
        (high ? v[i] : v[i + 2]) = got;
    }
}

// Adds up over a warp's lanes of the same quad place: afterwards this lane has one of 8 pairs, that of its lane / 4.
__device__ __forceinline__ float2 add_over_rows(float2 (&v)[8], int lane) {
#pragma unroll
    for (int half = 4; half >= 1; half /= 2) {
        const bool upper = lane & (half * 4);
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const float2 give = upper ? v[i] : v[i + half], keep = upper ? v[i + half] : v[i];
            v[i].x = keep.x + __shfl_xor_sync(0xffffffffu, give.x, half * 4);
            v[i].y = keep.y + __shfl_xor_sync(0xffffffffu, give.y, half * 4);
        }
    }
    return v[0];
}

// Where a residual's vector of eight channels is in shared memory: two pixels' same vectors are in different banks.
__device__ __forceinline__ int residual_at(int pixel, int vector) {
    return (pixel * kPixelVectors + (vector ^ pixel % 2 * 4)) * 16;
}

// From accumulators, whose rows are pixels (see wgmma.cuh), with bias and residual to y and its statistics. `parts` is of
// this half: (warps, 32 parts).
template <typename T, bool kAdds>
__device__ __forceinline__ void write_tile(const NormConvArgs& a, const Tile& tile, const float (&acc)[2][64], int half,
                                           int warp, int lane, const float* bias, const unsigned char* residual,
                                           float2* parts) {
    const int q = lane % 4, channels = static_cast<int>(a.p.out_channels);
    T* y = static_cast<T*>(a.p.y) + tile.first_channel(a) + q * 8;
    float2 sums[8] = {};  // of this lane's vector in each group of 32 channels, by halves
    int pixels[4];        // columns 0..7 or 8..15, then which of the two rows
#pragma unroll
    for (int i = 0; i < 4; ++i) pixels[i] = output_pixel(a, tile, half * 8 + warp * 2 + i % 2, i / 2 * 8 + lane / 4);
#pragma unroll
    for (int group = 0; group < 4; ++group) {
        float2 offset[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) offset[j] = *reinterpret_cast<const float2*>(bias + group * 32 + j * 8 + q * 2);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            unsigned pairs[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float* c = &acc[i / 2][(group * 4 + j) * 4 + i % 2 * 2];
                pairs[j] = pack2<T>(c[0] + offset[j].x, c[1] + offset[j].y);
            }
            exchange_in_quad(pairs, q);
            uint4 raw = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
            if constexpr (kAdds) {
                const int pixel = (half * 8 + warp * 2 + i % 2) * kTile + i / 2 * 8 + lane / 4;
                raw = add<T, 8>(raw, *reinterpret_cast<const uint4*>(residual + residual_at(pixel, group * 4 + q)));
            }
            if (pixels[i] < 0) continue;
            *reinterpret_cast<uint4*>(y + static_cast<int64_t>(pixels[i]) * channels + group * 32) = raw;
            float value[8];
            Vec16<T>::unpack(raw, value);
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                float2& sum = sums[group * 2 + e / 4];
                sum.x += value[e];
                sum.y = fmaf(value[e], value[e], sum.y);
            }
        }
    }
    const float2 mine = add_over_rows(sums, lane);
    const int which = lane / 4, part = (which / 2 * 4 + q) * 2 + which % 2;
    parts[warp * 32 + part] = mine;
    asm volatile("bar.sync %0, 128;" ::"r"(1 + half) : "memory");
    if (warp != 0) return;
    float2 total = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        total.x += parts[i * 32 + lane].x;
        total.y += parts[i * 32 + lane].y;
    }
    write_part(a, tile, half, lane, total.x, total.y);
}

__device__ __forceinline__ void write_image(const NormConvArgs& a, const Tile& tile, int half, int warp, int lane,
                                            const float (&acc)[2][4]) {
    const int channels = static_cast<int>(a.p.out_channels);
    const int64_t plane = a.p.height * a.p.width;
    float* y = static_cast<float*>(a.p.y) + static_cast<int64_t>(tile.image) * (channels - 1) * plane;
#pragma unroll
    for (int i = 0; i < 8; ++i) {  // half of the columns, row, channel
        const int pixel = output_pixel(a, tile, half * 8 + warp * 2 + i / 2 % 2, i / 4 * 8 + lane / 4);
        const int channel = lane % 4 * 2 + i % 2;
        if (pixel < 0 || channel >= channels) continue;
        y[channel * plane + pixel] = acc[i / 4][i % 4] + a.p.bias[channel];
    }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

}  // namespace detail
}  // namespace aim_kernels
