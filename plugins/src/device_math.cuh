// Loads, stores and scalar functions that every kernel uses. All arithmetic is float32.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "aim_kernels/common.h"

namespace aim_kernels {
namespace detail {

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ __forceinline__ void from_float(float& out, float value) { out = value; }
__device__ __forceinline__ void from_float(__half& out, float value) { out = __float2half_rn(value); }
__device__ __forceinline__ void from_float(__nv_bfloat16& out, float value) { out = __float2bfloat16_rn(value); }

// Calls, on the host, with a value of the type that an activation's dtype stands for: one that has been checked.
template <typename Launch>
Status with_activation_type(DType dtype, Launch launch) noexcept {
    switch (dtype) {
        case DType::kFloat16: return launch(__half());
        case DType::kBFloat16: return launch(__nv_bfloat16());
        default: return launch(0.0f);
    }
}

// For values that are few beside a kernel's main traffic: the branch is the same for all threads, and one kernel then
// serves every activation type.
__device__ __forceinline__ float load_any(const void* base, DType dtype, int64_t index) {
    switch (dtype) {
        case DType::kFloat16: return to_float(static_cast<const __half*>(base)[index]);
        case DType::kBFloat16: return to_float(static_cast<const __nv_bfloat16*>(base)[index]);
        default: return static_cast<const float*>(base)[index];
    }
}

__device__ __forceinline__ void store_any(void* base, DType dtype, int64_t index, float value) {
    switch (dtype) {
        case DType::kFloat16: from_float(static_cast<__half*>(base)[index], value); break;
        case DType::kBFloat16: from_float(static_cast<__nv_bfloat16*>(base)[index], value); break;
        default: static_cast<float*>(base)[index] = value;
    }
}

// As T, or, where `single`, as float32.
template <typename T>
__device__ __forceinline__ void store_as(void* base, bool single, int64_t index, float value) {
    if (single) {
        static_cast<float*>(base)[index] = value;
    } else {
        from_float(static_cast<T*>(base)[index], value);
    }
}

// load_any's load in two halves, for values of which a thread wants several: load_any converts within its branch and so
// waits there, one latency a value. The bits wait for nothing until value_of.
__device__ __forceinline__ unsigned load_bits(const void* base, DType dtype, int64_t index) {
    if (dtype == DType::kFloat32) return static_cast<const unsigned*>(base)[index];
    return static_cast<const unsigned short*>(base)[index];
}

__device__ __forceinline__ void store_bits(void* base, DType dtype, int64_t index, unsigned bits) {
    if (dtype == DType::kFloat32) {
        static_cast<unsigned*>(base)[index] = bits;
    } else {
        static_cast<unsigned short*>(base)[index] = static_cast<unsigned short>(bits);
    }
}

__device__ __forceinline__ float value_of(unsigned bits, DType dtype) {
    union {
        unsigned bits;
        float value;
    } whole;
    // A bfloat16 is a float32's upper half.
    whole.bits = dtype == DType::kBFloat16 ? bits << 16 : bits;
    if (dtype != DType::kFloat16) return whole.value;
    __half_raw half;
    half.x = static_cast<unsigned short>(bits);
    return to_float(__half(half));
}

// 16 bytes as floats and back.
template <typename T>
struct Vec16 {
    static constexpr int kSize = 16 / sizeof(T);

    union Bits {
        uint4 raw;
        T items[kSize];
        __device__ Bits() {}
    };

    static __device__ __forceinline__ void unpack(const uint4& raw, float (&out)[kSize]) {
        Bits bits;
        bits.raw = raw;
#pragma unroll
        for (int i = 0; i < kSize; ++i) out[i] = to_float(bits.items[i]);
    }

    static __device__ __forceinline__ uint4 pack(const float (&values)[kSize]) {
        Bits bits;
#pragma unroll
        for (int i = 0; i < kSize; ++i) from_float(bits.items[i], values[i]);
        return bits.raw;
    }
};

// Four neighbouring elements of a state, by its runtime type. `index` is a multiple of 4 and the base is aligned.
__device__ __forceinline__ void load_state4(const void* base, DType dtype, int64_t index, float (&out)[4]) {
    if (dtype == DType::kFloat16) {
        const uint2 raw = *reinterpret_cast<const uint2*>(static_cast<const __half*>(base) + index);
        const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&raw.x));
        const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&raw.y));
        out[0] = low.x, out[1] = low.y, out[2] = high.x, out[3] = high.y;
    } else {
        const float4 raw = *reinterpret_cast<const float4*>(static_cast<const float*>(base) + index);
        out[0] = raw.x, out[1] = raw.y, out[2] = raw.z, out[3] = raw.w;
    }
}

__device__ __forceinline__ void store_state4(void* base, DType dtype, int64_t index, const float (&values)[4]) {
    if (dtype == DType::kFloat16) {
        const __half2 low = __floats2half2_rn(values[0], values[1]);
        const __half2 high = __floats2half2_rn(values[2], values[3]);
        uint2 raw;
        raw.x = *reinterpret_cast<const unsigned*>(&low);
        raw.y = *reinterpret_cast<const unsigned*>(&high);
        *reinterpret_cast<uint2*>(static_cast<__half*>(base) + index) = raw;
    } else {
        *reinterpret_cast<float4*>(static_cast<float*>(base) + index) =
            make_float4(values[0], values[1], values[2], values[3]);
    }
}

// The same for two.
__device__ __forceinline__ void load_state2(const void* base, DType dtype, int64_t index, float (&out)[2]) {
    const float2 two = dtype == DType::kFloat16
                           ? __half22float2(*reinterpret_cast<const __half2*>(static_cast<const __half*>(base) + index))
                           : *reinterpret_cast<const float2*>(static_cast<const float*>(base) + index);
    out[0] = two.x, out[1] = two.y;
}

__device__ __forceinline__ void store_state2(void* base, DType dtype, int64_t index, float first, float second) {
    if (dtype == DType::kFloat16) {
        *reinterpret_cast<__half2*>(static_cast<__half*>(base) + index) = __floats2half2_rn(first, second);
    } else {
        *reinterpret_cast<float2*>(static_cast<float*>(base) + index) = make_float2(first, second);
    }
}

// __fdividef is right to 2 units in the last place and, other than "/", needs no call; past expf's range it gives 0.
__device__ __forceinline__ float silu(float value) { return __fdividef(value, 1.0f + expf(-value)); }

// Past 20 the two agree to the last bit of a float32, and expf would overflow further on.
__device__ __forceinline__ float softplus(float value) { return value > 20.0f ? value : log1pf(expf(value)); }

__device__ __forceinline__ bool row_is_inactive(const int32_t* active, int64_t row) {
    return active != nullptr && active[row] == 0;
}

}  // namespace detail
}  // namespace aim_kernels
