// The tensor core and copy instructions of sm_80 and later that the chunked scan uses, and the layouts they fix.
//
// With g = lane / 4 and q = lane % 4, one m16n8k16 product takes and gives, a lane:
//   a[0] (g, 2q..2q+1)   a[1] (g+8, 2q..)   a[2] (g, 2q+8..)   a[3] (g+8, 2q+8..)     rows m, columns k
//   b[0] (2q..2q+1, g)   b[1] (2q+8.., g)                                             rows k, column n
//   c[0], c[1] (g, 2q), (g, 2q+1)   c[2], c[3] (g+8, 2q), (g+8, 2q+1)                 rows m, columns n
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <cstdint>

namespace aim_kernels {
namespace detail {

template <typename T>
__device__ __forceinline__ unsigned pack2(float low, float high);

template <>
__device__ __forceinline__ unsigned pack2<__half>(float low, float high) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&pair);
}

template <>
__device__ __forceinline__ unsigned pack2<__nv_bfloat16>(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return *reinterpret_cast<const unsigned*>(&pair);
}

template <typename T>
__device__ __forceinline__ float2 unpack2(unsigned pair);

template <>
__device__ __forceinline__ float2 unpack2<__half>(unsigned pair) {
    return __half22float2(*reinterpret_cast<const __half2*>(&pair));
}

template <>
__device__ __forceinline__ float2 unpack2<__nv_bfloat16>(unsigned pair) {
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&pair));
}

}  // namespace detail
}  // namespace aim_kernels

#ifdef AIM_KERNELS_EMULATED
#include "emulated_mma.h"
#else

namespace aim_kernels {
namespace detail {

// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8 and receives elements
// (lane / 4, 2 * (lane % 4)..) of each.
__device__ __forceinline__ void ldmatrix(unsigned (&out)[4], const void* row) {
#if __CUDA_ARCH__ >= 800
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
#endif
}

// Four 8x8 matrices of 16-bit elements to shared memory (sm_90 and later): a lane's i-th pair is of matrix i, row lane / 4,
// columns 2 (lane % 4) and the next; lane 8 i + r says where row r of matrix i begins.
__device__ __forceinline__ void store_matrices(void* row, const unsigned (&v)[4]) {
#if __CUDA_ARCH__ >= 900
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(v[0]),
                 "r"(v[1]), "r"(v[2]), "r"(v[3])
                 : "memory");
#endif
}

// The same, each matrix transposed on the way.
__device__ __forceinline__ void ldmatrix_trans(unsigned (&out)[4], const void* row) {
#if __CUDA_ARCH__ >= 800
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "r"(address)
                 : "memory");
#endif
}

// An 8x8 matrix of 16-bit elements, of which a lane has (lane / 4, 2 * (lane % 4)..), transposed.
__device__ __forceinline__ unsigned transpose8x8(unsigned pair) {
    unsigned result = 0;
#if __CUDA_ARCH__ >= 800
    asm volatile("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
#endif
    return result;
}

template <typename T>
__device__ __forceinline__ void mma(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1);

template <>
__device__ __forceinline__ void mma<__half>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

template <>
__device__ __forceinline__ void mma<__nv_bfloat16>(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if __CUDA_ARCH__ >= 800
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#endif
}

// 16 bytes from global to shared memory without passing through registers; zeros where `inside` is false, for which
// `source` must still be a valid address.
__device__ __forceinline__ void copy_async(void* target, const void* source, bool inside) {
#if __CUDA_ARCH__ >= 800
    const unsigned address = static_cast<unsigned>(__cvta_generic_to_shared(target));
    const int bytes = inside ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(address), "l"(source), "r"(bytes) : "memory");
#endif
}

// The same value, of which the compiler knows nothing: what is derived from it in a loop is computed there again
// instead of being kept in registers throughout.
__device__ __forceinline__ int opaque(int value) {
    asm volatile("" : "+r"(value));
    return value;
}

// Of this thread's copies. A barrier makes them visible to the others.
__device__ __forceinline__ void wait_for_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_all;" ::: "memory");
#endif
}

// The copies so far are a group; waits until only LEFT of the groups, the latest, may still be on their way.
__device__ __forceinline__ void close_copies() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int LEFT>
__device__ __forceinline__ void wait_for_all_but() {
#if __CUDA_ARCH__ >= 800
    asm volatile("cp.async.wait_group %0;" ::"n"(LEFT) : "memory");
#endif
}

}  // namespace detail
}  // namespace aim_kernels

#endif  // AIM_KERNELS_EMULATED
