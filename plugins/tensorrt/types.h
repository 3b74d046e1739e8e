// TensorRT's data types as the kernels know them.
#pragma once

#include <NvInferRuntime.h>
#include <aim_kernels/common.h>

#include "table.h"

namespace aim_edge {

inline bool to_dtype(nvinfer1::DataType type, aim_kernels::DType& dtype) noexcept {
    using aim_kernels::DType;
    using nvinfer1::DataType;
    switch (type) {
        case DataType::kFLOAT: dtype = DType::kFloat32; return true;
        case DataType::kHALF: dtype = DType::kFloat16; return true;
#if NV_TENSORRT_MAJOR >= 9
        case DataType::kBF16: dtype = DType::kBFloat16; return true;
#endif
        default: return false;
    }
}

inline bool is_supported(Element element, nvinfer1::DataType type) noexcept {
    using nvinfer1::DataType;
    auto dtype = aim_kernels::DType::kFloat32;
    switch (element) {
        case Element::kActivation: return to_dtype(type, dtype);
        case Element::kState: return to_dtype(type, dtype) && dtype != aim_kernels::DType::kBFloat16;
        case Element::kHalf: return to_dtype(type, dtype) && dtype != aim_kernels::DType::kFloat32;
        case Element::kFloat32: return type == DataType::kFLOAT;
        case Element::kInt32: return type == DataType::kINT32;
    }
    return false;
}

}  // namespace aim_edge
