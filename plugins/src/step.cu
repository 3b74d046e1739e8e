#include "step.cuh"

#include "device_math.cuh"
#include "launch.cuh"

namespace aim_kernels {
namespace detail {
namespace {

constexpr int kThreads = 128;
// Lanes that share a row of the state. 8 lanes of 16 bytes are a full 128-byte line, and leave 3 shuffles a row.
constexpr int kLanes = 8;
constexpr int kGroups = kThreads / kLanes;
constexpr int kMaxState = 256;
constexpr int kMaxTile = 64;
constexpr int kMaxConv = 4;

// Blocks a multiprocessor is to hold: named, because left to itself the compiler spills a few registers for more.
constexpr int min_blocks(int floats_a_lane) { return floats_a_lane >= 32 ? 3 : 4; }

// What the convolution needs for one channel, loaded whole before any of it is used: one wait instead of one a tap.
struct Taps {
    float newest, bias;
    float weight[kMaxConv];
    float window[kMaxConv - 1];

    __device__ __forceinline__ void load(const StepArgs& a, int64_t row, int conv_dim, int channel, float newest_) {
        const int halo = a.d_conv - 1;
        const int64_t state_at = (row * conv_dim + channel) * halo;
        newest = newest_;
        bias = a.conv_bias != nullptr ? a.conv_bias[channel] : 0.0f;
#pragma unroll
        for (int k = 0; k < kMaxConv; ++k) {
            weight[k] = k < a.d_conv ? a.conv_weight[static_cast<int64_t>(channel) * a.d_conv + k] : 0.0f;
        }
        if (a.conv_state_dtype == DType::kFloat16) {
            load_window(static_cast<const __half*>(a.conv_state) + state_at, halo);
        } else {
            load_window(static_cast<const float*>(a.conv_state) + state_at, halo);
        }
    }

    template <typename T>
    __device__ __forceinline__ void load_window(const T* state, int halo) {
#pragma unroll
        for (int k = 0; k < kMaxConv - 1; ++k) window[k] = k < halo ? to_float(state[k]) : 0.0f;
    }

    __device__ __forceinline__ float silu_of_sum(int d_conv) const {
        float sum = bias;
#pragma unroll
        for (int k = 0; k < kMaxConv; ++k) {
            if (k + 1 < d_conv) sum = fmaf(weight[k], window[k < kMaxConv - 1 ? k : 0], sum);
            if (k + 1 == d_conv) sum = fmaf(weight[k], newest, sum);
        }
        return silu(sum);
    }
};

// A block takes p_tile rows of one head's state. Each thread holds R rows by ITER vectors of 16 bytes, all in flight
// before the first is needed; the inputs are staged while they travel.
template <typename StateT, int ITER, int R, bool FUSED>
__global__ __launch_bounds__(kThreads, min_blocks(ITER * Vec16<StateT>::kSize)) void step_kernel(StepArgs a) {
    constexpr int VEC = Vec16<StateT>::kSize;
    __shared__ __align__(16) float s_B[kMaxState];
    __shared__ __align__(16) float s_C[kMaxState];
    __shared__ float s_x[kMaxTile];
    __shared__ float s_z[kMaxTile];

    int block = static_cast<int>(blockIdx.x);
    const int tile = block % a.p_tiles;
    block /= a.p_tiles;
    const int head = block % a.nheads;
    const int64_t row = block / a.nheads;
    if (row_is_inactive(a.active, row)) return;

    const int tid = static_cast<int>(threadIdx.x);
    const int lane = tid % kLanes;
    const int group = tid / kLanes;
    const int p0 = tile * a.p_tile;
    const int p_count = min(a.p_tile, a.headdim - p0);
    const int vectors = a.d_state / VEC;
    const int64_t state_at = ((row * a.nheads + head) * a.headdim + p0) * a.d_state;

    uint4 state[R][ITER];
    const StateT* state_in = static_cast<const StateT*>(a.state_in) + state_at;
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int i = 0; i < ITER; ++i) {
            const int p = group + r * kGroups;
            const int v = lane + i * kLanes;
            state[r][i] = make_uint4(0, 0, 0, 0);
            if (a.state_in != nullptr && p < p_count && v < vectors) {
                state[r][i] = *reinterpret_cast<const uint4*>(state_in + p * a.d_state + v * VEC);
            }
        }
    }

