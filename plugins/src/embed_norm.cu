// One block a row, as ada_ln_norm. What the gathers wait for is two numbers of the kernel before; the norm's own vectors
// are there by then.
#include "aim_kernels/embed_norm.h"

#include "dependent.cuh"
#include "embed.cuh"
#include "fours.cuh"
#include "reduce.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "embed_norm";

// ITEMS groups of four a thread; THREADS * ITEMS * 4 >= d_model.
template <typename T, int THREADS, int ITEMS>
__global__ void __launch_bounds__(THREADS) norm_kernel(const EmbedNormParams p) {
    __shared__ float scratch[32];
    const Embedding& from = p.embedding;
    const int64_t row = blockIdx.x, d = p.d_model, image = row % from.positions;
    const float* vectors = p.modulation + row * p.vectors * d;

    // The vectors are of the image, not of the step: no kernel that may still run has written them.
    float sum[ITEMS][4], shift[ITEMS][4], weight[ITEMS][4];
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        const int64_t at = (item * THREADS + threadIdx.x) * 4;
        if (at >= d || p.residual_only) continue;
        float scale[4];
        load4(vectors + p.shift_index * d + at, shift[item]);
        load4(vectors + p.scale_index * d + at, scale);
        load4(p.weight + at, weight[item]);
#pragma unroll
        for (int i = 0; i < 4; ++i) weight[item][i] *= 1.0f + scale[i];
    }
    wait_for_previous();
    let_next_start();
    const int position = from.position[image];
    const T* word = static_cast<const T*>(from.table) + token_of(from, image) * d;
    const T* place = static_cast<const T*>(from.position_table) + place_of(from, position) * d;
    float squares = 0.0f;
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        const int64_t at = (item * THREADS + threadIdx.x) * 4;
        if (at >= d) continue;
        if (position == 0) {
            load4(from.class_embedding + row * d + at, sum[item]);
        } else {
            float more[4];
            load4(word + at, sum[item]);
            load4(place + at, more);
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[item][i] += more[i];
        }
        store4(p.residual + row * d + at, sum[item]);
#pragma unroll
        for (int i = 0; i < 4; ++i) squares += sum[item][i] * sum[item][i];
    }
    if (p.residual_only) return;
    squares = block_sum<THREADS>(squares, scratch);
    const float factor = 1.0f / sqrtf(squares / static_cast<float>(d) + p.eps);
#pragma unroll
    for (int item = 0; item < ITEMS; ++item) {
        const int64_t at = (item * THREADS + threadIdx.x) * 4;
        if (at >= d) continue;
        float value[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) value[i] = sum[item][i] * factor * weight[item][i] + shift[item][i];
        store4(static_cast<T*>(p.x) + row * d + at, value);
    }
}

template <typename T>
Status launch_typed(const EmbedNormParams& p, cudaStream_t stream) noexcept {
    return with_threads(p.d_model, [&](auto threads, auto items) {
        constexpr int THREADS = decltype(threads)::value, ITEMS = decltype(items)::value;
        return launch_dependent(kOp, norm_kernel<T, THREADS, ITEMS>, p.rows, THREADS, stream, p);
    });
}

}  // namespace

Status validate_shapes(const EmbedNormParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positive(kOp, "vectors", p.vectors));
    AIM_CHECK(check_fours(kOp, "d_model", p.d_model));
    AIM_CHECK(check_embedding(kOp, p.embedding, p.rows));
    AIM_CHECK(check_vector_index(kOp, "shift_index", p.shift_index, p.vectors));
    AIM_CHECK(check_vector_index(kOp, "scale_index", p.scale_index, p.vectors));
    AIM_CHECK(check_eps(kOp, p.eps));
    return check_activation_dtype(kOp, p.dtype);
}

Status validate(const EmbedNormParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    const Embedding& from = p.embedding;
    AIM_CHECK(check_pointer(kOp, "token", from.token));
    AIM_CHECK(check_pointer(kOp, "position", from.position));
    const struct {
        const char* name;
        const void* pointer;
        bool of_norm = false;
    } pointers[] = {{"class_embedding", from.class_embedding},
                    {"table", from.table},
                    {"position_table", from.position_table},
                    {"modulation", p.modulation, true},
                    {"weight", p.weight, true},
                    {"x", p.x, true},
                    {"residual", p.residual}};
    for (const auto& [name, pointer, of_norm] : pointers) {
        if (p.residual_only && of_norm) continue;
        AIM_CHECK(check_pointer(kOp, name, pointer));
        AIM_CHECK(check_aligned_16(kOp, name, pointer));
    }
    return Status::kSuccess;
}

Status launch(const EmbedNormParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    AIM_CHECK(check_device());
    return with_activation_type(p.dtype, [&](auto type) { return launch_typed<decltype(type)>(p, stream); });
}

}  // namespace aim_kernels
