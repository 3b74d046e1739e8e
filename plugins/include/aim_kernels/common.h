// What every operator of aim_kernels shares: element types, status codes, and the text that explains a refusal.
//
// These headers know CUDA types only. TensorRT, ONNX Runtime and the C ABI are adapters over them.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

// Packed as major * 10000 + minor * 100 + patch. Adapters refuse a library whose major.minor is not theirs.
#define AIM_KERNELS_VERSION 100

namespace aim_kernels {

// The numbers are part of the C ABI.
enum class DType : int32_t { kFloat32 = 0, kFloat16 = 1, kBFloat16 = 2 };

enum class Activation : int32_t { kNone = 0, kSilu = 1 };

enum class Status : int32_t {
    kSuccess = 0,
    kNullPointer = 1,
    kUnsupportedShape = 2,
    kUnsupportedDType = 3,
    kBadStride = 4,
    kMisaligned = 5,
    kWorkspaceTooSmall = 6,
    kUnsupportedArch = 7,
    kCudaError = 8,
    kVersionMismatch = 9,
};

// One fixed sentence for a code. Never null.
const char* status_message(Status status) noexcept;

// What exactly was refused by the last validate() or launch() of this thread that did not succeed, and what is
// supported instead. Valid until this thread's next failing call; empty before the first. Never null.
const char* last_error() noexcept;

// AIM_KERNELS_VERSION of the library as it was built.
int version() noexcept;

// The compute capabilities that the library holds code for, as "80,87,90".
const char* supported_archs() noexcept;

// kSuccess if the library holds code that the current device can run; kUnsupportedArch otherwise.
Status check_device() noexcept;

inline size_t dtype_size(DType dtype) noexcept { return dtype == DType::kFloat32 ? 4 : 2; }

}  // namespace aim_kernels
