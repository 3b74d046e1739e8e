// Its check of longjmp takes another fiber's stack for a frame that has gone.
#undef _FORTIFY_SOURCE

#include "cuda_emulator.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

dim3 blockDim, gridDim;
uint3 blockIdx, threadIdx;

namespace emulator {
namespace {

constexpr size_t kStack = 256 * 1024;  // 64 KB ended in a fault where large tiles ran one after another
constexpr size_t kSmemAlign = 1024;

struct Fiber {
    ucontext_t entry;
    jmp_buf place;  // where it goes on, once it has begun
    bool begun = false;
    std::unique_ptr<unsigned char[]> stack{new unsigned char[kStack]};
    std::vector<std::function<void()>> deferred;
    bool finished = false;
    bool blocked = false;
    int cluster_waits = 0;
};

struct Warp {
    void* arguments[32];
    int arrived = 0;
};

struct Block {
    std::vector<unsigned char> smem;
    int live = 0, at_barrier = 0;
    std::vector<int> at_named[16];
};

jmp_buf g_scheduler;
std::vector<std::unique_ptr<Fiber>> g_fibers;  // of all blocks that run together, block after block
std::vector<Warp> g_warps;
std::vector<Block> g_blocks;
std::vector<int> g_runnable;
const std::function<void()>* g_thread = nullptr;
int g_current = 0, g_threads = 1, g_live = 0;
int g_at_cluster_barrier = 0;
std::vector<int> g_waiting_for_cluster;
uint32_t g_random = 2463534242u;

uint32_t draw() {
    g_random ^= g_random << 13;
    g_random ^= g_random >> 17;
    g_random ^= g_random << 5;
    return g_random;
}

Block& block_of(int fiber) { return g_blocks[fiber / g_threads]; }

void release(int fiber) {
    g_fibers[fiber]->blocked = false;
    g_runnable.push_back(fiber);
}

void release_barrier_if_full(int of) {
    Block& block = block_of(of);
    if (block.live == 0 || block.at_barrier < block.live) return;
    block.at_barrier = 0;
    const int first = of / g_threads * g_threads;
    for (int i = first; i < first + g_threads; ++i) {
        if (!g_fibers[i]->finished && g_fibers[i]->blocked) release(i);
    }
}

// From the scheduler to a fiber, and back. swapcontext would do, but asks the system for the signals' mask each time, which
// costs more than most of what lies between two switches.
void run_current() {
    Fiber& fiber = *g_fibers[g_current];
    if (_setjmp(g_scheduler) != 0) return;
    if (fiber.begun) _longjmp(fiber.place, 1);
    fiber.begun = true;
    setcontext(&fiber.entry);
}

void leave_current() {
    if (_setjmp(g_fibers[g_current]->place) == 0) _longjmp(g_scheduler, 1);
}

void block_current() {
    g_fibers[g_current]->blocked = true;
    leave_current();
}

void fiber_main() {
    (*g_thread)();
    Fiber& fiber = *g_fibers[g_current];
    fiber.finished = true;
    --block_of(g_current).live;
    --g_live;
    leave_current();
}

void run_blocks(unsigned first_block, int blocks, int threads, size_t smem) {
    const int fibers = blocks * threads;
    while (static_cast<int>(g_fibers.size()) > fibers) g_fibers.pop_back();
    while (static_cast<int>(g_fibers.size()) < fibers) g_fibers.push_back(std::make_unique<Fiber>());
    g_threads = threads;
    g_live = fibers;
    g_at_cluster_barrier = 0;
    g_blocks.resize(blocks);
    for (Block& block : g_blocks) {
        // NaN in every type: what no thread wrote must not look like a number.
        block.smem.assign(smem + kSmemAlign, 0xff);
        block.live = threads;
        block.at_barrier = 0;
        for (auto& waiting : block.at_named) waiting.clear();
    }
    g_warps.assign((fibers + 31) / 32, Warp());
    g_runnable.clear();
    for (int i = 0; i < fibers; ++i) {
        Fiber& fiber = *g_fibers[i];
        fiber.begun = fiber.finished = fiber.blocked = false;
        fiber.deferred.clear();
        fiber.cluster_waits = 0;
        getcontext(&fiber.entry);
        fiber.entry.uc_stack.ss_sp = fiber.stack.get();
        fiber.entry.uc_stack.ss_size = kStack;
        fiber.entry.uc_link = nullptr;
        makecontext(&fiber.entry, fiber_main, 0);
        g_runnable.push_back(i);
    }
    while (g_live > 0) {
        if (g_runnable.empty()) {
            std::fprintf(stderr, "emulator: block %u: every thread waits: a barrier was not met by all\n", first_block);
            std::abort();
        }
        const size_t pick = draw() % g_runnable.size();
        g_current = g_runnable[pick];
        g_runnable[pick] = g_runnable.back();
        g_runnable.pop_back();
        threadIdx = make_uint3(static_cast<unsigned>(g_current % threads), 0, 0);
        blockIdx = make_uint3(first_block + static_cast<unsigned>(g_current / threads), 0, 0);
        const int ran = g_current;
        run_current();
        if (g_fibers[ran]->finished) release_barrier_if_full(ran);
    }
}

unsigned char* smem_of(Block& block) {
    const uintptr_t address = reinterpret_cast<uintptr_t>(block.smem.data());
    return reinterpret_cast<unsigned char*>((address + kSmemAlign - 1) / kSmemAlign * kSmemAlign);
}

}  // namespace

unsigned char* dynamic_smem() { return smem_of(block_of(g_current)); }

void cluster_arrive() {
    if (++g_at_cluster_barrier % static_cast<int>(g_fibers.size()) != 0) return;
    for (const int fiber : g_waiting_for_cluster) release(fiber);
    g_waiting_for_cluster.clear();
}

void cluster_wait() {
    if (g_at_cluster_barrier >= ++g_fibers[g_current]->cluster_waits * static_cast<int>(g_fibers.size())) return;
    g_waiting_for_cluster.push_back(g_current);
    block_current();
}

void* of_block(const void* pointer, int rank) {
    return smem_of(g_blocks[rank]) + (static_cast<const unsigned char*>(pointer) - dynamic_smem());
}

cudaError_t launch(const std::function<void()>& thread, dim3 grid, dim3 block, size_t smem, unsigned together) {
    if (smem > 99 * 1024) return cudaErrorInvalidValue;  // the least that sm_86 and later offer
    g_thread = &thread;
    gridDim = grid;
    blockDim = block;
    // Warps must not straddle blocks.
    if (together > 1 && block.x % 32 != 0) return cudaErrorInvalidValue;
    for (unsigned i = 0; i < grid.x; i += together) {
        run_blocks(i, static_cast<int>(std::min(together, grid.x - i)), static_cast<int>(block.x), smem);
    }
    return cudaSuccess;
}

int blocks_together(int sm_count) { return std::min(sm_count, 20); }

void yield() {
    g_runnable.push_back(g_current);
    leave_current();
}

void block_barrier() {
    Block& block = block_of(g_current);
    if (++block.at_barrier == block.live) {
        g_fibers[g_current]->blocked = true;
        release_barrier_if_full(g_current);
        leave_current();
    } else {
        block_current();
    }
}

void named_barrier(int id, int threads) {
    std::vector<int>& waiting = block_of(g_current).at_named[id];
    waiting.push_back(g_current);
    if (static_cast<int>(waiting.size()) < threads) return block_current();
    for (const int fiber : waiting) {
        if (fiber != g_current) release(fiber);
    }
    waiting.clear();
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
    *value = attribute == cudaDevAttrMultiProcessorCount               ? (sms ? std::atoi(sms) : 132)
             : attribute == cudaDevAttrMaxSharedMemoryPerBlockOptin ? 99 * 1024
                                                                       : 9;
    return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* target, int value, size_t bytes, cudaStream_t) {
    std::memset(target, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
    attributes->ptxVersion = attributes->binaryVersion = 90;
    attributes->sharedSizeBytes = sizeof(int);  // as the probe of sm_90a has
    return cudaSuccess;
}
cudaError_t cudaGetLastError() { return cudaSuccess; }
const char* cudaGetErrorString(cudaError_t) { return "refused by the emulator"; }
}
