// Instructions of sm_90a: products of a warpgroup from shared memory.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "bulk.cuh"

#if defined(AIM_KERNELS_EMULATED)
#include "emulated_tile.h"
#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)

namespace aim_kernels {
namespace detail {

// What this thread wrote to shared memory is visible to wgmma and bulk copies after it.
__device__ __forceinline__ void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Of a matrix without swizzle whose 8x8 cores (8 rows of 16 bytes) are 128 bytes in a row: the next core along k is
// `along_k` bytes on, the next eight rows `along_rows`. Addresses are added to it in steps of 16 bytes.
__device__ __forceinline__ uint64_t matrix(unsigned address, unsigned along_k, unsigned along_rows) {
    return static_cast<uint64_t>((address & 0x3ffff) >> 4) | static_cast<uint64_t>(along_k >> 4) << 16 |
           static_cast<uint64_t>(along_rows >> 4) << 32;
}

// Of a matrix whose rows are 128 bytes, each with its 16-byte pieces swizzled as copy_tile leaves them, at a
// multiple of 1024 bytes. The next 16 along k are 32 bytes on.
__device__ __forceinline__ uint64_t swizzled_matrix(const void* pointer) {
    return static_cast<uint64_t>((shared_address(pointer) & 0x3ffff) >> 4) | uint64_t{1} << 16 | uint64_t{1024 >> 4} << 32 |
           uint64_t{1} << 62;
}

// The same some pieces of 16 bytes further along k. An address has 14 bits, so that nothing is carried out of 32.
__device__ __forceinline__ uint64_t along_k(uint64_t matrix, int pieces) {
    return matrix & 0xffffffff00000000u | static_cast<unsigned>(matrix) + static_cast<unsigned>(pieces);
}

__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int LEFT>
__device__ __forceinline__ void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(LEFT) : "memory");
}

#define AIM_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define AIM_D16(i) AIM_D4(i), AIM_D4(i + 4), AIM_D4(i + 8), AIM_D4(i + 12)
#define AIM_D32(i) AIM_D16(i), AIM_D16(i + 16)
#define AIM_D64(i) AIM_D32(i), AIM_D32(i + 32)
// The accumulators' numbers, and those of a, b and `adds`, which follow them.
#define AIM_WGMMA(type, n, numbers, at_a, at_b, at_adds, ...)                                                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" at_adds ", 0;\n"                                            \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" numbers "}, %" at_a ", %" at_b \
                 ", p, 1, 1, 0, 0;\n}"                                                                             \
                 : __VA_ARGS__                                                                                     \
                 : "l"(a), "l"(b), "r"(static_cast<int>(adds)))
// The same with a in the four registers of `a`, whose numbers are `at_a`.
#define AIM_WGMMA_REGISTERS(type, n, numbers, at_a, at_b, at_adds, ...)                                            \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" at_adds ", 0;\n"                                            \
                 "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." type "." type " {" numbers "}, {" at_a "}, %" at_b \
                 ", p, 1, 1, 0;\n}"                                                                                \
                 : __VA_ARGS__                                                                                     \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(adds)))
#define AIM_N4 "%0, %1, %2, %3"
#define AIM_P0 "%0, %1, %2, %3, %4, %5, %6, %7"
#define AIM_P1 "%8, %9, %10, %11, %12, %13, %14, %15"
#define AIM_P2 "%16, %17, %18, %19, %20, %21, %22, %23"
#define AIM_P3 "%24, %25, %26, %27, %28, %29, %30, %31"
#define AIM_P4 "%32, %33, %34, %35, %36, %37, %38, %39"
#define AIM_P5 "%40, %41, %42, %43, %44, %45, %46, %47"
#define AIM_P6 "%48, %49, %50, %51, %52, %53, %54, %55"
#define AIM_P7 "%56, %57, %58, %59, %60, %61, %62, %63"
#define AIM_P8 "%64, %65, %66, %67, %68, %69, %70, %71"
#define AIM_P9 "%72, %73, %74, %75, %76, %77, %78, %79"
#define AIM_P10 "%80, %81, %82, %83, %84, %85, %86, %87"
#define AIM_P11 "%88, %89, %90, %91, %92, %93, %94, %95"
#define AIM_P12 "%96, %97, %98, %99, %100, %101, %102, %103"
#define AIM_P13 "%104, %105, %106, %107, %108, %109, %110, %111"
#define AIM_P14 "%112, %113, %114, %115, %116, %117, %118, %119"
#define AIM_P15 "%120, %121, %122, %123, %124, %125, %126, %127"
#define AIM_N16 AIM_P0 ", " AIM_P1
#define AIM_N32 AIM_N16 ", " AIM_P2 ", " AIM_P3
#define AIM_N48 AIM_N32 ", " AIM_P4 ", " AIM_P5
#define AIM_N56 AIM_N48 ", " AIM_P6
#define AIM_N64 AIM_N56 ", " AIM_P7
#define AIM_N72 AIM_N64 ", " AIM_P8
#define AIM_N96 AIM_N64 ", " AIM_P8 ", " AIM_P9 ", " AIM_P10 ", " AIM_P11
#define AIM_N104 AIM_N96 ", " AIM_P12
#define AIM_N128 AIM_N96 ", " AIM_P12 ", " AIM_P13 ", " AIM_P14 ", " AIM_P15
#define AIM_WGMMA_ANY(type)                                                                                        \
    if constexpr (SIZE == 4) AIM_WGMMA(type, "8", AIM_N4, "4", "5", "6", AIM_D4(0));                               \
    if constexpr (SIZE == 16) AIM_WGMMA(type, "32", AIM_N16, "16", "17", "18", AIM_D16(0));                        \
    if constexpr (SIZE == 32) AIM_WGMMA(type, "64", AIM_N32, "32", "33", "34", AIM_D32(0));                        \
    if constexpr (SIZE == 56)                                                                                      \
    AIM_WGMMA(type, "112", AIM_N56, "56", "57", "58", AIM_D32(0), AIM_D16(32), AIM_D4(48), AIM_D4(52));            \
    if constexpr (SIZE == 64) AIM_WGMMA(type, "128", AIM_N64, "64", "65", "66", AIM_D64(0));                       \
    if constexpr (SIZE == 72) AIM_WGMMA(type, "144", AIM_N72, "72", "73", "74", AIM_D64(0), AIM_D4(64), AIM_D4(68)); \
    if constexpr (SIZE == 104)                                                                                     \
    AIM_WGMMA(type, "208", AIM_N104, "104", "105", "106", AIM_D64(0), AIM_D32(64), AIM_D4(96), AIM_D4(100));       \
    if constexpr (SIZE == 128) AIM_WGMMA(type, "256", AIM_N128, "128", "129", "130", AIM_D64(0), AIM_D64(64))

