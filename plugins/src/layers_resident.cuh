// The kernel of the resident form. Its blocks, one a multiprocessor, stay for all layers. A layer's work is small
// (AiM-B: 7.5 MB of weights), so what counts is the chain from one number to the next: three times a layer all blocks
// need the others' numbers, and between two such times every instruction of a warp is on the way. Few warps, each with
// several independent numbers, do it in the fewest instructions.
#pragma once

#include "dependent.cuh"
#include "layers_ends.cuh"

namespace aim_kernels {
namespace detail {

// S: of the states. W: of in_proj and out_proj. WIDTH: d_model over 256, rounded up; d_inner is no more than twice that.
// ROWS: those of the call, or more.
template <typename S, typename W, int WIDTH, int ROWS, bool EXACT>
struct Resident : Sizes<WIDTH, EXACT> {
    using T = __half;
    static constexpr int kRows = ROWS;
    static constexpr bool kExact = EXACT;
    using Base = Sizes<WIDTH, EXACT>;
    using Base::d_conv, Base::d_inner, Base::d_model, Base::d_state, Base::conv_dim, Base::headdim, Base::nheads;
    using Base::a, Base::width, Base::x_stride;
    static constexpr int PAIRS = WIDTH * ROWS;             // of numbers of a row of d_inner, that a thread has
    static constexpr int HALF = (PAIRS + 1) / 2;           // of d_model
    static constexpr int LINES = EXACT ? (PAIRS / 2 + 3) / 4 * 4 : 16;  // of the state, a warp's
    static constexpr int ROW_THREADS = kResidentThreads / ROWS;
    static constexpr int STEP = 2 * ROW_THREADS;           // from one of a thread's pairs to the next
    static constexpr DType kStateType = sizeof(S) == 2 ? DType::kFloat16 : DType::kFloat32;
    using Quad = Raw4<S>;

    const Mamba2LayersParams& p;
    const int tid, warp, lane, rows;
    // The threads are divided among the rows for whatever runs along a row; this one's first pair of numbers in it, and
    // how many it has.
    const int row, col, model_count, inner_count;
    T* const x;
    float *const partial, *const bc, *const scratch;
    LineInput* const lines;
    const WeightRing ring;
    int place = 0;  // of the next unit of weights
    unsigned parity = 0;
    float2 residual[HALF];
    // Of the state: this block's row of it, and the first line; this warp's first and its lane's place there.
    const int state_row, first_line, line_count, state_at;
    const bool state_kept;
    // Convolved here: a channel of B or C, and x of a line. Made here by in_proj, and so moved into its window here: a
    // channel of B or C.
    ConvChannel<S> of_bc, of_line, made;
    bool makes = false;

    __device__ Resident(const ResidentArgs& args, unsigned char* smem, const ResidentLayout& at, const WeightRing& weights)
        : Base{args}, p(args.p), tid(static_cast<int>(threadIdx.x)), warp(tid / 32), lane(tid % 32),
          rows(static_cast<int>(args.p.rows)), row(tid / ROW_THREADS), col(2 * (tid % ROW_THREADS)),
          model_count(count_of(d_model())), inner_count(count_of(d_inner())),
          x(reinterpret_cast<T*>(smem + at.x)), partial(reinterpret_cast<float*>(smem + at.partial)),
          bc(reinterpret_cast<float*>(smem + at.bc)), scratch(reinterpret_cast<float*>(smem + at.scratch)),
          lines(reinterpret_cast<LineInput*>(smem + at.lines)), ring(weights),
          state_row(static_cast<int>(blockIdx.x) / args.blocks_a_row),
          first_line(static_cast<int>(blockIdx.x) % args.blocks_a_row * args.lines_a_block),
          line_count(state_row < rows ? max(0, min(args.lines_a_block, d_inner() - first_line)) : 0),
          state_at((state_row * args.p.layers * d_inner() + first_line + warp * LINES) * d_state() + lane * 4),
          state_kept(line_count > 0 && !row_is_inactive(args.p.active, state_row)) {
        if (tid == 0) *given() = take_tags(args);  // there after the first norm's barriers
        if (tid < 2 * d_state()) of_bc.be(*this, state_row, d_inner() + tid);
        if (tid < line_count) of_line.be(*this, state_row, first_line + tid);
        const int feature = static_cast<int>(blockIdx.x) * a.product[0].a_block + tid / ROWS;
        const int of_row = tid % ROWS, channel = feature - d_inner();
        if (of_row < rows && tid / ROWS < ring.features_of_block(a.product[0]) && channel >= d_inner() &&
            channel < conv_dim() && !row_is_inactive(p.active, of_row)) {
            makes = true;
            made.be(*this, of_row, channel);
        }
        if (whole_step()) {
            embed(*this, residual);
        } else {
            load_pairs(p.residual + row * d_model() + col, model_count, residual);
        }
    }

