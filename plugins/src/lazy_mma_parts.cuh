// The parts of mamba2_lazy_step's kernel for float16 states: scores, a head's sums over state and history, its fold.
//
// Products of tensor cores, whose layouts mma.cuh states. A state's 16 rows are a product's 16 x k operand as they come
// from memory, 16 bytes a lane: a product does not care in which order k runs. C is the k x 8 operand, in two columns of
// which the second is what float16 left over: C counts as float32. Loads go out in whole batches, and nothing is used
// within a branch that loads it: each such use would be a wait of its own.
#pragma once

#include "dependent.cuh"
#include "lazy_state.cuh"
#include "mma.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kMmaWarps = 12;
constexpr int kMmaThreads = kMmaWarps * 32;
constexpr int kMmaChannels = 3072;  // a block
constexpr int kMmaHeads = kMmaChannels / 16;
constexpr int kTile = 16;           // rows of a state, or tokens
constexpr int kFlight = 8;          // loads of 16 bytes in a batch: a tile of a state
constexpr int kPass = 128;          // columns of a state in a batch
constexpr int kChunks = kPass / 32;

struct LazyMmaArgs {
    LazyArgs lazy;
    bool whole;  // a block has all of a group's heads, so that the norm is its own, and the window of B and C
    const float* norm_weight;
    float eps;
    void* out;
    int64_t out_row_stride;
};

struct WarpShared {
    float staged[256];  // sums over the history, by lanes that share a channel
    float state_y[128];
    float weight[kLazyCapacity];  // dt_s exp(A (cum - cum_s))
    float scored[kLazyCapacity];  // the same times C . B_s
};

struct MmaShared {
    float4 head[kMmaHeads];  // dt, A, D
    float B[kLazyState];
    float C[kLazyState];
    __align__(16) __half split[2][kLazyState];
    float score[kLazyCapacity];
    float scratch[16];
    WarpShared warps[kMmaWarps];
    // Behind it: channels of float, x and later the gated y; as many of silu(z); then tokens of bc_stride halves, B's
    // history.
};

__host__ __device__ inline int bc_stride(int d_state) { return (d_state + 31) / 32 * 32 + 8; }
__host__ __device__ inline int tokens_of(int capacity) { return (capacity + kTile - 1) / kTile * kTile; }

// A block's own places, and how its warps share its heads: `parts` warps a head, or a warp for every kMmaWarps-th head.
// AIM: the sizes that all of AiM's models have, as constants.
template <bool AIM>
struct Place {
    int any_headdim, any_d_state;
    int heads, channels, parts, part, first_head;
    int n;        // tokens in the history
    bool folded;  // the state holds any
    int d_inner;
    const __half* x_history;
    __half* state;

    __device__ __forceinline__ int headdim() const { return AIM ? 64 : any_headdim; }
    __device__ __forceinline__ int d_state() const { return AIM ? 128 : any_d_state; }
    __device__ __forceinline__ int vectors() const { return headdim() / 8; }
    // Lanes that share 8 channels of a head; a lane's own is of no use from there on. Every step-th token is a lane's.
    __device__ __forceinline__ int subs() const { return 32 / vectors(); }
    __device__ __forceinline__ int sub(int lane) const { return lane / vectors(); }
    __device__ __forceinline__ int step() const { return parts * subs(); }
    __device__ __forceinline__ int passes() const { return d_state() > kPass ? 2 : 1; }
    __device__ __forceinline__ int pass(int unit) const { return d_state() > kPass ? unit % 2 : 0; }
    // Of a unit, a batch of a warp's share of a head's state.
    __device__ __forceinline__ int tile(int unit) const { return part + unit / passes() * parts; }
    __device__ __forceinline__ bool has(int unit) const { return tile(unit) < headdim() / kTile; }

