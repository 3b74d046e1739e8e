// The recurrence itself, step by step within a segment, in float32. It serves float32 activations, Mamba-1, short
// sequences, and GPUs before sm_80. Each step costs as many multiply-adds as the chunked matrix form would, so that
// without tensor cores nothing is lost.
#include "device_math.cuh"
#include "launch.cuh"
#include "scan.cuh"

namespace aim_kernels {
namespace detail {
namespace {

constexpr const char* kOp = "selective_scan";
constexpr int kThreads = 128;
constexpr int kTile = 16;  // steps staged at a time
constexpr float kLog2e = 1.4426950408889634f;

// T lanes share a channel and hold NS of its states each; a thread holds R channels. States are dealt to the lanes in
// fours, which keeps both shared and global accesses 16 bytes wide and free of bank conflicts.
template <int T_, int NS_, int R_>
struct Shape {
    static constexpr int T = T_, NS = NS_, R = R_;
    static constexpr int kStates = T * NS;
    static constexpr int kChannels = kThreads / T * R;
    // Blocks a multiprocessor is to hold: named, because left to itself the compiler spills a few registers for more.
    static constexpr int kMinBlocks = NS * R >= 32 ? 3 : 4;
    static_assert(NS % 4 == 0 && T / R >= 1 && kChannels <= kThreads, "see the reduction and the staging of dt");
};

template <typename T>
__device__ __forceinline__ void stage_typed(float* target, int width, const T* source, int64_t time_stride, int count,
                                            int valid) {
#pragma unroll 4
    for (int i = static_cast<int>(threadIdx.x); i < kTile * width; i += kThreads) {
        const int t = i / width;
        const int n = i - t * width;
        target[i] = t < count && n < valid ? to_float(source[t * time_stride + n]) : 0.0f;
    }
}

// target[kTile][width] from `count` steps of `valid` elements; the rest is zero, so that it adds nothing.
__device__ __forceinline__ void stage(float* target, int width, const void* base, DType dtype, int64_t at,
                                      int64_t time_stride, int count, int valid) {
    switch (dtype) {
        case DType::kFloat16:
            stage_typed(target, width, static_cast<const __half*>(base) + at, time_stride, count, valid);
            break;
        case DType::kBFloat16:
            stage_typed(target, width, static_cast<const __nv_bfloat16*>(base) + at, time_stride, count, valid);
            break;
        default: stage_typed(target, width, static_cast<const float*>(base) + at, time_stride, count, valid);
    }
}

// Sums each of the R values over the T lanes. While several are left, half of the lanes take over half of them, so
// that a shuffle moves only what its lane is to keep. Lanes that agree in their top bits end with the same value.
template <int T, int R>
__device__ __forceinline__ float reduce_rows(float (&values)[R], int lane) {
    int offset = T / 2;
#pragma unroll
    for (int width = R / 2; width >= 1; width /= 2) {
        const bool upper = (lane & offset) != 0;
#pragma unroll
        for (int i = 0; i < width; ++i) {
            const float given = upper ? values[i] : values[i + width];
            const float kept = upper ? values[i + width] : values[i];
            values[i] = kept + __shfl_xor_sync(0xffffffffu, given, offset);
        }
        offset /= 2;
    }
    for (; offset >= 1; offset /= 2) values[0] += __shfl_xor_sync(0xffffffffu, values[0], offset);
    return values[0];
}

template <ScanKind KIND, typename S, bool OUTPUT>
__global__ __launch_bounds__(kThreads, S::kMinBlocks) void recurrent_kernel(ScanArgs a) {
    constexpr bool kMamba1 = KIND == ScanKind::kMamba1;
    constexpr int T = S::T, NS = S::NS, R = S::R, W = S::kChannels;
    __shared__ __align__(16) float s_B[kTile][S::kStates];
    __shared__ __align__(16) float s_C[OUTPUT ? kTile : 1][S::kStates];
    __shared__ float s_x[kTile][W];
    __shared__ float s_y[OUTPUT ? kTile : 1][W];
    __shared__ float s_dt[kTile][kMamba1 ? W : 1];
    __shared__ float s_log_decay[kTile];

    const SelectiveScanParams& p = a.p;
    const int heads = kMamba1 ? 1 : p.nheads;
    const int width = kMamba1 ? p.nheads : p.headdim;
    const int segments = OUTPUT ? a.segments : a.segments - 1;
    int block = static_cast<int>(blockIdx.x);
    const int tile = block % a.tiles;
    block /= a.tiles;
    const int head = block % heads;
    block /= heads;
    const int segment = block % segments;
    const int64_t row = block / segments;
    if (row_is_inactive(p.active, row)) return;

    const int tid = static_cast<int>(threadIdx.x);
    const int lane = tid % T;
    const int mine = tid / T * R;  // first of this thread's channels within the block
    const int first = tile * W;
    const int valid = min(W, width - first);
    const int64_t channel0 = static_cast<int64_t>(head) * p.headdim + first;  // Mamba-1: head is 0
    const int64_t all_channels = static_cast<int64_t>(p.nheads) * p.headdim;
    const int64_t slot = row * a.segments + segment;

    float state[R][NS], log2_A[kMamba1 ? R : 1][kMamba1 ? NS : 1];
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int k = 0; k < NS; k += 4) {
            const int n = k * T + lane * 4;
            const bool inside = mine + r < valid && n < p.d_state;
            float four[4] = {0.0f, 0.0f, 0.0f, 0.0f};
            if (OUTPUT && inside) {
                const int64_t at = (channel0 + mine + r) * p.d_state + n;
                const int64_t per_row = all_channels * p.d_state;
                if (a.segments > 1) {
                    load_state4(a.states, DType::kFloat32, slot * per_row + at, four);
                } else if (p.ssm_state_in != nullptr) {
                    load_state4(p.ssm_state_in, p.state_dtype, row * per_row + at, four);
                }
            }
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                state[r][k + j] = four[j];
                if constexpr (kMamba1) {
                    log2_A[r][k + j] = inside ? p.A[(channel0 + mine + r) * p.d_state + n + j] * kLog2e : 0.0f;
                }
            }
        }
    }

