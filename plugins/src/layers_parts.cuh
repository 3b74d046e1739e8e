// What the resident kernel is put together from: shared memory's layout, a channel of the convolution, sums, and sizes.
#pragma once

#include "device_math.cuh"
#include "layers_stream.cuh"
#include "mma.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kMostConv = 4;
constexpr int kPartialLine = kResidentWarps + 1;

// What a line of the state needs beside B and C.
struct LineInput {
    float dt_x, decay, skip, gate;
};

// Shared memory, by offsets in bytes; the units of weights are the first.
struct ResidentLayout {
    int barriers, x, partial, bc, lines, scratch, total;
};

__host__ __device__ inline ResidentLayout layout_of(const ResidentArgs& a, int units) {
    const int features = a.product[0].a_block > a.product[1].a_block ? a.product[0].a_block : a.product[1].a_block;
    ResidentLayout at;
    at.barriers = units * kUnitBytes;
    at.x = at.barriers + units * 16;
    at.partial = at.x + static_cast<int>(a.p.rows) * a.x_stride * 2;
    at.bc = (at.partial + (features << a.row_shift) * kPartialLine * 4 + 15) / 16 * 16;
    at.lines = at.bc + 2 * a.p.d_state * 4;
    at.scratch = at.lines + (a.lines_a_block + 16) * static_cast<int>(sizeof(LineInput));
    const int head = at.x + kResidentThreads * kPartialLine * 4;  // its partial sums lie where x and the rest were
    if (a.head.features > 0 && at.scratch < head) at.scratch = head;
    at.total = at.scratch + 2 * kResidentWarps * 4 + 16;  // with the tags given
    return at;
}

// A channel of the convolution: all but its newest input, which comes from in_proj.
template <typename S>
struct ConvChannel {
    int window = 0, channel = 0;  // the window's offset in the states' first layer; which of conv_dim
    S kept[kMostConv - 1];
    float weight[kMostConv] = {};
    float bias = 0.0f;

    template <typename Of>
    __device__ __forceinline__ void be(const Of& of, int row, int of_channels) {
        channel = of_channels;
        window = (row * of.p.layers * of.conv_dim() + channel) * (of.d_conv() - 1);
    }

    template <typename Of>
    __device__ __forceinline__ void load_window(const Of& of, int layer) {
        const int halo = of.d_conv() - 1;
        const S* from = static_cast<const S*>(of.p.conv_state_in) + window + layer * of.conv_dim() * halo;
#pragma unroll
        for (int k = 0; k < kMostConv - 1; ++k) {
            from_float(kept[k], 0.0f);
            if (k < halo) kept[k] = from[k];
        }
    }

    template <typename Of>
    __device__ __forceinline__ void load_weights(const Of& of, int layer) {
        const int line = layer * of.conv_dim() + channel;
        const float* weights = of.p.conv_weight + line * of.d_conv();
        if (of.d_conv() == kMostConv) {
            const float4 all = *reinterpret_cast<const float4*>(weights);
            weight[0] = all.x, weight[1] = all.y, weight[2] = all.z, weight[3] = all.w;
        } else {
#pragma unroll
            for (int k = 0; k < kMostConv; ++k) {
                if (k < of.d_conv()) weight[k] = weights[k];
            }
        }
        bias = of.p.conv_bias[line];
    }

    __device__ __forceinline__ float value(int d_conv, float newest) const {
        float sum = bias;
#pragma unroll
        for (int k = 0; k < kMostConv; ++k) {
            const float before = k < kMostConv - 1 ? to_float(kept[k < kMostConv - 1 ? k : 0]) : 0.0f;
            sum = fmaf(weight[k], k + 1 == d_conv ? newest : before, sum);
        }
        return silu(sum);
    }

    template <typename Of>
    __device__ __forceinline__ void move_on(const Of& of, int layer, float newest) const {
        const int halo = of.d_conv() - 1;
        S* to = static_cast<S*>(of.p.conv_state_out) + window + layer * of.conv_dim() * halo;
#pragma unroll
        for (int k = 0; k + 1 < kMostConv - 1; ++k) {
            if (k + 1 < halo) to[k] = kept[k + 1];
        }
        from_float(to[halo - 1], newest);
    }
};

// Four numbers of a state as they lie in memory: words that a load fills whole, with zeros where there is none. Halves
// would be merged with the zeros one by one, and so every load waited for before the next.
template <typename S>
struct Raw4;

template <>
struct Raw4<__half> {
    uint2 words = {0, 0};
    static __device__ __forceinline__ Raw4 load(const __half* from) { return {*reinterpret_cast<const uint2*>(from)}; }
    __device__ __forceinline__ void unpack(float (&to)[4]) const {
        const float2 low = unpack2<__half>(words.x), high = unpack2<__half>(words.y);
        to[0] = low.x, to[1] = low.y, to[2] = high.x, to[3] = high.y;
    }
};

template <>
struct Raw4<float> {
    float4 numbers = {0.0f, 0.0f, 0.0f, 0.0f};
    static __device__ __forceinline__ Raw4 load(const float* from) { return {*reinterpret_cast<const float4*>(from)}; }
    __device__ __forceinline__ void unpack(float (&to)[4]) const {
        to[0] = numbers.x, to[1] = numbers.y, to[2] = numbers.z, to[3] = numbers.w;
    }
};

// Sums of four numbers over a warp in six shuffles; a lane gets that of number lane / 8.
__device__ __forceinline__ float warp_sum4(const float (&of)[4], int lane) {
    float half[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const float give = lane & 16 ? of[i] : of[i + 2];
        half[i] = (lane & 16 ? of[i + 2] : of[i]) + __shfl_xor_sync(0xffffffffu, give, 16);
    }
    const float give = lane & 8 ? half[0] : half[1];
    float sum = (lane & 8 ? half[1] : half[0]) + __shfl_xor_sync(0xffffffffu, give, 8);
#pragma unroll
    for (int offset = 4; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    return sum;
}

// The sizes that a kernel runs with: AiM's own as constants, or any.
template <int WIDTH, bool EXACT>
struct Sizes {
    static constexpr int kModel = 256 * WIDTH, kInner = 512 * WIDTH, kState = 128, kHeaddim = 64, kConv = 4;
    const ResidentArgs& a;
    __device__ __forceinline__ int d_model() const { return EXACT ? kModel : a.p.d_model; }
    __device__ __forceinline__ int d_inner() const { return EXACT ? kInner : a.d_inner; }
    __device__ __forceinline__ int d_state() const { return EXACT ? kState : a.p.d_state; }
    __device__ __forceinline__ int headdim() const { return EXACT ? kHeaddim : a.p.headdim; }
    __device__ __forceinline__ int d_conv() const { return EXACT ? kConv : a.p.d_conv; }
    __device__ __forceinline__ int nheads() const { return EXACT ? kInner / kHeaddim : a.p.nheads; }
    __device__ __forceinline__ int conv_dim() const { return d_inner() + 2 * d_state(); }
    __device__ __forceinline__ int width() const { return d_inner() + conv_dim() + nheads(); }  // of zxbcdt
    __device__ __forceinline__ int x_stride() const { return EXACT ? kInner + 32 : a.x_stride; }
};

}  // namespace detail
}  // namespace aim_kernels
