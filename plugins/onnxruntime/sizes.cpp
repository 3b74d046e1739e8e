#include "sizes.h"

namespace aim_edge {

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

const ShapeRow& shape_of(const OperatorRow& row, const TensorRow& tensor, const Sizes& sizes) noexcept {
    const bool mamba1 = row.kind == OperatorKind::kSelectiveScan && sizes.of[kKind] == 0;
    return mamba1 && tensor.mamba1_shape.rank > 0 ? tensor.mamba1_shape : tensor.shape;
}

}  // namespace aim_edge
