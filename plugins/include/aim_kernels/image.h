// Decoded images to pixels:
//
//   pixel = round((min(max(value, -1), 1) + 1) * 127.5), in float32, halves to the even pixel
//
// The numbers are those of to_uint8 in runtime/images.py, which refuses NaN and infinity. Here NaN becomes 0 and an
// infinity is clipped, and `status` tells of both.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

struct ImageParams {
    int64_t batch = 0;                     // B >= 1
    int32_t channels = 0;                  // C >= 1
    int32_t height = 0;                    // H >= 1
    int32_t width = 0;                     // W >= 1
    const float* image = nullptr;          // (B, C, H, W) in [-1, 1]
    uint8_t* pixels = nullptr;             // (B, H, W, C)
    int32_t* status = nullptr;             // (B): 1 where a value of the image is not finite; else left as it is
};

Status validate_shapes(const ImageParams& params) noexcept;
Status validate(const ImageParams& params) noexcept;
Status launch(const ImageParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