    // Whether the step's ends are this kernel's, too.
    __device__ __forceinline__ bool whole_step() const { return a.ends.logits != nullptr; }

    // How many tags calls gave before this one; in shared memory, for there is no register to spare.
    __device__ __forceinline__ unsigned* given() const {
        return reinterpret_cast<unsigned*>(scratch + 2 * kResidentWarps);
    }
    __device__ __forceinline__ unsigned tag_of(int layer) const { return *given() + static_cast<unsigned>(layer + 1); }

    static __device__ __forceinline__ void barrier() { named_barrier<1, kResidentThreads>(); }

    __device__ __forceinline__ int count_of(int of) const {
        if (EXACT) return row < rows ? of / STEP : 0;
        return row < rows && col < of ? (of - col + STEP - 1) / STEP : 0;
    }

    // Sum over the threads of a row. A barrier. Two in a row use another part of the scratch each.
    __device__ __forceinline__ float row_sum(float value, int part = 0) {
        float* const sums = scratch + part * kResidentWarps;
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
        if (lane == 0) sums[warp] = value;
        barrier();
        // Every lane adds all of its row's: quicker than shuffles.
        constexpr int WARPS = kResidentWarps / ROWS;
        value = 0.0f;
#pragma unroll
        for (int i = 0; i < WARPS; ++i) value += sums[row * WARPS + i];
        return value;
    }

    template <int N>
    __device__ __forceinline__ void load_pairs(const float* from, int count, float2 (&out)[N]) const {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            out[i] = make_float2(0.0f, 0.0f);
            if (i < count) out[i] = *reinterpret_cast<const float2*>(from + i * STEP);
        }
    }

    __device__ __forceinline__ void store_x(int i, float first, float second) const {
        *reinterpret_cast<unsigned*>(x + row * x_stride() + col + i * STEP) = pack2<T>(first, second);
    }

    // residual += gate * what the layer before gave.
    __device__ __forceinline__ void add_branch(int before, const float2 (&gate)[HALF]) {
        float2 hidden[HALF];
        receive_pairs<STEP / 2>(a.hidden + (row * d_model() + col) / 2, model_count, tag_of(before), hidden);
#pragma unroll
        for (int i = 0; i < HALF; ++i) {
            residual[i].x = fmaf(hidden[i].x, gate[i].x, residual[i].x);
            residual[i].y = fmaf(hidden[i].y, gate[i].y, residual[i].y);
        }
    }

    // x = AdaLN of the residual, the last layer's branch added to it first.
    __device__ __forceinline__ void norm(int layer) {
        const float* vectors = p.modulation + (row * p.layers + layer) * 3 * d_model() + col;
        float2 shift[HALF], scale[HALF], weight[HALF], gate[HALF];
        load_pairs(vectors, model_count, shift);
        load_pairs(vectors + d_model(), model_count, scale);
        load_pairs(p.norm_weight + layer * d_model() + col, model_count, weight);
        if (layer > 0) {
            load_pairs(vectors - d_model(), model_count, gate);
            add_branch(layer - 1, gate);
        }
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < HALF; ++i) {
            squares = fmaf(residual[i].x, residual[i].x, fmaf(residual[i].y, residual[i].y, squares));
            scale[i].x = weight[i].x * (1.0f + scale[i].x) * residual[i].x;
            scale[i].y = weight[i].y * (1.0f + scale[i].y) * residual[i].y;
        }
        const float factor = rsqrtf(row_sum(squares) / static_cast<float>(d_model()) + p.eps);
#pragma unroll
        for (int i = 0; i < HALF; ++i) {
            if (i < model_count) store_x(i, fmaf(scale[i].x, factor, shift[i].x), fmaf(scale[i].y, factor, shift[i].y));
        }
        barrier();
    }

