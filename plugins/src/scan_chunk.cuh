// The pieces of the chunked scan: what a chunk needs in shared memory, and how it gets there and back.
#pragma once

#include "device_math.cuh"
#include "mma.cuh"
#include "scan.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kChunkThreads = 128;
constexpr int kWarps = kChunkThreads / 32;
constexpr int Q = static_cast<int>(kChunk);
static_assert(Q == 16 * kWarps, "a warp owns 16 steps");

// P of headdim by N of d_state; smaller sizes are padded with zeros.
template <int P, int N, bool OUTPUT>
struct Tile {
    // Rows end in 16 bytes of padding: their number of 16-byte pieces is odd, and ldmatrix meets no bank conflict.
    static constexpr int kPitchN = N + 8;
    static constexpr int kPitchP = P + 8;
    // A row of C is also where the row's output is gathered, in float32.
    static constexpr int kPitchC = (N > 2 * P ? N : 2 * P) + 8;

    static constexpr int kB = 0;
    static constexpr int kX = kB + Q * kPitchN;
    static constexpr int kC = kX + Q * kPitchP;
    static constexpr int kS = kC + (OUTPUT ? Q * kPitchC : 0);
    static constexpr int kEnd = kS + (OUTPUT ? P * kPitchN : 0);
    static constexpr int kFloats = 4 * Q;
    static constexpr size_t kBytes = kEnd * 2 + kFloats * 4;

    // Of the state, a warp holds 32 of headdim by kWarpN of d_state.
    static constexpr int kWarpsP = P / 32;
    static constexpr int kWarpN = N / (kWarps / kWarpsP);
};

// Who a thread is within its block.
template <typename L>
struct Place {
    int thread, warp, lane;
    int g, q;            // see mma.cuh
    int warp_p, warp_n;  // where this warp's part of the state begins

    __device__ __forceinline__ explicit Place(int thread_)
        : thread(thread_),
          warp(thread_ / 32),
          lane(thread_ % 32),
          g(thread_ % 32 / 4),
          q(thread_ % 4),
          warp_p(thread_ / 32 % L::kWarpsP * 32),
          warp_n(thread_ / 32 / L::kWarpsP * L::kWarpN) {}
};

// ROWS rows of a tile from global memory by THREADS threads: `valid_rows` rows of `valid` elements, the rest zeros.
// A thread keeps to one 16-byte column.
template <typename T, int WIDTH, int PITCH, int ROWS, int THREADS>
__device__ __forceinline__ void copy_rows(T* target, const T* source, int64_t time_stride, int valid_rows, int valid,
                                          bool wide, int thread) {
    constexpr int VECTORS = WIDTH / 8, STEP = THREADS / VECTORS;
    static_assert(THREADS % VECTORS == 0 && ROWS % STEP == 0, "whole rows at a time");
    const int t = thread / VECTORS, n = thread % VECTORS * 8;
    const int left = n < valid ? valid_rows - t : 0;  // of this thread's rows, down from its first
    const T* from = source + t * time_stride + n;
    T* to = target + t * PITCH + n;
    if (wide) {
#pragma unroll
        for (int i = 0; i < ROWS; i += STEP) {
            copy_async(to + i * PITCH, i < left ? from : source, i < left);
            from += STEP * time_stride;
        }
        return;
    }
#pragma unroll 1
    for (int i = 0; i < ROWS; i += STEP) {
        // `valid` is a multiple of 8: a piece is inside or outside as a whole.
        typename Vec16<T>::Bits bits;
        bits.raw = make_uint4(0, 0, 0, 0);
        if (i < left) {
#pragma unroll
            for (int j = 0; j < 8; ++j) bits.items[j] = from[j];
        }
        *reinterpret_cast<uint4*>(to + i * PITCH) = bits.raw;
        from += STEP * time_stride;
    }
}

// dt, cum and the factors that follow from them, by one warp, two steps a lane. Past the end dt is 0: such steps
// neither decay the state nor add to it.
struct ChunkFactors {
    float* dt;
    float* cum;
    float* from_start;  // exp(cum)
    float* to_end;      // dt * exp(cum[63] - cum)

