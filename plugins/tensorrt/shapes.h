// Shapes of an operator's tensors against the table.
#pragma once

#include "attributes.h"

namespace aim_edge {

// An operator's tensors as the network has them: those whose condition holds, in the table's order.
struct Tensors {
    int input_count = 0;
    const TensorRow* inputs[kMaxInputs] = {};
    int output_count = 0;
    const TensorRow* outputs[kMaxOutputs] = {};
};

Tensors tensors_of(const OperatorRow& row, const Attributes& attributes) noexcept;

const ShapeRow& shape_of(const OperatorRow& row, const TensorRow& tensor, const Attributes& attributes) noexcept;

// The name that a dimension consists of, or kOne if it is anything else.
Symbol bare_symbol(const DimRow& dim) noexcept;

// 0 if a name in it is not known.
int64_t evaluate(const DimRow& dim, const Sizes& sizes) noexcept;

// Compares `dims` with the table and adds the names that it binds to `sizes`; a dimension of -1 is not known yet and
// passes. False after logging the shape that was found and the one that was expected.
bool check_shape(const OperatorRow& row, const TensorRow& tensor, const Attributes& attributes,
                 const nvinfer1::Dims& dims, Sizes& sizes) noexcept;

}  // namespace aim_edge