    // This block's features of x W^T, to everyone. Returns the one that this thread summed. MOST: inputs, at most.
    template <int MOST>
    __device__ __forceinline__ float multiply(int which, int layer, Word* to) {
        const Product& m = a.product[which];
        const int features = ring.features_of_block(m);
        // The feature that this thread sums.
        const int feature = tid / ROWS, of_row = tid % ROWS, at = static_cast<int>(blockIdx.x) * m.a_block + feature;
        const bool mine = feature < features && of_row < rows;
        float scale = 1.0f;
        if (sizeof(W) == 1 && mine) scale = m.scale[layer * (which == 0 ? width() : d_model()) + at];
        const int inputs = which == 0 ? d_model() : d_inner();
        add_units<W>(*this, share_of<W, MOST>(*this, m, inputs), features, partial);
        barrier();
        float total = mine ? sum_warps(partial + tid * kPartialLine) : 0.0f;
        if (sizeof(W) == 1) total *= scale;
        if (which == 0) {
            if (mine) send(to + of_row * width() + at, total, tag_of(layer));
        } else {
            const float next = __shfl_down_sync(0xffffffffu, total, ROWS);
            if (mine && feature % 2 == 0) send_pair(to + (of_row * d_model() + at) / 2, total, next, tag_of(layer));
        }
        return total;
    }

    // The inputs of this block's lines: B and C; x through the convolution, dt, z.
    __device__ __forceinline__ void convolve(int layer, float A, float D, float dt_bias) {
        if (line_count == 0) return;
        const Word* from = a.zxbcdt + state_row * (width());
        const Word* mine = from + d_inner() + of_bc.channel;
        if (tid < line_count) {
            const int head = of_line.channel / headdim();
            const Word* const at[4] = {mine, from + d_inner() + conv_dim() + head, from + d_inner() + of_line.channel,
                                       from + of_line.channel};
            float got[4];
            receive(at, tag_of(layer), got);
            const float dt = softplus(got[1] + dt_bias), value = of_line.value(d_conv(), got[2]);
            bc[tid] = of_bc.value(d_conv(), got[0]);
            lines[tid] = {dt * value, __expf(dt * A), D * value, silu(got[3])};
            if (state_kept) of_line.move_on(*this, layer, got[2]);
        } else if (tid < 2 * d_state()) {
            const Word* const at[1] = {mine};
            float got[1];
            receive(at, tag_of(layer), got);
            bc[tid] = of_bc.value(d_conv(), got[0]);
        }
    }

    __device__ __forceinline__ Quad load_quad(int at) const {
        return Quad::load(static_cast<const S*>(p.ssm_state_in) + at);
    }

    __device__ __forceinline__ void update_lines(int layer, const Quad (&held)[LINES]) {
        const int first_of = warp * LINES;
        if (first_of >= line_count) return;
        const bool inside = EXACT || lane * 4 < d_state();
        const int at = state_at + layer * d_inner() * d_state();
        float4 b = make_float4(0, 0, 0, 0), c = b;
        if (inside) {
            b = *reinterpret_cast<const float4*>(bc + lane * 4);
            c = *reinterpret_cast<const float4*>(bc + d_state() + lane * 4);
        }
        const float bs[4] = {b.x, b.y, b.z, b.w}, cs[4] = {c.x, c.y, c.z, c.w};
#pragma unroll
        for (int first = 0; first < LINES; first += 4) {
            if (first_of + first >= line_count) return;
            float sum[4] = {};
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                // Past the last line its inputs are any number, and what follows from them is not kept.
                const LineInput in = lines[first_of + first + i];
                float state[4];
                held[first + i].unpack(state);
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    state[k] = fmaf(in.decay, state[k], in.dt_x * bs[k]);
                    sum[i] = fmaf(state[k], cs[k], sum[i]);
                }
                if (state_kept && inside && first_of + first + i < line_count) {
                    store_state4(p.ssm_state_out, kStateType, at + (first + i) * d_state(), state);
                }
            }
            const int of = first_of + first + lane / 8;
            const LineInput in = lines[of];
            const float value = (warp_sum4(sum, lane) + in.skip) * in.gate;
            const float next = __shfl_down_sync(0xffffffffu, value, 8);
            if (lane % 16 == 0 && of < line_count) {
                send_pair(a.y + (state_row * d_inner() + first_line + of) / 2, value, next, tag_of(layer));
            }
        }
    }

    // x = the gated norm of y.
    __device__ __forceinline__ void gated_norm(int layer) {
        float2 weight[PAIRS], y[PAIRS];
        load_pairs(p.gated_norm_weight + layer * d_inner() + col, inner_count, weight);
        receive_pairs<STEP / 2>(a.y + (row * d_inner() + col) / 2, inner_count, tag_of(layer), y);
        float squares = 0.0f;
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            squares = fmaf(y[i].x, y[i].x, fmaf(y[i].y, y[i].y, squares));
            y[i].x *= weight[i].x, y[i].y *= weight[i].y;
        }
        const float factor = rsqrtf(row_sum(squares) / static_cast<float>(d_inner()) + p.eps);
