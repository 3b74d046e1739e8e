// The kernel of mamba2_lazy_step: one block a row and a few heads of one group.
#pragma once

#include "dependent.cuh"
#include "step_input.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kLazyThreads = 256;
constexpr int kLazyChannels = 256;  // of a block's heads together
constexpr int kLazyHeads = 16;      // a block: headdim is at least 16
constexpr int kLazyCapacity = 128;
constexpr int kLazyState = 256;
constexpr int kTokens = 16;    // of the history that a fold stages at once
constexpr int kColumns = 128;  // of the state, a pass
constexpr int kFoldRows = 2;
constexpr int kStateLanes = 8;  // that share a row of the state
constexpr int kStateGroups = kLazyThreads / kStateLanes;
constexpr int kFoldChannels = kFoldRows * kStateGroups;

struct LazyArgs {
    StepArgs s;  // state_in is state_out
    void* x_history;
    void* B_history;
    float* dt_history;
    float* counters;
    int capacity;
    int fold_every;
    int chunk_heads;   // heads a block
    int group_chunks;  // blocks a group of B and C
};

struct LazyShared {
    __align__(16) float B[kLazyState];
    __align__(16) float C[kLazyState];
    __align__(16) float x[kLazyChannels];
    float z[kLazyChannels];
    float state_y[kLazyChannels];
    float score[kLazyCapacity];                              // C . B_s; at the history's end the current token's
    __align__(16) float weight[kLazyHeads][kLazyCapacity];   // dt_s exp(A (cum - cum_s))
    float decay[kLazyHeads];                                 // of the state, over the history and the current token
    __align__(16) float staged[kTokens * kColumns];          // partial sums of y; then a fold's B
    __align__(16) float staged_x[kTokens * kFoldChannels];
};

