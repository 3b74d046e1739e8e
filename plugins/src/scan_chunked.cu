// Mamba-2's scan in its chunked matrix form, on tensor cores, for float16 and bfloat16.
//
// A block walks a segment of one head in chunks of 64 steps and keeps the state in float32 registers. With cum[t] the
// sum of dt * A up to t within the chunk, and S the state before the chunk:
//   y[t] = exp(cum[t]) * (C[t] . S) + sum over s <= t of (C[t] . B[s]) * exp(cum[t] - cum[s]) * dt[s] * x[s] + D * x[t]
//   S    = exp(cum[63]) * S + sum over s of dt[s] * exp(cum[63] - cum[s]) * x[s] (outer) B[s]
// Decays are exponentials of differences, never ratios of exponentials. D sits on the diagonal of the second sum.
#include "launch.cuh"
#include "scan_chunk.cuh"

namespace aim_kernels {
namespace detail {
namespace {

constexpr const char* kOp = "selective_scan";

// 3 blocks a multiprocessor: one block's loads then travel while the others compute.
template <typename T, int P, int N, bool OUTPUT>
__global__ __launch_bounds__(kChunkThreads, 3) void chunked_kernel(ScanArgs a) {
    using L = Tile<P, N, OUTPUT>;
    constexpr int MT = 2, NT = L::kWarpN / 8, PT = P / 8;
    AIM_DYNAMIC_SMEM(smem);
    T* s_B = reinterpret_cast<T*>(smem) + L::kB;
    T* s_X = reinterpret_cast<T*>(smem) + L::kX;
    T* s_C = reinterpret_cast<T*>(smem) + L::kC;
    T* s_S = reinterpret_cast<T*>(smem) + L::kS;
    float* floats = reinterpret_cast<float*>(smem + L::kEnd * 2);
    const ChunkFactors factors = {floats, floats + Q, floats + 2 * Q, floats + 3 * Q};

    const SelectiveScanParams& p = a.p;
    const int segments = OUTPUT ? a.segments : a.segments - 1;
    int block = static_cast<int>(blockIdx.x);
    const int p0 = block % a.tiles * P;
    block /= a.tiles;
    const int head = block % p.nheads;
    block /= p.nheads;
    const int segment = block % segments;
    const int row = block / segments;
    const int bc_group = head / (p.nheads / p.ngroups);
    if (row_is_inactive(p.active, row)) return;

    // Registers decide how many blocks fit: 32 bits wherever the grid's bounds allow it, and what follows from a few of
    // these is computed again in every chunk.
    const auto valid_p = [&] { return min(P, p.headdim - opaque(p0)); };
    const auto channel0 = [&] { return opaque(head) * p.headdim + p0; };
    const int begin = static_cast<int>(segment * a.segment_length);
    const int end = static_cast<int>(min(begin + a.segment_length, p.length));
    const auto from_row = [&](const void* base, int64_t row_stride, int64_t time_stride, int time) {
        return static_cast<const T*>(base) + opaque(row) * row_stride + time * time_stride;
    };

    const auto load_bx = [&](const Place<L>& me, int time) {
        const int count = min(end - time, Q);
        const T* B = from_row(p.B, p.B_row_stride, p.B_time_stride, time) + bc_group * p.d_state;
        const T* x = from_row(p.x, p.x_row_stride, p.x_time_stride, time) + channel0();
        copy_rows<T, N, L::kPitchN, Q, kChunkThreads>(s_B, B, p.B_time_stride, count, p.d_state, a.wide_bc, me.thread);
        copy_rows<T, P, L::kPitchP, Q, kChunkThreads>(s_X, x, p.x_time_stride, count, valid_p(), a.wide_x, me.thread);
    };
    // A warp's 16 rows of C are its own: it loads them when it is done with them, whatever the others do.
    const auto load_c = [&](const Place<L>& me, int time) {
        const int count = max(0, min(end - time - me.warp * 16, 16));
        const int first = count > 0 ? time + me.warp * 16 : time;  // of none, an address that exists
        const T* C = from_row(p.C, p.C_row_stride, p.C_time_stride, first) + bc_group * p.d_state;
        copy_rows<T, N, L::kPitchC, 16, 32>(s_C + me.warp * 16 * L::kPitchC, C, p.C_time_stride, count, p.d_state,
                                            a.wide_bc, me.lane);
    };
    // The state as mma accumulators: headdim warp_p + 16 m + 8 half + g, d_state warp_n + 8 n + 2 q and the next.
    float state[MT][NT][4];
    const auto each_pair = [&](const Place<L>& me, auto visit) {
#pragma unroll
        for (int m = 0; m < MT; ++m) {
#pragma unroll
            for (int n = 0; n < NT; ++n) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    visit(me.warp_p + 16 * m + 8 * half + me.g, me.warp_n + 8 * n + 2 * me.q, state[m][n][2 * half],
                          state[m][n][2 * half + 1]);
                }
            }
        }
    };
    // The tensor cores' copy of it, for C . S.
    const auto publish_state = [&](const Place<L>& me) {
        each_pair(me, [&](int at_p, int at_n, float& first, float& second) {
            *reinterpret_cast<unsigned*>(s_S + at_p * L::kPitchN + at_n) = pack2<T>(first, second);
        });
    };
    float total = 0.0f;  // of cum over the segment, in warp 0
    const auto compute_factors = [&](const Place<L>& me, int time) {
        total += factors.compute(p, opaque(row), head, time, min(end - time, Q), me.lane);
    };

