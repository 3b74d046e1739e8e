#include "aim_kernels/causal_conv1d.h"

#include "device_math.cuh"
#include "launch.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "causal_conv1d";
constexpr int kThreads = 128;
// Steps a thread slides over. Long enough that the d_conv - 1 inputs read again at its start are few beside them.
constexpr int kTile = 16;

struct ConvArgs {
    CausalConv1dParams p;
    int channel_blocks;
    int tiles;
};

template <typename T, int VEC>
__device__ __forceinline__ void load_channels(const T* source, float (&out)[VEC]) {
    if constexpr (VEC == 1) {
        out[0] = to_float(*source);
    } else {
        Vec16<T>::unpack(*reinterpret_cast<const uint4*>(source), out);
    }
}

template <typename T, int VEC>
__device__ __forceinline__ void store_channels(T* target, const float (&values)[VEC]) {
    if constexpr (VEC == 1) {
        from_float(*target, values[0]);
    } else {
        *reinterpret_cast<uint4*>(target) = Vec16<T>::pack(values);
    }
}

// A thread owns VEC channels over one tile of steps and keeps the window in registers.
template <typename T, int VEC, int D_CONV>
__global__ __launch_bounds__(kThreads) void conv_kernel(ConvArgs a) {
    constexpr int HALO = D_CONV - 1;
    const CausalConv1dParams& p = a.p;
    int block = static_cast<int>(blockIdx.x);
    const int64_t channel = (static_cast<int64_t>(block % a.channel_blocks) * kThreads + threadIdx.x) * VEC;
    block /= a.channel_blocks;
    const int tile = block % a.tiles;
    const int64_t row = block / a.tiles;
    if (channel >= p.channels || row_is_inactive(p.active, row)) return;

    const T* x = static_cast<const T*>(p.x) + row * p.x_row_stride + channel;
    T* y = static_cast<T*>(p.y) + row * p.y_row_stride + channel;
    const int64_t state_at = (row * p.channels + channel) * HALO;

    float weight[D_CONV][VEC], bias[VEC], window[HALO][VEC];
#pragma unroll
    for (int i = 0; i < VEC; ++i) {
        bias[i] = p.bias != nullptr ? p.bias[channel + i] : 0.0f;
#pragma unroll
        for (int k = 0; k < D_CONV; ++k) weight[k][i] = p.weight[(channel + i) * D_CONV + k];
    }

    const int64_t begin = static_cast<int64_t>(tile) * kTile;
    const int64_t end = begin + kTile < p.length ? begin + kTile : p.length;
#pragma unroll
    for (int k = 0; k < HALO; ++k) {
        if (tile > 0) {
            load_channels<T, VEC>(x + (begin - HALO + k) * p.x_time_stride, window[k]);
        } else {
#pragma unroll
            for (int i = 0; i < VEC; ++i) {
                window[k][i] = p.conv_state_in != nullptr
                                   ? load_any(p.conv_state_in, p.state_dtype, state_at + i * HALO + k)
                                   : 0.0f;
            }
        }
    }

    // The first tile writes the final state too: only it reads the initial one, which may be the same memory.
    if (tile == 0 && p.conv_state_out != nullptr) {
#pragma unroll
        for (int k = 0; k < HALO; ++k) {
            const int64_t time = p.length - HALO + k;
            float last[VEC] = {};
            if (time >= 0) {
                load_channels<T, VEC>(x + time * p.x_time_stride, last);
            } else {
                // Fewer steps than the window holds: what was at k + length moves to k.
#pragma unroll
                for (int j = 0; j < HALO; ++j) {
                    if (j == k + p.length) {
#pragma unroll
                        for (int i = 0; i < VEC; ++i) last[i] = window[j][i];
                    }
                }
            }
#pragma unroll
            for (int i = 0; i < VEC; ++i) {
                store_any(p.conv_state_out, p.state_dtype, state_at + i * HALO + k, last[i]);
            }
        }
    }

#pragma unroll 4
    for (int64_t t = begin; t < end; ++t) {
        float current[VEC], out[VEC];
        load_channels<T, VEC>(x + t * p.x_time_stride, current);
#pragma unroll
        for (int i = 0; i < VEC; ++i) {
            float sum = bias[i];
#pragma unroll
            for (int k = 0; k < HALO; ++k) sum = fmaf(weight[k][i], window[k][i], sum);
            sum = fmaf(weight[HALO][i], current[i], sum);
            out[i] = p.activation == Activation::kSilu ? silu(sum) : sum;
#pragma unroll
            for (int k = 0; k + 1 < HALO; ++k) window[k][i] = window[k + 1][i];
            window[HALO - 1][i] = current[i];
        }
        store_channels<T, VEC>(y + t * p.y_time_stride, out);
    }
}

