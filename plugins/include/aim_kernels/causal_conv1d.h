// Depthwise causal convolution over time, with the window carried across calls.
//
//   y[r, t, c] = act(bias[c] + sum_k weight[c, k] * xp[r, t + k, c])
//
// where xp is x with the d_conv - 1 inputs of conv_state_in before it. conv_state holds the last d_conv - 1 inputs,
// oldest first, so one call over L steps leaves the state that L calls over one step leave.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

struct CausalConv1dParams {
    int64_t rows = 0;                      // >= 1
    int64_t length = 0;                    // L >= 1
    int64_t channels = 0;                  // >= 1
    int32_t d_conv = 0;                    // 2, 3 or 4
    DType dtype = DType::kFloat32;         // x and y
    DType state_dtype = DType::kFloat32;   // conv_state: float32 or float16
    Activation activation = Activation::kNone;

    // Strides are in elements; the channel is the contiguous dimension.
    const void* x = nullptr;               // (rows, L, channels)
    int64_t x_row_stride = 0;
    int64_t x_time_stride = 0;
    const float* weight = nullptr;         // (channels, d_conv)
    const float* bias = nullptr;           // (channels); null: none
    const void* conv_state_in = nullptr;   // (rows, channels, d_conv - 1); null: zeros
    void* conv_state_out = nullptr;        // same shape; null: not wanted; may be conv_state_in
    void* y = nullptr;                     // (rows, L, channels); must not overlap x
    int64_t y_row_stride = 0;
    int64_t y_time_stride = 0;
    const int32_t* active = nullptr;       // (rows); a row with 0 is left untouched; null: all rows
};

// Sizes, dtypes and strides alone: for an adapter that has no pointers yet.
Status validate_shapes(const CausalConv1dParams& params) noexcept;
Status validate(const CausalConv1dParams& params) noexcept;
Status launch(const CausalConv1dParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
