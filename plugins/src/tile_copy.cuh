// Tiles of a matrix into shared memory by one thread (sm_90 and later): boxes of 64 elements of 16 bits by some rows.
//
// A box's rows are 128 bytes that follow one another, their 16-byte pieces swizzled: piece i of row r is at i ^ (r % 8). So
// eight neighbours' pieces i lie in different banks, and wgmma reads them (swizzled_matrix). Narrower boxes, of 32 or 16
// elements, likewise: of their 4 or 2 pieces, i is at i ^ (r / 2 % 4) or i ^ (r / 4 % 2). What is outside of the matrix is
// zeros and counts as bytes all the same.
#pragma once

#include "bulk.cuh"
#include "host.h"

#ifdef AIM_KERNELS_EMULATED
#include "emulated_tile.h"
#else

#if CUDART_VERSION >= 12000
#include <cuda.h>
#endif

namespace aim_kernels {
namespace detail {

constexpr int kTileColumns = 64;  // 128 bytes

#if CUDART_VERSION >= 12000

// What a copy must know of its matrix. A parameter of a kernel, __grid_constant__.
struct TileMap {
    CUtensorMap map;
};

// Of a dense (rows, columns) matrix of 16-bit elements, 16-byte aligned, columns in steps of 8. At most 256 box_rows.
inline Status make_tile_map(const char* op, TileMap* out, const void* matrix, int64_t rows, int64_t columns, int box_rows,
                            int box_columns = kTileColumns) {
    // The driver's library is not linked: the runtime knows where it is.
    static const auto encode = [] {
        void* found = nullptr;
        cudaDriverEntryPointQueryResult result = cudaDriverEntryPointSymbolNotFound;
#if CUDART_VERSION >= 12050
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
        cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
        return result == cudaDriverEntryPointSuccess ? reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(found) : nullptr;
    }();
    if (encode == nullptr) return fail(Status::kCudaError, "%s: the driver has no cuTensorMapEncodeTiled", op);
    const cuuint64_t sizes[2] = {static_cast<cuuint64_t>(columns), static_cast<cuuint64_t>(rows)};
    const cuuint64_t stride[1] = {static_cast<cuuint64_t>(columns) * 2};
    const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_columns), static_cast<cuuint32_t>(box_rows)}, steps[2] = {1, 1};
    const CUtensorMapSwizzle swizzle = box_columns == 64   ? CU_TENSOR_MAP_SWIZZLE_128B
                                       : box_columns == 32 ? CU_TENSOR_MAP_SWIZZLE_64B
                                                           : CU_TENSOR_MAP_SWIZZLE_32B;
    // Bytes are bytes: bfloat16 goes as float16.
    const CUresult result =
        encode(&out->map, CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 2, const_cast<void*>(matrix), sizes, stride, box, steps,
               CU_TENSOR_MAP_INTERLEAVE_NONE, swizzle, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
               CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    if (result == CUDA_SUCCESS) return Status::kSuccess;
    return fail(Status::kCudaError, "%s: cuTensorMapEncodeTiled gave %d", op, static_cast<int>(result));
}

// The box whose first element is (row, column), to `target`, a multiple of 1024 bytes.
__device__ __forceinline__ void copy_tile(void* target, const TileMap& map, int column, int row, uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(
            shared_address(target)),
        "l"(&map), "r"(shared_address(barrier)), "r"(column), "r"(row)
        : "memory");
#endif
}

// The map itself, which the first copy would wait for.
__device__ __forceinline__ void prefetch_map(const TileMap& map) {
#if __CUDA_ARCH__ >= 900
    asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
#endif
}

#endif  // CUDART_VERSION >= 12000

}  // namespace detail
}  // namespace aim_kernels

#endif  // AIM_KERNELS_EMULATED
