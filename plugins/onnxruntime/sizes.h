// The named sizes of an operator's table row: its attributes, and what the shapes of its inputs bind.
#pragma once

#include <operator_table.h>  // generated, with the TensorRT plugins; knows nothing of TensorRT

#include <cstdint>

namespace aim_edge {

// Integer attributes (a string's index in its list) and dimensions by name. 0: not known.
struct Sizes {
    int64_t of[kSymbolCount] = {};
};

struct Attributes {
    Sizes sizes;
    float eps = 0.0f;
};

inline bool present(const TensorRow& tensor, const Attributes& attributes) noexcept {
    return tensor.condition == kOne || attributes.sizes.of[tensor.condition] != 0;
}

// The name that a dimension consists of, or kOne if it is anything else.
Symbol bare_symbol(const DimRow& dim) noexcept;

// 0 if a name in it is not known.
int64_t evaluate(const DimRow& dim, const Sizes& sizes) noexcept;

const ShapeRow& shape_of(const OperatorRow& row, const TensorRow& tensor, const Sizes& sizes) noexcept;

}  // namespace aim_edge
