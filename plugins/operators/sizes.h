// The sizes of an operator: its integer attributes, and what the shapes of its inputs bind, judged by the table.
#pragma once

#include <cstdint>

#include "operator_table.h"

namespace aim_edge {

// Integer attributes (a string's index in its list) and dimensions by name. 0: not known.
struct Sizes {
    int64_t of[kSymbolCount] = {};
};

struct Attributes {
    Sizes sizes;
    Reals reals;
};

// An operator's tensors as the network has them: those whose condition holds, in the table's order.
struct Tensors {
    int input_count = 0;
    const TensorRow* inputs[kMaxInputs] = {};
    int output_count = 0;
    const TensorRow* outputs[kMaxOutputs] = {};
};

Tensors tensors_of(const OperatorRow& row, const Sizes& sizes) noexcept;

const ShapeRow& shape_of(const OperatorRow& row, const TensorRow& tensor, const Sizes& sizes) noexcept;

// The only name in a dimension such as "height" or "64 * chunks", or kOne if it is anything else.
Symbol only_symbol(const DimRow& dim) noexcept;

// The name that a dimension consists of, or kOne if it is anything else.
Symbol bare_symbol(const DimRow& dim) noexcept;

// 0 if a name in it is not known.
int64_t evaluate(const DimRow& dim, const Sizes& sizes) noexcept;

// Whether an operator has the convolution's channels as conv_dim: the attributes give them, though the table leaves them
// open.
bool has_conv_dim(OperatorKind kind) noexcept;
int64_t conv_dim_of(const Sizes& sizes) noexcept;

// What an integer attribute other than the version may be, such as "0 or 1", if it may not be `value`; else null.
const char* expected_instead(const AttributeRow& attribute, int64_t value) noexcept;

// The dimensions that a framework found; -1: not known yet.
struct Extents {
    const int64_t* dims;
    int rank;
};

// Whether `found` is of that shape. Adds the names that it binds to `sizes`.
bool bind_shape(const ShapeRow& shape, const Extents& found, Sizes& sizes) noexcept;

// "'x' has shape (3, 5); expected (rows, length, channels), here (3, any, any)".
struct ShapeMessage {
    ShapeMessage(const TensorRow& tensor, const ShapeRow& shape, const Extents& found, const Sizes& sizes) noexcept;
    char text[1024];
};

}  // namespace aim_edge
