// What TensorRT asks of an operator while it builds an engine: formats, types and shapes.
#include "log.h"
#include "operator.h"
#include "types.h"

namespace aim_edge {

using nvinfer1::DataType;
using nvinfer1::PluginTensorDesc;

namespace {

// Images of 16 bits may have their channels last, padded to 8: what TensorRT's convolutions want of them.
bool is_supported_format(const TensorRow& row, const PluginTensorDesc& found) noexcept {
    if (found.format == nvinfer1::TensorFormat::kLINEAR) return row.images != Images::kChannelsLast;
    const bool whole = found.dims.nbDims == 4 && found.dims.d[1] > 0 && found.dims.d[1] % 8 == 0;
    return row.images != Images::kChannelsFirst && whole && is_supported(Element::kHalf, found.type) &&
           found.format == nvinfer1::TensorFormat::kHWC8;
}

using Expression = const nvinfer1::IDimensionExpr*;

// A dimension of which not all is known yet, from those that its names are bound to. Null: TensorRT has no memory.
Expression expression_of(const DimRow& dim, const Sizes& sizes, const Expression (&bound)[kSymbolCount],
                         nvinfer1::IExprBuilder& builder) noexcept {
    using nvinfer1::DimensionOperation;
    Expression sum = nullptr;
    for (int i = 0; i < dim.terms; ++i) {
        Expression product = builder.constant(dim.term[i].factor);
        for (Symbol symbol : dim.term[i].symbols) {
            if (symbol == kOne || product == nullptr) continue;
            const Expression value =
                bound[symbol] != nullptr ? bound[symbol] : builder.constant(static_cast<int32_t>(sizes.of[symbol]));
            product = value == nullptr ? nullptr : builder.operation(DimensionOperation::kPROD, *product, *value);
        }
        const bool first = i == 0;
        if (product == nullptr || (!first && sum == nullptr)) return nullptr;
        sum = first ? product : builder.operation(DimensionOperation::kSUM, *sum, *product);
    }
    return sum;
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
    if (!is_supported(asked_of(element), tensors[pos].type)) return false;
    const auto is_image = [&](int i) { return row_of(i)->images != Images::kChannelsFirst; };
    for (int i = 0; i < pos; ++i) {
        if (row_of(i)->element == element && tensors[i].type != tensors[pos].type) return false;
        if (is_image(i) && is_image(pos) && tensors[i].format != tensors[pos].format) return false;
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
    Expression bound[kSymbolCount] = {};
    for (int i = 0; i < count; ++i) {
        const ShapeRow& expected = shape_of(*mRow, *mTensors.inputs[i], mAttributes.sizes);
        nvinfer1::Dims dims;
        dims.nbDims = inputs[i].nbDims;
        for (int d = 0; d < inputs[i].nbDims; ++d) {
            const Expression dim = inputs[i].d[d];
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
        const DimRow& dim = output.shape.dims[d];
        const Symbol symbol = bare_symbol(dim);
        const int64_t value = evaluate(dim, sizes);
        if (symbol != kOne && bound[symbol] != nullptr) {
            shape.d[d] = bound[symbol];
        } else if (value > 0) {
            shape.d[d] = builder.constant(static_cast<int32_t>(value));
        } else {
            shape.d[d] = expression_of(dim, sizes, bound, builder);
        }
    }
    return true;
}

}  // namespace aim_edge
