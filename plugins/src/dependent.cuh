// Kernels of one stream that overlap at their edges (programmatic dependent launch, sm_90 and later): a kernel that
// was launched by launch_dependent starts when all blocks of the one before have called let_next_start, or ended.
//
// What the one before wrote may be read after wait_for_previous only, and nothing may be written before it. Ahead of it
// a kernel may fetch into L2: that is where the device's memory is coherent, so it can't fetch what is out of date.
#pragma once

#include "launch.cuh"

namespace aim_kernels {
namespace detail {

__device__ __forceinline__ void wait_for_previous() {
#if !defined(AIM_KERNELS_EMULATED) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// After wait_for_previous: whoever starts then knows that all but this kernel is done.
__device__ __forceinline__ void let_next_start() {
#if !defined(AIM_KERNELS_EMULATED) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// `bytes` is a multiple of 16 and `from` aligned to 16. By one thread.
__device__ __forceinline__ void prefetch_to_l2(const void* from, unsigned bytes) {
#if !defined(AIM_KERNELS_EMULATED) && __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(from), "r"(bytes) : "memory");
#else
    (void)from, (void)bytes;
#endif
}

// As launch_kernel, for kernels that call wait_for_previous in every thread that reads or writes. `smem` is dynamic.
template <typename Args>
Status launch_dependent(const char* op, void (*kernel)(Args), int64_t blocks, int threads, cudaStream_t stream,
                        const Args& args, size_t smem = 0) noexcept {
// AIM_KERNELS_SERIAL is for measuring what the overlap is worth.
#if !defined(AIM_KERNELS_EMULATED) && !defined(AIM_KERNELS_SERIAL) && CUDART_VERSION >= 12000
    if (blocks <= INT32_MAX && device_info().dependent_launch) {
        cudaLaunchAttribute attribute = {};
        attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attribute.val.programmaticStreamSerializationAllowed = 1;
        cudaLaunchConfig_t config = {};
        config.gridDim = dim3(static_cast<unsigned>(blocks));
        config.blockDim = dim3(static_cast<unsigned>(threads));
        config.dynamicSmemBytes = smem;
        config.stream = stream;
        config.attrs = &attribute;
        config.numAttrs = 1;
        AIM_CHECK(launched(op, allow_shared(reinterpret_cast<const void*>(kernel), smem)));
        void* pointers[] = {const_cast<Args*>(&args)};
        return launched(op, cudaLaunchKernelExC(&config, reinterpret_cast<const void*>(kernel), pointers));
    }
#endif
    return launch_kernel(op, kernel, blocks, threads, smem, stream, args);
}

}  // namespace detail
}  // namespace aim_kernels