    const int bc_group = head / (a.nheads / a.ngroups);
    const int d_inner = a.nheads * a.headdim;
    const int bc_width = a.ngroups * a.d_state;
    const int conv_dim = d_inner + 2 * bc_width;
    for (int n = tid; n < a.d_state; n += kThreads) {
        const int at = bc_group * a.d_state + n;
        float b = load_any(a.B, a.dtype, row * a.B_row_stride + at);
        float c = load_any(a.C, a.dtype, row * a.C_row_stride + at);
        if constexpr (FUSED) {
            Taps b_taps, c_taps;
            b_taps.load(a, row, conv_dim, d_inner + at, b);
            c_taps.load(a, row, conv_dim, d_inner + bc_width + at, c);
            b = b_taps.silu_of_sum(a.d_conv);
            c = c_taps.silu_of_sum(a.d_conv);
        }
        s_B[n] = b;
        s_C[n] = c;
    }
    // From the block's far end, so that these loads do not queue behind those above in the same warps.
    for (int p = kThreads - 1 - tid; p < p_count; p += kThreads) {
        const int at = head * a.headdim + p0 + p;
        float x = load_any(a.x, a.dtype, row * a.x_row_stride + at);
        const float z = a.z != nullptr ? load_any(a.z, a.dtype, row * a.z_row_stride + at) : 0.0f;
        if constexpr (FUSED) {
            Taps x_taps;
            x_taps.load(a, row, conv_dim, at, x);
            x = x_taps.silu_of_sum(a.d_conv);
        }
        s_x[p] = x;
        s_z[p] = a.z != nullptr ? silu(z) : 1.0f;
    }
    float dt = load_any(a.dt, a.dtype, row * a.dt_row_stride + head);
    if (a.dt_bias != nullptr) dt += a.dt_bias[head];
    if (a.dt_softplus) dt = softplus(dt);
    const float decay = expf(dt * a.A[head]);
    const float skip = a.D != nullptr ? a.D[head] : 0.0f;
    __syncthreads();

    float b[ITER][VEC] = {}, c[ITER][VEC] = {};
#pragma unroll
    for (int i = 0; i < ITER; ++i) {
        const int v = lane + i * kLanes;
        if (v >= vectors) continue;
#pragma unroll
        for (int j = 0; j < VEC; j += 4) {
            const float4 four_b = *reinterpret_cast<const float4*>(s_B + v * VEC + j);
            const float4 four_c = *reinterpret_cast<const float4*>(s_C + v * VEC + j);
            b[i][j] = four_b.x, b[i][j + 1] = four_b.y, b[i][j + 2] = four_b.z, b[i][j + 3] = four_b.w;
            c[i][j] = four_c.x, c[i][j + 1] = four_c.y, c[i][j + 2] = four_c.z, c[i][j + 3] = four_c.w;
        }
    }

    StateT* state_out = static_cast<StateT*>(a.state_out) + state_at;
#pragma unroll
    for (int r = 0; r < R; ++r) {
        const int p = group + r * kGroups;
        const bool mine = p < p_count;
        const float x = mine ? s_x[p] : 0.0f;
        const float dx = dt * x;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < ITER; ++i) {
            const int v = lane + i * kLanes;
            float s[VEC];
            Vec16<StateT>::unpack(state[r][i], s);
#pragma unroll
            for (int j = 0; j < VEC; ++j) {
                s[j] = fmaf(decay, s[j], dx * b[i][j]);
                sum = fmaf(s[j], c[i][j], sum);
            }
            if (a.state_out != nullptr && mine && v < vectors) {
                *reinterpret_cast<uint4*>(state_out + p * a.d_state + v * VEC) = Vec16<StateT>::pack(s);
            }
        }
#pragma unroll
        for (int offset = kLanes / 2; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
        if (lane == 0 && mine) {
            const int at = head * a.headdim + p0 + p;
            store_any(a.y, a.y_dtype, row * a.y_row_stride + at, fmaf(skip, x, sum) * s_z[p]);
        }
    }
}

template <typename StateT, int ITER, int R>
Status launch_sized(const char* op, StepArgs& args, bool fused, int sm_count, cudaStream_t stream) noexcept {
    // Large tiles share the staged inputs among more of the state; small ones fill a device that few rows leave idle.
    args.p_tile = kGroups * R;
    while (args.p_tile > kGroups &&
           args.rows * args.nheads * ceil_div(args.headdim, args.p_tile) < 4 * static_cast<int64_t>(sm_count)) {
        args.p_tile /= 2;
    }
    args.p_tiles = static_cast<int32_t>(ceil_div(args.headdim, args.p_tile));
    const int64_t blocks = args.rows * args.nheads * args.p_tiles;
    return fused ? launch_kernel(op, step_kernel<StateT, ITER, R, true>, blocks, kThreads, 0, stream, args)
                 : launch_kernel(op, step_kernel<StateT, ITER, R, false>, blocks, kThreads, 0, stream, args);
}

}  // namespace

Status launch_step(const char* op, StepArgs args, bool fused, int sm_count, cudaStream_t stream) noexcept {
    // ITER covers d_state; R keeps R * ITER vectors, what is in flight a thread, within the registers.
    if (args.state_dtype == DType::kFloat16) {
        if (args.d_state <= 64) return launch_sized<__half, 1, 4>(op, args, fused, sm_count, stream);
        if (args.d_state <= 128) return launch_sized<__half, 2, 4>(op, args, fused, sm_count, stream);
        return launch_sized<__half, 4, 2>(op, args, fused, sm_count, stream);
    }
    if (args.d_state <= 32) return launch_sized<float, 1, 4>(op, args, fused, sm_count, stream);
    if (args.d_state <= 64) return launch_sized<float, 2, 4>(op, args, fused, sm_count, stream);
    if (args.d_state <= 128) return launch_sized<float, 4, 4>(op, args, fused, sm_count, stream);
    return launch_sized<float, 8, 2>(op, args, fused, sm_count, stream);
}

}  // namespace detail
}  // namespace aim_kernels
