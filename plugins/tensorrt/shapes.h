// Shapes of an operator's tensors against the table.
#pragma once

#include <NvInferRuntime.h>

#include "sizes.h"

namespace aim_edge {

// Compares `dims` with the table and adds the names that it binds to `sizes`; a dimension of -1 is not known yet and
// passes. False after logging the shape that was found and the one that was expected.
bool check_shape(const OperatorRow& row, const TensorRow& tensor, const nvinfer1::Dims& dims, Sizes& sizes) noexcept;

}  // namespace aim_edge
