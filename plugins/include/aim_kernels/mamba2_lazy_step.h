// mamba2_decode_step with a state that is folded seldom: the last tokens' x, B and dt lie in a history beside it, which
// is far smaller than the state. y comes from both; the state is read only once it holds anything, and written only when
// the history is folded into it. The same numbers as mamba2_decode_step's, but for rounding.
#pragma once

#include "aim_kernels/mamba2_decode_step.h"

namespace aim_kernels {

struct Mamba2LazyStepParams {
    // As in mamba2_decode_step. ssm_state is what was folded: the state without the history's tokens. It, the histories
    // and the counters are read while the kernel before still runs, where that is of this library: it must not be what
    // wrote them, this operator's own last step included.
    Mamba2DecodeStepParams step;

    int32_t capacity = 0;                  // tokens that a history has room for; 2 to 128
    int32_t fold_every = 0;                // tokens between two folds, after the first; 1 to capacity

    // A state's *_out has the same shape and may be its *_in. Where one is not, all but conv_state are copied first.
    // (rows, capacity, d_inner) of ssm_state_dtype, 16-byte aligned. Past the count it holds any numbers.
    const void* x_history_in = nullptr;
    void* x_history_out = nullptr;
    const void* B_history_in = nullptr;    // (rows, capacity, ngroups * d_state) of ssm_state_dtype, 16-byte aligned
    void* B_history_out = nullptr;
    const float* dt_history_in = nullptr;  // (rows, nheads, capacity), after softplus
    float* dt_history_out = nullptr;
    // (rows, nheads, 3): how many tokens the history holds, whether the state holds any (else it is zero and is not read),
    // and A, so that whoever has the states can fold them. The first two are the same for all heads of a row, each of
    // which has its own for the block that works on it.
    const float* counters_in = nullptr;
    float* counters_out = nullptr;
};

size_t workspace_bytes(const Mamba2LazyStepParams& params) noexcept;
Status validate_shapes(const Mamba2LazyStepParams& params) noexcept;
Status validate(const Mamba2LazyStepParams& params) noexcept;
Status launch(const Mamba2LazyStepParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