    // A batch of a head's state. Rows 2g and 2g + 1 of a tile, so that the fold finds two channels of x in one word.
    // Zeros for what is not there.
    __device__ __forceinline__ void load_state(int head, int unit, uint4 (&flight)[kFlight], int lane) const {
        const int column = pass(unit) * kPass + lane % 4 * 8;
        const int row = head * headdim() + tile(unit) * kTile + lane / 4 * 2;
        const __half* at = state + (row * d_state() + column);
        const bool any = head < heads && has(unit);
#pragma unroll
        for (int j = 0; j < kFlight; ++j) {
            flight[j] = make_uint4(0, 0, 0, 0);
            if (any && (AIM || column + j % 4 * 32 < d_state())) {
                flight[j] = *reinterpret_cast<const uint4*>(at + (j / 4 * d_state() + j % 4 * 32));
            }
        }
    }

    // A batch of a head's history, from a token on; zeros from n on.
    __device__ __forceinline__ void load_history(int head, int from, uint4 (&flight)[kFlight], int lane) const {
        int s = from + part * subs() + sub(lane);
        const __half* at = x_history + (static_cast<int64_t>(s) * d_inner + head * headdim() + lane % vectors() * 8);
        const int stride = step() * d_inner;
        const int end = head < heads && sub(lane) < subs() ? n : 0;
#pragma unroll
        for (int j = 0; j < kFlight; ++j) {
            flight[j] = make_uint4(0, 0, 0, 0);
            if (s < end) flight[j] = *reinterpret_cast<const uint4*>(at);
            s += step();
            at += stride;
        }
    }

    // The first batch of a head.
    __device__ __forceinline__ void load_first(int head, uint4 (&flight)[kFlight], int lane) const {
        if (folded && has(0)) {
            load_state(head, 0, flight, lane);
        } else {
            load_history(head, 0, flight, lane);
        }
    }
};

// C . B_s of a tile of the history, the tokens of which are rows in shared memory.
__device__ __forceinline__ void score_tile(MmaShared& shared, const __half* rows, int stride, int d_state, int tile,
                                           int n, int lane) {
    float sum[4] = {};
    const int g = lane / 4, q = lane % 4;
    const __half* c = shared.split[g & 1] + 2 * q;
    for (int k = 0; k < d_state; k += 16) {
        unsigned b[4];
        ldmatrix(b, rows + (tile * kTile + lane % 16) * stride + k + lane / 16 * 8);
        mma<__half>(sum, b, *reinterpret_cast<const unsigned*>(c + k), *reinterpret_cast<const unsigned*>(c + k + 8));
    }
    const int s = tile * kTile + g;
    if (q == 0 && s < n) shared.score[s] = sum[0] + sum[1];
    if (q == 0 && s + 8 < n) shared.score[s + 8] = sum[2] + sum[3];
}

// S C of a warp's tiles of a head, not decayed, into own.state_y; following() loads what comes behind it.
template <bool AIM, typename Following>
__device__ __forceinline__ void state_by_C(const Place<AIM>& place, const MmaShared& shared, WarpShared& own, int head,
                                           const Following& following, uint4 (&flight)[kFlight], int lane) {
    const int g = lane / 4, q = lane % 4;
    float sum[4] = {};
    for (int unit = 0; place.has(unit); ++unit) {
        const int column = place.pass(unit) * kPass;
        const __half* c = shared.split[g & 1] + column + q * 8;
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            if (column + i * 32 >= place.d_state()) continue;
            const uint4 of_c = *reinterpret_cast<const uint4*>(c + i * 32);
            const uint4 top = flight[i], low = flight[4 + i];
            const unsigned first[4] = {top.x, low.x, top.y, low.y}, second[4] = {top.z, low.z, top.w, low.w};
            mma<__half>(sum, first, of_c.x, of_c.y);
            mma<__half>(sum, second, of_c.z, of_c.w);
        }
        if (place.has(unit + 1)) {
            place.load_state(head, unit + 1, flight, lane);
        } else {
            following();
        }
        if (place.pass(unit) + 1 < place.passes()) continue;
        if (q == 0) {
            float* y = own.state_y + place.tile(unit) * kTile + 2 * g;
            y[0] = sum[0] + sum[1];
            y[1] = sum[2] + sum[3];
        }
        sum[0] = sum[1] = sum[2] = sum[3] = 0.0f;
    }
}