    {
        const Place<L> me(static_cast<int>(threadIdx.x));
        load_bx(me, begin);
        if constexpr (OUTPUT) load_c(me, begin);
        const bool segmented = a.segments > 1;
        const void* source = segmented ? a.states : p.ssm_state_in;
        const DType type = segmented ? DType::kFloat32 : p.state_dtype;
        const int64_t slot = segmented ? static_cast<int64_t>(row) * a.segments + segment : row;
        const int64_t base = (slot * p.nheads * p.headdim + channel0()) * p.d_state;
        const int end_p = min(P, p.headdim - p0);
        each_pair(me, [&](int at_p, int at_n, float& first, float& second) {
            float two[2] = {0.0f, 0.0f};
            if (OUTPUT && source != nullptr && at_p < end_p && at_n < p.d_state) {
                load_state2(source, type, base + at_p * p.d_state + at_n, two);
            }
            first = two[0];
            second = two[1];
        });
        if constexpr (OUTPUT) publish_state(me);
        if (me.warp == 0) compute_factors(me, begin);
    }

    for (int time = begin; time < end; time += Q) {
        const Place<L> me(opaque(static_cast<int>(threadIdx.x)));
        const LanePoint at_lane(me.lane);
        T* my_C = s_C + me.warp * 16 * L::kPitchC;
        const int count = min(end - time, Q);
        wait_for_copies();
        __syncthreads();

        float out[OUTPUT ? PT : 1][4] = {};
        if constexpr (OUTPUT) {
            if (me.warp * 16 < count) {
                const float skip = p.D != nullptr ? p.D[head] : 0.0f;
                chunk_output<T, P, N, L>(out, s_B, s_X, my_C, s_S, factors, skip, me.warp, me.lane);
            }
        }

        const float decay = factors.from_start[Q - 1];
#pragma unroll
        for (int m = 0; m < MT; ++m) {
#pragma unroll
            for (int n = 0; n < NT; ++n) {
#pragma unroll
                for (int j = 0; j < 4; ++j) state[m][n][j] *= decay;
            }
        }
#pragma unroll
        for (int k = 0; k < Q; k += 16) {
            if (k >= count) break;
            unsigned weighted[MT][4];
            const float2 w0 = *reinterpret_cast<const float2*>(factors.to_end + k + 2 * me.q);
            const float2 w1 = *reinterpret_cast<const float2*>(factors.to_end + k + 8 + 2 * me.q);
#pragma unroll
            for (int m = 0; m < MT; ++m) {
                ldmatrix_trans(weighted[m], s_X + (k + at_lane.across_row) * L::kPitchP + me.warp_p + 16 * m +
                                                at_lane.across_col);
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float2 w = i < 2 ? w0 : w1;
                    const float2 value = unpack2<T>(weighted[m][i]);
                    weighted[m][i] = pack2<T>(value.x * w.x, value.y * w.y);
                }
            }
#pragma unroll
            for (int n = 0; n < NT; n += 2) {
                unsigned b[4];
                ldmatrix_trans(b, s_B + (k + at_lane.down_row) * L::kPitchN + me.warp_n + 8 * n + at_lane.down_col);
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    mma<T>(state[m][n], weighted[m], b[0], b[1]);
                    mma<T>(state[m][n + 1], weighted[m], b[2], b[3]);
                }
            }
        }

