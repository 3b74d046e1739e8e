// The gate of a gated MLP over few rows, between its projections: y = silu(gate) * up.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

struct SwiGluParams {
    int64_t rows = 0;                      // >= 1
    int64_t width = 0;                     // 8 and more in steps of 8
    DType dtype = DType::kFloat32;         // of all three

    // All dense and 16-byte aligned, (rows, width).
    const void* gate = nullptr;
    const void* up = nullptr;
    void* y = nullptr;                     // may be gate or up
};

Status validate_shapes(const SwiGluParams& params) noexcept;
Status validate(const SwiGluParams& params) noexcept;
Status launch(const SwiGluParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
