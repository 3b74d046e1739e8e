#include "aim_kernels/image.h"

#include <cfloat>

#include "launch.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "image_to_uint8";
constexpr int kThreads = 256;

struct ImageArgs {
    ImageParams p;
    int plane;             // H * W
    int blocks_per_image;
};

// A thread a pixel: the planes are read, and the pixels written, in neighbouring addresses.
__global__ __launch_bounds__(kThreads) void image_kernel(ImageArgs a) {
    const int64_t batch = blockIdx.x / a.blocks_per_image;
    const int at = static_cast<int>(blockIdx.x % a.blocks_per_image * kThreads + threadIdx.x);
    if (at >= a.plane) return;
    const int64_t first = batch * a.p.channels * a.plane;
    const float* image = a.p.image + first + at;
    uint8_t* pixel = a.p.pixels + first + static_cast<int64_t>(at) * a.p.channels;
    for (int c = 0; c < a.p.channels; ++c) {
        const float value = image[static_cast<int64_t>(c) * a.plane];
        if (!(fabsf(value) <= FLT_MAX)) a.p.status[batch] = 1;
        const float clipped = fminf(fmaxf(value, -1.0f), 1.0f);
        // Two roundings, as on the host: one fused operation would give another pixel now and then.
        pixel[c] = static_cast<uint8_t>(rintf(__fmul_rn(__fadd_rn(clipped, 1.0f), 127.5f)));
    }
}

}  // namespace

Status validate_shapes(const ImageParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "batch", p.batch));
    AIM_CHECK(check_positive(kOp, "channels", p.channels));
    AIM_CHECK(check_positive(kOp, "height", p.height));
    AIM_CHECK(check_positive(kOp, "width", p.width));
    const int64_t plane = static_cast<int64_t>(p.height) * p.width;
    constexpr int64_t kLargestPlane = 1 << 30;
    if (plane > kLargestPlane) {
        return fail(Status::kUnsupportedShape, "%s: height * width is %lld; supported: up to %lld", kOp,
                    static_cast<long long>(plane), static_cast<long long>(kLargestPlane));
    }
    const int64_t largest = INT32_MAX / ceil_div(plane, kThreads);
    if (p.batch <= largest) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: batch is %lld; supported with images of %d x %d: up to %lld", kOp,
                static_cast<long long>(p.batch), p.height, p.width, static_cast<long long>(largest));
}

Status validate(const ImageParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    AIM_CHECK(check_pointer(kOp, "image", p.image));
    AIM_CHECK(check_pointer(kOp, "pixels", p.pixels));
    return check_pointer(kOp, "status", p.status);
}

Status launch(const ImageParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    AIM_CHECK(check_device());
    const int plane = p.height * p.width;
    const ImageArgs args = {p, plane, static_cast<int>(ceil_div(plane, kThreads))};
    return launch_kernel(kOp, image_kernel, p.batch * args.blocks_per_image, kThreads, 0, stream, args);
}

}  // namespace aim_kernels
