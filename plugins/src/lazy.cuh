// The kernel of mamba2_lazy_step: one block a row and a few heads of one group.
#pragma once

#include "lazy_state.cuh"

namespace aim_kernels {
namespace detail {

template <typename StateT>
__global__ __launch_bounds__(kLazyThreads, 3) void lazy_kernel(LazyArgs a) {
    constexpr int VEC = Vec16<StateT>::kSize;
    constexpr int BATCH = 7;        // vectors of x_history in flight a thread; 14 rows of AiM-B's longest history are 2
    constexpr int LINES = 4;        // of B_history, the same
    constexpr int SCORE_LANES = 16;  // that share a line of it
    constexpr int SCORERS = kLazyThreads / SCORE_LANES;
    __shared__ LazyShared shared;
    const int chunks = a.s.ngroups * a.group_chunks;
    const int chunk = static_cast<int>(blockIdx.x) % chunks;
    const int64_t row = static_cast<int>(blockIdx.x) / chunks;
    const int bc_group = chunk / a.group_chunks;
    const int head = bc_group * a.s.group_heads + chunk % a.group_chunks * a.chunk_heads;
    const int heads = min(a.chunk_heads, (bc_group + 1) * a.s.group_heads - head);
    const int channels = heads * a.s.headdim, channel = head * a.s.headdim;
    const int tid = static_cast<int>(threadIdx.x);
    const int d_inner = a.s.nheads * a.s.headdim, bc_width = a.s.ngroups * a.s.d_state;
    const int64_t window_row = row * a.s.conv_state_row_stride;
    wait_for_previous();
    let_next_start();
    if (row_is_inactive(a.s.active, row)) return;

    const int64_t head_at = row * a.s.nheads + head;
    const float counted = a.counters[3 * head_at];
    const bool folded = a.counters[3 * head_at + 1] != 0.0f;
    const int bc_at = bc_group * a.s.d_state + tid;
    const int x_at = channel + tid;
    Input<true> in_x, in_B, in_C;
    unsigned z_bits = 0;
    if (tid < channels) {
        in_x.load(a.s, a.s.x, row * a.s.x_row_stride + x_at, window_row, x_at);
        z_bits = load_bits(a.s.z, a.s.dtype, row * a.s.z_row_stride + x_at);
    }
    if (tid < a.s.d_state) {
        in_B.load(a.s, a.s.B, row * a.s.B_row_stride + bc_at, window_row, d_inner + bc_at);
        in_C.load(a.s, a.s.C, row * a.s.C_row_stride + bc_at, window_row, d_inner + bc_width + bc_at);
    }
    const int n = min(max(static_cast<int>(counted), 0), a.capacity - 1);

    // A thread takes one vector of the block's channels and every parts-th token.
    StateT* x_history = static_cast<StateT*>(a.x_history) + row * a.capacity * d_inner + channel;
    StateT* B_history = static_cast<StateT*>(a.B_history) + row * a.capacity * bc_width + bc_group * a.s.d_state;
    const int vectors = channels / VEC, parts = kLazyThreads / vectors;
    const int vector = tid % vectors, part = tid / vectors;
    const auto load_x = [&](int from, uint4(&raw)[BATCH]) {
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            const int s = from + part + k * parts;
            raw[k] = make_uint4(0, 0, 0, 0);
            if (part < parts && s < n) {
                raw[k] = *reinterpret_cast<const uint4*>(x_history + static_cast<int64_t>(s) * d_inner + vector * VEC);
            }
        }
    };
    uint4 raw_x[BATCH];
    load_x(0, raw_x);

    if (tid < channels) {
        shared.x[tid] = in_x.value(a.s);
        shared.z[tid] = silu(value_of(z_bits, a.s.dtype));
        in_x.store_window(a.s, window_row, x_at);
    }
    if (tid < kLazyState) {  // past d_state zeros, for whole vectors
        shared.B[tid] = tid < a.s.d_state ? in_B.value(a.s) : 0.0f;
        shared.C[tid] = tid < a.s.d_state ? in_C.value(a.s) : 0.0f;
    }
    const int lane = tid % 32;
    for (int h = tid / 32; h < heads; h += kLazyThreads / 32) {
        float dt = load_any(a.s.dt, a.s.dtype, row * a.s.dt_row_stride + head + h);
        if (a.s.dt_bias != nullptr) dt += a.s.dt_bias[head + h];
        dt = softplus(dt);
        const float A = a.s.A[head + h];
        float* history = a.dt_history + (head_at + h) * a.capacity;
        float after = dt;  // sum of what follows a token, the newest of the history first
        for (int from = n - 1; from >= 0; from -= 32) {
            const int s = from - lane;
            const float own = s >= 0 ? history[s] : 0.0f;
            float sum = own;
#pragma unroll
            for (int offset = 1; offset < 32; offset *= 2) {
                const float before = __shfl_up_sync(0xffffffffu, sum, offset);
                if (lane >= offset) sum += before;
            }
            float before = __shfl_up_sync(0xffffffffu, sum, 1);
            if (lane == 0) before = 0.0f;
            if (s >= 0) shared.weight[h][s] = own * expf(A * (after + before));
            after += __shfl_sync(0xffffffffu, sum, 31);
        }
        if (lane == 0) {
            shared.weight[h][n] = dt;
            shared.decay[h] = expf(A * after);
        }
    }
    __syncthreads();

