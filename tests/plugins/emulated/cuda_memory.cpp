// The part of the CUDA runtime that a host program of the plugins calls, over the memory of this machine: beside the
// kernels' emulator (tests/kernels/emulator) it lets the plugins run where there is no GPU.
#include <cuda_runtime_api.h>

#include <cstdlib>
#include <cstring>

#include "captured.h"

extern "C" {

cudaError_t cudaMalloc(void** pointer, size_t size) {
    *pointer = std::aligned_alloc(256, (size + 255) / 256 * 256);
    return *pointer == nullptr ? cudaErrorMemoryAllocation : cudaSuccess;
}
cudaError_t cudaFree(void* pointer) {
    std::free(pointer);
    return cudaSuccess;
}
cudaError_t cudaMemcpy(void* target, const void* source, size_t size, cudaMemcpyKind) {
    std::memcpy(target, source, size);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* target, const void* source, size_t size, cudaMemcpyKind kind, cudaStream_t) {
    return cudaMemcpy(target, source, size, kind);
}
cudaError_t cudaMemset(void* target, int value, size_t size) {
    std::memset(target, value, size);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    *stream = nullptr;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    *status = stream == captured_stream() ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
    return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode*) { return cudaSuccess; }

}  // extern "C"
