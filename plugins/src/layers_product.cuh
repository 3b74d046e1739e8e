// Chunks of a product in the resident kernel: what the four lanes of a weight row load at a time, 16 bytes each.
#pragma once

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

}  // namespace detail
}  // namespace aim_kernels
