// The operators as ONNX Runtime sees them: an OrtCustomOp for every operator and pair of types.
#pragma once

#include <onnxruntime_c_api.h>

#include <vector>

#include "sizes.h"

namespace aim_edge {

// The version of ONNX Runtime's interface that this library asks for and its OrtCustomOp have, whatever the headers'
// own: a newer ONNX Runtime serves it too. 1.18 brought the last functions that are used here (KernelInfoGetAllocator,
// KernelContext_GetScratchBuffer, GetMayInplace); OrtShapeInferContext is of 1.17.
constexpr uint32_t kApiVersion = 18;
static_assert(ORT_API_VERSION >= kApiVersion, "needs the headers of ONNX Runtime 1.18 or later");

struct CustomOp : OrtCustomOp {
    const OrtApi* api;
    const OperatorRow* row;
    bool on_cuda;
    ONNXTensorElementDataType activations;
    ONNXTensorElementDataType states;
    bool has_first;  // of two inputs that may be absent: whether the first is there
};

// ONNX Runtime derives an output's type from that of the operator whose input types match the node's, so that there is
// one for every combination, on CUDA. Last comes one that takes any types, on the CPU, only to refuse with a message
// that says what is wrong; without it, ONNX Runtime says no more than that it found no kernel.
std::vector<CustomOp> make_custom_ops(const OrtApi& api, bool infers_shapes);

}  // namespace aim_edge