        __syncthreads();
        const int next = time + Q;
        if (next < end) load_bx(me, next);
        if constexpr (OUTPUT) {
            if (next < end) publish_state(me);
            if (me.warp * 16 < count) {
                write_output<T, P, L>(a, out, my_C, opaque(row), time + me.warp * 16, min(16, count - me.warp * 16),
                                      channel0(), valid_p(), me.lane);
            }
            __syncwarp();
            if (next < end) load_c(me, next);
        }
        if (me.warp == 0 && next < end) compute_factors(me, next);
    }

    const Place<L> me(static_cast<int>(threadIdx.x));
    const int64_t slot = static_cast<int64_t>(row) * a.segments + segment;
    if (!OUTPUT && me.thread == 0 && p0 == 0) a.decays[slot * p.nheads + head] = total;
    if (OUTPUT && (segment != a.segments - 1 || p.ssm_state_out == nullptr)) return;
    void* target = OUTPUT ? p.ssm_state_out : a.states;
    const DType type = OUTPUT ? p.state_dtype : DType::kFloat32;
    const int64_t base = ((OUTPUT ? row : slot) * p.nheads * p.headdim + channel0()) * p.d_state;
    const int end_p = min(P, p.headdim - p0);
    each_pair(me, [&](int at_p, int at_n, float& first, float& second) {
        if (at_p >= end_p || at_n >= p.d_state) return;
        store_state2(target, type, base + at_p * p.d_state + at_n, first, second);
    });
}

template <typename T, int P, int N>
Status launch_tile(const ScanArgs& args, bool output, cudaStream_t stream) noexcept {
    const int64_t blocks =
        args.p.rows * (output ? args.segments : args.segments - 1) * args.p.nheads * args.tiles;
    return output ? launch_kernel(kOp, chunked_kernel<T, P, N, true>, blocks, kChunkThreads,
                                  Tile<P, N, true>::kBytes, stream, args)
                  : launch_kernel(kOp, chunked_kernel<T, P, N, false>, blocks, kChunkThreads,
                                  Tile<P, N, false>::kBytes, stream, args);
}

template <typename T>
Status launch_typed(const ScanArgs& args, bool output, cudaStream_t stream) noexcept {
    const int d_state = args.p.d_state;
    const bool wide = chunked_block_width(args.p) == 64;
    if (d_state > 128) return launch_tile<T, 32, 256>(args, output, stream);
    if (d_state > 64) {
        return wide ? launch_tile<T, 64, 128>(args, output, stream) : launch_tile<T, 32, 128>(args, output, stream);
    }
    return wide ? launch_tile<T, 64, 64>(args, output, stream) : launch_tile<T, 32, 64>(args, output, stream);
}

}  // namespace

// P * N is what the state's registers allow.
int chunked_block_width(const SelectiveScanParams& p) noexcept {
    return p.headdim <= 32 || p.d_state > 128 ? 32 : 64;
}

Status launch_chunked(const ScanArgs& args, bool output, cudaStream_t stream) noexcept {
    return args.p.dtype == DType::kFloat16 ? launch_typed<__half>(args, output, stream)
                                           : launch_typed<__nv_bfloat16>(args, output, stream);
}

}  // namespace detail
}  // namespace aim_kernels
