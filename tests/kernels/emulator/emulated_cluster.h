// The instructions of cluster.cuh. A cluster is what emulator::launch runs together.
#pragma once

namespace aim_kernels {
namespace detail {

inline void cluster_arrive() { emulator::cluster_arrive(); }
inline void cluster_wait() { emulator::cluster_wait(); }

inline void send(float* target, int rank, const float (&values)[4], uint64_t* barrier) {
    void* to = emulator::of_block(target, rank);
    bring(static_cast<uint64_t*>(emulator::of_block(barrier, rank)), 16,
          [to, v = make_float4(values[0], values[1], values[2], values[3])] { std::memcpy(to, &v, 16); });
}

}  // namespace detail
}  // namespace aim_kernels