#pragma unroll
        for (int i = 0; i < PAIRS; ++i) {
            if (i < inner_count) store_x(i, y[i].x * factor, y[i].y * factor);
        }
        barrier();
    }

    __device__ void run() {
        for (int layer = 0; layer < p.layers; ++layer) {
            // What depends on no other block in this layer goes out first.
            float A = 0.0f, D = 0.0f, dt_bias = 0.0f;
            if (line_count > 0) {
                if (tid < 2 * d_state()) of_bc.load_window(*this, layer), of_bc.load_weights(*this, layer);
                if (tid < line_count) {
                    of_line.load_window(*this, layer), of_line.load_weights(*this, layer);
                    const int of_layer = layer * nheads() + of_line.channel / headdim();
                    A = p.A[of_layer], D = p.D[of_layer], dt_bias = p.dt_bias[of_layer];
                }
            }
            if (makes) made.load_window(*this, layer);
            Quad held[LINES] = {};
            const int at = state_at + layer * d_inner() * d_state();
#pragma unroll
            for (int i = 0; i < LINES; ++i) {
                if (warp * LINES + i < line_count && (EXACT || lane * 4 < d_state())) held[i] = load_quad(at + i * d_state());
            }
            norm(layer);
            const float newest = multiply<256 * WIDTH>(0, layer, a.zxbcdt);
            convolve(layer, A, D, dt_bias);
            barrier();
            update_lines(layer, held);
            gated_norm(layer);
            // All of y is there, so every block is done with the old windows.
            if (makes) made.move_on(*this, layer, newest);
            multiply<512 * WIDTH>(1, layer, a.hidden);
        }
        float2 gate[HALF];
        load_pairs(p.modulation + ((row + 1) * 3 * p.layers - 1) * d_model() + col, model_count, gate);
        if (whole_step()) {
            final_norms(*this, gate);
            head<W, 256 * WIDTH>(*this);
            return;
        }
        add_branch(p.layers - 1, gate);
        if (blockIdx.x != 0) return;
#pragma unroll
        for (int i = 0; i < HALF; ++i) {
            if (i < model_count) *reinterpret_cast<float2*>(p.residual_out + row * d_model() + col + i * STEP) = residual[i];
        }
    }
};

template <typename S, typename W, int WIDTH, int ROWS, bool EXACT>
__global__ void __launch_bounds__(kResidentThreads + 32, 1) resident_kernel(const ResidentArgs a) {
    AIM_DYNAMIC_SMEM(smem);
    const ResidentLayout at = layout_of(a, a.units);
    uint64_t* barriers = reinterpret_cast<uint64_t*>(smem + at.barriers);
    const WeightRing ring = {smem, barriers, barriers + a.units};
    ring.init(a.units);
    __syncthreads();
    if (threadIdx.x >= kResidentThreads) {
        ring.fetch<W>(a, static_cast<int>(threadIdx.x) % 32);  // the header says who may have written the weights
    } else {
        wait_for_previous();
        // All blocks are on the device: whoever starts takes none's place.
        let_next_start();
        Resident<S, W, WIDTH, ROWS, EXACT>(a, smem, at, ring).run();
    }
}

}  // namespace detail
}  // namespace aim_kernels