// sum_s scored_s x_s of a warp's tokens of a head into own.staged. It begins with what is in flight.
template <bool AIM, typename Following>
__device__ __forceinline__ void history_sum(const Place<AIM>& place, WarpShared& own, int head,
                                            const Following& following, uint4 (&flight)[kFlight], int lane) {
    float sum[8] = {};
    const bool used = place.sub(lane) < place.subs();
    for (int from = 0; from < place.n; from += kFlight * place.step()) {
        const int left = from + kFlight * place.step();
        const int first = from + place.part * place.subs() + place.sub(lane);
        float weight[kFlight];
#pragma unroll
        for (int j = 0; j < kFlight; ++j) {
            const int s = first + j * place.step();
            weight[j] = used && s < place.n ? own.scored[s] : 0.0f;
        }
#pragma unroll
        for (int j = 0; j < kFlight; ++j) {  // past n weight and x are 0
            float x[8];
            unpack_state(flight[j], x);
#pragma unroll
            for (int i = 0; i < 8; ++i) sum[i] = fmaf(weight[j], x[i], sum[i]);
        }
        if (left < place.n) {
            place.load_history(head, left, flight, lane);
        } else {
            following();
        }
    }
    if (!used) return;
    float* staged = own.staged + place.sub(lane) * place.headdim() + lane % place.vectors() * 8;
#pragma unroll
    for (int i = 0; i < 8; ++i) staged[i] = sum[i];
}

// The tokens' weights of a head, newest first, from this lane's dt (token n - 1 - lane - 32 k). Returns the decay of the
// state over all of them and the current token.
__device__ __forceinline__ float head_weights(const MmaShared& shared, WarpShared& own, const float (&dt_of)[4],
                                              float dt, float A, int n, int lane) {
    float after = dt;  // sum of what follows a token
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if (32 * k >= n) break;
        const int s = n - 1 - lane - 32 * k;
        float sum = dt_of[k];
#pragma unroll
        for (int offset = 1; offset < 32; offset *= 2) {
            const float before = __shfl_up_sync(0xffffffffu, sum, offset);
            if (lane >= offset) sum += before;
        }
        float before = __shfl_up_sync(0xffffffffu, sum, 1);
        if (lane == 0) before = 0.0f;
        if (s >= 0) {
            const float weight = dt_of[k] * expf(A * (after + before));
            own.weight[s] = weight;
            own.scored[s] = weight * shared.score[s];
        }
        after += __shfl_sync(0xffffffffu, sum, 31);
    }
    if (lane == 0) own.weight[n] = dt;
    return expf(A * after);
}

// Ahead of a fold, by the block: the words of each 32 columns in the order in which a lane's 16 bytes of a state want
// them. Column 8 q + 2 i + e goes to 8 i + 2 q + e.
__device__ __forceinline__ void reorder_columns(__half* rows, int stride, int tokens, int tid) {
    const int groups = stride / 32;
    for (int i = tid; i < tokens * groups; i += kMmaThreads) {
        uint4* at = reinterpret_cast<uint4*>(rows + i / groups * stride + i % groups * 32);
        const uint4 a = at[0], b = at[1], c = at[2], d = at[3];
        at[0] = make_uint4(a.x, b.x, c.x, d.x);
        at[1] = make_uint4(a.y, b.y, c.y, d.y);
        at[2] = make_uint4(a.z, b.z, c.z, d.z);
        at[3] = make_uint4(a.w, b.w, c.w, d.w);
    }
}

