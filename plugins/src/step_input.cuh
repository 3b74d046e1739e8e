// What the kernels of a decoding step share: the state's vectors, and the convolution in front of x, B and C.
#pragma once

#include "device_math.cuh"
#include "step.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kMaxConv = 4;

// By arithmetic on whole words: through a union the compiler splits each loaded word into halves at the load, and so
// waits for one load before it sends the next.
__device__ __forceinline__ void unpack_state(const uint4& raw, float (&out)[8]) {
    const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        out[2 * i] = value_of(words[i] & 0xffffu, DType::kFloat16);
        out[2 * i + 1] = value_of(words[i] >> 16, DType::kFloat16);
    }
}

__device__ __forceinline__ void unpack_state(const uint4& raw, float (&out)[4]) { Vec16<float>::unpack(raw, out); }

// One value of x, B or C; FUSED: as the convolution makes it. Loaded whole before any of it is used: one wait instead
// of one a part.
template <bool FUSED>
struct Input {
    unsigned newest = 0;
    unsigned window[kMaxConv - 1] = {};
    float weight[kMaxConv] = {};
    float bias = 0.0f;

    // `at` is the value's index in `from`, `channel` its place among the convolution's, and window_row where the row's
    // windows begin.
    __device__ __forceinline__ void load(const StepArgs& a, const void* from, int64_t at, int64_t window_row,
                                         int channel) {
        newest = load_bits(from, a.dtype, at);
        if constexpr (FUSED) {
            const int64_t window_at = window_row + channel * (a.d_conv - 1);
#pragma unroll
            for (int k = 0; k < kMaxConv - 1; ++k) {
                if (k < a.d_conv - 1) window[k] = load_bits(a.conv_state_in, a.conv_state_dtype, window_at + k);
            }
            const float* weights = a.conv_weight + channel * a.d_conv;
#pragma unroll
            for (int k = 0; k < kMaxConv; ++k) {
                if (k < a.d_conv) weight[k] = weights[k];
            }
            if (a.conv_bias != nullptr) bias = a.conv_bias[channel];
        }
    }

    __device__ __forceinline__ float value(const StepArgs& a) const {
        const float last = value_of(newest, a.dtype);
        if constexpr (!FUSED) return last;
        float sum = bias;
        // Past d_conv weight and value are 0.
#pragma unroll
        for (int k = 0; k < kMaxConv; ++k) {
            const unsigned before = k < kMaxConv - 1 ? window[k < kMaxConv - 1 ? k : 0] : 0;
            sum = fmaf(weight[k], k + 1 == a.d_conv ? last : value_of(before, a.conv_state_dtype), sum);
        }
        return silu(sum);
    }

    __device__ __forceinline__ void store_window(const StepArgs& a, int64_t window_row, int channel) const {
        const int halo = a.d_conv - 1;
        const int64_t window_at = window_row + channel * halo;
#pragma unroll
        for (int k = 0; k + 1 < kMaxConv - 1; ++k) {
            if (k + 1 < halo) store_bits(a.conv_state_out, a.conv_state_dtype, window_at + k, window[k + 1]);
        }
        store_any(a.conv_state_out, a.conv_state_dtype, window_at + halo - 1, value_of(newest, a.dtype));
    }
};

}  // namespace detail
}  // namespace aim_kernels
