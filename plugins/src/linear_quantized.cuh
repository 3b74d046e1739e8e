// Integer codes as pairs of float16 or bfloat16, exactly and without a conversion instruction a code.
#pragma once

#include <cstring>
#include <type_traits>

#include "mma.cuh"

namespace aim_kernels {
namespace detail {

// Bytes of the eight in (low, high), by the four digits of `selector`.
__device__ __forceinline__ unsigned pick_bytes(unsigned low, unsigned high, unsigned selector) {
#ifdef AIM_KERNELS_EMULATED
    const unsigned long long all = static_cast<unsigned long long>(high) << 32 | low;
    unsigned result = 0;
    for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(all >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return result;
#else
    return __byte_perm(low, high, selector);
#endif
}

template <unsigned SELECTOR>
__device__ __forceinline__ unsigned pick_bytes(unsigned low, unsigned high) {
    return pick_bytes(low, high, SELECTOR);
}

template <typename T>
__device__ __forceinline__ unsigned subtract_pair(unsigned pair, unsigned values) {
#ifdef AIM_KERNELS_EMULATED
    const float2 left = unpack2<T>(pair), right = unpack2<T>(values);
    return pack2<T>(left.x - right.x, left.y - right.y);
#else
    using Pair = std::conditional_t<std::is_same<T, __half>::value, __half2, __nv_bfloat162>;
    const Pair result = __hsub2(*reinterpret_cast<const Pair*>(&pair), *reinterpret_cast<const Pair*>(&values));
    return *reinterpret_cast<const unsigned*>(&result);
#endif
}

template <typename T>
__device__ __forceinline__ unsigned subtract2(unsigned pair, float value) {
    return subtract_pair<T>(pair, pack2<T>(value, value));
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

// The lowest 4-bit code of each half.
template <typename T>
__device__ __forceinline__ unsigned from_nibbles(unsigned halves) {
    constexpr bool HALF = std::is_same<T, __half>::value;
    constexpr unsigned MAGIC = HALF ? 0x64006400u : 0x43004300u;  // 1024 and 128, whose last digits are ones
    return subtract2<T>((halves & 0x000f000fu) | MAGIC, HALF ? 1032.0f : 136.0f);
}

// Eight 4-bit codes as the pairs (0, 4), (1, 5), (2, 6) and (3, 7): what one mask takes out of a word.
template <typename T>
__device__ __forceinline__ void spread4(unsigned word, unsigned (&pairs)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) pairs[i] = from_nibbles<T>(word >> 4 * i);
}

// Two neighbours of a word, where which ones is a lane's: it is made of that once.
template <typename T, int BITS>
struct PairOfWord;

// Codes 2 * half and the next of four.
template <>
struct PairOfWord<__half, 8> {
    unsigned selector;
    __device__ __forceinline__ explicit PairOfWord(int half) : selector(half == 0 ? 0x5150u : 0x5352u) {}
    __device__ __forceinline__ unsigned operator()(unsigned word) const {
        return subtract2<__half>(pick_bytes(word ^ 0x80808080u, 0x64646464u, selector), 1152.0f);
    }
};

// bfloat16 has no room for 8 digits behind a one. Seven are taken behind 128, and the sign's 128 is taken off.
template <>
struct PairOfWord<__nv_bfloat16, 8> {
    unsigned selector;
    __device__ __forceinline__ explicit PairOfWord(int half) : selector(half == 0 ? 0x5150u : 0x5352u) {}
    __device__ __forceinline__ unsigned operator()(unsigned word) const {
        const unsigned pair = pick_bytes(word, 0x43434343u, selector);
        return subtract_pair<__nv_bfloat16>(pair & 0xff7fff7fu, pair & 0xff80ff80u);
    }
};

// Codes 2 * byte and the next of eight. The upper one stays 16 times too large until it is multiplied.
template <>
struct PairOfWord<__half, 4> {
    unsigned selector;
    __device__ __forceinline__ explicit PairOfWord(int byte) : selector(static_cast<unsigned>(byte * 0x101 + 0x4040)) {}
    __device__ __forceinline__ unsigned operator()(unsigned word) const {
        const unsigned pair = pick_bytes(word, 0x64646464u, selector) & 0xfff0ff0fu;  // 1024 + code + 8, 1024 + 16 (code + 8)
#ifdef AIM_KERNELS_EMULATED
        const float2 both = unpack2<__half>(pair);
        return pack2<__half>(both.x - 1032.0f, both.y * 0.0625f - 72.0f);
#else
        const __half2 result = __hfma2(*reinterpret_cast<const __half2*>(&pair), __floats2half2_rn(1.0f, 0.0625f),
                                       __floats2half2_rn(-1032.0f, -72.0f));
        return *reinterpret_cast<const unsigned*>(&result);
#endif
    }
};

// bfloat16 has no room for that.
template <typename T>
struct PairOfWord<T, 4> {
    unsigned selector;
    __device__ __forceinline__ explicit PairOfWord(int byte) : selector(static_cast<unsigned>(byte * 0x101 + 0x400)) {}
    __device__ __forceinline__ unsigned operator()(unsigned word) const {
        return from_nibbles<T>(pick_bytes(word, word >> 4, selector));
    }
};

// The same order of eight activations.
__device__ __forceinline__ void interleave(const uint4& v, unsigned (&pairs)[4]) {
    pairs[0] = pick_bytes<0x5410>(v.x, v.z);
    pairs[1] = pick_bytes<0x7632>(v.x, v.z);
    pairs[2] = pick_bytes<0x5410>(v.y, v.w);
    pairs[3] = pick_bytes<0x7632>(v.y, v.w);
}

}  // namespace detail
}  // namespace aim_kernels
