// What TensorRT asks of an operator while it builds an engine: formats, types and shapes.
#include "log.h"
#include "operator.h"
#include "types.h"

namespace aim_edge {

using nvinfer1::DataType;
using nvinfer1::PluginTensorDesc;

namespace {

// Images of float16 may have their channels last, padded to 8: what TensorRT's convolutions want of them.
bool is_supported_format(const TensorRow& row, const PluginTensorDesc& found) noexcept {
    if (found.format == nvinfer1::TensorFormat::kLINEAR) return true;
    const bool whole = found.dims.nbDims == 4 && found.dims.d[1] > 0 && found.dims.d[1] % 8 == 0;
    return row.channels_last && whole && found.type == DataType::kHALF &&
           found.format == nvinfer1::TensorFormat::kHWC8;
}

}  // namespace

int Operator::aliased_input(int index) const noexcept {
    return index < 0 || index >= output_count() ? -1 : mTensors.outputs[index]->alias;
}

bool Operator::supports(int pos, const PluginTensorDesc* tensors, int inputs, int outputs) const noexcept {
    if (inputs != input_count() || outputs != output_count() || pos < 0 || pos >= inputs + outputs) return false;
    const auto row_of = [&](int i) { return i < inputs ? mTensors.inputs[i] : mTensors.outputs[i - inputs]; };
    const Element element = row_of(pos)->element;
    if (!is_supported_format(*row_of(pos), tensors[pos])) return false;
    if (!is_supported(element, tensors[pos].type)) return false;
    for (int i = 0; i < pos; ++i) {
        if (row_of(i)->element != element) continue;
        const bool same_layout = !row_of(i)->channels_last || tensors[i].format == tensors[pos].format;
        return tensors[i].type == tensors[pos].type && same_layout;
    }
    return true;
}

DataType Operator::output_type(int index, const DataType* inputs, int count) const noexcept {
    const bool known = index >= 0 && index < output_count();
    for (int i = 0; known && i < input_count() && i < count; ++i) {
        if (mTensors.inputs[i]->element == mTensors.outputs[index]->element) return inputs[i];
    }
    return DataType::kFLOAT;
}

bool Operator::output_shape(int index, const nvinfer1::DimsExprs* inputs, int count, nvinfer1::DimsExprs& shape,
                            nvinfer1::IExprBuilder& builder) const noexcept {
    if (index < 0 || index >= output_count() || count != input_count()) {
        log_error(mRow->name, "output %d of %d inputs; expected %d outputs, %d inputs", index, count, output_count(),
                  input_count());
        return false;
    }
    Sizes sizes = mAttributes.sizes;
    const nvinfer1::IDimensionExpr* bound[kSymbolCount] = {};
    for (int i = 0; i < count; ++i) {
        const ShapeRow& expected = shape_of(*mRow, *mTensors.inputs[i], mAttributes.sizes);
        nvinfer1::Dims dims;
        dims.nbDims = inputs[i].nbDims;
        for (int d = 0; d < inputs[i].nbDims; ++d) {
            const nvinfer1::IDimensionExpr* dim = inputs[i].d[d];
            dims.d[d] = dim->isConstant() ? dim->getConstantValue() : -1;
            const Symbol symbol = d < expected.rank ? bare_symbol(expected.dims[d]) : kOne;
            if (bound[symbol] == nullptr) bound[symbol] = dim;
        }
        if (!check_shape(*mRow, *mTensors.inputs[i], dims, sizes)) return false;
    }
    const TensorRow& output = *mTensors.outputs[index];
    if (output.alias >= 0) {
        shape = inputs[output.alias];
        return true;
    }
    shape.nbDims = output.shape.rank;
    for (int d = 0; d < shape.nbDims; ++d) {
        const Symbol symbol = bare_symbol(output.shape.dims[d]);
        const bool from_input = symbol != kOne && bound[symbol] != nullptr;
        const int64_t value = from_input ? 0 : evaluate(output.shape.dims[d], sizes);
        shape.d[d] = from_input ? bound[symbol] : builder.constant(static_cast<int32_t>(value));
    }
    return true;
}

}  // namespace aim_edge
