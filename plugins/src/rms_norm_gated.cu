#include "aim_kernels/rms_norm_gated.h"

#include "device_math.cuh"
#include "launch.cuh"
#include "reduce.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "rms_norm_gated";
constexpr int kThreads = 256;

struct NormArgs {
    RmsNormGatedParams p;
    int64_t group_size;
};

template <typename T, int VEC>
__device__ __forceinline__ void load_gated(const T* y, const T* z, float (&out)[VEC]) {
    float gate[VEC];
    if constexpr (VEC == 1) {
        out[0] = to_float(*y);
        if (z != nullptr) gate[0] = to_float(*z);
    } else {
        Vec16<T>::unpack(*reinterpret_cast<const uint4*>(y), out);
        if (z != nullptr) Vec16<T>::unpack(*reinterpret_cast<const uint4*>(z), gate);
    }
    if (z == nullptr) return;
#pragma unroll
    for (int i = 0; i < VEC; ++i) out[i] *= silu(gate[i]);
}

// One block a (row, t, group). The second pass reads y and z again, from cache, instead of holding a group of any
// size in registers.
template <typename T, int VEC>
__global__ __launch_bounds__(kThreads) void norm_kernel(NormArgs a) {
    __shared__ float scratch[kThreads / 32];
    const RmsNormGatedParams& p = a.p;
    // 32 bits: the grid bounds the product of all three, and a 64-bit division costs more than a small group does.
    int block = static_cast<int>(blockIdx.x);
    const int group = block % p.ngroups;
    block /= p.ngroups;
    const int length = static_cast<int>(p.length);
    const int64_t time = block % length;
    const int64_t row = block / length;
    if (row_is_inactive(p.active, row)) return;

    const int64_t first = group * a.group_size;
    const T* y = static_cast<const T*>(p.y) + row * p.y_row_stride + time * p.y_time_stride + first;
    const T* z = p.z == nullptr
                     ? nullptr
                     : static_cast<const T*>(p.z) + row * p.z_row_stride + time * p.z_time_stride + first;
    T* out = static_cast<T*>(p.out) + row * p.out_row_stride + time * p.out_time_stride + first;

    float sum = 0.0f;
    for (int64_t i = static_cast<int64_t>(threadIdx.x) * VEC; i < a.group_size; i += kThreads * VEC) {
        float value[VEC];
        load_gated<T, VEC>(y + i, z == nullptr ? nullptr : z + i, value);
#pragma unroll
        for (int k = 0; k < VEC; ++k) sum = fmaf(value[k], value[k], sum);
    }
    sum = block_sum<kThreads>(sum, scratch);
    const float scale = 1.0f / sqrtf(sum / static_cast<float>(a.group_size) + p.eps);

    for (int64_t i = static_cast<int64_t>(threadIdx.x) * VEC; i < a.group_size; i += kThreads * VEC) {
        float value[VEC];
        load_gated<T, VEC>(y + i, z == nullptr ? nullptr : z + i, value);
#pragma unroll
        for (int k = 0; k < VEC; ++k) value[k] *= scale * p.weight[first + i + k];
        if constexpr (VEC == 1) {
            from_float(out[i], value[0]);
        } else {
            *reinterpret_cast<uint4*>(out + i) = Vec16<T>::pack(value);
        }
    }
}

template <typename T>
Status launch_typed(const RmsNormGatedParams& p, cudaStream_t stream) noexcept {
    constexpr int VEC = 16 / sizeof(T);
    const NormArgs args = {p, p.d / p.ngroups};
    const int64_t blocks = p.rows * p.length * p.ngroups;
    const bool wide = args.group_size % VEC == 0 && vectorizable(p.y, p.y_row_stride, p.y_time_stride, p.dtype) &&
                      vectorizable(p.z, p.z_row_stride, p.z_time_stride, p.dtype) &&
                      vectorizable(p.out, p.out_row_stride, p.out_time_stride, p.dtype);
    return wide ? launch_kernel(kOp, norm_kernel<T, VEC>, blocks, kThreads, 0, stream, args)
                : launch_kernel(kOp, norm_kernel<T, 1>, blocks, kThreads, 0, stream, args);
}

}  // namespace

Status validate_shapes(const RmsNormGatedParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positive(kOp, "length", p.length));
    AIM_CHECK(check_positive(kOp, "d", p.d));
    AIM_CHECK(check_ngroups(kOp, p.ngroups, "d", p.d));
    AIM_CHECK(check_eps(kOp, p.eps));
    AIM_CHECK(check_activation_dtype(kOp, p.dtype));
    AIM_CHECK(check_input_strides(kOp, "y", p.y_row_stride, p.y_time_stride));
    AIM_CHECK(check_input_strides(kOp, "z", p.z_row_stride, p.z_time_stride));
    return check_output_strides(kOp, "out", p.rows, p.length, p.d, p.out_row_stride, p.out_time_stride);
}

Status validate(const RmsNormGatedParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    AIM_CHECK(check_pointer(kOp, "y", p.y));
    AIM_CHECK(check_pointer(kOp, "weight", p.weight));
    return check_pointer(kOp, "out", p.out);
}

Status launch(const RmsNormGatedParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    AIM_CHECK(check_device());
    return with_activation_type(p.dtype, [&](auto type) { return launch_typed<decltype(type)>(p, stream); });
}

}  // namespace aim_kernels
