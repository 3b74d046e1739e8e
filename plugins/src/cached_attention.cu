// A block takes a row's head, or a part of its keys. Its warps go through the keys in turns; LANES lanes share a key,
// 16 bytes each, so that a warp's load is whole lines, and each such group keeps a softmax of its own until the end: no
// barrier and no shuffle between groups within the loop. Keys and values of kAhead turns are in flight at once, the
// first of them before the kernel before is done.
//
// Whether a head is split: 8 warps with 8 loads of 16 bytes a lane have 32 KB in flight, a head of 256 positions in
// float16 has 64 KB in all; a second launch costs more than a second turn. From 512 keys a part on it does not, where
// the heads alone leave multiprocessors idle.
#include "aim_kernels/cached_attention.h"

#include "dependent.cuh"
#include "device_math.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "cached_attention";
constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kAhead = 4;
constexpr int kLargest = 128;        // headdim
constexpr int kLongest = 4096;       // num_tokens
constexpr int kPart = 512;           // keys that are worth a block of their own
constexpr int64_t kBlocks = 264;     // two a multiprocessor of the largest devices
constexpr float kNothing = -1e38f;   // the largest score of no keys; finite, as infinity less infinity is no number

struct AttentionArgs {
    CachedAttentionParams p;
    int32_t parts;  // of a head's keys
    int32_t part;   // keys of one
    float* partial; // (rows, nheads, parts, headdim + 2): sum, largest score, sum of the weights
};

__device__ __forceinline__ void unpack(const uint4& raw, float (&out)[4]) { Vec16<float>::unpack(raw, out); }

// Not through a union of halves: the compiler then waits for one load before it sends the next.
__device__ __forceinline__ void unpack(const uint4& raw, float (&out)[8]) {
    const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        out[2 * i] = value_of(words[i] & 0xffffu, DType::kFloat16);
        out[2 * i + 1] = value_of(words[i] >> 16, DType::kFloat16);
    }
}

// A softmax that grows: sum is of weight * value with weights exp(score - top), total is of the weights.
template <int VEC>
struct Softmax {
    float top = kNothing, total = 0.0f;
    float sum[VEC] = {};

    __device__ __forceinline__ void scale(float next) {
        const float factor = expf(top - next);
        total *= factor;
#pragma unroll
        for (int j = 0; j < VEC; ++j) sum[j] *= factor;
        top = next;
    }

    // N keys and values, of which those are counted that are `there`. Every lane of the warp calls this.
    template <int LANES, int N>
    __device__ __forceinline__ void take(const float (&q)[VEC], const uint4 (&k)[N], const uint4 (&v)[N],
                                         const bool (&there)[N]) {
        float score[N], next = top;
#pragma unroll
        for (int i = 0; i < N; ++i) {
            float key[VEC];
            unpack(k[i], key);
            score[i] = 0.0f;
#pragma unroll
            for (int j = 0; j < VEC; ++j) score[i] = fmaf(q[j], key[j], score[i]);
#pragma unroll
            for (int offset = LANES / 2; offset > 0; offset /= 2) {
                score[i] += __shfl_xor_sync(0xffffffffu, score[i], offset);
            }
            if (there[i]) next = fmaxf(next, score[i]);
        }
        scale(next);
#pragma unroll
        for (int i = 0; i < N; ++i) {
            const float weight = there[i] ? expf(score[i] - top) : 0.0f;
            float value[VEC];
            unpack(v[i], value);
            total += weight;
#pragma unroll
            for (int j = 0; j < VEC; ++j) sum[j] = fmaf(weight, value[j], sum[j]);
        }
    }

    // With that of the lane `offset` away. Every lane of the warp calls this.
    __device__ __forceinline__ void join(int offset) {
        const float other = __shfl_xor_sync(0xffffffffu, top, offset), next = fmaxf(top, other);
        scale(next);  // both lanes to the same weights: what is left is to add
        total += __shfl_xor_sync(0xffffffffu, total, offset);
#pragma unroll
        for (int j = 0; j < VEC; ++j) sum[j] += __shfl_xor_sync(0xffffffffu, sum[j], offset);
    }
};

