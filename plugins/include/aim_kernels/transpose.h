// y[b, j, i] = x[b, i, j], of elements of 2 bytes: images to channels last and back.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

struct TransposeParams {
    int64_t batch = 0;    // >= 1, as rows and columns
    int64_t rows = 0;     // of x
    int64_t columns = 0;

    // Dense; y is not x.
    const void* x = nullptr;  // (batch, rows, columns)
    void* y = nullptr;        // (batch, columns, rows)
};

Status validate(const TransposeParams& params) noexcept;

Status launch(const TransposeParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
