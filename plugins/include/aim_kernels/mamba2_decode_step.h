// One decoding step of a Mamba-2 mixer between in_proj and out_proj: convolution update with SiLU, softplus, state
// update, D, gate and RMSNorm. The same numbers as causal_conv1d, selective_scan and rms_norm_gated over one step,
// with nothing rounded to the activation type in between. The state goes through memory once.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

struct Mamba2DecodeStepParams {
    int64_t rows = 0;                      // >= 1
    int32_t nheads = 0;                    // >= 1; d_inner = nheads * headdim
    int32_t headdim = 0;                   // 16 to 128 in steps of 16
    int32_t d_state = 0;                   // 16 to 256 in steps of 16
    int32_t ngroups = 1;                   // divides nheads; also the groups of the norm
    int32_t d_conv = 0;                    // 2, 3 or 4
    float eps = 1e-5f;                     // of the norm; >= 0
    DType dtype = DType::kFloat32;         // zxbcdt and out
    DType conv_state_dtype = DType::kFloat32;  // float32 or float16
    DType ssm_state_dtype = DType::kFloat32;   // float32 or float16

    // (rows, d_in_proj): z (d_inner), x (d_inner), B (ngroups * d_state), C (ngroups * d_state), dt (nheads).
    const void* zxbcdt = nullptr;
    int64_t zxbcdt_row_stride = 0;         // elements
    const float* conv_weight = nullptr;    // (conv_dim, d_conv); conv_dim = d_inner + 2 * ngroups * d_state
    const float* conv_bias = nullptr;      // (conv_dim); null: zeros
    const float* A = nullptr;              // (nheads); -exp(A_log), so <= 0
    const float* D = nullptr;              // (nheads); null: zeros
    const float* dt_bias = nullptr;        // (nheads); null: zeros
    const float* norm_weight = nullptr;    // (d_inner)

    const void* conv_state_in = nullptr;   // (rows, conv_dim, d_conv - 1)
    void* conv_state_out = nullptr;        // same shape; may be conv_state_in
    // (rows, nheads, headdim, d_state), 16-byte aligned. Read while the kernel before still runs, where that is of this
    // library: of those only this operator's own may be what wrote it.
    const void* ssm_state_in = nullptr;
    void* ssm_state_out = nullptr;         // same shape and alignment; may be ssm_state_in
    // Elements from one row of a state, in or out, to the next; 0: the rows are dense.
    int64_t conv_state_row_stride = 0;
    int64_t ssm_state_row_stride = 0;      // a multiple of 16
    void* out = nullptr;                   // (rows, d_inner): what out_proj takes
    int64_t out_row_stride = 0;            // elements
    const int32_t* active = nullptr;       // (rows); a row with 0 is left untouched; null: all rows

    void* workspace = nullptr;             // 16-byte aligned; y before the norm, kept in float32
    size_t workspace_size = 0;             // bytes; at least workspace_bytes()
};

size_t workspace_bytes(const Mamba2DecodeStepParams& params) noexcept;
Status validate_shapes(const Mamba2DecodeStepParams& params) noexcept;
Status validate(const Mamba2DecodeStepParams& params) noexcept;
Status launch(const Mamba2DecodeStepParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