template <typename S, int LANES>
__global__ void __launch_bounds__(kThreads) attention_kernel(const AttentionArgs a) {
    constexpr int VEC = Vec16<S>::kSize, KEYS = 32 / LANES, TURN = kAhead * KEYS;
    __shared__ __align__(16) S s_k[kLargest];
    __shared__ __align__(16) S s_v[kLargest];
    __shared__ float s_q[kLargest];
    __shared__ float s_sum[kWarps][kLargest];
    __shared__ float s_top[kWarps], s_total[kWarps];
    const CachedAttentionParams& p = a.p;
    const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32;
    const int part = a.parts > 1 ? static_cast<int>(blockIdx.x) % a.parts : 0;
    const int pair = a.parts > 1 ? static_cast<int>(blockIdx.x) / a.parts : static_cast<int>(blockIdx.x);
    const int head = pair % p.nheads, row = pair / p.nheads;
    const int position = min(max(p.position[row % p.positions], 0), p.num_tokens - 1);
    const int first = part * a.part, end = min(position, first + a.part);
    const bool owner = position >= first && position < first + a.part;  // of the new key
    const int64_t head_at = static_cast<int64_t>(pair) * p.num_tokens * p.headdim;
    S *const k_cache = static_cast<S*>(p.k_cache) + head_at, *const v_cache = static_cast<S*>(p.v_cache) + head_at;
    const int at = lane % LANES * VEC, nth = lane / LANES;
    const bool used = at < p.headdim;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    uint4 k[kAhead], v[kAhead];
    bool there[kAhead];  // before the new key
    const auto load = [&](int start) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
            const int key = start + i * KEYS + nth;
            there[i] = key < end;
            const int64_t from = static_cast<int64_t>(key) * p.headdim + at;
            k[i] = there[i] && used ? *reinterpret_cast<const uint4*>(k_cache + from) : zero;
            v[i] = there[i] && used ? *reinterpret_cast<const uint4*>(v_cache + from) : zero;
        }
    };
    if (tid == 0 && end > first + kWarps * TURN) {  // what the first loads leave
        const int64_t from = static_cast<int64_t>(first + kWarps * TURN) * p.headdim;
        const unsigned bytes = static_cast<unsigned>((end - first - kWarps * TURN) * p.headdim * sizeof(S));
        prefetch_to_l2(k_cache + from, bytes);
        prefetch_to_l2(v_cache + from, bytes);
    }
    int start = first + warp * TURN;
    load(start);
    wait_for_previous();
    let_next_start();

    if (tid < p.headdim / 2) {
        const int64_t width = static_cast<int64_t>(p.nheads) * p.headdim;
        const int64_t from = 3 * row * width + head * p.headdim + 2 * tid;
        unsigned bits[6];
#pragma unroll
        for (int i = 0; i < 6; ++i) bits[i] = load_bits(p.qkv, p.dtype, from + i / 2 * width + i % 2);
        const float2 angle = *reinterpret_cast<const float2*>(p.rotary + position * p.headdim + 2 * tid);
        float x[6];
#pragma unroll
        for (int i = 0; i < 6; ++i) x[i] = value_of(bits[i], p.dtype);
        const float scale = 1.0f / sqrtf(static_cast<float>(p.headdim));
        s_q[2 * tid] = (x[0] * angle.x - x[1] * angle.y) * scale;
        s_q[2 * tid + 1] = (x[1] * angle.x + x[0] * angle.y) * scale;
        from_float(s_k[2 * tid], x[2] * angle.x - x[3] * angle.y);
        from_float(s_k[2 * tid + 1], x[3] * angle.x + x[2] * angle.y);
        from_float(s_v[2 * tid], x[4]);
        from_float(s_v[2 * tid + 1], x[5]);
        if (owner) {
            const int64_t to = static_cast<int64_t>(position) * p.headdim + 2 * tid;
            k_cache[to] = s_k[2 * tid], k_cache[to + 1] = s_k[2 * tid + 1];
            v_cache[to] = s_v[2 * tid], v_cache[to + 1] = s_v[2 * tid + 1];
        }
    }
    __syncthreads();
    float q[VEC];
#pragma unroll
    for (int j = 0; j < VEC; ++j) q[j] = used ? s_q[at + j] : 0.0f;

    Softmax<VEC> softmax;
    const int mine = start;
    for (; start < end; start += kWarps * TURN) {
        if (start != mine) load(start);
        softmax.template take<LANES>(q, k, v, there);
    }
    if (warp == 0 && owner) {  // the new key, in the warp's first group
        const uint4 new_k[1] = {used ? *reinterpret_cast<const uint4*>(s_k + at) : zero};
        const uint4 new_v[1] = {used ? *reinterpret_cast<const uint4*>(s_v + at) : zero};
        const bool first_group[1] = {nth == 0};
        softmax.template take<LANES>(q, new_k, new_v, first_group);
    }

#pragma unroll
    for (int offset = LANES; offset < 32; offset *= 2) softmax.join(offset);
    if (nth == 0 && used) {
#pragma unroll
        for (int j = 0; j < VEC; ++j) s_sum[warp][at + j] = softmax.sum[j];
    }
    if (lane == 0) s_top[warp] = softmax.top, s_total[warp] = softmax.total;
    __syncthreads();
    if (tid >= p.headdim) return;
    float top = kNothing, total = 0.0f, sum = 0.0f;
#pragma unroll
    for (int from = 0; from < kWarps; ++from) top = fmaxf(top, s_top[from]);
#pragma unroll
    for (int from = 0; from < kWarps; ++from) {
        const float factor = expf(s_top[from] - top);
        total = fmaf(factor, s_total[from], total);
        sum = fmaf(factor, s_sum[from][tid], sum);
    }
    if (a.parts == 1) return store_any(p.out, p.dtype, static_cast<int64_t>(pair) * p.headdim + tid, sum / total);
    float* to = a.partial + static_cast<int64_t>(blockIdx.x) * (p.headdim + 2);
    to[tid] = sum;
    if (tid == 0) to[p.headdim] = top, to[p.headdim + 1] = total;
}

