// Runs the kernels' own source on a CPU, so that CI without a GPU still executes every index and every barrier.
//
// A block's threads are fibers of one OS thread; blocks run one after another, or, where they wait for each other
// (launch_together), as fibers side by side. The fiber to run next is drawn at
// random, and so is whether an asynchronous copy lands at once or only when it is waited for: a missing barrier or wait
// then shows as a wrong number. Speed, memory coalescing and the memory model between blocks are not emulated.
//
// Given to the compiler with -include, before any source of plugins/src.
#pragma once

#define AIM_KERNELS_EMULATED 1
#define __CUDA_ARCH_LIST__ 900

#include <cuda_runtime_api.h>
#include <vector_functions.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>

#undef __shared__
#undef __launch_bounds__
#undef __grid_constant__
#define __shared__ static
#define __launch_bounds__(...)
#define __grid_constant__
#define AIM_DYNAMIC_SMEM(name) unsigned char* name = emulator::dynamic_smem()
#define AIM_LAUNCH(kernel, grid, block, smem, stream, args) \
    ((void)(stream), emulator::launch([&] { kernel(args); }, grid, block, smem, 1))
#define AIM_LAUNCH_TOGETHER(kernel, grid, block, smem, stream, args) \
    ((void)(stream), emulator::launch([&] { kernel(args); }, grid, block, smem, grid.x))
#define AIM_LAUNCH_CLUSTERS(kernel, grid, block, smem, stream, args, cluster) \
    ((void)(stream), emulator::launch([&] { kernel(args); }, grid, block, smem, cluster))

extern dim3 blockDim, gridDim;
extern uint3 blockIdx, threadIdx;  // the scheduler sets both when it switches fibers

namespace emulator {

unsigned char* dynamic_smem();
// `together` blocks at a time. Static shared memory is one for all of them: kernels that wait for other blocks have none.
cudaError_t launch(const std::function<void()>& thread, dim3 grid, dim3 block, size_t smem, unsigned together);
int blocks_together(int sm_count);  // of such a kernel: few, for every thread takes a stack
void yield();                       // in a loop that waits for another block
// Of all threads that run together; and where another of their blocks has what this one has at `pointer`.
void cluster_arrive();
void cluster_wait();
void* of_block(const void* pointer, int rank);
void block_barrier();
void named_barrier(int id, int threads);
// Every lane of a warp calls this; the last to arrive runs `together` over all lanes' arguments.
void warp_collective(void* argument, void (*together)(void* const* arguments));
bool coin();
void defer(std::function<void()> copy);  // until this thread's run_deferred
void run_deferred();

template <typename T>
struct Exchange {
    T value, result;
    int parameter;
};

template <typename T>
T shuffle(T value, int parameter, void (*together)(void* const*)) {
    Exchange<T> exchange = {value, value, parameter};
    warp_collective(&exchange, together);
    return exchange.result;
}

template <typename T, int (*SOURCE)(int lane, int parameter)>
void shuffle_together(void* const* arguments) {
    for (int lane = 0; lane < 32; ++lane) {
        auto* mine = static_cast<Exchange<T>*>(arguments[lane]);
        mine->result = static_cast<Exchange<T>*>(arguments[SOURCE(lane, mine->parameter)])->value;
    }
}

inline int from_xor(int lane, int mask) { return lane ^ mask; }
inline int from_up(int lane, int delta) { return lane < delta ? lane : lane - delta; }
inline int from_down(int lane, int delta) { return lane + delta < 32 ? lane + delta : lane; }
inline int from_index(int, int index) { return index; }
inline void nothing_together(void* const*) {}

}  // namespace emulator

inline void __syncthreads() { emulator::block_barrier(); }
inline void __syncwarp() { emulator::warp_collective(nullptr, emulator::nothing_together); }
template <typename T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulator::shuffle(value, mask, emulator::shuffle_together<T, emulator::from_xor>);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, int delta) {
    return emulator::shuffle(value, delta, emulator::shuffle_together<T, emulator::from_up>);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, int delta) {
    return emulator::shuffle(value, delta, emulator::shuffle_together<T, emulator::from_down>);
}
template <typename T>
T __shfl_sync(unsigned, T value, int index) {
    return emulator::shuffle(value, index, emulator::shuffle_together<T, emulator::from_index>);
}
// Rounded one by one, whatever the compiler would fuse.
inline float __fadd_rn(float x, float y) {
    volatile float sum = x + y;
    return sum;
}
inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __ffs(unsigned value) { return __builtin_ffs(static_cast<int>(value)); }
// Fibers take turns of their own accord only.
inline unsigned atomicAdd(unsigned* at, unsigned value) {
    const unsigned before = *at;
    *at += value;
    return before;
}
inline float __fsub_rn(float x, float y) { return __fadd_rn(x, -y); }
inline float __fmul_rn(float x, float y) {
    volatile float product = x * y;
    return product;
}
inline float __fdiv_rn(float x, float y) { return x / y; }
inline uint32_t __float_as_uint(float value) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return bits;
}
inline float __uint_as_float(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    return value;
}
inline float __fdividef(float x, float y) { return x / y; }
inline float rsqrtf(float value) { return 1.0f / std::sqrt(value); }
inline float __expf(float value) { return std::exp(value); }
using std::max;
using std::min;
