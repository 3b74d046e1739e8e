// One block a row. All loads of a row go out before anything is computed: with few rows the kernel is one latency long.
#include "aim_kernels/ada_ln_norm.h"

#include "dependent.cuh"
#include "device_math.cuh"
#include "reduce.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "ada_ln_norm";
constexpr int kLargest = 8192;

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

// ITEMS groups of four a thread; THREADS * ITEMS * 4 >= d_model.
template <typename T, int THREADS, int ITEMS>
__global__ void __launch_bounds__(THREADS) norm_kernel(const AdaLnNormParams p) {
    __shared__ float scratch[32];
    const int64_t row = blockIdx.x, d = p.d_model;
    const T* hidden = static_cast<const T*>(p.hidden) + row * d;
    const float* residual = p.residual + row * d;
    const float* vectors = p.modulation + row * p.vectors * d;
    T* x = static_cast<T*>(p.x) + row * d;
    float* residual_out = p.residual_out + row * d;

    // The vectors are of the image, not of the step: no kernel that may still run has written them.
    float sum[ITEMS][4], gate[ITEMS][4], shift[ITEMS][4], scale[ITEMS][4], weight[ITEMS][4];
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        const int64_t at = (item * THREADS + threadIdx.x) * 4;
        if (at >= d) continue;
        load4(vectors + p.gate_index * d + at, gate[item]);
        load4(vectors + p.shift_index * d + at, shift[item]);
        load4(vectors + p.scale_index * d + at, scale[item]);
        load4(p.weight + at, weight[item]);
    }
    wait_for_previous();
    let_next_start();
    float squares = 0.0f;
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        const int64_t at = (item * THREADS + threadIdx.x) * 4;
        if (at >= d) continue;
        float from[4];
        load4(hidden + at, from);
        load4(residual + at, sum[item]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            sum[item][i] += from[i] * gate[item][i];
            squares += sum[item][i] * sum[item][i];
        }
    }
    squares = block_sum<THREADS>(squares, scratch);
    const float factor = 1.0f / sqrtf(squares / static_cast<float>(d) + p.eps);
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        const int64_t at = (item * THREADS + threadIdx.x) * 4;
        if (at >= d) continue;
        store4(residual_out + at, sum[item]);
        float value[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            value[i] = sum[item][i] * factor * weight[item][i] * (1.0f + scale[item][i]) + shift[item][i];
        }
        store4(x + at, value);
    }
}

template <typename T>
Status launch_typed(const AdaLnNormParams& p, cudaStream_t stream) noexcept {
    if (p.d_model <= 1024) return launch_dependent(kOp, norm_kernel<T, 256, 1>, p.rows, 256, stream, p);
    if (p.d_model <= 2048) return launch_dependent(kOp, norm_kernel<T, 256, 2>, p.rows, 256, stream, p);
    if (p.d_model <= 4096) return launch_dependent(kOp, norm_kernel<T, 512, 2>, p.rows, 512, stream, p);
    return launch_dependent(kOp, norm_kernel<T, 1024, 2>, p.rows, 1024, stream, p);
}

Status check_index(const char* name, int32_t index, int64_t vectors) noexcept {
    if (index >= 0 && index < vectors) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: %s is %d; supported: 0 to vectors - 1, where vectors is %lld", kOp, name,
                index, static_cast<long long>(vectors));
}

}  // namespace

Status validate_shapes(const AdaLnNormParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positive(kOp, "vectors", p.vectors));
    if (p.d_model < 4 || p.d_model > kLargest || p.d_model % 4 != 0) {
        return fail(Status::kUnsupportedShape, "%s: d_model is %lld; supported: 4 to %d in steps of 4", kOp,
                    static_cast<long long>(p.d_model), kLargest);
    }
    AIM_CHECK(check_index("gate_index", p.gate_index, p.vectors));
    AIM_CHECK(check_index("shift_index", p.shift_index, p.vectors));
    AIM_CHECK(check_index("scale_index", p.scale_index, p.vectors));
    AIM_CHECK(check_eps(kOp, p.eps));
    return check_activation_dtype(kOp, p.dtype);
}

Status validate(const AdaLnNormParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    const struct {
        const char* name;
        const void* pointer;
    } pointers[] = {{"hidden", p.hidden}, {"residual", p.residual}, {"modulation", p.modulation},
                    {"weight", p.weight}, {"x", p.x},               {"residual_out", p.residual_out}};
    for (const auto& [name, pointer] : pointers) {
        AIM_CHECK(check_pointer(kOp, name, pointer));
        AIM_CHECK(check_aligned_16(kOp, name, pointer));
    }
    return Status::kSuccess;
}

Status launch(const AdaLnNormParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    AIM_CHECK(check_device());
    switch (p.dtype) {
        case DType::kFloat16: return launch_typed<__half>(p, stream);
        case DType::kBFloat16: return launch_typed<__nv_bfloat16>(p, stream);
        default: return launch_typed<float>(p, stream);
    }
}

}  // namespace aim_kernels
