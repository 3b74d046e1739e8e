// norm_conv on sm_90a. A block stays for many tiles. Two warpgroups multiply, eight rows of a tile each, and write y. One warp
// brings weights into a ring, a chunk's tap at a time; seven bring the input, through norm and SiLU, into a ring of chunks,
// and the residual.
#pragma once

#include "dependent.cuh"
#include "mma.cuh"
#include "norm_conv.cuh"
#include "wgmma.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kWgmmaThreads = 512, kMultiplyWarps = 8, kLoadWarps = 7, kLoadThreads = kLoadWarps * 32;
constexpr int kLoadRegisters = 80;  // of a thread; a multiplying one has 256 less these
constexpr int kWeightBytes = kChunk * kOutBlock * 2;
constexpr int kTilePixels = kTile * kTile, kPixelVectors = kOutBlock / 8, kMostOut = 2048;

// What a block of N output channels has in shared memory, where the residual leaves less for the rings. With more than two
// chunks, one is on its way while the one before goes through the norm.
template <int N, bool kAdds>
struct BlockRing {
    static constexpr int kInputs = N == kImageBlock ? 4 : kAdds ? 2 : 3, kWeights = kAdds ? 4 : 5;
    static constexpr bool kAhead = kInputs > 2;
    // An image's few columns are little work a tap, so all of them go together.
    static constexpr int kTapsAtOnce = N == kImageBlock ? 9 : 1;
    static constexpr int kStageBytes = kChunk * N * 2 * kTapsAtOnce;

    static constexpr int kWeightsAt = kInputs * kChunkBytes;
    static constexpr int kResidualAt = kWeightsAt + kWeights * kStageBytes;
    static constexpr int kBiasAt = kResidualAt + (kAdds ? kTilePixels * kOutBlock * 2 : 0);
    static constexpr int kPartsAt = kBiasAt + kMostOut * static_cast<int>(sizeof(float));
    static constexpr int kPartsCount = 2 * 2 * 4 * 32;  // turns, halves, warps, parts
    static constexpr int kBarriersAt = kPartsAt + kPartsCount * static_cast<int>(sizeof(float2));
    static constexpr int kBytes = kBarriersAt + 8 * (2 * kInputs + 2 * kWeights + 2);
    static_assert(kWeightsAt % 128 == 0 && kResidualAt % 128 == 0, "bulk copies and matrices are aligned");
    static_assert(kBytes <= 227 * 1024, "what a block can have");
};

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)

// A place in a ring: which stage, and the parity that its barriers have then.
template <int STAGES>
struct Place {
    int stage = 0;
    unsigned parity = 0;
    __device__ __forceinline__ void next() {
        if (++stage == STAGES) stage = 0, parity ^= 1;
    }
};

// Of a block, by their addresses.
template <typename Ring>
struct Barriers {
    unsigned input_full, input_free, weight_full, weight_free, residual_full, residual_free;
    explicit __device__ __forceinline__ Barriers(const unsigned char* smem) {
        input_full = shared_address(smem + Ring::kBarriersAt);
        input_free = input_full + 8 * Ring::kInputs;
        weight_full = input_free + 8 * Ring::kInputs;
        weight_free = weight_full + 8 * Ring::kWeights;
        residual_full = weight_free + 8 * Ring::kWeights;
        residual_free = residual_full + 8;
    }
    __device__ __forceinline__ void init() const {
        for (int i = 0; i < Ring::kInputs; ++i) {
            barrier_init(input_full + i * 8, kLoadWarps);
            barrier_init(input_free + i * 8, kMultiplyWarps);
        }
        for (int i = 0; i < Ring::kWeights; ++i) {
            barrier_init(weight_full + i * 8, 1);
            barrier_init(weight_free + i * 8, kMultiplyWarps);
        }
        barrier_init(residual_full, kLoadWarps);
        barrier_init(residual_free, kMultiplyWarps);
        fence_async();
    }
};

// Four lanes' four values each: lane i's value j becomes lane j's value i.
__device__ __forceinline__ void exchange_in_quad(unsigned (&v)[4], int q) {
    const bool odd = q & 1, high = q & 2;
#pragma unroll
    for (int i = 0; i < 4; i += 2) {
        const unsigned got = __shfl_xor_sync(0xffffffffu, odd ? v[i] : v[i + 1], 1);
        (odd ? v[i] : v[i + 1]) = got;
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
        const unsigned got = __shfl_xor_sync(0xffffffffu, high ? v[i] : v[i + 2], 2);
        (high ? v[i] : v[i + 2]) = got;
    }
}

