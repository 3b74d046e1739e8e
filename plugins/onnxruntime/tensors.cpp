#include "tensors.h"

#include <string>

#include "refusal.h"

namespace aim_edge {
namespace {

std::string element_name(ONNXTensorElementDataType element) {
    switch (element) {
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT: return "float32";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16: return "float16";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16: return "bfloat16";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_DOUBLE: return "float64";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32: return "int32";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64: return "int64";
        case ONNX_TENSOR_ELEMENT_DATA_TYPE_BOOL: return "bool";
        default: return "of ONNX Runtime's type " + std::to_string(static_cast<int>(element));
    }
}

[[noreturn]] void refuse_element(const TensorRow& tensor, ONNXTensorElementDataType found, const std::string& wanted) {
    refuse("'%s' is %s; expected %s", tensor.name, element_name(found).c_str(), wanted.c_str());
}

// One type for all activations of a node, and one for all of its states: the first of a kind decides.
void check_same(const TensorRow& tensor, ONNXTensorElementDataType element, ONNXTensorElementDataType& kind) {
    if (kind == ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED) kind = element;
    if (kind == element) return;
    const char* what = tensor.element == Element::kState ? " like the other state" : " like the activations before it";
    refuse_element(tensor, element, element_name(kind) + what);
}

}  // namespace

TensorType read_type(const OrtApi& api, const OrtTensorTypeAndShapeInfo* info) {
    TensorType type;
    size_t rank = 0;
    check(api, api.GetTensorElementType(info, &type.element));
    check(api, api.GetDimensionsCount(info, &rank));
    type.dims.resize(rank);
    check(api, api.GetDimensions(info, type.dims.data(), rank));
    return type;
}

aim_kernels::DType to_dtype(ONNXTensorElementDataType element) noexcept {
    if (element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16) return aim_kernels::DType::kFloat16;
    if (element == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16) return aim_kernels::DType::kBFloat16;
    return aim_kernels::DType::kFloat32;
}

void check_element(const TensorRow& tensor, ONNXTensorElementDataType element, Binding& binding) {
    const bool single = element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
    const bool half = element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    const bool brain = element == ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;
    switch (tensor.element) {
        case Element::kActivation:
            if (!single && !half && !brain) refuse_element(tensor, element, "float32, float16 or bfloat16");
            return check_same(tensor, element, binding.activations);
        case Element::kHalf:
            if (!half && !brain) refuse_element(tensor, element, "float16 or bfloat16");
            return check_same(tensor, element, binding.activations);
        case Element::kState:
            if (!single && !half) refuse_element(tensor, element, "float32 or float16");
            return check_same(tensor, element, binding.states);
        case Element::kFloat32:
            if (!single) refuse_element(tensor, element, "float32, as all parameters are");
            return;
        case Element::kInt32:
            if (element != ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32) refuse_element(tensor, element, "int32");
            return;
    }
}

void check_shape(const OperatorRow& row, const TensorRow& tensor, const std::vector<int64_t>& dims, Binding& binding) {
    const ShapeRow& shape = shape_of(row, tensor, binding.sizes);
    const Extents found{dims.data(), static_cast<int>(dims.size())};
    if (bind_shape(shape, found, binding.sizes)) return;
    refuse("%s", ShapeMessage(tensor, shape, found, binding.sizes).text);
}

void check_conv_dim(const OperatorRow& row, const Sizes& sizes) {
    if (!has_conv_dim(row.kind) || sizes.of[kConvDim] == 0) return;
    const int64_t expected = conv_dim_of(sizes);
    if (sizes.of[kConvDim] == expected) return;
    refuse("conv_dim is %lld; expected nheads * headdim + 2 * ngroups * d_state = %lld",
           static_cast<long long>(sizes.of[kConvDim]), static_cast<long long>(expected));
}

}  // namespace aim_edge
