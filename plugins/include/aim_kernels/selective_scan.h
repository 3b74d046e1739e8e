// The selective scan of Mamba-2 and Mamba-1, any length, with initial and final state.
//
//   d       = dt[t] + dt_bias, through softplus if dt_softplus
//   S[p, n] = exp(d * A) * S[p, n] + d * x[t, p] * B[t, n]
//   y[t, p] = sum_n S[p, n] * C[t, n] + D * x[t, p], times silu(z[t, p]) if z is given
//
// Mamba-2 has A, D and dt a head, and B and C a group of heads. Mamba-1 has a channel in place of a head (headdim 1),
// A a channel and state, and one B and C for all channels.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

enum class ScanKind : int32_t { kMamba1 = 1, kMamba2 = 2 };

struct SelectiveScanParams {
    ScanKind kind = ScanKind::kMamba2;
    int64_t rows = 0;                      // >= 1
    int64_t length = 0;                    // L >= 1
    int32_t nheads = 0;                    // Mamba-1: channels
    int32_t headdim = 0;                   // Mamba-2: 16 to 128 in steps of 16; Mamba-1: 1
    int32_t d_state = 0;                   // 16 to 256 in steps of 16
    int32_t ngroups = 1;                   // divides nheads; Mamba-1: 1
    DType dtype = DType::kFloat32;         // x, dt, B, C, z, y
    DType state_dtype = DType::kFloat32;   // ssm_state: float32 or float16
    bool dt_softplus = true;

    // Strides are in elements; within one (row, t) each tensor is contiguous.
    const void* x = nullptr;               // (rows, L, nheads, headdim)
    int64_t x_row_stride = 0;
    int64_t x_time_stride = 0;
    const void* dt = nullptr;              // (rows, L, nheads)
    int64_t dt_row_stride = 0;
    int64_t dt_time_stride = 0;
    const void* B = nullptr;               // (rows, L, ngroups, d_state)
    int64_t B_row_stride = 0;
    int64_t B_time_stride = 0;
    const void* C = nullptr;               // (rows, L, ngroups, d_state)
    int64_t C_row_stride = 0;
    int64_t C_time_stride = 0;
    const void* z = nullptr;               // (rows, L, nheads, headdim); null: no gate
    int64_t z_row_stride = 0;
    int64_t z_time_stride = 0;
    void* y = nullptr;                     // (rows, L, nheads, headdim); must not overlap any input
    int64_t y_row_stride = 0;
    int64_t y_time_stride = 0;

    const float* A = nullptr;              // (nheads), or (channels, d_state) for Mamba-1; -exp(A_log), so <= 0
    const float* D = nullptr;              // (nheads); null: zeros
    const float* dt_bias = nullptr;        // (nheads); null: zeros

    const void* ssm_state_in = nullptr;    // (rows, nheads, headdim, d_state), 16-byte aligned; null: zeros
    void* ssm_state_out = nullptr;         // same shape and alignment; null: not wanted; may be ssm_state_in
    const int32_t* active = nullptr;       // (rows); a row with 0 is left untouched; null: all rows

    // Lets a long sequence be cut into segments that run side by side. With less than workspace_bytes(), or none, the
    // result is the same and fewer segments are used.
    void* workspace = nullptr;             // 16-byte aligned
    size_t workspace_size = 0;             // bytes
};

// Bytes that let launch() use the current device fully; 0 for a single step.
size_t workspace_bytes(const SelectiveScanParams& params) noexcept;
Status validate_shapes(const SelectiveScanParams& params) noexcept;
Status validate(const SelectiveScanParams& params) noexcept;
Status launch(const SelectiveScanParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
