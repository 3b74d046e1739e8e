// One block a row, as ada_ln_norm. The second norm's sum of squares is known with the first's: what the first divides
// by is one number.
#include "aim_kernels/final_norm.h"

#include "dependent.cuh"
#include "fours.cuh"
#include "reduce.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "final_norm";

// ITEMS groups of four a thread; THREADS * ITEMS * 4 >= d_model.
template <typename T, int THREADS, int ITEMS>
__global__ void __launch_bounds__(THREADS) norm_kernel(const FinalNormParams p) {
    __shared__ float scratch[2 * THREADS / 32];
    const int64_t row = blockIdx.x, d = p.d_model;
    const T* hidden = static_cast<const T*>(p.hidden) + row * d;
    const float* residual = p.residual + row * d;
    const float* gates = p.modulation + (row * p.vectors + p.gate_index) * d;
    const float* ends = p.final_modulation + row * 2 * d;
    T* x = static_cast<T*>(p.x) + row * d;

    // The vectors are of the image, not of the step: no kernel that may still run has written them.
    float sum[ITEMS][4], gate[ITEMS][4], shift[ITEMS][4], weight[ITEMS][4], last[ITEMS][4];
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        const int64_t at = (item * THREADS + threadIdx.x) * 4;
        if (at >= d) continue;
        float scale[4];
        if (!p.summed) load4(gates + at, gate[item]);
        load4(ends + at, shift[item]);
        load4(ends + d + at, scale);
        load4(p.norm_f + at, weight[item]);
        load4(p.norm_final + at, last[item]);
#pragma unroll
        for (int i = 0; i < 4; ++i) last[item][i] *= 1.0f + scale[i];
    }
    wait_for_previous();
    let_next_start();
    float squares[2] = {};
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        const int64_t at = (item * THREADS + threadIdx.x) * 4;
        if (at >= d) continue;
        float from[4] = {};
        if (!p.summed) load4(hidden + at, from);
        load4(residual + at, sum[item]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (!p.summed) sum[item][i] += from[i] * gate[item][i];
            squares[0] += sum[item][i] * sum[item][i];
            sum[item][i] *= weight[item][i];
            squares[1] += sum[item][i] * sum[item][i];
        }
    }
    block_sums<THREADS>(squares, scratch);
    const float size = static_cast<float>(d);
    const float first = 1.0f / sqrtf(squares[0] / size + p.eps);
    const float factor = first / sqrtf(first * first * (squares[1] / size) + p.final_eps);
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        const int64_t at = (item * THREADS + threadIdx.x) * 4;
        if (at >= d) continue;
        float value[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) value[i] = sum[item][i] * factor * last[item][i] + shift[item][i];
        store4(x + at, value);
    }
}

template <typename T>
Status launch_typed(const FinalNormParams& p, cudaStream_t stream) noexcept {
    return with_threads(p.d_model, [&](auto threads, auto items) {
        constexpr int THREADS = decltype(threads)::value, ITEMS = decltype(items)::value;
        return launch_dependent(kOp, norm_kernel<T, THREADS, ITEMS>, p.rows, THREADS, stream, p);
    });
}

}  // namespace

Status validate_shapes(const FinalNormParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positive(kOp, "vectors", p.vectors));
    AIM_CHECK(check_fours(kOp, "d_model", p.d_model));
    AIM_CHECK(check_vector_index(kOp, "gate_index", p.gate_index, p.vectors));
    AIM_CHECK(check_eps(kOp, p.eps));
    AIM_CHECK(check_eps(kOp, p.final_eps, "final_eps"));
    return check_activation_dtype(kOp, p.dtype);
}

Status validate(const FinalNormParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    const struct {
        const char* name;
        const void* pointer;
        bool of_branch = false;
    } pointers[] = {{"hidden", p.hidden, true},
                    {"residual", p.residual},
                    {"modulation", p.modulation, true},
                    {"final_modulation", p.final_modulation},
                    {"norm_f", p.norm_f},
                    {"norm_final", p.norm_final},
                    {"x", p.x}};
    for (const auto& [name, pointer, of_branch] : pointers) {
        if (p.summed && of_branch) continue;
        AIM_CHECK(check_pointer(kOp, name, pointer));
        AIM_CHECK(check_aligned_16(kOp, name, pointer));
    }
    return Status::kSuccess;
}

Status launch(const FinalNormParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    AIM_CHECK(check_device());
    return with_activation_type(p.dtype, [&](auto type) { return launch_typed<decltype(type)>(p, stream); });
}

}  // namespace aim_kernels
