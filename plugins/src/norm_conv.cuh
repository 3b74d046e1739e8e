// What both kernels of norm_conv share: tiles, how a tile's input comes into shared memory, and where its output goes.
//
// A tile is 16x16 pixels of x's size and a block of output channels. Its input, with a rim of one pixel, comes in chunks
// of 64 channels, each as eight planes of (pixel, 8 channels). Eight pixels of a row are then 128 bytes that follow one
// another, which is what both ldmatrix and wgmma read, and any tap's pixels are the same ones some bytes further on.
#pragma once

#include "aim_kernels/norm_conv.h"
#include "device_math.cuh"
#include "group_norm.cuh"
#include "mma.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kTile = 16, kRim = kTile + 2, kRimPixels = kRim * kRim;
constexpr int kChunk = 64, kChunkPlanes = kChunk / 8;
constexpr int kPixelBytes = 16;
constexpr int kRowBytes = kRim * kPixelBytes;
// 16 more than a multiple of 128, so that the same pixel of eight planes is written without conflicts of banks.
constexpr int kPlaneBytes = (kRimPixels * kPixelBytes + 127) / 128 * 128 + kPixelBytes;
constexpr int kChunkBytes = kChunkPlanes * kPlaneBytes;
constexpr int kOutBlock = 128, kImageBlock = 8;
constexpr int kPartWidth = 4;  // channels that statistics are first taken of

struct NormConvArgs {
    NormConvParams p;
    int tiles_x = 0, tiles = 0;  // of an image
    int blocks = 0;              // of output channels, over all phases
    int phases = 0, taps = 0, chunks = 0;
    int work = 0;                // batch * tiles * blocks
};

// One tile: neighbours in this order share their input, which L2 then has.
struct Tile {
    int image, index, block, phase, y0, x0;
    __device__ __forceinline__ Tile(const NormConvArgs& a, int work) {
        const int tile = work / a.blocks;
        block = work - tile * a.blocks;
        image = tile / a.tiles;
        index = tile - image * a.tiles;
        y0 = index / a.tiles_x * kTile;
        x0 = index % a.tiles_x * kTile;
        phase = block / (a.blocks / a.phases);
    }
    // Of the rim's upper left corner, where a tap's first pixel is; 9 taps go over 3x3, 4 over a phase's 2x2.
    __device__ __forceinline__ int tap_pixel(int taps, int tap) const {
        const int dy = taps == 9 ? tap / 3 : tap / 2 + phase / 2, dx = taps == 9 ? tap % 3 : tap % 2 + phase % 2;
        return dy * kRim + dx;
    }
    __device__ __forceinline__ int first_channel(const NormConvArgs& a) const {
        return block % (a.blocks / a.phases) * kOutBlock;
    }
};

// Where in y a tile's pixel (row, column) is: its index among all pixels, or -1 outside of the image.
__device__ __forceinline__ int output_pixel(const NormConvArgs& a, const Tile& tile, int row, int column) {
    const int height = static_cast<int>(a.p.height), width = static_cast<int>(a.p.width);
    const int y = tile.y0 + row, x = tile.x0 + column;
    if (y >= height || x >= width) return -1;
    if (a.phases == 1) return (tile.image * height + y) * width + x;
    return (tile.image * 2 * height + 2 * y + tile.phase / 2) * 2 * width + 2 * x + tile.phase % 2;
}

// How many pixels half a tile has within the image: statistics are taken of halves of 8 rows.
__device__ __forceinline__ int half_pixels(const NormConvArgs& a, int y0, int x0, int half) {
    const int rows = min(max(static_cast<int>(a.p.height) - y0 - half * (kTile / 2), 0), kTile / 2);
    return rows * min(static_cast<int>(a.p.width) - x0, kTile);
}

// Sum and sum of squares of a half tile's values of four channels, as the mean and the squares of merge().
__device__ __forceinline__ void write_part(const NormConvArgs& a, const Tile& tile, int half, int part, float sum,
                                           float squares) {
    const int count = half_pixels(a, tile.y0, tile.x0, half) * kPartWidth;
    const float mean = count == 0 ? 0.0f : sum / static_cast<float>(count);
    const int64_t column = static_cast<int64_t>(tile.image) * (a.p.out_channels / kPartWidth) + tile.first_channel(a) / kPartWidth + part;
    const int64_t at = (column * a.tiles + tile.index) * 2 * a.phases + half * a.phases + tile.phase;
    static_cast<float2*>(a.p.workspace)[at] = make_float2(mean, fmaxf(squares - sum * mean, 0.0f));
}

