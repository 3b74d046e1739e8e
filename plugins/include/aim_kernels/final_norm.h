// What lies between the last mixer and the head of a decoder with adaptive LayerNorm modulation, for one decoding step:
//
//   sum    = residual + hidden * gate
//   normed = sum / sqrt(mean of sum^2 + eps) * norm_f
//   x      = normed / sqrt(mean of normed^2 + final_eps) * norm_final * (1 + scale) + shift
//
// gate is a vector of `modulation`, by its index; shift and scale are the two of `final_modulation`.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

struct FinalNormParams {
    int64_t rows = 0;                         // >= 1
    int64_t vectors = 0;                      // of modulation, >= 1
    int64_t d_model = 0;                      // 4 to 8192 in steps of 4
    int32_t gate_index = 0;                   // 0 to vectors - 1
    float eps = 1e-5f;                        // >= 0, as the next
    float final_eps = 1e-5f;
    DType dtype = DType::kFloat32;            // hidden and x
    bool summed = false;                      // residual is the sum: hidden and modulation are not read and may be null

    // All dense and 16-byte aligned. The modulations and weights are read while the kernel before still runs, where
    // that is of this library: it may not be the one that writes them.
    const void* hidden = nullptr;             // (rows, d_model): what the mixer gave
    const float* residual = nullptr;          // (rows, d_model)
    const float* modulation = nullptr;        // (rows, vectors, d_model)
    const float* final_modulation = nullptr;  // (rows, 2, d_model): shift, scale
    const float* norm_f = nullptr;            // (d_model)
    const float* norm_final = nullptr;        // (d_model)
    void* x = nullptr;                        // (rows, d_model); may be hidden
};

Status validate_shapes(const FinalNormParams& params) noexcept;
Status validate(const FinalNormParams& params) noexcept;
Status launch(const FinalNormParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