// Adds up over a warp's lanes of the same quad place: afterwards this lane has one of 8 pairs, that of its lane / 4.
__device__ __forceinline__ float2 add_over_rows(float2 (&v)[8], int lane) {
#pragma unroll
    for (int half = 4; half >= 1; half /= 2) {
        const bool upper = lane & (half * 4);
#pragma unroll
        for (int i = 0; i < half; ++i) {
            const float2 give = upper ? v[i] : v[i + half], keep = upper ? v[i + half] : v[i];
            v[i].x = keep.x + __shfl_xor_sync(0xffffffffu, give.x, half * 4);
            v[i].y = keep.y + __shfl_xor_sync(0xffffffffu, give.y, half * 4);
        }
    }
    return v[0];
}

// Where a residual's vector of eight channels is in shared memory: two pixels' same vectors are in different banks.
__device__ __forceinline__ int residual_at(int pixel, int vector) {
    return (pixel * kPixelVectors + (vector ^ pixel % 2 * 4)) * 16;
}

// From accumulators, whose rows are pixels (see wgmma.cuh), with bias and residual to y and its statistics. `parts` is of
// this half: (warps, 32 parts).
template <typename T, bool kAdds>
__device__ __forceinline__ void write_tile(const NormConvArgs& a, const Tile& tile, const float (&acc)[2][64], int half,
                                           int warp, int lane, const float* bias, const unsigned char* residual,
                                           float2* parts) {
    const int q = lane % 4, channels = static_cast<int>(a.p.out_channels);
    T* y = static_cast<T*>(a.p.y) + tile.first_channel(a) + q * 8;
    float2 sums[8] = {};  // of this lane's vector in each group of 32 channels, by halves
    int pixels[4];        // columns 0..7 or 8..15, then which of the two rows
#pragma unroll
    for (int i = 0; i < 4; ++i) pixels[i] = output_pixel(a, tile, half * 8 + warp * 2 + i % 2, i / 2 * 8 + lane / 4);
#pragma unroll
    for (int group = 0; group < 4; ++group) {
        float2 offset[4];
#pragma unroll
        for (int j = 0; j < 4; ++j) offset[j] = *reinterpret_cast<const float2*>(bias + group * 32 + j * 8 + q * 2);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            unsigned pairs[4];
#pragma unroll
            for (int j = 0; j < 4; ++j) {
                const float* c = &acc[i / 2][(group * 4 + j) * 4 + i % 2 * 2];
                pairs[j] = pack2<T>(c[0] + offset[j].x, c[1] + offset[j].y);
            }
            exchange_in_quad(pairs, q);
            uint4 raw = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
            if constexpr (kAdds) {
                const int pixel = (half * 8 + warp * 2 + i % 2) * kTile + i / 2 * 8 + lane / 4;
                raw = add<T, 8>(raw, *reinterpret_cast<const uint4*>(residual + residual_at(pixel, group * 4 + q)));
            }
            if (pixels[i] < 0) continue;
            *reinterpret_cast<uint4*>(y + static_cast<int64_t>(pixels[i]) * channels + group * 32) = raw;
            float value[8];
            Vec16<T>::unpack(raw, value);
#pragma unroll
            for (int e = 0; e < 8; ++e) {
                float2& sum = sums[group * 2 + e / 4];
                sum.x += value[e];
                sum.y = fmaf(value[e], value[e], sum.y);
            }
        }
    }
    const float2 mine = add_over_rows(sums, lane);
    const int which = lane / 4, part = (which / 2 * 4 + q) * 2 + which % 2;
    parts[warp * 32 + part] = mine;
    asm volatile("bar.sync %0, 128;" ::"r"(1 + half) : "memory");
    if (warp != 0) return;
    float2 total = make_float2(0.0f, 0.0f);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
        total.x += parts[i * 32 + lane].x;
        total.y += parts[i * 32 + lane].y;
    }
    write_part(a, tile, half, lane, total.x, total.y);
}

__device__ __forceinline__ void write_image(const NormConvArgs& a, const Tile& tile, int half, int warp, int lane,
                                            const float (&acc)[2][4]) {
    const int channels = static_cast<int>(a.p.out_channels);
    const int64_t plane = a.p.height * a.p.width;
    float* y = static_cast<float*>(a.p.y) + static_cast<int64_t>(tile.image) * (channels - 1) * plane;
#pragma unroll
    for (int i = 0; i < 8; ++i) {  // half of the columns, row, channel
        const int pixel = output_pixel(a, tile, half * 8 + warp * 2 + i / 2 % 2, i / 4 * 8 + lane / 4);
        const int channel = lane % 4 * 2 + i % 2;
        if (pixel < 0 || channel >= channels) continue;
        y[channel * plane + pixel] = acc[i / 4][i % 4] + a.p.bias[channel];
    }
}

