// The kernel of mamba2_lazy_step for float16 states: one block a row and group, or a row and a few of its heads.
#pragma once

#include "launch.cuh"
#include "lazy_mma_parts.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kInputs = 3;  // of the convolution a thread in flight

// One value of x, B or C as the convolution makes it. AIM: 16-bit types and d_conv 4, so that no load depends on a type:
// of two loads into one register, one for each, the second would wait for the first.
template <bool AIM>
struct ConvInput {
    Input<true> any;

    __device__ __forceinline__ void load(const StepArgs& a, int64_t row, int64_t window_row, int channel) {
        if constexpr (AIM) {
            any.newest = static_cast<const unsigned short*>(a.x)[row * a.x_row_stride + channel];
            const unsigned short* window = static_cast<const unsigned short*>(a.conv_state_in) + window_row + channel * 3;
            any.window[0] = window[0], any.window[1] = window[1], any.window[2] = window[2];
            const float4 weight = reinterpret_cast<const float4*>(a.conv_weight)[channel];
            any.weight[0] = weight.x, any.weight[1] = weight.y, any.weight[2] = weight.z, any.weight[3] = weight.w;
            if (a.conv_bias != nullptr) any.bias = a.conv_bias[channel];
        } else {
            any.load(a, a.x, row * a.x_row_stride + channel, window_row, channel);
        }
    }

    __device__ __forceinline__ float value(const StepArgs& a) const {
        if constexpr (!AIM) return any.value(a);
        float sum = any.bias;
#pragma unroll
        for (int k = 0; k < 3; ++k) sum = fmaf(any.weight[k], value_of(any.window[k], DType::kFloat16), sum);
        return silu(fmaf(any.weight[3], value_of(any.newest, a.dtype), sum));
    }

    __device__ __forceinline__ void store_window(const StepArgs& a, int64_t window_row, int channel) const {
        if constexpr (AIM) {
            __half* window = static_cast<__half*>(a.conv_state_out) + window_row + channel * 3;
            reinterpret_cast<unsigned short*>(window)[0] = static_cast<unsigned short>(any.window[1]);
            reinterpret_cast<unsigned short*>(window)[1] = static_cast<unsigned short>(any.window[2]);
            from_float(window[2], value_of(any.newest, a.dtype));
        } else {
            any.store_window(a, window_row, channel);
        }
    }
};

// dt, A and D of the heads, and x, z, B and C of the current token, kInputs a thread in flight. x and silu(z) go to
// `channels` floats each.
template <bool AIM>
__device__ __forceinline__ void make_inputs(const LazyMmaArgs& m, MmaShared& shared, const Place<AIM>& place,
                                            float* x, __half* row_of_B, int64_t row, int group, int tid) {
    const StepArgs& a = m.lazy.s;
    const int d_state = place.d_state();
    unsigned dt_bits = 0;
    float dt_bias = 0.0f, A = 0.0f, D = 0.0f;
    if (tid < place.heads) {
        const int head = place.first_head + tid;
        dt_bits = AIM ? static_cast<const unsigned short*>(a.dt)[row * a.dt_row_stride + head]
                      : load_bits(a.dt, a.dtype, row * a.dt_row_stride + head);
        if (a.dt_bias != nullptr) dt_bias = a.dt_bias[head];
        A = a.A[head];
        if (a.D != nullptr) D = a.D[head];
    }
    const int bc_width = a.ngroups * d_state;
    const int count = place.channels + 2 * d_state;
    const int64_t window_row = row * a.conv_state_row_stride;
    for (int from = tid; from < count; from += kInputs * kMmaThreads) {
        ConvInput<AIM> in[kInputs];
        unsigned z_bits[kInputs] = {};
        int channel[kInputs];
#pragma unroll
        for (int k = 0; k < kInputs; ++k) {
            // Past the last it is the last once more: no branch.
            const int i = min(from + k * kMmaThreads, count - 1), of_bc = i - place.channels;
            const bool is_C = of_bc >= d_state;
            // x, B and C follow one another in a row as they do among the convolution's channels.
            channel[k] = of_bc < 0 ? place.first_head * place.headdim() + i
                                   : place.d_inner + group * d_state + of_bc + (is_C ? bc_width - d_state : 0);
            in[k].load(a, row, window_row, channel[k]);
            const int64_t z_at = row * a.z_row_stride + (of_bc < 0 ? channel[k] : 0);
            if constexpr (AIM) {
                z_bits[k] = static_cast<const unsigned short*>(a.z)[z_at];
            } else {
                z_bits[k] = load_bits(a.z, a.dtype, z_at);
            }
        }
#pragma unroll
        for (int k = 0; k < kInputs; ++k) {
            const int i = from + k * kMmaThreads, of_bc = i - place.channels;
            if (i >= count) continue;
            const float value = in[k].value(a);
            if (of_bc < 0) {
                x[i] = value;
                x[place.channels + i] = silu(value_of(z_bits[k], a.dtype));
            } else if (of_bc < d_state) {
                shared.B[of_bc] = value;
                from_float(row_of_B[of_bc], value);
            } else {
                shared.C[of_bc - d_state] = value;
                __half high, low;
                from_float(high, value);
                from_float(low, value - to_float(high));
                shared.split[0][of_bc - d_state] = high;
                shared.split[1][of_bc - d_state] = low;
            }
            if (of_bc < 0 || m.whole) in[k].store_window(a, window_row, channel[k]);
        }
    }
    if (tid < place.heads) shared.head[tid] = make_float4(softplus(value_of(dt_bits, a.dtype) + dt_bias), A, D, 0.0f);
    for (int i = d_state + tid; !AIM && i < kLazyState; i += kMmaThreads) {  // past d_state zeros, for whole vectors
        from_float(shared.split[0][i], 0.0f);
        from_float(shared.split[1][i], 0.0f);
    }
}

