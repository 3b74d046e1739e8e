// From an operator's tensors to the kernels: the only files here that know aim_kernels' parameters.
#pragma once

#include <aim_kernels/aim_kernels.h>

#include "sizes.h"

namespace aim_edge {

// One call of an operator. Pointers are by the table's input and output numbers; null where a tensor is absent.
struct Call {
    Sizes sizes;
    Reals reals;
    aim_kernels::DType activations = aim_kernels::DType::kFloat32;
    aim_kernels::DType states = aim_kernels::DType::kFloat32;
    const void* inputs[kMaxInputs] = {};
    void* outputs[kMaxOutputs] = {};
    bool channels_last = false;  // of the images
    void* workspace = nullptr;
    size_t workspace_size = 0;
    void* exchange = nullptr;  // memory that stays from call to call, exchange_bytes() of it; null: none
};

// Bytes of an element of a tensor.
size_t element_size(Element element, const Call& call) noexcept;

// Whether the kernels have these sizes. One that is not known passes: the smallest is taken for it.
aim_kernels::Status validate_sizes(OperatorKind kind, Call call) noexcept;

// Whether the kernels leave parts of the states as they were: an output that is not its input must hold that before.
bool keeps_states(OperatorKind kind, const Sizes& sizes) noexcept;

size_t workspace_bytes(OperatorKind kind, const Call& call) noexcept;

// 0 where the operator, its sizes or the current device have no use for an exchange.
size_t exchange_bytes(OperatorKind kind, const Call& call) noexcept;

aim_kernels::Status launch(OperatorKind kind, const Call& call, cudaStream_t stream) noexcept;

}  // namespace aim_edge