#define AIM_WGMMA_REGISTERS_ANY(type)                                                                              \
    if constexpr (SIZE == 16)                                                                                      \
    AIM_WGMMA_REGISTERS(type, "32", AIM_N16, "%16, %17, %18, %19", "20", "21", AIM_D16(0));                        \
    if constexpr (SIZE == 32)                                                                                      \
    AIM_WGMMA_REGISTERS(type, "64", AIM_N32, "%32, %33, %34, %35", "36", "37", AIM_D32(0));                        \
    if constexpr (SIZE == 64)                                                                                      \
    AIM_WGMMA_REGISTERS(type, "128", AIM_N64, "%64, %65, %66, %67", "68", "69", AIM_D64(0));                       \
    if constexpr (SIZE == 128)                                                                                     \
    AIM_WGMMA_REGISTERS(type, "256", AIM_N128, "%128, %129, %130, %131", "132", "133", AIM_D64(0), AIM_D64(64))

// d (64, N) = a (64, 16) b (N, 16)^T, added to d if `adds`. With g = lane / 4, q = lane % 4 and w the warp of the four,
// d[4j..] are (16w + g, 8j + 2q), its right neighbour, (16w + g + 8, 8j + 2q) and its right neighbour.
template <typename T, int SIZE>
__device__ __forceinline__ void wgmma(float (&d)[SIZE], uint64_t a, uint64_t b, bool adds) {
    static_assert(SIZE == 4 || SIZE == 16 || SIZE == 32 || SIZE == 56 || SIZE == 64 || SIZE == 72 || SIZE == 104 ||
                      SIZE == 128,
                  "8, 32, 64, 112, 128, 144, 208 or 256 columns");
    if constexpr (__is_same(T, __nv_bfloat16)) {
        AIM_WGMMA_ANY("bf16");
    } else {
        AIM_WGMMA_ANY("f16");
    }
}

// The same with a in registers, as in mma.cuh by d's lanes: (16w + g, 2q..), (16w + g + 8, 2q..), (16w + g, 2q + 8..) and
// (16w + g + 8, 2q + 8..). They are read until wgmma_wait says otherwise.
template <typename T, int SIZE>
__device__ __forceinline__ void wgmma(float (&d)[SIZE], const unsigned (&a)[4], uint64_t b, bool adds) {
    static_assert(SIZE == 16 || SIZE == 32 || SIZE == 64 || SIZE == 128, "32, 64, 128 or 256 columns");
    if constexpr (__is_same(T, __nv_bfloat16)) {
        AIM_WGMMA_REGISTERS_ANY("bf16");
    } else {
        AIM_WGMMA_REGISTERS_ANY("f16");
    }
}

#undef AIM_WGMMA_REGISTERS_ANY
#undef AIM_WGMMA_REGISTERS
#undef AIM_WGMMA_ANY
#undef AIM_N128
#undef AIM_N104
#undef AIM_N96
#undef AIM_N72
#undef AIM_N64
#undef AIM_N56
#undef AIM_N48
#undef AIM_N32
#undef AIM_N16
#undef AIM_P15
#undef AIM_P14
#undef AIM_P13
#undef AIM_P12
#undef AIM_P11
#undef AIM_P10
#undef AIM_P9
#undef AIM_P8
#undef AIM_P7
#undef AIM_P6
#undef AIM_P5
#undef AIM_P4
#undef AIM_P3
#undef AIM_P2
#undef AIM_P1
#undef AIM_P0
#undef AIM_N4
#undef AIM_WGMMA
#undef AIM_D64
#undef AIM_D32
#undef AIM_D16
#undef AIM_D4

}  // namespace detail
}  // namespace aim_kernels

#endif  // __CUDA_ARCH_FEAT_SM90_ALL