// The norm of the block's gated values, of which `gated` are there for all to read.
__device__ __forceinline__ void norm_out(const LazyMmaArgs& m, MmaShared& shared, int first, int channels,
                                         const float* gated, int64_t row, int tid) {
    constexpr int kEach = kMmaChannels / kMmaThreads;
    float weight[kEach], sum = 0.0f;
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
        const int i = tid + k * kMmaThreads;
        weight[k] = i < channels ? m.norm_weight[first + i] : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
        const int i = tid + k * kMmaThreads;
        if (i < channels) sum = fmaf(gated[i], gated[i], sum);
    }
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    if (tid % 32 == 0) shared.scratch[tid / 32] = sum;
    __syncthreads();
    sum = 0.0f;
#pragma unroll
    for (int k = 0; k < kMmaWarps; ++k) sum += shared.scratch[k];
    const float scale = 1.0f / sqrtf(sum / static_cast<float>(channels) + m.eps);
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
        const int i = tid + k * kMmaThreads;
        if (i < channels) {
            store_any(m.out, m.lazy.s.dtype, row * m.out_row_stride + first + i, gated[i] * (scale * weight[k]));
        }
    }
}

// Histories and state are asked for before the kernel before is done; the header says who may have written them.
// One block a multiprocessor: two have too few registers for what is in flight, and lose more than they hide of each
// other.
template <bool AIM>
__global__ __launch_bounds__(kMmaThreads, 1) void lazy_mma_kernel(LazyMmaArgs m) {
    AIM_DYNAMIC_SMEM(memory);
    MmaShared& shared = *reinterpret_cast<MmaShared*>(memory);
    float* gated = reinterpret_cast<float*>(memory + sizeof(MmaShared));  // x until then
    const LazyArgs& a = m.lazy;
    const int chunks = a.s.ngroups * a.group_chunks;
    const int chunk = static_cast<int>(blockIdx.x) % chunks;
    const int64_t row = static_cast<int>(blockIdx.x) / chunks;
    const int group = chunk / a.group_chunks;
    const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
    const int bc_width = a.s.ngroups * (AIM ? 128 : a.s.d_state), stride = bc_stride(AIM ? 128 : a.s.d_state);

    Place<AIM> place;
    place.any_headdim = a.s.headdim, place.any_d_state = a.s.d_state;
    const int headdim = place.headdim(), d_state = place.d_state();
    place.d_inner = a.s.nheads * headdim;
    place.first_head = group * a.s.group_heads + chunk % a.group_chunks * a.chunk_heads;
    place.heads = min(a.chunk_heads, (group + 1) * a.s.group_heads - place.first_head);
    place.channels = place.heads * headdim;
    place.parts = place.heads < kMmaWarps ? kMmaWarps / place.heads : 1;
    place.part = place.parts > 1 ? warp / place.heads : 0;
    const int first = place.part < place.parts ? (place.parts > 1 ? warp % place.heads : warp) : place.heads;
    const int64_t head_at = row * a.s.nheads + place.first_head;
    const int channel = place.first_head * headdim;
    __half* x_history = static_cast<__half*>(a.x_history) + row * a.capacity * place.d_inner + channel;
    __half* B_history = static_cast<__half*>(a.B_history) + row * a.capacity * bc_width + group * d_state;
    place.x_history = x_history;
    place.state = static_cast<__half*>(a.s.state_out) + head_at * headdim * d_state;
    __half* rows = reinterpret_cast<__half*>(gated + 2 * a.chunk_heads * headdim);

    const float counted = a.counters[3 * head_at];
    place.folded = a.counters[3 * head_at + 1] != 0.0f;
    place.n = min(max(static_cast<int>(counted), 0), a.capacity - 1);
    const int n = place.n;
    const bool folds = n + 1 >= (place.folded ? a.fold_every : a.capacity);

    uint4 flight[kFlight];
    place.load_first(first, flight, lane);
    // dt of a head's tokens, newest first.
    float dt_of[4];
    const auto load_dt = [&](int head) {
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            const int s = n - 1 - lane - 32 * k;
            dt_of[k] = head < place.heads && s >= 0 ? a.dt_history[(head_at + head) * a.capacity + s] : 0.0f;
        }
    };
    load_dt(first);
    // B's history, after it the current token, and zeros up to a whole tile.
    const int row_vectors = d_state / 8;
    for (int i = tid; i < (n / kTile + 1) * kTile * row_vectors; i += kMmaThreads) {
        const int s = i / row_vectors, at = i % row_vectors * 8;
        if (s == n) continue;
        copy_async(rows + s * stride + at, B_history + static_cast<int64_t>(s < n ? s : 0) * bc_width + at, s < n);
    }
    wait_for_previous();
    let_next_start();
    if (row_is_inactive(a.s.active, row)) {
        wait_for_copies();
        return;
    }
    make_inputs(m, shared, place, gated, rows + n * stride, row, group, tid);
    wait_for_copies();
    __syncthreads();
    if (warp == kMmaWarps - 1) {
        float sum = 0.0f;
        for (int i = lane; i < d_state; i += 32) sum = fmaf(shared.B[i], shared.C[i], sum);
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
        if (lane == 0) shared.score[n] = sum;
    }
    for (int tile = warp; tile * kTile < n; tile += kMmaWarps) {
        score_tile(shared, rows, stride, d_state, tile, n, lane);
    }
    // One block a group writes B: the others read the entries before it only.
    if (!folds && chunk % a.group_chunks == 0) {
        for (int i = tid; i < d_state; i += kMmaThreads) {
            B_history[static_cast<int64_t>(n) * bc_width + i] = rows[n * stride + i];
        }
    }
    __syncthreads();
    if (folds) {
        reorder_columns(rows, stride, (n / kTile + 1) * kTile, tid);
        __syncthreads();
    }

    for (int h = first; h < place.heads || (place.parts > 1 && h == first); h += kMmaWarps) {
        WarpShared& own = shared.warps[warp];
        const bool busy = h < place.heads;  // a warp that has no head goes along to the barriers
        const float4 scalars = busy ? shared.head[h] : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
        const float dt = scalars.x, A = scalars.y;
        float decay = 0.0f;
        if (busy) {
            // Nothing of the next head where a fold comes between: it wants the registers.
            const int after = folds ? place.heads : h + kMmaWarps;
            const auto next_head = [&] { place.load_first(after, flight, lane); };
            if (place.folded) {
                const auto history = [&] {
                    if (n > 0) {
                        place.load_history(h, 0, flight, lane);
                    } else {
                        next_head();
                    }
                };
                state_by_C(place, shared, own, h, history, flight, lane);
            }
            decay = head_weights(shared, own, dt_of, dt, A, n, lane);
            load_dt(h + kMmaWarps);
            __syncwarp();
            history_sum(place, own, h, next_head, flight, lane);
        }
        if (place.parts > 1) __syncthreads();
        __syncwarp();
        if (busy && place.part == 0) {
            const float of_x = fmaf(dt, shared.score[n], scalars.z);
            // opaque: or the divisions of all heads are made ahead of the loop, and kept.
#pragma unroll 1
            for (int p = opaque(lane); p < headdim; p += 32) {
                const int at = h * headdim + p;
                const float x = gated[at];
                float y = of_x * x;
                for (int other = 0; other < place.parts; ++other) {
                    const float* staged = shared.warps[place.parts > 1 ? other * place.heads + h : warp].staged + p;
                    for (int sub = 0; sub < place.subs(); ++sub) y += staged[sub * headdim];
                }
                if (place.folded) {
                    const int holds = place.parts > 1 ? p / kTile % place.parts * place.heads + h : warp;
                    y = fmaf(decay, shared.warps[holds].state_y[p], y);
                }
                y *= gated[place.channels + at];
                if (m.whole) {
                    gated[at] = y;
                } else {
                    static_cast<float*>(a.s.y)[row * a.s.y_row_stride + channel + at] = y;
                }
                from_float(x_history[static_cast<int64_t>(n) * place.d_inner + at], x);
            }
            if (lane == 0) {
                if (!folds) a.dt_history[(head_at + h) * a.capacity + n] = dt;
                float* counters = a.counters + 3 * (head_at + h);
                counters[0] = folds ? 0.0f : static_cast<float>(n + 1);
                counters[1] = folds || place.folded ? 1.0f : 0.0f;
                counters[2] = A;
            }
        }
        if (folds) {
            if (place.parts > 1) __syncthreads();
            __syncwarp();
            if (busy) fold_head(place, own, rows, h, decay, lane);
            place.load_first(h + kMmaWarps, flight, lane);
        }
        __syncwarp();
    }
    if (m.whole) norm_out(m, shared, channel, place.channels, gated, row, tid);
}

inline size_t lazy_mma_shared(const LazyArgs& a) noexcept {
    return sizeof(MmaShared) + static_cast<size_t>(2 * a.chunk_heads * a.s.headdim) * sizeof(float) +
           static_cast<size_t>(tokens_of(a.capacity) * bc_stride(a.s.d_state)) * 2;
}

}  // namespace detail
}  // namespace aim_kernels
