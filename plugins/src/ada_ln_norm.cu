// One block a row. All loads of a row go out before anything is computed: with few rows the kernel is one latency long.
#include "aim_kernels/ada_ln_norm.h"

#include "dependent.cuh"
#include "fours.cuh"
#include "reduce.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "ada_ln_norm";

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
    return with_threads(p.d_model, [&](auto threads, auto items) {
        constexpr int THREADS = decltype(threads)::value, ITEMS = decltype(items)::value;
        return launch_dependent(kOp, norm_kernel<T, THREADS, ITEMS>, p.rows, THREADS, stream, p);
    });
}

}  // namespace

Status validate_shapes(const AdaLnNormParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positive(kOp, "vectors", p.vectors));
    AIM_CHECK(check_fours(kOp, "d_model", p.d_model));
    AIM_CHECK(check_vector_index(kOp, "gate_index", p.gate_index, p.vectors));
    AIM_CHECK(check_vector_index(kOp, "shift_index", p.shift_index, p.vectors));
    AIM_CHECK(check_vector_index(kOp, "scale_index", p.scale_index, p.vectors));
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
    return with_activation_type(p.dtype, [&](auto type) { return launch_typed<decltype(type)>(p, stream); });
}

}  // namespace aim_kernels
