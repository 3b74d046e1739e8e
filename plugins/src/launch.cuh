// One way to launch a kernel: no <<<>>>, so that the return code is this launch's own and not an older error's.
#pragma once

#include "host.h"

// The CPU emulator of tests/kernels defines these three before this file is read.
#ifndef AIM_KERNELS_EMULATED
#define AIM_LAUNCH(kernel, grid, block, smem, stream, args) \
    aim_kernels::detail::cuda_launch(kernel, grid, block, smem, stream, args, false)
#define AIM_LAUNCH_TOGETHER(kernel, grid, block, smem, stream, args) \
    aim_kernels::detail::cuda_launch(kernel, grid, block, smem, stream, args, true)
#define AIM_DYNAMIC_SMEM(name) extern __shared__ __align__(16) unsigned char name[]
#endif

namespace aim_kernels {
namespace detail {

#ifndef AIM_KERNELS_EMULATED
// A kernel has 48 KB without asking.
inline cudaError_t allow_shared_memory(const void* function, size_t smem) noexcept {
    if (smem <= 48 * 1024) return cudaSuccess;
    return cudaFuncSetAttribute(function, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(smem));
}

template <typename Args>
cudaError_t cuda_launch(void (*kernel)(Args), dim3 grid, dim3 block, size_t smem, cudaStream_t stream,
                        const Args& args, bool together) noexcept {
    const void* function = reinterpret_cast<const void*>(kernel);
    const cudaError_t error = allow_shared_memory(function, smem);
    if (error != cudaSuccess) return error;
    void* pointers[] = {const_cast<Args*>(&args)};
    if (together) return cudaLaunchCooperativeKernel(function, grid, block, pointers, smem, stream);
    return cudaLaunchKernel(function, grid, block, pointers, smem, stream);
}
#endif

inline Status launched(const char* op, cudaError_t error) noexcept {
    if (error == cudaSuccess) return Status::kSuccess;
    // The failed launch left its code behind; the caller's next cudaGetLastError is not to find it.
    cudaGetLastError();
    return fail(Status::kCudaError, "%s: the kernel could not be launched: %s", op, cudaGetErrorString(error));
}

template <typename Args>
Status launch_kernel(const char* op, void (*kernel)(Args), int64_t blocks, int threads, size_t smem,
                     cudaStream_t stream, const Args& args) noexcept {
    if (blocks > INT32_MAX) {
        return fail(Status::kUnsupportedShape, "%s: these sizes need %lld blocks; supported: up to %d", op,
                    static_cast<long long>(blocks), INT32_MAX);
    }
    return launched(op, AIM_LAUNCH(kernel, dim3(static_cast<unsigned>(blocks)), dim3(static_cast<unsigned>(threads)),
                                   smem, stream, args));
}

// Zeros, in the stream's order.
inline Status clear_workspace(const char* op, void* workspace, size_t bytes, cudaStream_t stream) noexcept {
    const cudaError_t error = cudaMemsetAsync(workspace, 0, bytes, stream);
    if (error == cudaSuccess) return Status::kSuccess;
    cudaGetLastError();
    return fail(Status::kCudaError, "%s: the workspace could not be cleared: %s", op, cudaGetErrorString(error));
}

}  // namespace detail
}  // namespace aim_kernels
