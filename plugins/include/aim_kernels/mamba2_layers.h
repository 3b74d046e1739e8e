// All layers of a decoding step, between the embedding and the head: for every layer AdaLN, in_proj, the Mamba-2 update,
// out_proj; the numbers of ada_ln_norm, linear, mamba2_decode_step and linear over and over.
//
// Up to four rows in float16 go, from sm_90 on, through one kernel that stays on the device for the whole step
// (resident()): its blocks hand their numbers to each other through L2, and fetch weights ahead across the layers.
// Anything else is a chain of the four operators above.
//
// in_proj and out_proj may be integers as linear_quantized has them with 8 bits; the chain's products are then that
// operator's.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

struct Mamba2LayersParams {
    int64_t rows = 0;                      // >= 1
    int32_t layers = 0;                    // >= 1
    int32_t d_model = 0;                   // 8 to 8192 in steps of 8
    int32_t nheads = 0;                    // >= 1; d_inner = nheads * headdim
    int32_t headdim = 0;                   // 16 to 128 in steps of 16
    int32_t d_state = 0;                   // 16 to 256 in steps of 16
    int32_t ngroups = 1;                   // divides nheads; also the groups of the gated norm
    int32_t d_conv = 0;                    // 2, 3 or 4
    float eps = 1e-5f;                     // of both norms; >= 0
    DType dtype = DType::kFloat32;         // in_proj and out_proj, and what they multiply
    int32_t weight_bits = 0;               // 0: in_proj and out_proj are of dtype; 8: int8, with a scale a feature, and
                                           // dtype is not float32, d_model and d_inner are in steps of 32
    // The int32 words that a feature of in_proj and of out_proj has, where the caller knows and wants it checked; 0: not told.
    int64_t in_words = 0, out_words = 0;
    DType conv_state_dtype = DType::kFloat32;  // float32 or float16
    DType ssm_state_dtype = DType::kFloat32;   // float32 or float16

    // All dense. Pointers are 16-byte aligned. Of a layer's three vectors of modulation shift is the first, then scale,
    // then gate.
    const float* residual = nullptr;       // (rows, d_model)
    const float* modulation = nullptr;     // (rows, 3 * layers, d_model)
    const float* norm_weight = nullptr;    // (layers, d_model)
    const void* in_proj = nullptr;         // (layers, d_in_proj, d_model); d_in_proj = d_inner + conv_dim + nheads
    const float* conv_weight = nullptr;    // (layers, conv_dim, d_conv); conv_dim = d_inner + 2 * ngroups * d_state
    const float* conv_bias = nullptr;      // (layers, conv_dim)
    const float* A = nullptr;              // (layers, nheads); -exp(A_log), so <= 0
    const float* D = nullptr;              // (layers, nheads)
    const float* dt_bias = nullptr;        // (layers, nheads)
    const float* gated_norm_weight = nullptr;  // (layers, d_inner)
    const void* out_proj = nullptr;        // (layers, d_model, d_inner)
    const float* in_proj_scale = nullptr;  // (layers, d_in_proj); only with weight_bits
    const float* out_proj_scale = nullptr; // (layers, d_model); likewise

    const void* conv_state_in = nullptr;   // (rows, layers, conv_dim, d_conv - 1)
    void* conv_state_out = nullptr;        // same shape; may be conv_state_in
    const void* ssm_state_in = nullptr;    // (rows, layers, nheads, headdim, d_state)
    void* ssm_state_out = nullptr;         // same shape; may be ssm_state_in
    float* residual_out = nullptr;         // (rows, d_model), the last layer's branch added; may be residual
    const int32_t* active = nullptr;       // (rows); the states of a row with 0 are left untouched; null: all rows

    void* workspace = nullptr;             // 16-byte aligned
    size_t workspace_size = 0;             // bytes; at least workspace_bytes()
    // Where the one kernel's blocks hand their numbers to each other: exchange_bytes() of memory that stays from call
    // to call, 16-byte aligned. Zero before the first call with it, since then written by calls of one operator, of
    // these sizes and rows, on this device only, one at a time: another has another number of blocks. The kernel then
    // starts while the kernel before still runs, where that is of this library, and reads its weights meanwhile: they
    // may not be what that writes. null: in the workspace, which each call clears.
    void* exchange = nullptr;
};

size_t workspace_bytes(const Mamba2LayersParams& params) noexcept;
// 0 where the current device does not take these sizes and types with the one kernel: exchange is then not used.
size_t exchange_bytes(const Mamba2LayersParams& params) noexcept;
Status validate_shapes(const Mamba2LayersParams& params) noexcept;
Status validate(const Mamba2LayersParams& params) noexcept;
Status launch(const Mamba2LayersParams& params, cudaStream_t stream) noexcept;

// Whether the current device takes these sizes and types with the one kernel.
bool resident(const Mamba2LayersParams& params) noexcept;

}  // namespace aim_kernels
