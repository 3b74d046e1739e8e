// Sums over a block. `scratch` holds one float a warp and sum; every thread gets the results.
#pragma once

#include <cuda_runtime_api.h>

namespace aim_kernels {
namespace detail {

template <int THREADS, int SUMS>
__device__ __forceinline__ void block_sums(float (&values)[SUMS], float* scratch) {
    constexpr int WARPS = THREADS / 32;
    static_assert(WARPS >= 1 && WARPS <= 32 && (WARPS & (WARPS - 1)) == 0, "a power of two of whole warps");
#pragma unroll
    for (int i = 0; i < SUMS; ++i) {
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) values[i] += __shfl_xor_sync(0xffffffffu, values[i], offset);
        if (threadIdx.x % 32 == 0) scratch[i * WARPS + threadIdx.x / 32] = values[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < SUMS; ++i) {
        values[i] = scratch[i * WARPS + threadIdx.x % WARPS];
#pragma unroll
        for (int offset = WARPS / 2; offset > 0; offset /= 2) {
            values[i] += __shfl_xor_sync(0xffffffffu, values[i], offset);
        }
    }
}

template <int THREADS>
__device__ __forceinline__ float block_sum(float value, float* scratch) {
    float values[1] = {value};
    block_sums<THREADS>(values, scratch);
    return values[0];
}

}  // namespace detail
}  // namespace aim_kernels
