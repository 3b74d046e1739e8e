// norm_conv with the tensor cores of sm_80 and later: a block a tile, a warp two rows of it.
#pragma once

#include "mma.cuh"
#include "norm_conv.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kPortableThreads = 256;

template <typename T, int N, bool kNorm>
__global__ void __launch_bounds__(kPortableThreads, 1) norm_conv_portable(const NormConvArgs a) {
    __shared__ __align__(128) unsigned char input[kChunkBytes];
    const Tile tile(a, static_cast<int>(blockIdx.x));
    const int thread = static_cast<int>(threadIdx.x), warp = thread / 32, lane = thread % 32, g = lane / 4, q = lane % 4;
    const T* weight = static_cast<const T*>(a.p.weight) +
                      static_cast<int64_t>(tile.block) * a.chunks * a.taps * kChunk * N + g * 8 + q * 2;
    float c[2][N / 8][4] = {};
    ChunkLoader<T, kNorm> loader(a, thread, kPortableThreads);
    for (int chunk = 0; chunk < a.chunks; ++chunk) {
        __syncthreads();
        loader.fetch(tile, chunk, input);
        wait_for_copies();
        loader.finish();
        __syncthreads();
        for (int tap = 0; tap < a.taps; ++tap) {
            const int pixel = tile.tap_pixel(a.taps, tap) + 2 * warp * kRim + lane % 16;
#pragma unroll
            for (int k = 0; k < kChunkPlanes; k += 2) {
                unsigned rows[2][4];
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    ldmatrix(rows[r], input + (k + lane / 16) * kPlaneBytes + (pixel + r * kRim) * kPixelBytes);
                }
#pragma unroll
                for (int j = 0; j < N / 8; ++j) {
                    const unsigned b0 = *reinterpret_cast<const unsigned*>(weight + (k * N + j * 8) * 8);
                    const unsigned b1 = *reinterpret_cast<const unsigned*>(weight + ((k + 1) * N + j * 8) * 8);
#pragma unroll
                    for (int r = 0; r < 2; ++r) mma<T>(c[r][j], rows[r], b0, b1);
                }
            }
            weight += kChunk * N;
        }
    }

    if constexpr (N == kImageBlock) {
        const int channels = static_cast<int>(a.p.out_channels);
        const int64_t plane = a.p.height * a.p.width;
        float* y = static_cast<float*>(a.p.y) + static_cast<int64_t>(tile.image) * (channels - 1) * plane;
#pragma unroll
        for (int i = 0; i < 8; ++i) {  // row, half of the columns, channel
            const int pixel = output_pixel(a, tile, 2 * warp + i / 4, g + i / 2 % 2 * 8), channel = 2 * q + i % 2;
            if (pixel < 0 || channel >= channels) continue;
            y[channel * plane + pixel] = c[i / 4][0][i % 4] + a.p.bias[channel];
        }
    } else {
        __syncthreads();
        float2* parts = reinterpret_cast<float2*>(input);  // (warps, parts)
        const int channels = static_cast<int>(a.p.out_channels), first = tile.first_channel(a) + 2 * q;
        const T* residual = static_cast<const T*>(a.p.residual);
        int pixels[4];  // row, half of the columns
#pragma unroll
        for (int i = 0; i < 4; ++i) pixels[i] = output_pixel(a, tile, 2 * warp + i / 2, g + i % 2 * 8);
#pragma unroll
        for (int j = 0; j < N / 8; ++j) {
            const float bias[2] = {a.p.bias[first + j * 8], a.p.bias[first + j * 8 + 1]};
            float sum = 0.0f, squares = 0.0f;
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                if (pixels[i] < 0) continue;
                const int64_t at = static_cast<int64_t>(pixels[i]) * channels + first + j * 8;
                unsigned pair = pack2<T>(c[i / 2][j][i % 2 * 2] + bias[0], c[i / 2][j][i % 2 * 2 + 1] + bias[1]);
                float2 value = unpack2<T>(pair);
                if (residual != nullptr) {
                    const float2 other = unpack2<T>(*reinterpret_cast<const unsigned*>(residual + at));
                    pair = pack2<T>(value.x + other.x, value.y + other.y);
                    value = unpack2<T>(pair);
                }
                *reinterpret_cast<unsigned*>(static_cast<T*>(a.p.y) + at) = pair;
                sum += value.x + value.y;
                squares = fmaf(value.x, value.x, fmaf(value.y, value.y, squares));
            }
#pragma unroll
            for (int mask = 1; mask < 32; mask = mask == 1 ? 4 : mask * 2) {  // the lanes of these four channels
                sum += __shfl_xor_sync(0xffffffffu, sum, mask);
                squares += __shfl_xor_sync(0xffffffffu, squares, mask);
            }
            if (g == 0 && q % 2 == 0) parts[warp * 32 + 2 * j + q / 2] = make_float2(sum, squares);
        }
        __syncthreads();
        if (thread >= 64) return;
        float sum = 0.0f, squares = 0.0f;
        for (int i = thread / 32 * 4; i < thread / 32 * 4 + 4; ++i) {
            sum += parts[i * 32 + thread % 32].x;
            squares += parts[i * 32 + thread % 32].y;
        }
        write_part(a, tile, thread / 32, thread % 32, sum, squares);
    }
}

}  // namespace detail
}  // namespace aim_kernels
