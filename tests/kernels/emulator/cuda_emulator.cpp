#include "cuda_emulator.h"

#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

dim3 blockDim, gridDim;
uint3 blockIdx, threadIdx;

namespace emulator {
namespace {

constexpr size_t kStack = 64 * 1024;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<unsigned char[]> stack{new unsigned char[kStack]};
    std::vector<std::function<void()>> deferred;
    bool finished = false;
    bool blocked = false;
};

struct Warp {
    void* arguments[32];
    int arrived = 0;
};

ucontext_t g_scheduler;
std::vector<std::unique_ptr<Fiber>> g_fibers;
std::vector<Warp> g_warps;
std::vector<int> g_runnable;
std::vector<unsigned char> g_smem;
const std::function<void()>* g_thread = nullptr;
int g_current = 0, g_live = 0, g_at_barrier = 0;
uint32_t g_random = 2463534242u;

uint32_t draw() {
    g_random ^= g_random << 13;
    g_random ^= g_random >> 17;
    g_random ^= g_random << 5;
    return g_random;
}

void release(int fiber) {
    g_fibers[fiber]->blocked = false;
    g_runnable.push_back(fiber);
}

void release_barrier_if_full() {
    if (g_live == 0 || g_at_barrier < g_live) return;
    g_at_barrier = 0;
    for (int i = 0; i < static_cast<int>(g_fibers.size()); ++i) {
        if (!g_fibers[i]->finished && g_fibers[i]->blocked) release(i);
    }
}

void block_current() {
    Fiber& fiber = *g_fibers[g_current];
    fiber.blocked = true;
    swapcontext(&fiber.context, &g_scheduler);
}

void fiber_main() {
    (*g_thread)();
    Fiber& fiber = *g_fibers[g_current];
    fiber.finished = true;
    --g_live;
    swapcontext(&fiber.context, &g_scheduler);
}

void run_block(int threads, size_t smem) {
    // NaN in every type: what no thread wrote must not look like a number.
    g_smem.assign(smem + 16, 0xff);
    while (static_cast<int>(g_fibers.size()) > threads) g_fibers.pop_back();
    while (static_cast<int>(g_fibers.size()) < threads) g_fibers.push_back(std::make_unique<Fiber>());
    g_warps.assign((threads + 31) / 32, Warp());
    g_runnable.clear();
    g_live = threads;
    g_at_barrier = 0;
    for (int i = 0; i < threads; ++i) {
        Fiber& fiber = *g_fibers[i];
        fiber.finished = fiber.blocked = false;
        fiber.deferred.clear();
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStack;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, fiber_main, 0);
        g_runnable.push_back(i);
    }
    while (g_live > 0) {
        if (g_runnable.empty()) {
            std::fprintf(stderr, "emulator: block %u: every thread waits: a barrier was not met by all\n", blockIdx.x);
            std::abort();
        }
        const size_t pick = draw() % g_runnable.size();
        g_current = g_runnable[pick];
        g_runnable[pick] = g_runnable.back();
        g_runnable.pop_back();
        threadIdx = make_uint3(static_cast<unsigned>(g_current), 0, 0);
        swapcontext(&g_scheduler, &g_fibers[g_current]->context);
        if (g_fibers[g_current]->finished) release_barrier_if_full();
    }
}

}  // namespace

unsigned char* dynamic_smem() {
    const uintptr_t address = reinterpret_cast<uintptr_t>(g_smem.data());
    return reinterpret_cast<unsigned char*>((address + 15) / 16 * 16);
}

cudaError_t launch(const std::function<void()>& thread, dim3 grid, dim3 block, size_t smem) {
    if (smem > 99 * 1024) return cudaErrorInvalidValue;  // the least that sm_86 and later offer
    g_thread = &thread;
    gridDim = grid;
    blockDim = block;
    for (unsigned i = 0; i < grid.x; ++i) {
        blockIdx = make_uint3(i, 0, 0);
        run_block(static_cast<int>(block.x), smem);
    }
    return cudaSuccess;
}

void block_barrier() {
    if (++g_at_barrier == g_live) {
        g_fibers[g_current]->blocked = true;
        release_barrier_if_full();
        swapcontext(&g_fibers[g_current]->context, &g_scheduler);
    } else {
        block_current();
    }
}

void warp_collective(void* argument, void (*together)(void* const*)) {
    const int first = g_current / 32 * 32;
    Warp& warp = g_warps[g_current / 32];
    warp.arguments[g_current % 32] = argument;
    if (++warp.arrived < 32) {
        block_current();
        return;
    }
    together(warp.arguments);
    warp.arrived = 0;
    for (int i = first; i < first + 32; ++i) {
        if (i != g_current) release(i);
    }
}

bool coin() { return draw() & 1; }
void defer(std::function<void()> copy) { g_fibers[g_current]->deferred.push_back(std::move(copy)); }
void run_deferred() {
    for (const auto& copy : g_fibers[g_current]->deferred) copy();
    g_fibers[g_current]->deferred.clear();
}

}  // namespace emulator

// What the library asks of the CUDA runtime. EMULATED_SMS sets how large a device it sees; an H100 has 132.
extern "C" {
cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
    const char* sms = std::getenv("EMULATED_SMS");
    *value = attribute == cudaDevAttrMultiProcessorCount ? (sms ? std::atoi(sms) : 132) : 9;
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
    attributes->ptxVersion = attributes->binaryVersion = 90;
    return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "refused by the emulator"; }
}
