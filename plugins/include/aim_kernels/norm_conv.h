// A 3x3 convolution of images with what stands around it in a residual block: the norm and SiLU before it, the residual
// after it, and the statistics of the norm that comes next.
//
//   a = x * scale + shift, a = a * sigmoid(a)     with affine, else a = x; rounded to the type of x
//   y = conv(a) + bias                            a is zero outside of the image; rounded to the type of x
//   y = y + residual                              with residual; rounded again
//
// And of y, by groups as in group_norm_silu.h: next_affine, what a call that takes y is to be given as affine. An image
// is thus read and written once, where norm and convolution apart go over it four times.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

// The numbers are part of the C ABI.
enum class ConvKind : int32_t {
    kSame = 0,      // 3x3; y has the height and width of x
    kUpsample = 1,  // twice the height and width by nearest neighbours, then 3x3
    kImage = 2,     // 3x3 to a few channels, y float32 and channels first; no residual and no norm after it
};

// Weights lie in the order in which a block takes them: (blocks of n, in_channels / 64, taps, 8, n, 8), of which the last
// three are input channels / 8, output channels, input channels % 8. kSame: n is 128 and the nine taps go by rows.
// kUpsample: an output pixel of even or odd row and column sees 2x2 pixels of x, so there are four convolutions of four
// taps, whose blocks follow one another in the order (even, even), (even, odd), (odd, even), (odd, odd). kImage: one
// block, n is 8, and channels past out_channels are zero.
struct NormConvParams {
    int64_t batch = 0;         // >= 1, as height and width
    int64_t in_channels = 0;   // 64 to 2048 in steps of 64
    int64_t height = 0;        // of x
    int64_t width = 0;
    int64_t out_channels = 0;  // 128 to 2048 in steps of 128; kImage: 1 to 8
    int32_t groups = 0;        // of the next norm; out_channels / groups is a multiple of 4
    ConvKind kind = ConvKind::kSame;
    DType dtype = DType::kFloat16;  // of x, weight, residual and y; float16 or bfloat16
    float eps = 1e-6f;              // of the next norm; >= 0

    // Dense and 16-byte aligned. Images are channels last, but for the y of kImage.
    const void* x = nullptr;             // (batch, height, width, in_channels)
    const float* affine = nullptr;       // (batch, in_channels, 2) scale and shift, or null: x as it is
    const void* weight = nullptr;        // as above
    const float* bias = nullptr;         // (out_channels)
    const void* residual = nullptr;      // as y, or null
    const float* next_weight = nullptr;  // (out_channels), of the next norm, as next_bias. kImage: null, as next_affine
    const float* next_bias = nullptr;
    void* y = nullptr;                   // may be residual, but not x
    float* next_affine = nullptr;        // (batch, out_channels, 2)

    void* workspace = nullptr;           // 16-byte aligned
    size_t workspace_size = 0;           // at least workspace_bytes
};

Status validate_shapes(const NormConvParams& params) noexcept;
Status validate(const NormConvParams& params) noexcept;

// The larger the batch, the more: what is enough for the largest batch is for every other.
size_t workspace_bytes(const NormConvParams& params) noexcept;

Status launch(const NormConvParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
