// A linear layer without bias over as many rows as decoding has: y = x W^T.
//
// The weights are read once for every 64 rows; sums are float32 (on tensor cores for float16 and bfloat16). On sm_90a,
// where out_features is in steps of 8 and y 16-byte aligned, more than 32 rows, or fewer with large weights, go to a
// kernel for many rows. Sums are taken in a fixed order.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

struct LinearParams {
    int64_t rows = 0;                      // >= 1
    int64_t in_features = 0;               // 8 and more in steps of 8
    int64_t out_features = 0;              // >= 1
    DType dtype = DType::kFloat32;         // x, weight and y
    bool float32_y = false;                // y is float32 all the same: the sums as they are

    // All dense; x and weight 16-byte aligned.
    const void* x = nullptr;               // (rows, in_features)
    // (out_features, in_features). Read while the kernel before still runs, where that is of this library: it may not be
    // what writes them.
    const void* weight = nullptr;
    void* y = nullptr;                     // (rows, out_features); must not overlap x
};

Status validate_shapes(const LinearParams& params) noexcept;
Status validate(const LinearParams& params) noexcept;
Status launch(const LinearParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