// The parts of a head as one. One block a head.
__global__ void __launch_bounds__(kLargest) merge_kernel(const AttentionArgs a) {
    wait_for_previous();
    let_next_start();
    const int tid = static_cast<int>(threadIdx.x), headdim = a.p.headdim, width = headdim + 2;
    if (tid >= headdim) return;
    const float* from = a.partial + static_cast<int64_t>(blockIdx.x) * a.parts * width;
    float top = kNothing, total = 0.0f, sum = 0.0f;
    for (int i = 0; i < a.parts; ++i) top = fmaxf(top, from[i * width + headdim]);
    for (int i = 0; i < a.parts; ++i) {
        const float factor = expf(from[i * width + headdim] - top);
        total = fmaf(factor, from[i * width + headdim + 1], total);
        sum = fmaf(factor, from[i * width + tid], sum);
    }
    store_any(a.p.out, a.p.dtype, static_cast<int64_t>(blockIdx.x) * headdim + tid, sum / total);
}

template <typename S>
Status launch_typed(const AttentionArgs& args, cudaStream_t stream) noexcept {
    const int64_t blocks = args.p.rows * args.p.nheads * args.parts;
    const int lanes = static_cast<int>(ceil_div(args.p.headdim, Vec16<S>::kSize));
    const auto kernel = lanes <= 4 ? attention_kernel<S, 4> : lanes <= 8 ? attention_kernel<S, 8>
                      : lanes <= 16 ? attention_kernel<S, 16> : attention_kernel<S, 32>;
    return launch_dependent(kOp, kernel, blocks, kThreads, stream, args);
}

int64_t most_parts(const CachedAttentionParams& p) noexcept { return p.num_tokens / kPart; }

}  // namespace

size_t workspace_bytes(const CachedAttentionParams& p) noexcept {
    if (p.headdim < 1 || most_parts(p) < 2) return 0;
    return static_cast<size_t>(kBlocks) * static_cast<size_t>(p.headdim + 2) * sizeof(float);
}

Status validate_shapes(const CachedAttentionParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positions(kOp, p.positions, p.rows));
    AIM_CHECK(check_positive(kOp, "nheads", p.nheads));
    if (p.rows > INT32_MAX / p.nheads) {
        return fail(Status::kUnsupportedShape, "%s: rows * nheads is %lld * %d; supported: up to %d", kOp,
                    static_cast<long long>(p.rows), p.nheads, INT32_MAX);
    }
    if (p.num_tokens < 1 || p.num_tokens > kLongest) {
        return fail(Status::kUnsupportedShape, "%s: num_tokens is %d; supported: 1 to %d", kOp, p.num_tokens, kLongest);
    }
    if (p.headdim < 8 || p.headdim > kLargest || p.headdim % 8 != 0) {
        return fail(Status::kUnsupportedShape, "%s: headdim is %d; supported: 8 to %d in steps of 8", kOp, p.headdim,
                    kLargest);
    }
    AIM_CHECK(check_activation_dtype(kOp, p.dtype));
    return check_state_dtype(kOp, "k_cache and v_cache", p.state_dtype);
}

Status validate(const CachedAttentionParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    const char* const names[] = {"qkv", "rotary", "k_cache", "v_cache", "out"};
    const void* const pointers[] = {p.qkv, p.rotary, p.k_cache, p.v_cache, p.out};
    for (int i = 0; i < 5; ++i) {
        AIM_CHECK(check_pointer(kOp, names[i], pointers[i]));
        AIM_CHECK(check_aligned_16(kOp, names[i], pointers[i]));
    }
    AIM_CHECK(check_pointer(kOp, "position", p.position));
    const size_t needed = workspace_bytes(p);
    if (needed == 0) return Status::kSuccess;
    AIM_CHECK(check_pointer(kOp, "workspace", p.workspace));
    AIM_CHECK(check_aligned_16(kOp, "workspace", p.workspace));
    if (p.workspace_size >= needed) return Status::kSuccess;
    return fail(Status::kWorkspaceTooSmall, "%s: the workspace has %zu bytes; needed: %zu", kOp, p.workspace_size,
                needed);
}

Status launch(const CachedAttentionParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    AIM_CHECK(device_info().status);
    const int64_t pairs = p.rows * p.nheads, room = kBlocks / pairs;
    const int64_t parts = room < 2 || most_parts(p) < 2 ? 1 : room < most_parts(p) ? room : most_parts(p);
    AttentionArgs args = {p, static_cast<int32_t>(parts), static_cast<int32_t>(ceil_div(p.num_tokens, parts)),
                          static_cast<float*>(p.workspace)};
    const auto launch_first = p.state_dtype == DType::kFloat16 ? launch_typed<__half> : launch_typed<float>;
    AIM_CHECK(launch_first(args, stream));
    if (parts == 1) return Status::kSuccess;
    return launch_dependent(kOp, merge_kernel, pairs, kLargest, stream, args);
}

}  // namespace aim_kernels
