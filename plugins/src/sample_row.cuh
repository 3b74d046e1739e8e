// A block's image, and its guided logits as keys.
#pragma once

#include "aim_kernels/sample.h"
#include "sample.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr int kLargestVocab = 65536;
constexpr int kMaxSegments = kLargestVocab / kTile * kChunks * kWarps;

struct SampleArgs {
    SampleParams p;
    double scale;  // the integer that stands for the weight 1; V of them sum to at most 2^62
};

struct Shared {
    uint64_t partial[2][kWarps];
    uint64_t segment[kMaxSegments];  // a warp's share of a chunk each, in the order of the codes
    uint32_t sort[2][kThreads];
    uint32_t key[kThreads];
    uint16_t code[kThreads];
    double uniform;
    uint32_t cut_key;
    int found;
    uint64_t before, target;
};

// What all threads of a block know of their image.
struct Image {
    int64_t index;
    const float* cond;
    const float* uncond;
    int vocab_size, tiles;
    float guidance_scale, temperature;
    double largest, scale;

    __device__ __forceinline__ double weight(uint32_t key) const {
        const double below = static_cast<double>(value_of_key(key)) - largest;
        // Less than half of the last bit of any scale, so that it would be rounded to 0.
        return below < -45.0 ? 0.0 : exp(below);
    }
    // The same without a branch, for several at a time.
    __device__ __forceinline__ double weight_at_once(uint32_t key) const {
        const double below = static_cast<double>(value_of_key(key)) - largest, weight = exp(fmax(below, -45.0));
        return below < -45.0 ? 0.0 : weight;
    }
    // Adding 0.5 after a power of two rounds once, fused or not.
    __device__ __forceinline__ uint64_t integer(double weight) const {
        return static_cast<uint64_t>(weight * scale + 0.5);
    }
};

// All but the largest logit.
__device__ __forceinline__ Image image_of(const SampleArgs& a, int64_t index) {
    const SampleParams& p = a.p;
    Image image;
    image.index = index;
    image.cond = p.logits + index * p.vocab_size;
    image.uncond = image.cond + p.batch * p.vocab_size;
    image.vocab_size = p.vocab_size;
    image.tiles = (p.vocab_size + kTile - 1) / kTile;
    image.guidance_scale = p.sampling->guidance_scale;
    image.temperature = p.sampling->temperature;
    image.scale = a.scale;
    return image;
}

__device__ __forceinline__ uint32_t guided_key(const Image& image, float cond, float uncond) {
    float guided = __fadd_rn(__fmul_rn(__fsub_rn(cond, uncond), image.guidance_scale), uncond);
    if (image.temperature != 1.0f) guided = __fdiv_rn(guided, image.temperature);
    return key_of(guided);
}

// A thread's 16 keys of a tile: four neighbours in each of four chunks. 0, less than any logit's, past the last code.
// CACHED: V is at most one tile, which is read once and stays in registers; otherwise each pass reads all again.
template <bool CACHED, bool WIDE>
struct Row {
    static constexpr bool kCached = CACHED;
    uint32_t key[kChunks * 4];

    static __device__ __forceinline__ int code(int tile, int chunk) {
        return tile * kTile + chunk * kThreads * 4 + static_cast<int>(threadIdx.x) * 4;
    }

    __device__ __forceinline__ void read(const Image& image, int tile) {
        float cond[kChunks * 4] = {}, uncond[kChunks * 4] = {};
#pragma unroll
        for (int chunk = 0; chunk < kChunks; ++chunk) {
            const int first = code(tile, chunk);
            if constexpr (WIDE) {
                if (first >= image.vocab_size) continue;
                const float4 a = *reinterpret_cast<const float4*>(image.cond + first);
                const float4 b = *reinterpret_cast<const float4*>(image.uncond + first);
                cond[chunk * 4] = a.x, cond[chunk * 4 + 1] = a.y, cond[chunk * 4 + 2] = a.z, cond[chunk * 4 + 3] = a.w;
                uncond[chunk * 4] = b.x, uncond[chunk * 4 + 1] = b.y;
                uncond[chunk * 4 + 2] = b.z, uncond[chunk * 4 + 3] = b.w;
            } else {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    if (first + i >= image.vocab_size) continue;
                    cond[chunk * 4 + i] = image.cond[first + i];
                    uncond[chunk * 4 + i] = image.uncond[first + i];
                }
            }
        }
#pragma unroll
        for (int i = 0; i < kChunks * 4; ++i) {
            const bool inside = code(tile, i / 4) + i % 4 < image.vocab_size;
            key[i] = inside ? guided_key(image, cond[i], uncond[i]) : 0;
        }
    }

    // The keys of a chunk that is known at run time only, so that a loop over the chunks need not be unrolled: exp is
    // long, and sixteen copies of it would neither stay in the instruction cache nor leave registers for the keys.
    __device__ __forceinline__ void pick(int chunk, uint32_t (&out)[4]) const {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            out[i] = key[i];
#pragma unroll
            for (int c = 1; c < kChunks; ++c) out[i] = chunk == c ? key[c * 4 + i] : out[i];
        }
    }

    // Calls each(tile) with the tile's keys in `key`.
    template <typename Each>
    __device__ __forceinline__ void for_tiles(const Image& image, Each each) {
        if constexpr (CACHED) {
            each(0);
        } else {
            for (int tile = 0; tile < image.tiles; ++tile) {
                read(image, tile);
                each(tile);
            }
        }
    }
};

}  // namespace
}  // namespace aim_kernels
