// Integer codes as pairs of float16 or bfloat16, exactly and without a conversion instruction a code.
#pragma once

#include <cstring>
#include <type_traits>

#include "mma.cuh"

namespace aim_kernels {
namespace detail {

// Bytes of the eight in (low, high), by the four digits of SELECTOR.
template <unsigned SELECTOR>
__device__ __forceinline__ unsigned pick_bytes(unsigned low, unsigned high) {
#ifdef AIM_KERNELS_EMULATED
    const unsigned long long all = static_cast<unsigned long long>(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(all >> (SELECTOR >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return result;
#else
    return __byte_perm(low, high, SELECTOR);
#endif
}

template <typename T>
__device__ __forceinline__ unsigned subtract2(unsigned pair, float value) {
#ifdef AIM_KERNELS_EMULATED
    const float2 both = unpack2<T>(pair);
    return pack2<T>(both.x - value, both.y - value);
#else
    if constexpr (std::is_same<T, __half>::value) {
        const __half2 result = __hsub2(*reinterpret_cast<const __half2*>(&pair), __float2half2_rn(value));
        return *reinterpret_cast<const unsigned*>(&result);
    } else {
        const __nv_bfloat162 result = __hsub2(*reinterpret_cast<const __nv_bfloat162*>(&pair), __float2bfloat162_rn(value));
        return *reinterpret_cast<const unsigned*>(&result);
    }
#endif
}

// Four int8 codes as the pairs (0, 1) and (2, 3). float16 holds 1024 + code + 128 exactly, whose last byte is the code
// with its sign bit turned.
__device__ __forceinline__ void spread8(unsigned word, unsigned (&pairs)[2], __half) {
    word ^= 0x80808080u;
    pairs[0] = subtract2<__half>(pick_bytes<0x5150>(word, 0x64646464u), 1152.0f);
    pairs[1] = subtract2<__half>(pick_bytes<0x5352>(word, 0x64646464u), 1152.0f);
}

// bfloat16 has too few digits for that: the same in float32 around 2^23.
__device__ __forceinline__ void spread8(unsigned word, unsigned (&pairs)[2], __nv_bfloat16) {
    word ^= 0x80808080u;
    const unsigned bits[4] = {
        pick_bytes<0x7650>(word, 0x4b000000u), pick_bytes<0x7651>(word, 0x4b000000u),
        pick_bytes<0x7652>(word, 0x4b000000u), pick_bytes<0x7653>(word, 0x4b000000u)};
    float codes[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        float value;
        memcpy(&value, &bits[i], 4);
        codes[i] = value - 8388736.0f;
    }
    pairs[0] = pack2<__nv_bfloat16>(codes[0], codes[1]);
    pairs[1] = pack2<__nv_bfloat16>(codes[2], codes[3]);
}

// Eight 4-bit codes as the pairs (0, 4), (1, 5), (2, 6) and (3, 7): what one mask takes out of a word.
template <typename T>
__device__ __forceinline__ void spread4(unsigned word, unsigned (&pairs)[4]) {
    constexpr bool HALF = std::is_same<T, __half>::value;
    constexpr unsigned MAGIC = HALF ? 0x64006400u : 0x43004300u;  // 1024 and 128, whose last digits are ones
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        pairs[i] = subtract2<T>((word >> 4 * i & 0x000f000fu) | MAGIC, HALF ? 1032.0f : 136.0f);
    }
}

// The same order of eight activations.
__device__ __forceinline__ void interleave(const uint4& v, unsigned (&pairs)[4]) {
    pairs[0] = pick_bytes<0x5410>(v.x, v.z);
    pairs[1] = pick_bytes<0x7632>(v.x, v.z);
    pairs[2] = pick_bytes<0x5410>(v.y, v.w);
    pairs[3] = pick_bytes<0x7632>(v.y, v.w);
}

}  // namespace detail
}  // namespace aim_kernels