    // C . B_s for the history, and after it for the current token, whose B is in shared memory.
    const int scorer = tid / SCORE_LANES, score_lane = tid % SCORE_LANES;
    for (int from = 0; from <= n; from += LINES * SCORERS) {
        float score[LINES] = {};
        for (int v = score_lane; v * VEC < a.s.d_state; v += SCORE_LANES) {
            uint4 raw[LINES];
#pragma unroll
            for (int k = 0; k < LINES; ++k) {
                const int s = from + k * SCORERS + scorer;
                raw[k] = make_uint4(0, 0, 0, 0);
                if (s < n) {
                    raw[k] = *reinterpret_cast<const uint4*>(B_history + static_cast<int64_t>(s) * bc_width + v * VEC);
                }
            }
#pragma unroll
            for (int k = 0; k < LINES; ++k) {
                float values[VEC];
                unpack_state(raw[k], values);
                const bool current = from + k * SCORERS + scorer == n;
#pragma unroll
                for (int j = 0; j < VEC; ++j) {
                    const float b = current ? shared.B[v * VEC + j] : values[j];
                    score[k] = fmaf(b, shared.C[v * VEC + j], score[k]);
                }
            }
        }
#pragma unroll
        for (int k = 0; k < LINES; ++k) {
#pragma unroll
            for (int offset = SCORE_LANES / 2; offset > 0; offset /= 2) {
                score[k] += __shfl_xor_sync(0xffffffffu, score[k], offset);
            }
            const int s = from + k * SCORERS + scorer;
            if (score_lane == 0 && s <= n) shared.score[s] = score[k];
        }
    }
    __syncthreads();

    float sum[VEC] = {};
    const int vector_head = vector * VEC / a.s.headdim;
    for (int from = 0; from < n; from += BATCH * parts) {
        if (from > 0) load_x(from, raw_x);
#pragma unroll
        for (int k = 0; k < BATCH; ++k) {
            const int s = from + part + k * parts;
            if (part >= parts || s >= n) continue;
            const float weight = shared.weight[vector_head][s] * shared.score[s];
            float x[VEC];
            unpack_state(raw_x[k], x);
#pragma unroll
            for (int j = 0; j < VEC; ++j) sum[j] = fmaf(weight, x[j], sum[j]);
        }
    }
    if (part < parts) {
#pragma unroll
        for (int j = 0; j < VEC; ++j) shared.staged[part * channels + vector * VEC + j] = sum[j];
    }
    StateT* state = static_cast<StateT*>(a.s.state_out) + head_at * a.s.headdim * a.s.d_state;
    if (folded) state_times_C(a, shared, state, channels);
    __syncthreads();

    const bool folds = n + 1 >= (folded ? a.fold_every : a.capacity);
    if (tid < channels) {
        const int h = tid / a.s.headdim;
        const float x = shared.x[tid];
        float y = shared.weight[h][n] * shared.score[n] * x;
        if (a.s.D != nullptr) y = fmaf(a.s.D[head + h], x, y);
        for (int k = 0; k < parts; ++k) y += shared.staged[k * channels + tid];
        if (folded) y = fmaf(shared.decay[h], shared.state_y[tid], y);
        static_cast<float*>(a.s.y)[row * a.s.y_row_stride + x_at] = y * shared.z[tid];
        if (!folds) from_float(x_history[static_cast<int64_t>(n) * d_inner + tid], x);
    }
    // One block a group writes B: the others read the entries before it only.
    if (!folds && chunk % a.group_chunks == 0 && tid < a.s.d_state) {
        from_float(B_history[static_cast<int64_t>(n) * bc_width + tid], shared.B[tid]);
    }
    if (tid < heads) {
        if (!folds) a.dt_history[(head_at + tid) * a.capacity + n] = shared.weight[tid][n];
        float* counters = a.counters + 3 * (head_at + tid);
        counters[0] = folds ? 0.0f : static_cast<float>(n + 1);
        counters[1] = folds || folded ? 1.0f : 0.0f;
        counters[2] = a.s.A[head + tid];
    }
    if (folds) fold_history(a, shared, x_history, B_history, state, n, folded, channels);
}

}  // namespace detail
}  // namespace aim_kernels
