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

// An output has the shape of the state that it follows, or that of the first input but for a last dimension that the
// attributes may give.
void infer_shape(const CustomOp& op, OrtShapeInferContext* context, const Sizes& sizes, int index) {
    const OrtApi& api = *op.api;
    const TensorRow& output = op.row->outputs[index];
    OrtTensorTypeAndShapeInfo* like = nullptr;  // the context's own
    const auto source = static_cast<size_t>(output.alias < 0 ? 0 : output.alias);
    check(api, api.ShapeInferContext_GetInputTypeShape(context, source, &like));
    size_t rank = 0;
    check(api, api.GetDimensionsCount(like, &rank));
    if (rank != static_cast<size_t>(output.shape.rank)) return;  // not known, or wrong: the kernel will say
    std::vector<int64_t> dims(rank);
    std::vector<const char*> names(rank);
    check(api, api.GetDimensions(like, dims.data(), rank));
    check(api, api.GetSymbolicDimensions(like, names.data(), rank));
    const int64_t last = evaluate(output.shape.dims[rank - 1], sizes);
    if (output.alias < 0 && last > 0) {
        dims[rank - 1] = last;
        names[rank - 1] = "";
    }
    for (size_t i = 0; i < rank; ++i) {
        // ONNX Runtime would take the -1 for a size.
        if (dims[i] < 0 && *names[i] == '\0') return;
    }
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    check(api, api.GetTensorElementType(like, &element));
    OrtTensorTypeAndShapeInfo* info = nullptr;
    check(api, api.CreateTensorTypeAndShapeInfo(&info));
    OrtStatus* status = api.SetTensorElementType(info, element);
    if (status == nullptr) status = api.SetDimensions(info, dims.data(), rank);
    if (status == nullptr) status = api.SetSymbolicDimensions(info, names.data(), rank);
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
        const Sizes sizes = read_sizes(custom, context);
        for (int i = 0; i < custom.row->output_count; ++i) infer_shape(custom, context, sizes, i);
    }));
    return nullptr;
}

}  // namespace aim_edge