template <typename T, int N, bool kAdds>
__device__ __forceinline__ void multiply(const NormConvArgs& a, unsigned char* smem) {
    const int half = static_cast<int>(threadIdx.x) / 128, warp = static_cast<int>(threadIdx.x) / 32 % 4;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    using Ring = BlockRing<N, kAdds>;
    const Barriers<Ring> barriers(smem);
    const uint64_t inputs = matrix(shared_address(smem) + half * 8 * kRowBytes, kPlaneBytes, kRowBytes);
    const uint64_t weights = matrix(shared_address(smem + Ring::kWeightsAt), N * 16, 128);
    Place<Ring::kInputs> input;
    Place<Ring::kWeights> weight;
    int turn = 0;
    for (int work = static_cast<int>(blockIdx.x); work < a.work; work += static_cast<int>(gridDim.x), turn ^= 1) {
        const Tile tile(a, work);
        float acc[2][N / 2];
        bool adds = false;
        unsigned done_weight = 0, done_input = 0;  // barriers to tell when the products in flight are done
        for (int chunk = 0; chunk < a.chunks; ++chunk) {
            barrier_wait(barriers.input_full + input.stage * 8, input.parity);
            for (int tap = 0; tap < a.taps; tap += Ring::kTapsAtOnce) {
                barrier_wait(barriers.weight_full + weight.stage * 8, weight.parity);
                wgmma_fence();
#pragma unroll
                for (int next = 0; next < Ring::kTapsAtOnce; ++next) {
                    const uint64_t rows = inputs + input.stage * (kChunkBytes / 16) + tile.tap_pixel(a.taps, tap + next);
                    const uint64_t columns = weights + weight.stage * (Ring::kStageBytes / 16) + next * (kChunk * N / 8);
#pragma unroll
                    for (int k = 0; k < kChunkPlanes; k += 2) {
#pragma unroll
                        for (int m = 0; m < 2; ++m) {
                            wgmma<T>(acc[m], rows + k * (kPlaneBytes / 16) + m * 8, columns + k * N,
                                     adds || next > 0 || k > 0);
                        }
                    }
                }
                wgmma_commit();
                adds = true;
                wgmma_wait<1>();
                if (lane == 0 && done_weight != 0) barrier_arrive(done_weight);
                if (lane == 0 && done_input != 0) barrier_arrive(done_input);
                done_weight = barriers.weight_free + weight.stage * 8;
                done_input = tap + Ring::kTapsAtOnce == a.taps ? barriers.input_free + input.stage * 8 : 0;
                weight.next();
            }
            input.next();
        }
        wgmma_wait<0>();
        if (lane == 0) {
            barrier_arrive(done_weight);
            barrier_arrive(done_input);
        }
        if constexpr (N == kImageBlock) {
            write_image(a, tile, half, warp, lane, acc);
        } else {
            if (kAdds) barrier_wait(barriers.residual_full, turn);
            write_tile<T, kAdds>(a, tile, acc, half, warp, lane,
                                 reinterpret_cast<const float*>(smem + Ring::kBiasAt) + tile.first_channel(a),
                                 smem + Ring::kResidualAt,
                                 reinterpret_cast<float2*>(smem + Ring::kPartsAt) + (turn * 2 + half) * 4 * 32);
            if (kAdds && lane == 0) barrier_arrive(barriers.residual_free);
        }
    }
}

template <typename Ring>
__device__ __forceinline__ void bring_weights(const NormConvArgs& a, unsigned char* smem) {
    if (threadIdx.x % 32 != 0) return;
    const int number = a.chunks * a.taps / Ring::kTapsAtOnce;
    const Barriers<Ring> barriers(smem);
    Place<Ring::kWeights> place;
    for (int work = static_cast<int>(blockIdx.x); work < a.work; work += static_cast<int>(gridDim.x)) {
        const unsigned char* from = static_cast<const unsigned char*>(a.p.weight) +
                                    static_cast<int64_t>(Tile(a, work).block) * number * Ring::kStageBytes;
        for (int i = 0; i < number; ++i, place.next()) {
            const unsigned full = barriers.weight_full + place.stage * 8;
            barrier_wait(barriers.weight_free + place.stage * 8, place.parity ^ 1);
            barrier_expect(full, Ring::kStageBytes);
            copy_bulk(shared_address(smem + Ring::kWeightsAt) + place.stage * Ring::kStageBytes,
                      from + static_cast<int64_t>(i) * Ring::kStageBytes, Ring::kStageBytes, full);
        }
    }
}