// S = decay S + sum_s weight_s x_s B_s^T, with the current token as the history's last, for all of the block's channels.
template <typename StateT>
__device__ __forceinline__ void fold_history(const LazyArgs& a, LazyShared& shared, const StateT* x_history,
                                             const StateT* B_history, StateT* state, int n, bool folded,
                                             int channels) {
    constexpr int VEC = Vec16<StateT>::kSize;
    constexpr int ITER = kColumns / (kStateLanes * VEC);
    const int tid = static_cast<int>(threadIdx.x);
    const int lane = tid % kStateLanes, group = tid / kStateLanes;
    const int d_inner = a.s.nheads * a.s.headdim, bc_width = a.s.ngroups * a.s.d_state;
    for (int first = 0; first < a.s.d_state; first += kColumns) {
        for (int c0 = 0; c0 < channels; c0 += kFoldChannels) {
            const int p = c0 + group * kFoldRows;  // headdim is even: its rows are of one head
            float sum[kFoldRows][ITER][VEC] = {};
            if (folded && p < channels) {
                uint4 raw[kFoldRows][ITER];
                const float decay = shared.decay[p / a.s.headdim];
#pragma unroll
                for (int r = 0; r < kFoldRows; ++r) {
#pragma unroll
                    for (int i = 0; i < ITER; ++i) {
                        const int column = first + (lane + i * kStateLanes) * VEC;
                        raw[r][i] = make_uint4(0, 0, 0, 0);
                        if (column < a.s.d_state) {
                            raw[r][i] = *reinterpret_cast<const uint4*>(state + (p + r) * a.s.d_state + column);
                        }
                    }
                }
#pragma unroll
                for (int r = 0; r < kFoldRows; ++r) {
#pragma unroll
                    for (int i = 0; i < ITER; ++i) {
                        unpack_state(raw[r][i], sum[r][i]);
#pragma unroll
                        for (int j = 0; j < VEC; ++j) sum[r][i][j] *= decay;
                    }
                }
            }
            for (int s0 = 0; s0 <= n; s0 += kTokens) {
                __syncthreads();
                const int token = tid / kTokens, part = tid % kTokens, s = s0 + token;
                const int column = part * (kColumns / kTokens);
#pragma unroll
                for (int j = 0; j < kColumns / kTokens; j += 4) {
                    float four[4] = {};
                    const int at = first + column + j;
                    if (at < a.s.d_state && s < n) {
                        load_state4(B_history, a.s.state_dtype, static_cast<int64_t>(s) * bc_width + at, four);
                    } else if (at < a.s.d_state && s == n) {
#pragma unroll
                        for (int i = 0; i < 4; ++i) four[i] = shared.B[at + i];
                    }
                    *reinterpret_cast<float4*>(shared.staged + token * kColumns + column + j) =
                        make_float4(four[0], four[1], four[2], four[3]);
                }
                const int own = part * (kFoldChannels / kTokens), channel = c0 + own;
                static_assert(kFoldChannels / kTokens == 4, "four channels a thread");
                float four[4] = {};
                if (channel < channels && s <= n) {
                    if (s < n) {
                        load_state4(x_history, a.s.state_dtype, static_cast<int64_t>(s) * d_inner + channel, four);
                    } else {
#pragma unroll
                        for (int i = 0; i < 4; ++i) four[i] = shared.x[channel + i];
                    }
                    const float weight = shared.weight[channel / a.s.headdim][s];
#pragma unroll
                    for (int i = 0; i < 4; ++i) four[i] *= weight;
                }
                *reinterpret_cast<float4*>(shared.staged_x + token * kFoldChannels + own) =
                    make_float4(four[0], four[1], four[2], four[3]);
                __syncthreads();
                const int count = min(kTokens, n + 1 - s0);
                for (int t = 0; t < count; ++t) {
                    const float2 x = *reinterpret_cast<const float2*>(shared.staged_x + t * kFoldChannels +
                                                                      group * kFoldRows);
#pragma unroll
                    for (int i = 0; i < ITER; ++i) {
#pragma unroll
                        for (int j = 0; j < VEC; j += 4) {
                            const float4 b = *reinterpret_cast<const float4*>(
                                shared.staged + t * kColumns + (lane + i * kStateLanes) * VEC + j);
                            const float of_b[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
                            for (int k = 0; k < 4; ++k) {
                                sum[0][i][j + k] = fmaf(x.x, of_b[k], sum[0][i][j + k]);
                                sum[1][i][j + k] = fmaf(x.y, of_b[k], sum[1][i][j + k]);
                            }
                        }
                    }
                }
            }
#pragma unroll
            for (int r = 0; r < kFoldRows; ++r) {
#pragma unroll
                for (int i = 0; i < ITER; ++i) {
                    const int column = first + (lane + i * kStateLanes) * VEC;
                    if (p < channels && column < a.s.d_state) {
                        *reinterpret_cast<uint4*>(state + (p + r) * a.s.d_state + column) =
                            Vec16<StateT>::pack(sum[r][i]);
                    }
                }
            }
        }
    }
}

// S C of the block's channels, not yet decayed, into shared.state_y.
template <typename StateT>
__device__ __forceinline__ void state_times_C(const LazyArgs& a, LazyShared& shared, const StateT* state,
                                              int channels) {
    constexpr int VEC = Vec16<StateT>::kSize;
    constexpr int ITER = kColumns / (kStateLanes * VEC);
    constexpr int ROWS = 8 / ITER;  // 8 vectors in flight a thread
    const int tid = static_cast<int>(threadIdx.x);
    const int lane = tid % kStateLanes, group = tid / kStateLanes;
    for (int first = 0; first < a.s.d_state; first += kColumns) {
        for (int c0 = 0; c0 < channels; c0 += ROWS * kStateGroups) {
            uint4 raw[ROWS][ITER];
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const int p = c0 + r * kStateGroups + group;
#pragma unroll
                for (int i = 0; i < ITER; ++i) {
                    const int column = first + (lane + i * kStateLanes) * VEC;
                    raw[r][i] = make_uint4(0, 0, 0, 0);
                    if (p < channels && column < a.s.d_state) {
                        raw[r][i] = *reinterpret_cast<const uint4*>(state + p * a.s.d_state + column);
                    }
                }
            }
#pragma unroll
            for (int r = 0; r < ROWS; ++r) {
                const int p = c0 + r * kStateGroups + group;
                float sum = 0.0f;
#pragma unroll
                for (int i = 0; i < ITER; ++i) {
                    const int column = first + (lane + i * kStateLanes) * VEC;
                    float values[VEC];
                    unpack_state(raw[r][i], values);
#pragma unroll
                    for (int j = 0; j < VEC; j += 4) {
                        const float4 c = *reinterpret_cast<const float4*>(shared.C + min(column, kLazyState - VEC) + j);
                        sum = fmaf(values[j], c.x, sum), sum = fmaf(values[j + 1], c.y, sum);
                        sum = fmaf(values[j + 2], c.z, sum), sum = fmaf(values[j + 3], c.w, sum);
                    }
                }
#pragma unroll
                for (int offset = kStateLanes / 2; offset > 0; offset /= 2) {
                    sum += __shfl_xor_sync(0xffffffffu, sum, offset);
                }
                if (lane == 0 && p < channels) shared.state_y[p] = first > 0 ? shared.state_y[p] + sum : sum;
            }
        }
    }
}

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
    const int64_t window_row = row * (d_inner + 2 * bc_width) * (a.s.d_conv - 1);
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
