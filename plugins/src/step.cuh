// One step of Mamba-2's state for all heads: the decode update, bound by the bytes of the state.
//
// selective_scan launches it for L = 1 on its own, mamba2_decode_step with the convolution in front (FUSED).
#pragma once

#include "aim_kernels/mamba2_decode_step.h"
#include "aim_kernels/selective_scan.h"
#include "host.h"

namespace aim_kernels {
namespace detail {

struct StepArgs {
    int64_t rows = 0;
    int32_t nheads = 0;
    int32_t headdim = 0;
    int32_t d_state = 0;
    int32_t ngroups = 1;
    int32_t p_tile = 0;   // of headdim, a block's share; set by launch_step
    int32_t p_tiles = 0;
    int32_t group_heads = 1;  // nheads / ngroups; set by launch_step
    DType dtype = DType::kFloat32;
    DType state_dtype = DType::kFloat32;
    bool dt_softplus = true;

    // Each starts at its own first element of row 0. FUSED: x, B and C are the convolution's inputs.
    const void* x = nullptr;
    const void* dt = nullptr;
    const void* B = nullptr;
    const void* C = nullptr;
    const void* z = nullptr;  // null: no gate
    int64_t x_row_stride = 0;
    int64_t dt_row_stride = 0;
    int64_t B_row_stride = 0;
    int64_t C_row_stride = 0;
    int64_t z_row_stride = 0;
    void* y = nullptr;        // of type y_dtype
    int64_t y_row_stride = 0;
    DType y_dtype = DType::kFloat32;

    const float* A = nullptr;
    const float* D = nullptr;
    const float* dt_bias = nullptr;
    const void* state_in = nullptr;
    void* state_out = nullptr;
    int64_t state_row_stride = 0;  // elements
    const int32_t* active = nullptr;

    // FUSED only. The kernel writes the window of x, whose channels have one block each, and leaves that of B and C,
    // which the blocks of all heads of a group read, to a later launch.
    const float* conv_weight = nullptr;
    const float* conv_bias = nullptr;
    const void* conv_state_in = nullptr;
    void* conv_state_out = nullptr;
    int64_t conv_state_row_stride = 0;  // elements
    DType conv_state_dtype = DType::kFloat32;
    int32_t d_conv = 0;
};

// The parts of mamba2_decode_step, for operators that differ in the state's update alone. launch_finish: the norm, and the
// convolution's window of B and C.
Status check_decode_step_shapes(const char* op, const Mamba2DecodeStepParams& params) noexcept;
Status check_decode_step(const char* op, const Mamba2DecodeStepParams& params) noexcept;
StepArgs step_args(const Mamba2DecodeStepParams& params) noexcept;
Status launch_finish(const char* op, const Mamba2DecodeStepParams& params, cudaStream_t stream) noexcept;

Status launch_step(const char* op, StepArgs args, bool fused, int sm_count, cudaStream_t stream) noexcept;

}  // namespace detail
}  // namespace aim_kernels