// S = decay S + sum_s weight_s x_s B_s^T of a warp's tiles of a head, the current token's x already in the history. The
// weights go with x, over their largest: so that nothing leaves float16's range that was within it. kChunks of 32
// columns at a time.
template <bool AIM>
__device__ __forceinline__ void fold_head(const Place<AIM>& place, const WarpShared& own, const __half* rows,
                                          int head, float decay, int lane) {
    const int g = lane / 4, q = lane % 4, n = place.n, stride = bc_stride(place.d_state());
    float largest = 0.0f;
    for (int s = lane; s <= n; s += 32) largest = fmaxf(largest, own.weight[s]);
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, offset));
    }
    const float scale = largest > 0.0f ? 1.0f / largest : 0.0f;
    const int tiles = place.headdim() / kTile;
    for (int tile = place.part; tile < tiles; tile += place.parts) {
        const int channel = head * place.headdim() + tile * kTile + 2 * g;
        for (int column = 0; column < place.d_state(); column += kChunks * 32) {
            __half* state = place.state + (channel * place.d_state() + column + q * 8);
            const int left = place.d_state() - column;
            uint4 old[2][kChunks];
#pragma unroll
            for (int r = 0; r < 2; ++r) {
#pragma unroll
                for (int c = 0; c < kChunks; ++c) {
                    old[r][c] = make_uint4(0, 0, 0, 0);
                    if (place.folded && c * 32 + q * 8 < left) {
                        old[r][c] = *reinterpret_cast<const uint4*>(state + r * place.d_state() + c * 32);
                    }
                }
            }
            float sum[4 * kChunks][4] = {};
            unsigned two[4];  // channels of tokens, a step ahead of their product
            const auto load_x = [&](int s0) {
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int s = min(s0 + 2 * q + i % 2 + i / 2 * 8, n);
                    two[i] = *reinterpret_cast<const unsigned*>(place.x_history +
                                                                (static_cast<int64_t>(s) * place.d_inner + channel));
                }
            };
            load_x(0);
            for (int s0 = 0; s0 <= n; s0 += kTile) {
                float2 x[4];
#pragma unroll
                for (int i = 0; i < 4; ++i) {
                    const int s = s0 + 2 * q + i % 2 + i / 2 * 8;
                    const float weight = s <= n ? own.weight[s] * scale : 0.0f;
                    x[i] = unpack2<__half>(two[i]);
                    x[i].x *= weight, x[i].y *= weight;
                }
                load_x(s0 + kTile);
                const unsigned a[4] = {pack2<__half>(x[0].x, x[1].x), pack2<__half>(x[0].y, x[1].y),
                                       pack2<__half>(x[2].x, x[3].x), pack2<__half>(x[2].y, x[3].y)};
                const __half* from = rows + (s0 + lane % 16) * stride + column + lane / 16 * 8;
#pragma unroll
                for (int j = 0; j < 4 * kChunks; j += 2) {
                    if (j / 4 * 32 >= left) continue;
                    unsigned b[4];
                    ldmatrix_trans(b, from + j * 8);
                    mma<__half>(sum[j], a, b[0], b[1]);
                    mma<__half>(sum[j + 1], a, b[2], b[3]);
                }
            }
#pragma unroll
            for (int r = 0; r < 2; ++r) {
#pragma unroll
                for (int c = 0; c < kChunks; ++c) {
                    if (c * 32 + q * 8 >= left) continue;
                    float values[8];
                    unpack_state(old[r][c], values);
#pragma unroll
                    for (int i = 0; i < 8; ++i) {
                        values[i] = fmaf(decay, values[i], largest * sum[c * 4 + i / 2][2 * r + i % 2]);
                    }
                    *reinterpret_cast<uint4*>(state + r * place.d_state() + c * 32) = Vec16<__half>::pack(values);
                }
            }
        }
    }
}

}  // namespace detail
}  // namespace aim_kernels
