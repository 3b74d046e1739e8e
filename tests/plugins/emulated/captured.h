// The emulator's streams are null; one that is being captured is this.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

inline cudaStream_t captured_stream() { return reinterpret_cast<cudaStream_t>(uintptr_t{256}); }
