#include "infer_shapes.h"

#include <vector>

#include "custom_op.h"
#include "refusal.h"

namespace aim_edge {
namespace {

// Integer attributes of the node; those that are missing or of another type stay 0.
Sizes read_sizes(const CustomOp& op, const OrtShapeInferContext* context) {
    Sizes sizes;
    for (int i = 0; i < op.row->attribute_count; ++i) {
        const AttributeRow& row = op.row->attributes[i];
        if (row.type != AttributeType::kInt) continue;
        const OrtOpAttr* attribute = nullptr;
        size_t read = 0;
        int64_t value = 0;
        OrtStatus* status = op.api->ShapeInferContext_GetAttribute(context, row.name, &attribute);
        if (status == nullptr) status = op.api->ReadOpAttr(attribute, ORT_OP_ATTR_INT, &value, sizeof(value), &read);
        if (status == nullptr) sizes.of[row.symbol] = value;
        op.api->ReleaseStatus(status);
    }
    return sizes;
}

// What is known of each name: its size, or how the graph calls it. And the types of the inputs, by the table's kinds.
struct Known {
    Sizes sizes;
    const char* names[kSymbolCount] = {};  // the context's own
    ONNXTensorElementDataType types[kElementCount] = {};
};

void read_input(const CustomOp& op, OrtShapeInferContext* context, size_t index, const TensorRow& tensor,
                Known& known) {
    const ShapeRow& shape = shape_of(*op.row, tensor, known.sizes);
    const OrtApi& api = *op.api;
    OrtTensorTypeAndShapeInfo* info = nullptr;  // the context's own
    check(api, api.ShapeInferContext_GetInputTypeShape(context, index, &info));
    check(api, api.GetTensorElementType(info, &known.types[static_cast<int>(tensor.element)]));
    size_t rank = 0;
    check(api, api.GetDimensionsCount(info, &rank));
    if (rank != static_cast<size_t>(shape.rank)) return;  // not known, or wrong: the kernel will say
    std::vector<int64_t> dims(rank);
    std::vector<const char*> names(rank);
    check(api, api.GetDimensions(info, dims.data(), rank));
    check(api, api.GetSymbolicDimensions(info, names.data(), rank));
    bind_shape(shape, {dims.data(), shape.rank}, known.sizes);  // what does not match is the kernel's to refuse
    for (size_t i = 0; i < rank; ++i) {
        const Symbol symbol = bare_symbol(shape.dims[i]);
        if (dims[i] < 0 && *names[i] != '\0') known.names[symbol] = names[i];
    }
}

void infer_shape(const CustomOp& op, OrtShapeInferContext* context, const Known& known, int index) {
    const OrtApi& api = *op.api;
    const TensorRow& output = op.row->outputs[index];
    const ShapeRow& shape = output.shape;
    const auto rank = static_cast<size_t>(shape.rank);
    int64_t dims[kMaxRank] = {};
    const char* names[kMaxRank] = {};
    for (int i = 0; i < shape.rank; ++i) {
        const int64_t value = evaluate(shape.dims[i], known.sizes);
        const Symbol symbol = bare_symbol(shape.dims[i]);
        const bool named = value == 0 && symbol != kOne && known.names[symbol] != nullptr;
        if (value == 0 && !named) return;  // ONNX Runtime would take a -1 for a size
        dims[i] = named ? -1 : value;
        names[i] = named ? known.names[symbol] : "";
    }
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api, api.CreateTensorTypeAndShapeInfo(&info));
    OrtStatus* status = api.SetTensorElementType(info, known.types[static_cast<int>(output.element)]);
    if (status == nullptr) status = api.SetDimensions(info, dims, rank);
    if (status == nullptr) status = api.SetSymbolicDimensions(info, names, rank);
    if (status == nullptr) {
        status = api.ShapeInferContext_SetOutputTypeShape(context, static_cast<size_t>(index), info);
    }
    api.ReleaseTensorTypeAndShapeInfo(info);
    check(api, status);
}

}  // namespace

OrtStatus* infer_shapes(const OrtCustomOp* op, OrtShapeInferContext* context) noexcept {
    const CustomOp& custom = *static_cast<const CustomOp*>(op);
    custom.api->ReleaseStatus(guarded(*custom.api, [&] {
        Known known;
        // Of an output, whether an input is of it or not.
        known.types[static_cast<int>(Element::kFloat32)] = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
        known.sizes = read_sizes(custom, context);
        const Tensors tensors = tensors_of(*custom.row, known.sizes);
        for (int i = 0; i < tensors.input_count; ++i) {
            read_input(custom, context, static_cast<size_t>(i), *tensors.inputs[i], known);
        }
        for (int i = 0; i < custom.row->output_count; ++i) infer_shape(custom, context, known, i);
    }));
    return nullptr;
}

}  // namespace aim_edge
