// Device memory that stays from one enqueue to the next, of a plugin whose operator has a use for it: where the blocks of
// the decoding step's one kernel hand numbers to each other (aim_kernels/mamba2_layers.h). One a plugin object, and so
// one an execution context, which runs one step at a time.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

namespace aim_edge {

class Exchange {
public:
    Exchange() noexcept = default;
    ~Exchange();
    Exchange(const Exchange&) = delete;
    Exchange& operator=(const Exchange&) = delete;

    // `bytes` for calls of `rows` rows, zero when they are first given out, in the stream's order. Null where there are
    // none: while a stream that is captured asks first, on another device than the first call's, and after an allocation
    // failed, which is logged once.
    void* memory(const char* who, int64_t rows, size_t bytes, cudaStream_t stream) noexcept;

private:
    void* allocate(const char* who, size_t bytes, cudaStream_t stream) noexcept;

    static constexpr int kMostRows = 4;
    struct Buffer {
        void* memory = nullptr;
        size_t bytes = 0;
        int device = -1;
    };
    Buffer mBuffers[kMostRows];  // one for each number of rows
    bool mRefused = false;
};

}  // namespace aim_edge
