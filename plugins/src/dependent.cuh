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

#if !defined(AIM_KERNELS_EMULATED) && CUDART_VERSION >= 12000
// AIM_KERNELS_SERIAL is for measuring what the overlap is worth.
#ifdef AIM_KERNELS_SERIAL
constexpr bool kOverlaps = false;
#else
constexpr bool kOverlaps = true;
#endif

// With `other`, an attribute beside the overlap, or null.
template <typename Args>
Status launch_overlapping(const char* op, void (*kernel)(Args), int blocks, int threads, size_t smem, cudaStream_t stream,
                          const Args& args, const cudaLaunchAttribute* other) noexcept {
    const void* function = reinterpret_cast<const void*>(kernel);
    AIM_CHECK(launched(op, allow_shared_memory(function, smem)));
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = kOverlaps ? 1 : 0;
    if (other != nullptr) attributes[1] = *other;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(static_cast<unsigned>(blocks));
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = smem;
    config.stream = stream;
    config.attrs = attributes;
    config.numAttrs = other != nullptr ? 2 : 1;
    void* pointers[] = {const_cast<Args*>(&args)};
    return launched(op, cudaLaunchKernelExC(&config, function, pointers));
}
#endif

// As launch_kernel, for kernels that call wait_for_previous in every thread that reads or writes. `cluster` neighbouring
// blocks, up to 8, are a cluster; more than one on devices of dependent_launch only.
template <typename Args>
Status launch_dependent(const char* op, void (*kernel)(Args), int64_t blocks, int threads, cudaStream_t stream,
                        const Args& args, size_t smem = 0, int cluster = 1) noexcept {
#ifdef AIM_KERNELS_EMULATED
    if (cluster > 1) {
        return launched(op, AIM_LAUNCH_CLUSTERS(kernel, dim3(static_cast<unsigned>(blocks)),
                                                dim3(static_cast<unsigned>(threads)), smem, stream, args, cluster));
    }
#elif CUDART_VERSION >= 12000
    if (blocks <= INT32_MAX && (kOverlaps || cluster > 1) && device_info().dependent_launch) {
        cudaLaunchAttribute clusters = {};
        clusters.id = cudaLaunchAttributeClusterDimension;
        clusters.val.clusterDim.x = static_cast<unsigned>(cluster);
        clusters.val.clusterDim.y = clusters.val.clusterDim.z = 1;
        return launch_overlapping(op, kernel, static_cast<int>(blocks), threads, smem, stream, args,
                                  cluster > 1 ? &clusters : nullptr);
    }
#endif
    return launch_kernel(op, kernel, blocks, threads, smem, stream, args);
}

// For kernels whose blocks wait for each other: all are on the device at once, or the launch is refused. `overlaps`: with
// the kernel before, as launch_dependent.
template <typename Args>
Status launch_together(const char* op, void (*kernel)(Args), int blocks, int threads, size_t smem, cudaStream_t stream,
                       const Args& args, bool overlaps) noexcept {
#if !defined(AIM_KERNELS_EMULATED) && CUDART_VERSION >= 12000
    if (overlaps && kOverlaps && device_info().dependent_launch) {
        cudaLaunchAttribute together = {};
        together.id = cudaLaunchAttributeCooperative;
        together.val.cooperative = 1;
        return launch_overlapping(op, kernel, blocks, threads, smem, stream, args, &together);
    }
#else
    (void)overlaps;
#endif
    return launched(op, AIM_LAUNCH_TOGETHER(kernel, dim3(static_cast<unsigned>(blocks)),
                                            dim3(static_cast<unsigned>(threads)), smem, stream, args));
}

}  // namespace detail
}  // namespace aim_kernels
