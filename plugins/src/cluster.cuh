// Blocks of a cluster (sm_90 and later): they are on the device at once and write to one another's shared memory.
#pragma once

#include "bulk.cuh"

#ifdef AIM_KERNELS_EMULATED
#include "emulated_cluster.h"
#else

namespace aim_kernels {
namespace detail {

// Of all threads of a cluster: what is before arriving is seen by all after waiting.
__device__ __forceinline__ void cluster_arrive() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void cluster_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

#if __CUDA_ARCH__ >= 900
// Where block `rank` of the cluster has what this block has at `pointer`, in shared memory.
__device__ __forceinline__ unsigned address_in(int rank, const void* pointer) {
    unsigned address;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(pointer)), "r"(rank));
    return address;
}
#endif

// 16 bytes to where block `rank` of the cluster has `target`, a pointer to this block's shared memory; they count at that
// block's `barrier`. It must be waiting for them.
__device__ __forceinline__ void send(float* target, int rank, const float (&values)[4], uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
    const unsigned to = address_in(rank, target), at = address_in(rank, barrier);
    asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, [%5];" ::"r"(to),
                 "f"(values[0]), "f"(values[1]), "f"(values[2]), "f"(values[3]), "r"(at)
                 : "memory");
#endif
}

}  // namespace detail
}  // namespace aim_kernels

#endif  // AIM_KERNELS_EMULATED
