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
constexpr int kInputStages = 2, kWeightStages = 4;
constexpr int kWeightBytes = kChunk * kOutBlock * 2;
// An image's few columns are little work a tap, so all of them go together.
template <int N>
constexpr int kTapsAtOnce = N == kImageBlock ? 9 : 1;
constexpr int kTilePixels = kTile * kTile, kMostOut = 2048;
constexpr int kPixelVectors = kOutBlock / 8;

constexpr int kWeightsAt = kInputStages * kChunkBytes;
constexpr int kResidualAt = kWeightsAt + kWeightStages * kWeightBytes;
constexpr int kBiasAt = kResidualAt + kTilePixels * kOutBlock * 2;
constexpr int kPartsAt = kBiasAt + kMostOut * static_cast<int>(sizeof(float));
constexpr int kPartsCount = 2 * 2 * 4 * 32;  // turns, halves, warps, parts
constexpr int kBarriersAt = kPartsAt + kPartsCount * static_cast<int>(sizeof(float2));
constexpr int kWgmmaSmem = kBarriersAt + 8 * (2 * kInputStages + 2 * kWeightStages + 2);
static_assert(kWeightsAt % 128 == 0 && kResidualAt % 128 == 0, "bulk copies and matrices are aligned");
static_assert(kWgmmaSmem <= 227 * 1024, "what a block can have");

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
struct Barriers {
    unsigned input_full, input_free, weight_full, weight_free, residual_full, residual_free;
    explicit __device__ __forceinline__ Barriers(const unsigned char* smem) {
        input_full = shared_address(smem + kBarriersAt);
        input_free = input_full + 8 * kInputStages;
        weight_full = input_free + 8 * kInputStages;
        weight_free = weight_full + 8 * kWeightStages;
        residual_full = weight_free + 8 * kWeightStages;
        residual_free = residual_full + 8;
    }
    __device__ __forceinline__ void init() const {
        for (int i = 0; i < kInputStages; ++i) {
            barrier_init(input_full + i * 8, kLoadWarps);
            barrier_init(input_free + i * 8, kMultiplyWarps);
        }
        for (int i = 0; i < kWeightStages; ++i) {
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
template <typename T>
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
            if (residual != nullptr) {
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

template <typename T, int N>
__device__ __forceinline__ void multiply(const NormConvArgs& a, unsigned char* smem) {
    const int half = static_cast<int>(threadIdx.x) / 128, warp = static_cast<int>(threadIdx.x) / 32 % 4;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const Barriers barriers(smem);
    const uint64_t inputs = matrix(shared_address(smem) + half * 8 * kRowBytes, kPlaneBytes, kRowBytes);
    const uint64_t weights = matrix(shared_address(smem + kWeightsAt), N * 16, 128);
    Place<kInputStages> input;
    Place<kWeightStages> weight;
    int turn = 0;
    for (int work = static_cast<int>(blockIdx.x); work < a.work; work += static_cast<int>(gridDim.x), turn ^= 1) {
        const Tile tile(a, work);
        float acc[2][N / 2];
        bool adds = false;
        unsigned done_weight = 0, done_input = 0;  // barriers to tell when the products in flight are done
        for (int chunk = 0; chunk < a.chunks; ++chunk) {
            barrier_wait(barriers.input_full + input.stage * 8, input.parity);
            for (int tap = 0; tap < a.taps; tap += kTapsAtOnce<N>) {
                barrier_wait(barriers.weight_full + weight.stage * 8, weight.parity);
                wgmma_fence();
#pragma unroll
                for (int next = 0; next < kTapsAtOnce<N>; ++next) {
                    const uint64_t rows = inputs + input.stage * (kChunkBytes / 16) + tile.tap_pixel(a.taps, tap + next);
                    const uint64_t columns = weights + weight.stage * (kWeightBytes / 16) + next * (kChunk * N / 8);
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
                done_input = tap + kTapsAtOnce<N> == a.taps ? barriers.input_free + input.stage * 8 : 0;
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
            const bool adds_residual = a.p.residual != nullptr;
            if (adds_residual) barrier_wait(barriers.residual_full, turn);
            write_tile<T>(a, tile, acc, half, warp, lane,
                          reinterpret_cast<const float*>(smem + kBiasAt) + tile.first_channel(a),
                          adds_residual ? smem + kResidualAt : nullptr,
                          reinterpret_cast<float2*>(smem + kPartsAt) + (turn * 2 + half) * 4 * 32);
            if (adds_residual && lane == 0) barrier_arrive(barriers.residual_free);
        }
    }
}

template <typename T, int N>
__device__ __forceinline__ void bring_weights(const NormConvArgs& a, unsigned char* smem) {
    if (threadIdx.x % 32 != 0) return;
    const int number = a.chunks * a.taps / kTapsAtOnce<N>;
    constexpr unsigned kBytes = kChunk * N * 2 * kTapsAtOnce<N>;
    const Barriers barriers(smem);
    Place<kWeightStages> place;
    for (int work = static_cast<int>(blockIdx.x); work < a.work; work += static_cast<int>(gridDim.x)) {
        const unsigned char* from = static_cast<const unsigned char*>(a.p.weight) +
                                    static_cast<int64_t>(Tile(a, work).block) * number * kBytes;
        for (int i = 0; i < number; ++i, place.next()) {
            const unsigned full = barriers.weight_full + place.stage * 8;
            barrier_wait(barriers.weight_free + place.stage * 8, place.parity ^ 1);
            barrier_expect(full, kBytes);
            copy_bulk(shared_address(smem + kWeightsAt) + place.stage * kWeightBytes,
                      from + static_cast<int64_t>(i) * kBytes, kBytes, full);
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

template <typename T, bool kNorm>
__device__ __forceinline__ void bring_input(const NormConvArgs& a, unsigned char* smem) {
    const Barriers barriers(smem);
    const int thread = static_cast<int>(threadIdx.x) - (kWgmmaThreads - kLoadThreads);
    const bool first_lane = thread % 32 == 0;
    ChunkLoader<T, kNorm> loader(a, thread, kLoadThreads);
    Place<kInputStages> place;
    int turn = 0;
    for (int work = static_cast<int>(blockIdx.x); work < a.work; work += static_cast<int>(gridDim.x), turn ^= 1) {
        const Tile tile(a, work);
        for (int chunk = 0; chunk < a.chunks; ++chunk, place.next()) {
            barrier_wait(barriers.input_free + place.stage * 8, place.parity ^ 1);
            loader.fetch(tile, chunk, smem + place.stage * kChunkBytes);
            close_copies();
            // After the first chunk: by then the residual before is no longer needed, and there is time.
            const bool fetches = chunk == 0 && a.p.residual != nullptr;
            if (fetches) {
                barrier_wait(barriers.residual_free, turn ^ 1);
                fetch_residual<T>(a, tile, smem + kResidualAt, thread);
                close_copies();
                wait_for_all_but<1>();
            } else {
                wait_for_all_but<0>();
            }
            loader.finish();
            fence_async();
            __syncwarp();
            if (first_lane) barrier_arrive(barriers.input_full + place.stage * 8);
            if (fetches) {
                wait_for_all_but<0>();
                __syncwarp();
                if (first_lane) barrier_arrive(barriers.residual_full);
            }
        }
    }
}

#endif  // __CUDA_ARCH_FEAT_SM90_ALL

template <typename T, int N, bool kNorm>
__global__ void __launch_bounds__(kWgmmaThreads, 1) norm_conv_wgmma(const NormConvArgs a) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    AIM_DYNAMIC_SMEM(smem);
    for (int i = static_cast<int>(threadIdx.x); i < static_cast<int>(a.p.out_channels); i += kWgmmaThreads) {
        reinterpret_cast<float*>(smem + kBiasAt)[i] = a.p.bias[i];
    }
    if (threadIdx.x == 0) Barriers(smem).init();
    __syncthreads();
    if (threadIdx.x < kMultiplyWarps * 32) {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(256 - kLoadRegisters));
        multiply<T, N>(a, smem);
    } else {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kLoadRegisters));
        if (threadIdx.x < kWgmmaThreads - kLoadThreads) {
            bring_weights<T, N>(a, smem);
        } else {
            bring_input<T, kNorm>(a, smem);
        }
    }
#endif
}

}  // namespace detail
}  // namespace aim_kernels
