// The ends of a step in the resident kernel: the embedding, and after the last layer two norms and the head.
#pragma once

#include "embed.cuh"
#include "layers_product.cuh"

namespace aim_kernels {
namespace detail {

// A thread's pairs of the first residual, which every block makes for itself.
template <typename Of, int N>
__device__ __forceinline__ void embed(const Of& of, float2 (&out)[N]) {
    using T = typename Of::T;
    const StepEnds& ends = of.a.ends;
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = make_float2(0.0f, 0.0f);
    if (of.model_count == 0) return;
    const int image = of.row % static_cast<int>(ends.positions), position = ends.position[image];
    const int64_t token = token_of(ends, image), place = place_of(ends, position);
    if (position == 0) {
        of.load_pairs(ends.class_embedding + of.row * of.d_model() + of.col, of.model_count, out);
        return;
    }
    const T* word = static_cast<const T*>(ends.table) + token * of.d_model() + of.col;
    const T* where = static_cast<const T*>(ends.position_table) + place * of.d_model() + of.col;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if (i >= of.model_count) break;
        const float2 first = __half22float2(*reinterpret_cast<const __half2*>(word + i * Of::STEP));
        const float2 second = __half22float2(*reinterpret_cast<const __half2*>(where + i * Of::STEP));
        out[i] = make_float2(first.x + second.x, first.y + second.y);
    }
}

// x = both norms of the residual, the last layer's branch added to it first. The second norm's sum of squares is known
// with the first's: what the first divides by is one number.
template <typename Of, int N>
__device__ __forceinline__ void final_norms(Of& of, const float2 (&gate)[N]) {
    const StepEnds& ends = of.a.ends;
    const float* vectors = ends.final_modulation + of.row * 2 * of.d_model() + of.col;
    float2 shift[N], scale[N], weight[N], last[N];
    of.load_pairs(vectors, of.model_count, shift);
    of.load_pairs(vectors + of.d_model(), of.model_count, scale);
    of.load_pairs(ends.norm_f + of.col, of.model_count, weight);
    of.load_pairs(ends.norm_final + of.col, of.model_count, last);
    of.add_branch(of.p.layers - 1, gate);
    float squares = 0.0f, weighted = 0.0f;
#pragma unroll
    for (int i = 0; i < N; ++i) {
        const float2 value = of.residual[i];
        weight[i].x *= value.x, weight[i].y *= value.y;
        squares = fmaf(value.x, value.x, fmaf(value.y, value.y, squares));
        weighted = fmaf(weight[i].x, weight[i].x, fmaf(weight[i].y, weight[i].y, weighted));
    }
    const float size = static_cast<float>(of.d_model());
    const float first = rsqrtf(of.row_sum(squares) / size + of.p.eps);
    const float factor = first * rsqrtf(first * first * of.row_sum(weighted, 1) / size + of.p.eps);
#pragma unroll
    for (int i = 0; i < N; ++i) {
        if (i >= of.model_count) break;
        of.store_x(i, fmaf(weight[i].x * factor, last[i].x * (1.0f + scale[i].x), shift[i].x),
                   fmaf(weight[i].y * factor, last[i].y * (1.0f + scale[i].y), shift[i].y));
    }
    of.barrier();
}

// This block's features of x head^T, from the ring as a layer's products have theirs. As many at a time as there are
// threads to sum them; the partial sums lie where x was.
template <typename W, int MOST, typename Of>
__device__ __forceinline__ void head(Of& of) {
    const StepEnds& ends = of.a.ends;
    const Product& m = of.a.head;
    const auto share = share_of<W, MOST>(of, m, of.d_model());
    of.barrier();
    const int features = of.ring.features_of_block(m), feature = of.tid / Of::kRows, of_row = of.tid % Of::kRows;
    const int most = kResidentThreads / Of::kRows / share.unit_features * share.unit_features;
    const int at = static_cast<int>(blockIdx.x) * m.a_block + feature;
    float* const logits = ends.logits + static_cast<int64_t>(of_row) * ends.vocab_size + at;
    float* const partial = reinterpret_cast<float*>(of.x);
    for (int first = 0; first < features; first += most) {
        const int count = min(most, features - first);
        const bool mine = feature < count && of_row < of.rows;
        float scale = 1.0f;
        if (sizeof(W) == 1 && mine) scale = m.scale[at + first];
        add_units(of, share, count, partial);
        of.barrier();
        if (mine) logits[first] = sum_warps(partial + of.tid * kPartialLine) * scale;
        of.barrier();
    }
}

}  // namespace detail
}  // namespace aim_kernels