// Starts copies of a tile's residual.
template <typename T>
__device__ __forceinline__ void fetch_residual(const NormConvArgs& a, const Tile& tile, unsigned char* target, int thread) {
    constexpr int kStep = kLoadThreads / kPixelVectors;
    const int vector = thread % kPixelVectors, first = opaque(thread / kPixelVectors);
    const int channels = static_cast<int>(a.p.out_channels);
    const T* from = static_cast<const T*>(a.p.residual) + tile.first_channel(a) + vector * 8;
#pragma unroll 5
    for (int i = first; i < kTilePixels; i += kStep) {
        const int pixel = output_pixel(a, tile, i / kTile, i % kTile);
        copy_async(target + residual_at(i, vector), from + static_cast<int64_t>(max(pixel, 0)) * channels, pixel >= 0);
    }
}

template <typename T, bool kNorm, typename Ring, bool kAdds>
__device__ __forceinline__ void bring_input(const NormConvArgs& a, unsigned char* smem) {
    const Barriers<Ring> barriers(smem);
    const int thread = static_cast<int>(threadIdx.x) - (kWgmmaThreads - kLoadThreads);
    const bool first_lane = thread % 32 == 0;
    ChunkLoader<T, kNorm> loader(a, thread, kLoadThreads), next(a, thread, kLoadThreads);
    Place<Ring::kInputs> place, next_place;
    const auto fetch = [&](ChunkLoader<T, kNorm>& into, int work, int chunk) {
        barrier_wait(barriers.input_free + next_place.stage * 8, next_place.parity ^ 1);
        into.fetch(Tile(a, work), chunk, smem + next_place.stage * kChunkBytes);
        close_copies();
        next_place.next();
    };
    int turn = 0, work = static_cast<int>(blockIdx.x), chunk = 0;
    if (Ring::kAhead) fetch(loader, work, chunk);
    while (work < a.work) {
        const bool last = chunk == a.chunks - 1;
        const int next_work = last ? work + static_cast<int>(gridDim.x) : work, next_chunk = last ? 0 : chunk + 1;
        // With the first chunk: by then the residual before is no longer needed, and there is time.
        const bool fetches = kAdds && chunk == 0;
        if (Ring::kAhead) {
            static_assert(!(Ring::kAhead && kAdds), "the order of groups of copies");
            if (next_work < a.work) fetch(next, next_work, next_chunk);
        } else {
            fetch(loader, work, chunk);
            if (fetches) {
                barrier_wait(barriers.residual_free, turn ^ 1);
                fetch_residual<T>(a, Tile(a, work), smem + Ring::kResidualAt, thread);
                close_copies();
            }
        }
        if (fetches || (Ring::kAhead && next_work < a.work)) {
            wait_for_all_but<1>();
        } else {
            wait_for_all_but<0>();
        }
        loader.finish();
        fence_async();
        __syncwarp();
        if (first_lane) barrier_arrive(barriers.input_full + place.stage * 8);
        place.next();
        if (fetches) {
            wait_for_all_but<0>();
            __syncwarp();
            if (first_lane) barrier_arrive(barriers.residual_full);
            turn ^= 1;
        }
        if (Ring::kAhead) loader.take(next);
        work = next_work, chunk = next_chunk;
    }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

template <typename T, int N, bool kNorm, bool kAdds>
__global__ void __launch_bounds__(kWgmmaThreads, 1) norm_conv_wgmma(const NormConvArgs a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    using Ring = BlockRing<N, kAdds>;
    AIM_DYNAMIC_SMEM(smem);
    for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(a.p.out_channels); i += kWgmmaThreads) {
        reinterpret_cast<float*>(smem + Ring::kBiasAt)[i] = a.p.bias[i];
    }
    if (threadIdx.x == 0) Barriers<Ring>(smem).init();
    __syncthreads();
    if (threadIdx.x < kMultiplyWarps * 32) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(256 - kLoadRegisters));
        multiply<T, N, kAdds>(a, smem);
    } else {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kLoadRegisters));
        if (threadIdx.x < kWgmmaThreads - kLoadThreads) {
            bring_weights<Ring>(a, smem);
        } else {
            bring_input<T, kNorm, Ring, kAdds>(a, smem);
        }
    }
#endif
}

}  // namespace detail
}  // namespace aim_kernels
