#include "sizes.h"

#include <algorithm>
#include <cstdio>

namespace aim_edge {
namespace {

bool present(const TensorRow& tensor, const Sizes& sizes) noexcept {
    return tensor.condition == kOne || sizes.of[tensor.condition] != 0;
}

// Text that grows in a fixed buffer.
template <size_t kSize>
struct Text {
    char (&text)[kSize];
    size_t used = 0;
    template <typename Item>
    void add(const char* format, Item item) noexcept {
        const int written = std::snprintf(text + used, kSize - used, format, item);
        if (written > 0) used = std::min(used + static_cast<size_t>(written), kSize - 1);
    }
};

}  // namespace

Tensors tensors_of(const OperatorRow& row, const Sizes& sizes) noexcept {
    Tensors tensors;
    for (int i = 0; i < row.input_count; ++i) {
        if (present(row.inputs[i], sizes)) tensors.inputs[tensors.input_count++] = &row.inputs[i];
    }
    for (int i = 0; i < row.output_count; ++i) {
        if (present(row.outputs[i], sizes)) tensors.outputs[tensors.output_count++] = &row.outputs[i];
    }
    return tensors;
}

const ShapeRow& shape_of(const OperatorRow& row, const TensorRow& tensor, const Sizes& sizes) noexcept {
    const bool mamba1 = row.kind == OperatorKind::kSelectiveScan && sizes.of[kKind] == 0;
    return mamba1 && tensor.mamba1_shape.rank > 0 ? tensor.mamba1_shape : tensor.shape;
}

Symbol only_symbol(const DimRow& dim) noexcept {
    const Term& term = dim.term[0];
    return dim.terms == 1 && term.factor > 0 && term.symbols[1] == kOne ? term.symbols[0] : kOne;
}

Symbol bare_symbol(const DimRow& dim) noexcept {
    return dim.term[0].factor == 1 ? only_symbol(dim) : kOne;
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

bool has_conv_dim(OperatorKind kind) noexcept {
    return kind == OperatorKind::kMamba2DecodeStep || kind == OperatorKind::kMamba2LazyStep ||
           kind == OperatorKind::kMamba2Layers || kind == OperatorKind::kMamba2LayersQuantized ||
           kind == OperatorKind::kMamba2Step || kind == OperatorKind::kMamba2StepQuantized;
}

int64_t conv_dim_of(const Sizes& sizes) noexcept {
    const int64_t* size = sizes.of;
    return size[kNheads] * size[kHeaddim] + 2 * size[kNgroups] * size[kDState];
}

const char* expected_instead(const AttributeRow& attribute, int64_t value) noexcept {
    if (attribute.allowed_count > 0) return value < 0 || value >= attribute.allowed_count ? "0 or 1" : nullptr;
    if (value >= attribute.least && value <= INT32_MAX) return nullptr;
    return attribute.least == 0 ? "0 to 2147483647" : "1 to 2147483647";
}

bool bind_shape(const ShapeRow& shape, const Extents& found, Sizes& sizes) noexcept {
    bool matches = found.rank == shape.rank;
    for (int i = 0; matches && i < shape.rank; ++i) {
        const int64_t dim = found.dims[i];
        if (dim == -1) continue;
        const Symbol symbol = only_symbol(shape.dims[i]);
        const int64_t factor = shape.dims[i].term[0].factor;
        const bool binds = symbol != kOne && sizes.of[symbol] == 0 && dim > 0 && dim % factor == 0;
        if (binds) sizes.of[symbol] = dim / factor;
        const int64_t expected = evaluate(shape.dims[i], sizes);
        const bool open = symbol == kOne && expected == 0;
        matches = dim > 0 && (open || dim == expected);
    }
    return matches;
}

ShapeMessage::ShapeMessage(const TensorRow& tensor, const ShapeRow& shape, const Extents& found,
                           const Sizes& sizes) noexcept {
    Text<sizeof(text)> line{text};
    line.add("'%s' has shape (", tensor.name);
    for (int i = 0; i < found.rank; ++i) line.add(i ? ", %lld" : "%lld", static_cast<long long>(found.dims[i]));
    line.add("%s", "); expected (");
    for (int i = 0; i < shape.rank; ++i) line.add(i ? ", %s" : "%s", shape.dims[i].text);
    line.add("%s", "), here (");
    for (int i = 0; i < shape.rank; ++i) {
        const int64_t value = evaluate(shape.dims[i], sizes);
        if (value > 0) {
            line.add(i ? ", %lld" : "%lld", static_cast<long long>(value));
        } else {
            line.add(i ? ", %s" : "%s", "any");
        }
    }
    line.add("%s", ")");
}

}  // namespace aim_edge
