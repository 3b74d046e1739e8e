// Sum over a block. `scratch` holds one float a warp; every thread gets the result.
#pragma once

#include <cuda_runtime_api.h>

namespace aim_kernels {
namespace detail {

template <int THREADS>
__device__ __forceinline__ float block_sum(float value, float* scratch) {
    constexpr int WARPS = THREADS / 32;
    static_assert(WARPS >= 1 && WARPS <= 32 && (WARPS & (WARPS - 1)) == 0, "a power of two of whole warps");
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = value;
    __syncthreads();
    value = scratch[threadIdx.x % WARPS];
#pragma unroll
    for (int offset = WARPS / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
    return value;
}

}  // namespace detail
}  // namespace aim_kernels