template <typename T, int VEC>
Status launch_d_conv(ConvArgs& args, cudaStream_t stream) noexcept {
    const CausalConv1dParams& p = args.p;
    const int64_t channel_blocks = ceil_div(ceil_div(p.channels, VEC), kThreads);
    const int64_t tiles = ceil_div(p.length, kTile);
    const int64_t blocks = p.rows * tiles * channel_blocks;  // launch_kernel refuses more than 32 bits of them
    args.channel_blocks = static_cast<int>(channel_blocks);
    args.tiles = static_cast<int>(tiles);
    switch (p.d_conv) {
        case 2: return launch_kernel(kOp, conv_kernel<T, VEC, 2>, blocks, kThreads, 0, stream, args);
        case 3: return launch_kernel(kOp, conv_kernel<T, VEC, 3>, blocks, kThreads, 0, stream, args);
        default: return launch_kernel(kOp, conv_kernel<T, VEC, 4>, blocks, kThreads, 0, stream, args);
    }
}

template <typename T>
Status launch_typed(const CausalConv1dParams& p, cudaStream_t stream) noexcept {
    constexpr int VEC = 16 / sizeof(T);
    ConvArgs args = {p, 0, 0};
    // A single step has one element a channel: a thread each hides the latency better than wide loads do.
    const bool wide = p.length > 1 && p.channels % VEC == 0 &&
                      vectorizable(p.x, p.x_row_stride, p.x_time_stride, p.dtype) &&
                      vectorizable(p.y, p.y_row_stride, p.y_time_stride, p.dtype);
    return wide ? launch_d_conv<T, VEC>(args, stream) : launch_d_conv<T, 1>(args, stream);
}

}  // namespace

Status validate_shapes(const CausalConv1dParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positive(kOp, "length", p.length));
    AIM_CHECK(check_positive(kOp, "channels", p.channels));
    AIM_CHECK(check_d_conv(kOp, p.d_conv));
    AIM_CHECK(check_activation_dtype(kOp, p.dtype));
    AIM_CHECK(check_state_dtype(kOp, "conv_state", p.state_dtype));
    if (p.activation != Activation::kNone && p.activation != Activation::kSilu) {
        return fail(Status::kUnsupportedShape, "%s: activation is %d; supported: 0 (none), 1 (silu)", kOp,
                    static_cast<int>(p.activation));
    }
    AIM_CHECK(check_input_strides(kOp, "x", p.x_row_stride, p.x_time_stride));
    return check_output_strides(kOp, "y", p.rows, p.length, p.channels, p.y_row_stride, p.y_time_stride);
}

Status validate(const CausalConv1dParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    AIM_CHECK(check_pointer(kOp, "x", p.x));
    AIM_CHECK(check_pointer(kOp, "weight", p.weight));
    return check_pointer(kOp, "y", p.y);
}

Status launch(const CausalConv1dParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    AIM_CHECK(check_device());
    return with_activation_type(p.dtype, [&](auto type) { return launch_typed<decltype(type)>(p, stream); });
}

}  // namespace aim_kernels
