// A block's image, and its guided logits as keys.
#pragma once

#include "aim_kernels/sample.h"
#include "sample.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr int kLargestVocab = 65536;
constexpr int kBins = kFew;
constexpr int kMaxSegments = kLargestVocab / kTile * kChunks * kWarps;

struct SampleArgs {
    SampleParams p;
    double scale;  // the integer that stands for the weight 1; V of them sum to at most 2^62
};

struct Shared {
    uint64_t partial[2][kWarps];
    // A warp's share of a chunk each, in the order of the codes: of the sum of weights, or how many keys are chosen.
    union {
        uint64_t segment[kMaxSegments];
        uint32_t count[kMaxSegments];
    };
    alignas(8) uint32_t bins[2][kBins];
    int first_bin;
    uint64_t few[kFew];  // in the order of the codes: a key in the high half, its code in the low
    uint32_t binned[kFew];
    uint32_t sorted[kFew];  // from the largest down
    double weight[kFew];    // of `sorted`
    double uniform, least_weight;
    int found;
    uint64_t before, target;
};

// What all threads of a block know of their image.
struct Image {
    int64_t index;
    const float* cond;
    const float* uncond;
    int vocab_size, tiles, segments;
    float guidance_scale, temperature;
    double largest, scale;
    uint64_t seed, image_index;

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
    image.segments = image.tiles * kChunks * kWarps;
    image.guidance_scale = p.sampling->guidance_scale;
    image.temperature = p.sampling->temperature;
    image.scale = a.scale;
    image.seed = p.sampling->seed;
    image.image_index = p.image_index[index];
    return image;
}

// Of the draw in this step.
__device__ __forceinline__ double uniform_of(const Image& image, int position) {
    return philox_uniform(image.seed, image.image_index, static_cast<uint32_t>(position));
}

__device__ __forceinline__ uint32_t guided_key(const Image& image, float cond, float uncond) {
    float guided = __fadd_rn(__fmul_rn(__fsub_rn(cond, uncond), image.guidance_scale), uncond);
    if (image.temperature != 1.0f) guided = __fdiv_rn(guided, image.temperature);
#ifdef AIM_KERNELS_EMULATED
    return key_of(guided);
#else
    // As key_of: the sum's zeros are +0, and where it is no number its bits are 0x7fffffff.
    const uint32_t bits = __float_as_uint(__fadd_rn(guided, 0.0f));
    return bits ^ (static_cast<uint32_t>(static_cast<int32_t>(bits) >> 31) | 0x80000000u);
#endif
}

// A thread's keys of a tile: four neighbours in each chunk. 0, less than any logit's, past the last code.
// CACHED: V is at most one tile, which is read once and stays in registers; otherwise each pass reads all again.
template <bool CACHED, bool WIDE>
struct Row {
    static constexpr bool kCached = CACHED;
    uint32_t key[kChunks * 4];

    static __device__ __forceinline__ int code(int tile, int chunk) {
        return tile * kTile + chunk * kThreads * 4 + static_cast<int>(threadIdx.x) * 4;
    }

    // `meanwhile`: what can be done until the logits are there.
    template <typename Meanwhile>
    __device__ __forceinline__ void read(const Image& image, int tile, Meanwhile meanwhile) {
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
        meanwhile();
#pragma unroll
        for (int i = 0; i < kChunks * 4; ++i) {
            const bool inside = code(tile, i / 4) + i % 4 < image.vocab_size;
            key[i] = inside ? guided_key(image, cond[i], uncond[i]) : 0;
        }
    }

    // The largest of a chunk.
    __device__ __forceinline__ uint32_t top(int c) const {
        return max(max(key[c * 4], key[c * 4 + 1]), max(key[c * 4 + 2], key[c * 4 + 3]));
    }

    // The keys of a chunk that is known at run time only, so that a loop over the chunks need not be unrolled: exp is
    // long, and a copy of it for each key would neither stay in the instruction cache nor leave registers for the keys.
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
                read(image, tile, [] {});
                each(tile);
            }
        }
    }
};

}  // namespace
}  // namespace aim_kernels
