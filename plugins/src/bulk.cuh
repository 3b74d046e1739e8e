// Instructions of sm_90 and later: barriers in shared memory that count arrivals and bytes, and copies that arrive there.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#ifdef AIM_KERNELS_EMULATED
#include "emulated_bulk.h"
#else

namespace aim_kernels {
namespace detail {

#if __CUDA_ARCH__ >= 900

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ void barrier_init(unsigned barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

__device__ __forceinline__ void barrier_arrive(unsigned barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

__device__ __forceinline__ void barrier_expect(unsigned barrier, unsigned bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void barrier_wait(unsigned barrier, unsigned parity) {
    asm volatile(
        "{\n.reg .pred done;\nagain:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n}" ::"r"(barrier), "r"(parity) : "memory");
}

__device__ __forceinline__ void copy_bulk(unsigned target, const void* source, unsigned bytes, unsigned barrier) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(target),
                 "l"(source), "r"(bytes), "r"(barrier) : "memory");
}

#endif

// The same by pointers. Below sm_90 they are nothing: kernels that use them are not launched there.
__device__ __forceinline__ void barrier_init(uint64_t* barrier, int arrivals) {
#if __CUDA_ARCH__ >= 900
    barrier_init(shared_address(barrier), arrivals);
#endif
}

__device__ __forceinline__ void barrier_arrive(uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
    barrier_arrive(shared_address(barrier));
#endif
}

// After barrier_init, before anyone else uses the barriers: bulk copies see them, too.
__device__ __forceinline__ void fence_barriers() {
#if __CUDA_ARCH__ >= 900
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// An arrival that also says how many bytes are to come.
__device__ __forceinline__ void barrier_expect(uint64_t* barrier, unsigned bytes) {
#if __CUDA_ARCH__ >= 900
    barrier_expect(shared_address(barrier), bytes);
#endif
}

// Until the phase of that parity is over: of a new barrier, 1 is and 0 is not.
__device__ __forceinline__ void barrier_wait(uint64_t* barrier, unsigned parity) {
#if __CUDA_ARCH__ >= 900
    barrier_wait(shared_address(barrier), parity);
#endif
}

// Target, source and bytes are multiples of 16.
__device__ __forceinline__ void copy_bulk(void* target, const void* source, unsigned bytes, uint64_t* barrier) {
#if __CUDA_ARCH__ >= 900
    copy_bulk(shared_address(target), source, bytes, shared_address(barrier));
#endif
}

// Of THREADS threads of the block; ID from 1 to 15.
template <int ID, int THREADS>
__device__ __forceinline__ void named_barrier() {
    asm volatile("bar.sync %0, %1;" ::"n"(ID), "n"(THREADS) : "memory");
}

}  // namespace detail
}  // namespace aim_kernels

#endif  // AIM_KERNELS_EMULATED
