// norm_conv on sm_90a. A block stays for many tiles. Two warpgroups multiply, eight rows of a tile each, and write y. One warp
// brings weights into a ring, a chunk's tap at a time; seven bring the input, through norm and SiLU, into a ring of chunks,
// and the residual.
#pragma once

#include "dependent.cuh"
#include "mma.cuh"
#include "norm_conv.cuh"
#include "norm_conv_write.cuh"
#include "wgmma.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kWgmmaThreads = 512, kMultiplyWarps = 8, kLoadWarps = 7, kLoadThreads = kLoadWarps * 32;
constexpr int kLoadRegisters = 80;  // of a thread; a multiplying one has 256 less these
constexpr int kMostOut = 2048;

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
        barrier_init(residual_full, kLoadThreads);
        barrier_init(residual_free, kMultiplyWarps * 32);
        fence_async();
    }
};

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
            if (kAdds) barrier_arrive(barriers.residual_free);
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
        // With the chunk that fills the ring: its place was free when the tile before was done, so that one's residual soon is.
        const bool fetches = kAdds && chunk == min(Ring::kInputs, a.chunks) - 1;
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
            barrier_arrive(barriers.residual_full);
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
