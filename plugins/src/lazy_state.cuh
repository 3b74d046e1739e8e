// What mamba2_lazy_step does with the state: reads it, and folds the history into it.
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

}  // namespace detail
}  // namespace aim_kernels