// SiLU of twice `half`: h + h * tanh(h). One instruction of the special unit, of which exp and a reciprocal would be two.
// Its error is up to 2^-11 of tanh, which times h is what a 16-bit type's rounding of h is.
__device__ __forceinline__ float silu_of_twice(float half) {
#ifdef AIM_KERNELS_EMULATED
    return fmaf(half, tanhf(half), half);
#elif __CUDA_ARCH__ >= 750
    float tanh_half;
    asm("tanh.approx.f32 %0, %1;" : "=f"(tanh_half) : "f"(half));
    return fmaf(half, tanh_half, half);
#else
    return silu(half + half);
#endif
}

// A thread's part of bringing a chunk of a tile's input into shared memory: one plane, and every `step`-th pixel of the
// tile with its rim. fetch() starts copies; when they have arrived, finish() puts what they brought through norm and SiLU.
template <typename T, bool kNorm>
class ChunkLoader {
public:
    // `thread` of `threads`, a multiple of 8 and enough for kVectors a thread.
    __device__ __forceinline__ ChunkLoader(const NormConvArgs& a, int thread, int threads)
        : a_(a), plane_(thread % kChunkPlanes), first_(thread / kChunkPlanes), step_(threads / kChunkPlanes) {}

    // Zeros outside of the image.
    __device__ __forceinline__ void fetch(const Tile& tile, int chunk, unsigned char* target) {
        const int channels = static_cast<int>(a_.p.in_channels), height = static_cast<int>(a_.p.height);
        const int width = static_cast<int>(a_.p.width), first = opaque(first_);
        const T* x = static_cast<const T*>(a_.p.x) + static_cast<int64_t>(tile.image) * height * width * channels +
                     (chunk * kChunk + plane_ * 8);
        target_ = target + plane_ * kPlaneBytes + first * kPixelBytes;
        channel_ = tile.image * channels + chunk * kChunk + plane_ * 8;
        inside_ = 0;
#pragma unroll
        for (int i = 0; i < kVectors; ++i) {
            const int pixel = first + i * step_, row = tile.y0 - 1 + pixel / kRim, column = tile.x0 - 1 + pixel % kRim;
            const bool inside = static_cast<unsigned>(row) < static_cast<unsigned>(height) &&
                                static_cast<unsigned>(column) < static_cast<unsigned>(width);
            if (pixel >= kRimPixels) break;
            copy_async(target_ + i * step_ * kPixelBytes, x + (inside ? (row * width + column) * channels : 0), inside);
            inside_ |= static_cast<unsigned>(inside) << i;
        }
    }

    // What another one of this thread has started is for this one to finish.
    __device__ __forceinline__ void take(const ChunkLoader& other) {
        target_ = other.target_, channel_ = other.channel_, inside_ = other.inside_;
    }

    __device__ __forceinline__ void finish() const {
        if constexpr (kNorm) {
            const float4* from = reinterpret_cast<const float4*>(a_.p.affine + static_cast<int64_t>(channel_) * 2);
            float4 affine[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                affine[i] = from[i];
                affine[i].x *= 0.5f, affine[i].y *= 0.5f, affine[i].z *= 0.5f, affine[i].w *= 0.5f;
            }
#pragma unroll
            for (int i = 0; i < kVectors; i += kAtOnce) {
                uint4 raw[kAtOnce];
#pragma unroll
                for (int u = 0; u < kAtOnce; ++u) {
                    if (inside_ >> (i + u) & 1) raw[u] = *vector_at(i + u);
                }
#pragma unroll
                for (int u = 0; u < kAtOnce; ++u) {
                    float value[8];
                    Vec16<T>::unpack(raw[u], value);
#pragma unroll
                    for (int e = 0; e < 8; e += 2) {
                        value[e] = silu_of_twice(fmaf(value[e], affine[e / 2].x, affine[e / 2].y));
                        value[e + 1] = silu_of_twice(fmaf(value[e + 1], affine[e / 2].z, affine[e / 2].w));
                    }
                    if (inside_ >> (i + u) & 1) *vector_at(i + u) = Vec16<T>::pack(value);
                }
            }
        }
    }

private:
    static constexpr int kVectors = 12, kAtOnce = 3;

    __device__ __forceinline__ uint4* vector_at(int i) const {
        return reinterpret_cast<uint4*>(target_ + i * step_ * kPixelBytes);
    }

    const NormConvArgs& a_;
    const int plane_, first_, step_;
    unsigned char* target_ = nullptr;
    int channel_ = 0;      // among all images'
    unsigned inside_ = 0;  // a bit a vector
};

}  // namespace detail
}  // namespace aim_kernels
