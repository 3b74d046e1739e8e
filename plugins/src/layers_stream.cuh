// The two things that the resident kernel's blocks live on: numbers from the other blocks, and weights from memory.
#pragma once

#include "bulk.cuh"
#include "layers.cuh"
#include "mma.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kResidentThreads = 256;
constexpr int kResidentWarps = kResidentThreads / 32;  // and one more, which fetches
// 16 features of AiM-B's in_proj, or 4 of AiM-XL's out_proj, 64 bytes apart; twice as many as int8.
constexpr int kUnitBytes = 26 * 1024;
constexpr int kMostRows = 4;

__device__ __forceinline__ Word load_word(const Word* from) {
#ifdef AIM_KERNELS_EMULATED
    emulator::yield();
    return *from;
#else
    Word word;
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(word) : "l"(from) : "memory");
    return word;
#endif
}

// How many tags calls gave before this one, which counts its own on. By one thread of each block, which has a number of
// its own: no block needs to know how far another is. Past L1, where the line may be from a call before.
__device__ __forceinline__ unsigned take_tags(const ResidentArgs& a) {
    if (a.given == nullptr) return 0;
    unsigned* const at = a.given + blockIdx.x;
#ifdef AIM_KERNELS_EMULATED
    const unsigned given = *at;
#else
    unsigned given;
    asm volatile("ld.relaxed.gpu.global.u32 %0, [%1];" : "=r"(given) : "l"(at) : "memory");
#endif
    *at = given + static_cast<unsigned>(a.p.layers);
    return given;
}

__device__ __forceinline__ void send_bits(Word* to, unsigned bits, unsigned tag) {
    const Word word = static_cast<Word>(tag) << 32 | bits;
#ifdef AIM_KERNELS_EMULATED
    *to = word;
#else
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(to), "l"(word) : "memory");
#endif
}

__device__ __forceinline__ void send(Word* to, float value, unsigned tag) {
    send_bits(to, __float_as_uint(value), tag);
}

// As float16, which is what all blocks read at least half of. Past its range, its largest number: that it is large then
// counts, and not how large.
__device__ __forceinline__ void send_pair(Word* to, float first, float second, unsigned tag) {
    constexpr float most = 65504.0f;
    send_bits(to, pack2<__half>(fminf(fmaxf(first, -most), most), fminf(fmaxf(second, -most), most)), tag);
}

// Less than 0: the word is of an earlier layer, or call, than the tag.
__device__ __forceinline__ int age_of(Word word, unsigned tag) {
    return static_cast<int>(static_cast<unsigned>(word >> 32) - tag);
}
__device__ __forceinline__ unsigned bits_in(Word word) { return static_cast<unsigned>(word); }
__device__ __forceinline__ float number_in(Word word) { return __uint_as_float(bits_in(word)); }

// N words, all asked for at once and, until they are there, all again. A later layer's will do: it is met only by a
// block that has no use for the number. Never a later call's: that waits for all blocks of this one before it sends.
template <int N>
__device__ __forceinline__ void receive(const Word* const (&from)[N], unsigned tag, float (&out)[N]) {
    Word word[N];
    int oldest;
    do {
#pragma unroll
        for (int i = 0; i < N; ++i) word[i] = load_word(from[i]);
        oldest = 0;
#pragma unroll
        for (int i = 0; i < N; ++i) oldest = min(oldest, age_of(word[i], tag));
    } while (oldest < 0);
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = number_in(word[i]);
}

// The same for `count` of N pairs of numbers, STEP words apart; where count is less, 0. One lane waits, by its last word,
// before all ask: what every block asks for over and over is more than the memory would carry on the side.
template <int STEP, int N>
__device__ __forceinline__ void receive_pairs(const Word* from, int count, unsigned tag, float2 (&out)[N]) {
    Word word[N];
#pragma unroll
    for (int i = 0; i < N; ++i) word[i] = static_cast<Word>(tag) << 32;
    if (count > 0 && threadIdx.x % 32 == 0) {
        while (age_of(load_word(from + (count - 1) * STEP), tag) < 0) {
        }
    }
    __syncwarp();
    int oldest;
    do {
#pragma unroll
        for (int i = 0; i < N; ++i) {
            if (i < count) word[i] = load_word(from + i * STEP);
        }
        oldest = 0;
#pragma unroll
        for (int i = 0; i < N; ++i) oldest = min(oldest, age_of(word[i], tag));
    } while (oldest < 0);
#pragma unroll
    for (int i = 0; i < N; ++i) out[i] = unpack2<__half>(bits_in(word[i]));
}

// The weights that a block needs, in the order in which it multiplies by them. They depend on nothing: a warp of their
// own fetches them, as far ahead through products and layers as shared memory reaches. By bulk copies, and few at a
// time: the others wait for latencies all the time, and what they load must not queue up behind megabytes.
struct WeightRing {
    unsigned char* units;
    uint64_t *full, *empty;  // of each place

    __device__ void init(int count) const {
        if (threadIdx.x != 0) return;
        for (int i = 0; i < count; ++i) {
            barrier_init(full + i, 1);
            barrier_init(empty + i, kResidentThreads);
        }
        fence_barriers();
    }

    static __device__ __forceinline__ int features_of_block(const Product& m) {
        return max(0, min(m.a_block, m.features - static_cast<int>(blockIdx.x) * m.a_block));
    }

    // By the warp that fetches. One unit on its way at a time is what the memory's latency times its bandwidth takes; with
    // more, whatever the others of this block load waits behind them.
    template <typename W>
    __device__ void fetch(const ResidentArgs& a, int lane) const {
        Fetched at;
        for (int step = 0; step < 2 * a.p.layers; ++step) fetch_product<W>(a, a.product[step % 2], step / 2, lane, at);
        if (a.head.features > 0) fetch_product<W>(a, a.head, 0, lane, at);
    }

private:
    struct Fetched {
        int place = 0, before = -1;
        unsigned parity = 1, before_parity = 0;
    };

    template <typename W>
    __device__ __forceinline__ void fetch_product(const ResidentArgs& a, const Product& m, int layer, int lane,
                                                  Fetched& at) const {
        const int features = features_of_block(m);
        const int64_t line = static_cast<int64_t>(layer) * m.features + static_cast<int64_t>(blockIdx.x) * m.a_block;
        const W* from = static_cast<const W*>(m.weight) + line * m.inputs;
        const unsigned bytes = static_cast<unsigned>(m.inputs) * sizeof(W);
        for (int first = 0; first < features; first += m.a_unit) {
            const int count = min(m.a_unit, features - first);
            barrier_wait(empty + at.place, at.parity);
            if (at.before >= 0) barrier_wait(full + at.before, at.before_parity);
            if (lane == 0) barrier_expect(full + at.place, bytes * static_cast<unsigned>(count));
            __syncwarp();
            if (lane < count) {
                copy_bulk(units + at.place * kUnitBytes + lane * m.line, from + static_cast<int64_t>(first + lane) * m.inputs,
                          bytes, full + at.place);
            }
            at.before = at.place, at.before_parity = at.parity ^ 1;
            if (++at.place == a.units) at.place = 0, at.parity ^= 1;
        }
    }
};

}  // namespace detail
}  // namespace aim_kernels
