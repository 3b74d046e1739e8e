#include "shapes.h"

#include <algorithm>

#include "log.h"

namespace aim_edge {

bool check_shape(const OperatorRow& row, const TensorRow& tensor, const nvinfer1::Dims& dims, Sizes& sizes) noexcept {
    // 32 bits wide in TensorRT 8 and 9.
    int64_t wide[nvinfer1::Dims::MAX_DIMS] = {};
    for (int i = 0; i < dims.nbDims && i < nvinfer1::Dims::MAX_DIMS; ++i) wide[i] = dims.d[i];
    const Extents found{wide, std::min<int>(dims.nbDims, nvinfer1::Dims::MAX_DIMS)};
    const ShapeRow& shape = shape_of(row, tensor, sizes);
    if (bind_shape(shape, found, sizes)) return true;
    log_error(row.name, "%s", ShapeMessage(tensor, shape, found, sizes).text);
    return false;
}

}  // namespace aim_edge
