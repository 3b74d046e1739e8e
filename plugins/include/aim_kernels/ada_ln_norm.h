// What lies between two mixers of a block with adaptive LayerNorm modulation, for one decoding step:
//
//   residual_out = residual + hidden * gate
//   x = residual_out / sqrt(mean of residual_out^2 + eps) * weight * (1 + scale) + shift
//
// gate, shift and scale are vectors of `modulation`, by their index. The residual stays float32.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

struct AdaLnNormParams {
    int64_t rows = 0;                      // >= 1
    int64_t vectors = 0;                   // of modulation, >= 1
    int64_t d_model = 0;                   // 4 to 8192 in steps of 4
    int32_t gate_index = 0;                // 0 to vectors - 1, as the other two
    int32_t shift_index = 0;
    int32_t scale_index = 0;
    float eps = 1e-5f;                     // >= 0
    DType dtype = DType::kFloat32;         // hidden and x

    // All dense and 16-byte aligned. modulation and weight are read while the kernel before still runs, where that is of
    // this library: it may not be the one that writes them.
    const void* hidden = nullptr;          // (rows, d_model): what the mixer gave
    const float* residual = nullptr;       // (rows, d_model)
    const float* modulation = nullptr;     // (rows, vectors, d_model)
    const float* weight = nullptr;         // (d_model)
    void* x = nullptr;                     // (rows, d_model); may be hidden
    float* residual_out = nullptr;         // (rows, d_model); may be residual
};

Status validate_shapes(const AdaLnNormParams& params) noexcept;
Status validate(const AdaLnNormParams& params) noexcept;
Status launch(const AdaLnNormParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
