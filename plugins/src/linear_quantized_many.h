// linear_quantized of many rows on sm_90a: what linear_quantized.cu asks of it.
#pragma once

#include "aim_kernels/linear_quantized.h"
#include "host.h"

namespace aim_kernels {
namespace detail {

// How rows, features and in_features are shared out among blocks.
struct LinearQuantizedManyPlan {
    int rows = 0;      // of a block; 0: the shape is not for this kernel
    int features = 0;  // likewise
    int splits = 1;    // blocks, a cluster, that share in_features out: 1, 2 or 4
    int stages = 0;    // of the ring, each 64 of in_features
};

LinearQuantizedManyPlan plan_linear_quantized_many(const LinearQuantizedParams& params, const DeviceInfo& device) noexcept;
// float16 or bfloat16, by a plan for the same parameters.
Status launch_linear_quantized_many(const LinearQuantizedParams& params, const LinearQuantizedManyPlan& plan,
                                    cudaStream_t stream) noexcept;

}  // namespace detail
}  // namespace aim_kernels