    __device__ __forceinline__ float compute(const SelectiveScanParams& p, int64_t row, int head, int64_t t0,
                                             int count, int lane) const {
        float d[2], sum[2];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int t = 2 * lane + i;
            d[i] = 0.0f;
            if (t < count) {
                d[i] = load_any(p.dt, p.dtype, row * p.dt_row_stride + (t0 + t) * p.dt_time_stride + head);
                if (p.dt_bias != nullptr) d[i] += p.dt_bias[head];
                if (p.dt_softplus) d[i] = softplus(d[i]);
            }
        }
        const float A = p.A[head];
        sum[0] = d[0] * A;
        sum[1] = fmaf(d[1], A, sum[0]);
        float before = sum[1];
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
            const float other = __shfl_up_sync(0xffffffffu, before, offset);
            if (lane >= offset) before += other;
        }
        const float total = __shfl_sync(0xffffffffu, before, 31);
        before -= sum[1];
#pragma unroll
        for (int i = 0; i < 2; ++i) {
            const int t = 2 * lane + i;
            sum[i] += before;
            dt[t] = d[i];
            cum[t] = sum[i];
            from_start[t] = expf(sum[i]);
            to_end[t] = d[i] * expf(total - sum[i]);
        }
        return total;
    }
};

// Where ldmatrix wants a lane to point within a 16x16 piece, for the two orders of its four 8x8 matrices: down the
// rows first, or across the columns first.
struct LanePoint {
    int down_row, down_col, across_row, across_col;

    __device__ __forceinline__ explicit LanePoint(int lane)
        : down_row(lane % 16),
          down_col(lane / 16 * 8),
          across_row(lane % 8 + lane / 16 * 8),
          across_col(lane / 8 % 2 * 8) {}
};

// out = y of the 16 steps of this warp, before the gate, as mma accumulators over P of headdim.
template <typename T, int P, int N, typename L>
__device__ __forceinline__ void chunk_output(float (&out)[P / 8][4], const T* s_B, const T* s_X, const T* my_C,
                                             const T* s_S, const ChunkFactors& factors, float skip, int warp,
                                             int lane) {
    const LanePoint at(lane);
    const int g = lane / 4, q = lane % 4;
    const int t[2] = {16 * warp + g, 16 * warp + g + 8};
    // Steps up to these, 32 at a time: their products with these steps are all that the registers have room for.
#pragma unroll
    for (int first = 0; first < kWarps; first += 2) {
        if (first > warp) break;
        float scores[4][4] = {};  // C . B, of these steps (rows) with those (columns)
#pragma unroll 2  // further, and the compiler spills registers to run ahead
        for (int k = 0; k < N; k += 16) {
            unsigned c[4], b[4];
            ldmatrix(c, my_C + at.down_row * L::kPitchC + k + at.down_col);
#pragma unroll
            for (int j = 0; j < 2; ++j) {
                if (first + j > warp) continue;
                ldmatrix(b, s_B + (16 * (first + j) + at.across_row) * L::kPitchN + k + at.across_col);
                mma<T>(scores[2 * j], c, b[0], b[1]);
                mma<T>(scores[2 * j + 1], c, b[2], b[3]);
            }
            if (first > 0) continue;
#pragma unroll
            for (int n = 0; n < P / 8; n += 2) {  // what the state before the chunk gives, while C is at hand
                ldmatrix(b, s_S + (8 * n + at.across_row) * L::kPitchN + k + at.across_col);
                mma<T>(out[n], c, b[0], b[1]);
                mma<T>(out[n + 1], c, b[2], b[3]);
            }
        }
        const float cum[2] = {factors.cum[t[0]], factors.cum[t[1]]};
        if (first == 0) {
            const float start[2] = {factors.from_start[t[0]], factors.from_start[t[1]]};
#pragma unroll
            for (int n = 0; n < P / 8; ++n) {
#pragma unroll
                for (int i = 0; i < 4; ++i) out[n][i] *= start[i / 2];
            }
        }
#pragma unroll
        for (int j = 0; j < 2; ++j) {
            if (first + j > warp) continue;
            unsigned weights[4];
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const int s = 16 * (first + j) + 8 * half + 2 * q;
                const float2 dt_s = *reinterpret_cast<const float2*>(factors.dt + s);
                const float2 cum_s = *reinterpret_cast<const float2*>(factors.cum + s);
                float value[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const float decay = __expf(cum[i / 2] - (i % 2 ? cum_s.y : cum_s.x));
                    value[i] = scores[2 * j + half][i] * decay * (i % 2 ? dt_s.y : dt_s.x);
                    // On the diagonal's piece: nothing from later steps (where `decay` may be infinite), and D.
                    if (first + j == warp) {
                        const int step = s + i % 2;
                        value[i] = step > t[i / 2] ? 0.0f : step == t[i / 2] ? value[i] + skip : value[i];
                    }
                }
                weights[2 * half] = pack2<T>(value[0], value[1]);
                weights[2 * half + 1] = pack2<T>(value[2], value[3]);
            }
#pragma unroll
            for (int n = 0; n < P / 8; n += 2) {
                unsigned b[4];
                ldmatrix_trans(b, s_X + (16 * (first + j) + at.down_row) * L::kPitchP + 8 * n + at.down_col);
                mma<T>(out[n], weights, b[0], b[1]);
                mma<T>(out[n + 1], weights, b[2], b[3]);
            }
        }
    }
}

