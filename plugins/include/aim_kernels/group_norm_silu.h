// GroupNorm of images, with or without SiLU after it:
//
//   y = (x - mean) / sqrt(variance + eps) * weight + bias        silu: y * sigmoid(y)
//
// With a residual, x is first added to it, the sum is rounded to the type of x and written, and the norm is that of what
// was written.
//
// Mean and variance are those of an image's group: channels / groups channels that follow one another. They are taken
// in float32, so that neither a half's range nor a mean that is large beside the deviation spoils them.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

// The numbers are part of the C ABI.
enum class Layout : int32_t {
    kChannelsFirst = 0,  // (batch, channels, height, width)
    kChannelsLast = 1,   // (batch, height, width, channels)
};

struct GroupNormSiluParams {
    int64_t batch = 0;                     // >= 1, as the next three; an image has up to 2^30 elements
    int64_t channels = 0;                  // channels last: 8 to 2048 in steps of 8
    int64_t height = 0;
    int64_t width = 0;
    int32_t groups = 0;                    // divides channels
    Layout layout = Layout::kChannelsFirst;
    DType dtype = DType::kFloat32;         // x and y
    bool silu = false;
    float eps = 1e-6f;                     // >= 0

    // Dense. x and y are 16-byte aligned.
    const void* x = nullptr;
    const float* weight = nullptr;         // (channels)
    const float* bias = nullptr;           // (channels)
    void* y = nullptr;                     // may be x
    const void* residual = nullptr;        // as x, or null: nothing is added
    void* sum = nullptr;                   // as x; may be x or residual, but not y. Null if and only if residual is

    void* workspace = nullptr;             // 16-byte aligned
    size_t workspace_size = 0;             // at least workspace_bytes
};

Status validate_shapes(const GroupNormSiluParams& params) noexcept;
Status validate(const GroupNormSiluParams& params) noexcept;

// From batch and groups alone, and the more of them the more: what is enough for the largest batch is for every other.
size_t workspace_bytes(const GroupNormSiluParams& params) noexcept;

Status launch(const GroupNormSiluParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
