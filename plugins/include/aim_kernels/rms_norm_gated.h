// RMSNorm over groups of channels, after a SiLU gate:
//
//   v = y * silu(z);  out = v / sqrt(mean over the group of v^2 + eps) * weight
//
// A group has d / ngroups channels. The gate comes before the norm, as in Mamba-2.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

struct RmsNormGatedParams {
    int64_t rows = 0;                      // >= 1
    int64_t length = 0;                    // L >= 1
    int64_t d = 0;                         // >= 1
    int32_t ngroups = 1;                   // divides d
    float eps = 1e-5f;                     // >= 0
    DType dtype = DType::kFloat32;         // y, z and out

    // Strides are in elements; d is contiguous.
    const void* y = nullptr;               // (rows, L, d)
    int64_t y_row_stride = 0;
    int64_t y_time_stride = 0;
    const void* z = nullptr;               // (rows, L, d); null: no gate
    int64_t z_row_stride = 0;
    int64_t z_time_stride = 0;
    const float* weight = nullptr;         // (d)
    void* out = nullptr;                   // (rows, L, d); may be y with y's strides
    int64_t out_row_stride = 0;
    int64_t out_time_stride = 0;
    const int32_t* active = nullptr;       // (rows); a row with 0 is left untouched; null: all rows
};

Status validate_shapes(const RmsNormGatedParams& params) noexcept;
Status validate(const RmsNormGatedParams& params) noexcept;
Status launch(const RmsNormGatedParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
