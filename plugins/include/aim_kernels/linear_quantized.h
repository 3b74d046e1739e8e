// A linear layer without bias whose weights are integers: y[o] = sum over groups of scale[o, group] * sum_i q[o, i] x[i].
//
// Codes are turned into the activations' type exactly, products are summed in float32, and a group's sum is scaled there.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

struct LinearQuantizedParams {
    int64_t rows = 0;                      // >= 1
    int64_t in_features = 0;               // 32 and more in steps of 32
    int64_t out_features = 0;              // >= 1
    int32_t bits = 0;                      // 8 or 4
    int32_t group_size = 0;                // 8 bits: 0, one scale a feature; 4 bits: 128, the last group may be shorter
    // What a feature has of weight and scale, where the caller knows and wants it checked; 0: not told.
    int64_t words = 0, scales = 0;
    DType dtype = DType::kFloat16;         // of x and y: float16 or bfloat16
    bool float32_y = false;                // y is float32 all the same: the sums as they are

    // All dense; x and weight 16-byte aligned.
    const void* x = nullptr;               // (rows, in_features)
    // Weight and scale are read while the kernel before still runs, where that is of this library: it may not be what
    // writes them.
    // 8 bits: int8 (out_features, in_features). 4 bits: uint8 (out_features, in_features / 2), code + 8, the even index
    // in the low half of a byte. Taken as little-endian int32 words: (out_features, in_features * bits / 32).
    const void* weight = nullptr;
    const float* scale = nullptr;          // (out_features, groups); 8 bits: (out_features, 1)
    void* y = nullptr;                     // (rows, out_features); must not overlap x
};

Status validate_shapes(const LinearQuantizedParams& params) noexcept;
Status validate(const LinearQuantizedParams& params) noexcept;
Status launch(const LinearQuantizedParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