// Gates the output and stores it. It goes through this warp's rows of C, which nobody reads any more, because the
// accumulators' layout would write 16 bytes here and there.
template <typename T, int P, typename L>
__device__ __forceinline__ void write_output(const ScanArgs& a, const float (&out)[P / 8][4], T* my_C, int64_t row,
                                             int64_t first_step, int steps, int64_t channel0, int valid_p, int lane) {
    constexpr int PITCH = L::kPitchC / 2, VECTORS = P / 8;
    const SelectiveScanParams& p = a.p;
    float* gathered = reinterpret_cast<float*>(my_C);
    const int g = lane / 4, q = lane % 4;
#pragma unroll
    for (int n = 0; n < P / 8; ++n) {
        float* at = gathered + g * PITCH + 8 * n + 2 * q;
        *reinterpret_cast<float2*>(at) = make_float2(out[n][0], out[n][1]);
        *reinterpret_cast<float2*>(at + 8 * PITCH) = make_float2(out[n][2], out[n][3]);
    }
    __syncwarp();

    const T* z = p.z == nullptr ? nullptr : static_cast<const T*>(p.z) + row * p.z_row_stride + channel0;
    T* y = static_cast<T*>(p.y) + row * p.y_row_stride + channel0;
    for (int i = lane; i < steps * VECTORS; i += 32) {
        const int t = i / VECTORS, n = i % VECTORS * 8;
        if (n >= valid_p) continue;
        float values[8];
#pragma unroll
        for (int j = 0; j < 8; ++j) values[j] = gathered[t * PITCH + n + j];
        if (z != nullptr) {
            const T* from = z + (first_step + t) * p.z_time_stride + n;
            float gate[8];
            if (a.wide_z) {
                Vec16<T>::unpack(*reinterpret_cast<const uint4*>(from), gate);
            } else {
#pragma unroll
                for (int j = 0; j < 8; ++j) gate[j] = to_float(from[j]);
            }
#pragma unroll
            for (int j = 0; j < 8; ++j) values[j] *= silu(gate[j]);
        }
        T* to = y + (first_step + t) * p.y_time_stride + n;
        if (a.wide_y) {
            *reinterpret_cast<uint4*>(to) = Vec16<T>::pack(values);
        } else {
#pragma unroll
            for (int j = 0; j < 8; ++j) from_float(to[j], values[j]);
        }
    }
}

}  // namespace detail
}  // namespace aim_kernels
