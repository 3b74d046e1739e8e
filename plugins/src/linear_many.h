// linear of many rows on sm_90a: what linear.cu asks of it.
#pragma once

#include "aim_kernels/linear.h"
#include "host.h"

namespace aim_kernels {
namespace detail {

// How rows, features and in_features are shared out among blocks.
struct LinearManyPlan {
    int rows = 0;      // of a block; 0: the shape is not for this kernel
    int features = 0;  // likewise
    int splits = 1;    // blocks, a cluster, that share in_features out
    int stages = 0;    // of the ring, each 64 of in_features
    int blocks = 0;    // that stay for several tiles each; 0: one for every tile, as always with splits
};

LinearManyPlan plan_linear_many(const LinearParams& params, const DeviceInfo& device) noexcept;
// float16 or bfloat16, by a plan for the same parameters.
Status launch_linear_many(const LinearParams& params, const LinearManyPlan& plan, cudaStream_t stream) noexcept;

}  // namespace detail
}  // namespace aim_kernels
