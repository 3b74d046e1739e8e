// Rows that a block's threads take four neighbours at a time: loads, stores, and which widths there are.
#pragma once

#include <type_traits>

#include "device_math.cuh"
#include "host.h"

namespace aim_kernels {
namespace detail {

constexpr int kMostFours = 8192;  // the widest row

template <typename T>
__device__ __forceinline__ void load4(const T* from, float (&out)[4]) {
    if constexpr (sizeof(T) == 4) {
        const float4 raw = *reinterpret_cast<const float4*>(from);
        out[0] = raw.x, out[1] = raw.y, out[2] = raw.z, out[3] = raw.w;
    } else {
        union Bits {
            uint2 raw;
            T items[4];
            __device__ Bits() {}
        } bits;
        bits.raw = *reinterpret_cast<const uint2*>(from);
#pragma unroll
        for (int i = 0; i < 4; ++i) out[i] = to_float(bits.items[i]);
    }
}

template <typename T>
__device__ __forceinline__ void store4(T* to, const float (&values)[4]) {
    if constexpr (sizeof(T) == 4) {
        *reinterpret_cast<float4*>(to) = make_float4(values[0], values[1], values[2], values[3]);
    } else {
        union Bits {
            uint2 raw;
            T items[4];
            __device__ Bits() {}
        } bits;
#pragma unroll
        for (int i = 0; i < 4; ++i) from_float(bits.items[i], values[i]);
        *reinterpret_cast<uint2*>(to) = bits.raw;
    }
}

// Calls with the threads of a block and the fours of a thread, as constants, that a row of `width` takes.
template <typename Launch>
Status with_threads(int64_t width, Launch launch) noexcept {
    constexpr std::integral_constant<int, 1> one{};
    constexpr std::integral_constant<int, 2> two{};
    if (width <= 1024) return launch(std::integral_constant<int, 256>(), one);
    if (width <= 2048) return launch(std::integral_constant<int, 256>(), two);
    if (width <= 4096) return launch(std::integral_constant<int, 512>(), two);
    return launch(std::integral_constant<int, 1024>(), two);
}

inline Status check_fours(const char* op, const char* name, int64_t width) noexcept {
    if (width >= 4 && width <= kMostFours && width % 4 == 0) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: %s is %lld; supported: 4 to %d in steps of 4", op, name,
                static_cast<long long>(width), kMostFours);
}

inline Status check_vector_index(const char* op, const char* name, int32_t index, int64_t vectors) noexcept {
    if (index >= 0 && index < vectors) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: %s is %d; supported: 0 to vectors - 1, where vectors is %lld", op, name,
                index, static_cast<long long>(vectors));
}

}  // namespace detail
}  // namespace aim_kernels
