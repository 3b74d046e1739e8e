#include "exchange.h"

#include "log.h"

namespace aim_edge {
namespace {

// While it lives, this thread may allocate and free although another thread's stream is captured.
class Relaxed {
public:
    Relaxed() noexcept { cudaThreadExchangeStreamCaptureMode(&mMode); }
    ~Relaxed() { cudaThreadExchangeStreamCaptureMode(&mMode); }
    Relaxed(const Relaxed&) = delete;
    Relaxed& operator=(const Relaxed&) = delete;

private:
    cudaStreamCaptureMode mMode = cudaStreamCaptureModeRelaxed;
};

}  // namespace

Exchange::~Exchange() {
    const Relaxed relaxed;
    for (const Buffer& buffer : mBuffers) {
        // The process may be past CUDA's own end: then there is nothing to free.
        if (buffer.memory != nullptr && cudaFree(buffer.memory) != cudaSuccess) cudaGetLastError();
    }
}

void* Exchange::memory(const char* who, int64_t rows, size_t bytes, cudaStream_t stream) noexcept {
    if (bytes == 0 || rows < 1 || rows > kMostRows) return nullptr;
    Buffer& buffer = mBuffers[rows - 1];
    int device = -1;
    if (cudaGetDevice(&device) != cudaSuccess) {
        cudaGetLastError();
        return nullptr;
    }
    if (buffer.memory == nullptr) {
        buffer.memory = allocate(who, bytes, stream);
        buffer.bytes = bytes;
        buffer.device = device;
    }
    return buffer.device == device && buffer.bytes == bytes ? buffer.memory : nullptr;
}

void* Exchange::allocate(const char* who, size_t bytes, cudaStream_t stream) noexcept {
    if (mRefused) return nullptr;
    const Relaxed relaxed;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    cudaError_t error = cudaStreamIsCapturing(stream, &status);
    if (error == cudaSuccess && status != cudaStreamCaptureStatusNone) return nullptr;
    void* made = nullptr;
    if (error == cudaSuccess) error = cudaMalloc(&made, bytes);
    if (error == cudaSuccess) {
        error = cudaMemsetAsync(made, 0, bytes, stream);
        if (error == cudaSuccess) return made;
        cudaFree(made);
    }
    cudaGetLastError();
    mRefused = true;
    log_error(who, "%zu bytes that would stay between steps could not be had (%s): each step clears its workspace", bytes,
              cudaGetErrorString(error));
    return nullptr;
}

}  // namespace aim_edge
