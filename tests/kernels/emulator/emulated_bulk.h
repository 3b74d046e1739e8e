// The instructions of bulk.cuh. A copy lands at once, or when the barrier is next waited for.
#pragma once

#include <map>
#include <vector>

namespace aim_kernels {
namespace detail {

struct EmulatedBarrier {
    int arrivals = 0, arrived = 0;
    int64_t bytes = 0;  // still to come
    unsigned phase = 0;
    std::vector<std::function<void()>> late;  // copies that have not landed
    void turn() {
        if (arrived < arrivals || bytes != 0) return;
        arrived = 0;
        ++phase;
    }
};

inline std::map<uint64_t*, EmulatedBarrier>& emulated_barriers() {
    static std::map<uint64_t*, EmulatedBarrier> all;
    return all;
}

inline void barrier_init(uint64_t* barrier, int arrivals) {
    emulated_barriers()[barrier] = EmulatedBarrier();
    emulated_barriers()[barrier].arrivals = arrivals;
}

inline void fence_barriers() {}

inline void barrier_arrive(uint64_t* barrier) {
    EmulatedBarrier& b = emulated_barriers().at(barrier);
    ++b.arrived;
    b.turn();
}

inline void barrier_expect(uint64_t* barrier, unsigned bytes) {
    EmulatedBarrier& b = emulated_barriers().at(barrier);
    ++b.arrived;
    b.bytes += bytes;
    b.turn();
}

inline void barrier_wait(uint64_t* barrier, unsigned parity) {
    EmulatedBarrier& b = emulated_barriers().at(barrier);
    while ((b.phase & 1) == parity) {
        std::vector<std::function<void()>> late;
        late.swap(b.late);
        for (const auto& land : late) land();
        if ((b.phase & 1) == parity) emulator::yield();
    }
}

// Runs `copy`, whose bytes the barrier counts, now or late.
inline void bring(uint64_t* barrier, unsigned bytes, std::function<void()> copy) {
    EmulatedBarrier& b = emulated_barriers().at(barrier);
    const auto land = [bytes, &b, copy = std::move(copy)] {
        copy();
        b.bytes -= bytes;
        b.turn();
    };
    if (emulator::coin()) return land();
    b.late.push_back(land);
}

inline void copy_bulk(void* target, const void* source, unsigned bytes, uint64_t* barrier) {
    bring(barrier, bytes, [=] { std::memcpy(target, source, bytes); });
}

template <int ID, int THREADS>
void named_barrier() {
    emulator::named_barrier(ID, THREADS);
}

}  // namespace detail
}  // namespace aim_kernels