    const int64_t begin = segment * a.segment_length;
    const int64_t end = begin + a.segment_length < p.length ? begin + a.segment_length : p.length;
    const int64_t bc_at = kMamba1 ? 0 : static_cast<int64_t>(head / (p.nheads / p.ngroups)) * p.d_state;
    float total = 0.0f;  // this segment's entry of `decays`, in the threads that keep one

    for (int64_t t0 = begin; t0 < end; t0 += kTile) {
        const int count = static_cast<int>(end - t0 < kTile ? end - t0 : kTile);
        __syncthreads();
        stage(&s_B[0][0], S::kStates, p.B, p.dtype, row * p.B_row_stride + t0 * p.B_time_stride + bc_at,
              p.B_time_stride, count, p.d_state);
        if constexpr (OUTPUT) {
            stage(&s_C[0][0], S::kStates, p.C, p.dtype, row * p.C_row_stride + t0 * p.C_time_stride + bc_at,
                  p.C_time_stride, count, p.d_state);
        }
        stage(&s_x[0][0], W, p.x, p.dtype, row * p.x_row_stride + t0 * p.x_time_stride + channel0, p.x_time_stride,
              count, valid);
        constexpr int DW = kMamba1 ? W : 1;
        for (int i = tid; i < count * DW; i += kThreads) {
            const int t = i / DW, w = i - t * DW;
            if (w >= valid) continue;
            const int64_t dt_head = kMamba1 ? channel0 + w : head;
            float dt = load_any(p.dt, p.dtype, row * p.dt_row_stride + (t0 + t) * p.dt_time_stride + dt_head);
            if (p.dt_bias != nullptr) dt += p.dt_bias[dt_head];
            if (p.dt_softplus) dt = softplus(dt);
            s_dt[t][w] = dt;
            if (!kMamba1) s_log_decay[t] = dt * p.A[head];
        }
        __syncthreads();

        if (!OUTPUT && tid < (kMamba1 ? valid : 1)) {
            for (int t = 0; t < count; ++t) total += kMamba1 ? s_dt[t][kMamba1 ? tid : 0] : s_log_decay[t];
        }
        for (int t = 0; t < count; ++t) {
            const float decay = kMamba1 ? 1.0f : expf(s_log_decay[t]);
            float sums[R], dx[R], dt[R];
#pragma unroll
            for (int r = 0; r < R; ++r) {
                // Lanes past `valid` compute on zeros and whatever dt the buffer holds, and nothing reads the result.
                dt[r] = s_dt[t][kMamba1 ? mine + r : 0];
                dx[r] = dt[r] * s_x[t][mine + r];
                sums[r] = 0.0f;
            }
#pragma unroll
            for (int k = 0; k < NS; k += 4) {
                const float4 b = *reinterpret_cast<const float4*>(&s_B[t][k * T + lane * 4]);
                const float bs[4] = {b.x, b.y, b.z, b.w};
                float cs[4] = {0.0f, 0.0f, 0.0f, 0.0f};
                if constexpr (OUTPUT) {
                    const float4 c = *reinterpret_cast<const float4*>(&s_C[t][k * T + lane * 4]);
                    cs[0] = c.x, cs[1] = c.y, cs[2] = c.z, cs[3] = c.w;
                }
#pragma unroll
                for (int r = 0; r < R; ++r) {
#pragma unroll
                    for (int j = 0; j < 4; ++j) {
                        float d = decay;
                        if constexpr (kMamba1) d = exp2f(dt[r] * log2_A[r][k + j]);
                        state[r][k + j] = fmaf(d, state[r][k + j], dx[r] * bs[j]);
                        if constexpr (OUTPUT) sums[r] = fmaf(state[r][k + j], cs[j], sums[r]);
                    }
                }
            }
            if constexpr (OUTPUT) {
                const float sum = reduce_rows<T, R>(sums, lane);
                if (lane % (T / R) == 0) s_y[t][mine + lane / (T / R)] = sum;
            }
        }

        if constexpr (OUTPUT) {
            __syncthreads();
            for (int i = tid; i < count * W; i += kThreads) {
                const int t = i / W, w = i - t * W;
                if (w >= valid) continue;
                const int64_t time = t0 + t;
                float y = s_y[t][w];
                if (p.D != nullptr) y = fmaf(p.D[kMamba1 ? channel0 + w : head], s_x[t][w], y);
                if (p.z != nullptr) {
                    y *= silu(load_any(p.z, p.dtype, row * p.z_row_stride + time * p.z_time_stride + channel0 + w));
                }
                store_any(p.y, p.dtype, row * p.y_row_stride + time * p.y_time_stride + channel0 + w, y);
            }
        }
    }

