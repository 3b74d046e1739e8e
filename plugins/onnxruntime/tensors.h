// The inputs of a node against the table: their number, types and shapes.
#pragma once

#include <aim_kernels/common.h>
#include <onnxruntime_c_api.h>

#include <vector>

#include "sizes.h"

namespace aim_edge {

struct TensorType {
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    std::vector<int64_t> dims;         // -1: not known yet
};

TensorType read_type(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info);

// What the inputs looked at so far have fixed. UNDEFINED: nothing yet.
struct Binding {
    Sizes sizes;
    ONNXTensorElementDataType activations = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    ONNXTensorElementDataType states = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
};

// Only for the types that check_element lets through; anything else is taken for float32.
aim_kernels::DType to_dtype(ONNXTensorElementDataType element) noexcept;

// Throw Refusal with what was found and what was expected; otherwise they add to `binding`.
void check_element(const TensorRow& tensor, ONNXTensorElementDataType element, Binding& binding);
void check_shape(const OperatorRow& row, const TensorRow& tensor, const std::vector<int64_t>& dims, Binding& binding);

// What the table leaves open: a convolution's channels follow from the attributes. Throws Refusal.
void check_conv_dim(const OperatorRow& row, const Sizes& sizes);

}  // namespace aim_edge
