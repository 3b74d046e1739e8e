#include "step.cuh"

#include "dependent.cuh"
#include "step_input.cuh"

namespace aim_kernels {
namespace detail {
namespace {

constexpr int kThreads = 128;
// Lanes that share a row of the state. 8 lanes of 16 bytes are a full 128-byte line, and leave 3 shuffles a row.
constexpr int kLanes = 8;
constexpr int kGroups = kThreads / kLanes;
constexpr int kMaxState = 256;
constexpr int kMaxTile = 64;

// Blocks a multiprocessor is to hold: named, because left to itself the compiler spills a few registers for more. A
// block of float16 has half the bytes in flight, and so there should be more of them.
constexpr int min_blocks(int floats_a_lane, int vectors) { return floats_a_lane >= 32 ? 3 : vectors >= 16 ? 4 : 5; }

// A block takes p_tile rows of one head's state. Each thread holds R rows by ITER vectors of 16 bytes, all in flight
// before the first is needed. The inputs' loads go out first, also all at once, and are staged while the state travels.
//
// EARLY: the state is loaded before the kernel before is done; the header says who may have written it.
template <typename StateT, int ITER, int R, bool FUSED, bool EARLY>
__global__ __launch_bounds__(kThreads, min_blocks(ITER * Vec16<StateT>::kSize, R * ITER)) void step_kernel(
    StepArgs a) {
    constexpr int VEC = Vec16<StateT>::kSize;
    constexpr int STAGED = (ITER * kLanes * VEC + kThreads - 1) / kThreads;  // values of B and of C a thread
    static_assert(kMaxTile <= kThreads, "a value of x a thread");
    __shared__ __align__(16) float s_B[kMaxState];
    __shared__ __align__(16) float s_C[kMaxState];
    __shared__ float s_x[kMaxTile];
    __shared__ float s_z[kMaxTile];
    __shared__ float4 s_head;  // dt, the state's decay, D

    // Before the first load a division is a wait like any other: none where there is nothing to divide.
    int block = static_cast<int>(blockIdx.x);
    int tile = 0;
    if (a.p_tiles > 1) {
        tile = block % a.p_tiles;
        block /= a.p_tiles;
    }
    const int head = block % a.nheads;
    const int64_t row = block / a.nheads;
    const int tid = static_cast<int>(threadIdx.x);
    const int lane = tid % kLanes;
    const int group = tid / kLanes;
    const int p0 = tile * a.p_tile;
    const int p_count = min(a.p_tile, a.headdim - p0);
    const int vectors = a.d_state / VEC;
    const int64_t state_at = row * a.state_row_stride + static_cast<int64_t>(head * a.headdim + p0) * a.d_state;

    const int bc_group = a.ngroups > 1 ? head / a.group_heads : 0;
    const int d_inner = a.nheads * a.headdim;
    const int bc_width = a.ngroups * a.d_state;
    const int64_t window_row = row * a.conv_state_row_stride;

    // This thread's first vector; from it to the others, steps that are one sum a row and constants within a row.
    const int64_t thread_at = state_at + group * a.d_state + lane * VEC;
    const int64_t row_step = static_cast<int64_t>(kGroups) * a.d_state;
    const int p_loaded = a.state_in != nullptr ? p_count : 0;
    const int p_stored = a.state_out != nullptr ? p_count : 0;
    uint4 state[R][ITER];
    const auto load_state = [&] {
        const StateT* from = static_cast<const StateT*>(a.state_in) + thread_at;
#pragma unroll
        for (int r = 0; r < R; ++r, from += row_step) {
#pragma unroll
            for (int i = 0; i < ITER; ++i) {
                state[r][i] = make_uint4(0, 0, 0, 0);
                if (group + r * kGroups < p_loaded && lane + i * kLanes < vectors) {
                    state[r][i] = *reinterpret_cast<const uint4*>(from + i * kLanes * VEC);
                }
            }
        }
    };
    if constexpr (EARLY) load_state();
    wait_for_previous();
    let_next_start();
    if (row_is_inactive(a.active, row)) return;

    // What a head has once, by one thread: as values that all threads share, the compiler moves them to uniform
    // registers as they arrive, and waits for that before it sends the state's loads.
    unsigned dt_bits = 0;
    float dt_bias = 0.0f, A = 0.0f, D = 0.0f;
    if (tid == 0) {
        dt_bits = load_bits(a.dt, a.dtype, row * a.dt_row_stride + head);
        if (a.dt_bias != nullptr) dt_bias = a.dt_bias[head];
        A = a.A[head];
        if (a.D != nullptr) D = a.D[head];
    }
    Input<FUSED> in_B[STAGED], in_C[STAGED], in_x;
#pragma unroll
    for (int k = 0; k < STAGED; ++k) {
        const int n = tid + k * kThreads;
        if (n >= a.d_state) continue;
        const int at = bc_group * a.d_state + n;
        in_B[k].load(a, a.B, row * a.B_row_stride + at, window_row, d_inner + at);
        in_C[k].load(a, a.C, row * a.C_row_stride + at, window_row, d_inner + bc_width + at);
    }
    // From the block's far end: where d_state is small, other warps than those above.
    const int staged_p = kThreads - 1 - tid;
    const int x_at = head * a.headdim + p0 + staged_p;
    unsigned z_bits = 0;
    if (staged_p < p_count) {
        in_x.load(a, a.x, row * a.x_row_stride + x_at, window_row, x_at);
        if (a.z != nullptr) z_bits = load_bits(a.z, a.dtype, row * a.z_row_stride + x_at);
    }

    if constexpr (!EARLY) load_state();

    if (tid == 0) {
        float dt = value_of(dt_bits, a.dtype) + dt_bias;
        if (a.dt_softplus) dt = softplus(dt);
        s_head = make_float4(dt, expf(dt * A), D, 0.0f);
    }
#pragma unroll
    for (int k = 0; k < STAGED; ++k) {
        const int n = tid + k * kThreads;
        if (n >= a.d_state) continue;
        s_B[n] = in_B[k].value(a);
        s_C[n] = in_C[k].value(a);
    }
    if (staged_p < p_count) {
        s_x[staged_p] = in_x.value(a);
        s_z[staged_p] = a.z != nullptr ? silu(value_of(z_bits, a.dtype)) : 1.0f;
        if constexpr (FUSED) in_x.store_window(a, window_row, x_at);
    }
    __syncthreads();
    const float dt = s_head.x, decay = s_head.y, skip = s_head.z;

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

    StateT* to = static_cast<StateT*>(a.state_out) + thread_at;
#pragma unroll
    for (int r = 0; r < R; ++r, to += row_step) {
        if (r * kGroups >= p_count) break;  // a small tile
        const int p = group + r * kGroups;
        const bool mine = p < p_count;
        const float x = mine ? s_x[p] : 0.0f;
        const float dx = dt * x;
        float sum = 0.0f;
#pragma unroll
        for (int i = 0; i < ITER; ++i) {
            float s[VEC];
            unpack_state(state[r][i], s);
#pragma unroll
            for (int j = 0; j < VEC; ++j) {
                s[j] = fmaf(decay, s[j], dx * b[i][j]);
                sum = fmaf(s[j], c[i][j], sum);
            }
            if (p < p_stored && lane + i * kLanes < vectors) {
                *reinterpret_cast<uint4*>(to + i * kLanes * VEC) = Vec16<StateT>::pack(s);
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
    args.group_heads = args.nheads / args.ngroups;
    args.p_tiles = static_cast<int32_t>(ceil_div(args.headdim, args.p_tile));
    const int64_t blocks = args.rows * args.nheads * args.p_tiles;
    if (!fused) return launch_dependent(op, step_kernel<StateT, ITER, R, false, false>, blocks, kThreads, stream, args);
    // Where all blocks are there at once they have nothing better to do before the wait. Where they follow one another,
    // the inputs, which are needed first, should not queue behind the state.
    const auto kernel = blocks <= 4 * static_cast<int64_t>(sm_count) ? step_kernel<StateT, ITER, R, true, true>
                                                                     : step_kernel<StateT, ITER, R, true, false>;
    return launch_dependent(op, kernel, blocks, kThreads, stream, args);
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