    const bool last = OUTPUT && segment == a.segments - 1 && p.ssm_state_out != nullptr;
    if (!OUTPUT && tid < (kMamba1 ? valid : 1)) a.decays[slot * p.nheads + (kMamba1 ? channel0 + tid : head)] = total;
    if (OUTPUT && !last) return;
#pragma unroll
    for (int r = 0; r < R; ++r) {
#pragma unroll
        for (int k = 0; k < NS; k += 4) {
            const int n = k * T + lane * 4;
            if (mine + r >= valid || n >= p.d_state) continue;
            const int64_t at = ((OUTPUT ? row : slot) * all_channels + channel0 + mine + r) * p.d_state + n;
            const float four[4] = {state[r][k], state[r][k + 1], state[r][k + 2], state[r][k + 3]};
            store_state4(OUTPUT ? p.ssm_state_out : a.states, OUTPUT ? p.state_dtype : DType::kFloat32, at, four);
        }
    }
}

using Shape16 = Shape<4, 4, 2>;
using Shape32 = Shape<8, 4, 2>;
using Shape64 = Shape<8, 8, 2>;
using Shape128 = Shape<16, 8, 4>;
using Shape256 = Shape<16, 16, 2>;

template <typename S>
Status launch_shaped(const ScanArgs& args, bool output, cudaStream_t stream) noexcept {
    const SelectiveScanParams& p = args.p;
    const bool mamba1 = p.kind == ScanKind::kMamba1;
    const int64_t blocks =
        p.rows * (output ? args.segments : args.segments - 1) * (mamba1 ? 1 : p.nheads) * args.tiles;
    void (*kernel)(ScanArgs);
    if (mamba1) {
        kernel = output ? recurrent_kernel<ScanKind::kMamba1, S, true> : recurrent_kernel<ScanKind::kMamba1, S, false>;
    } else {
        kernel = output ? recurrent_kernel<ScanKind::kMamba2, S, true> : recurrent_kernel<ScanKind::kMamba2, S, false>;
    }
    return launch_kernel(kOp, kernel, blocks, kThreads, 0, stream, args);
}

}  // namespace

int recurrent_block_width(const SelectiveScanParams& p) noexcept {
    if (p.d_state <= 16) return Shape16::kChannels;
    if (p.d_state <= 32) return Shape32::kChannels;
    if (p.d_state <= 64) return Shape64::kChannels;
    return p.d_state <= 128 ? Shape128::kChannels : Shape256::kChannels;
}

Status launch_recurrent(const ScanArgs& args, bool output, cudaStream_t stream) noexcept {
    const int d_state = args.p.d_state;
    if (d_state <= 16) return launch_shaped<Shape16>(args, output, stream);
    if (d_state <= 32) return launch_shaped<Shape32>(args, output, stream);
    if (d_state <= 64) return launch_shaped<Shape64>(args, output, stream);
    if (d_state <= 128) return launch_shaped<Shape128>(args, output, stream);
    return launch_shaped<Shape256>(args, output, stream);
}

}  // namespace detail
}  // namespace aim_kernels
