#include "shapes.h"

#include <cstdio>

#include "log.h"

namespace aim_edge {
namespace {

bool present(const TensorRow& tensor, const Attributes& attributes) noexcept {
    return tensor.condition == kOne || attributes.sizes.of[tensor.condition] != 0;
}

// Text that grows in a fixed buffer.
struct Line {
    char text[256] = "";
    int used = 0;
    void add(const char* format, const char* word, long long number) noexcept {
        const int left = static_cast<int>(sizeof(text)) - used;
        const int written = word != nullptr ? std::snprintf(text + used, static_cast<size_t>(left), format, word)
                                            : std::snprintf(text + used, static_cast<size_t>(left), format, number);
        used += written < 0 ? 0 : (written < left ? written : left - 1);
    }
};

void log_shape(const OperatorRow& row, const TensorRow& tensor, const ShapeRow& shape, const nvinfer1::Dims& dims,
               const Sizes& sizes) noexcept {
    Line found, names, numbers;
    for (int i = 0; i < dims.nbDims && i < nvinfer1::Dims::MAX_DIMS; ++i) {
        found.add(i ? ", %lld" : "%lld", nullptr, static_cast<long long>(dims.d[i]));
    }
    for (int i = 0; i < shape.rank; ++i) {
        names.add(i ? ", %s" : "%s", shape.dims[i].text, 0);
        const int64_t value = evaluate(shape.dims[i], sizes);
        if (value > 0) {
            numbers.add(i ? ", %lld" : "%lld", nullptr, static_cast<long long>(value));
        } else {
            numbers.add(i ? ", %s" : "%s", "any", 0);
        }
    }
    log_error(row.name, "'%s' has shape (%s); expected (%s), here (%s)", tensor.name, found.text, names.text,
              numbers.text);
}

}  // namespace

Tensors tensors_of(const OperatorRow& row, const Attributes& attributes) noexcept {
    Tensors tensors;
    for (int i = 0; i < row.input_count; ++i) {
        if (present(row.inputs[i], attributes)) tensors.inputs[tensors.input_count++] = &row.inputs[i];
    }
    for (int i = 0; i < row.output_count; ++i) {
        if (present(row.outputs[i], attributes)) tensors.outputs[tensors.output_count++] = &row.outputs[i];
    }
    return tensors;
}

const ShapeRow& shape_of(const OperatorRow& row, const TensorRow& tensor, const Attributes& attributes) noexcept {
    const bool mamba1 = row.kind == OperatorKind::kSelectiveScan && attributes.sizes.of[kKind] == 0;
    return mamba1 && tensor.mamba1_shape.rank > 0 ? tensor.mamba1_shape : tensor.shape;
}

Symbol bare_symbol(const DimRow& dim) noexcept {
    const Term& term = dim.term[0];
    return dim.terms == 1 && term.factor == 1 && term.symbols[1] == kOne ? term.symbols[0] : kOne;
}

int64_t evaluate(const DimRow& dim, const Sizes& sizes) noexcept {
    int64_t sum = 0;
    for (int i = 0; i < dim.terms; ++i) {
        int64_t product = dim.term[i].factor;
        for (Symbol symbol : dim.term[i].symbols) {
            if (symbol == kOne) continue;
            if (sizes.of[symbol] == 0) return 0;
            product *= sizes.of[symbol];
        }
        sum += product;
    }
    return sum;
}

bool check_shape(const OperatorRow& row, const TensorRow& tensor, const Attributes& attributes,
                 const nvinfer1::Dims& dims, Sizes& sizes) noexcept {
    const ShapeRow& shape = shape_of(row, tensor, attributes);
    bool matches = dims.nbDims == shape.rank;
    for (int i = 0; matches && i < shape.rank; ++i) {
        const int64_t found = dims.d[i];
        if (found == -1) continue;
        const Symbol symbol = bare_symbol(shape.dims[i]);
        if (symbol != kOne && sizes.of[symbol] == 0) sizes.of[symbol] = found;
        const int64_t expected = evaluate(shape.dims[i], sizes);
        matches = found > 0 && (expected == 0 || found == expected);
    }
    if (!matches) log_shape(row, tensor, shape, dims, sizes);
    return matches;
}

}  // namespace aim_edge
