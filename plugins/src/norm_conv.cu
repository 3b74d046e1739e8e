// Two kernels: the convolution, which leaves statistics of half tiles behind, and their merging into what the next norm
// multiplies and adds. Sums are taken in a fixed order.
#include "aim_kernels/norm_conv.h"

#include <algorithm>

#include "dependent.cuh"
#include "norm_conv_portable.cuh"
#include "norm_conv_wgmma.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "norm_conv";
constexpr int kMergeThreads = 256;
constexpr int64_t kMostElements = int64_t{1} << 30;  // of an image
constexpr int64_t kMostPixels = int64_t{1} << 30;    // of a batch's y, and of its statistics

int64_t phases(const NormConvParams& p) noexcept { return p.kind == ConvKind::kUpsample ? 4 : 1; }
int64_t tiles(const NormConvParams& p) noexcept { return ceil_div(p.height, kTile) * ceil_div(p.width, kTile); }
int64_t parts(const NormConvParams& p) noexcept {  // of an image
    return p.kind == ConvKind::kImage ? 0 : p.out_channels / kPartWidth * tiles(p) * 2 * phases(p);
}

// A warp a group of an image.
__global__ void __launch_bounds__(kMergeThreads) merge_parts(const NormConvArgs a) {
    wait_for_previous();
    let_next_start();
    const int64_t group = (static_cast<int64_t>(blockIdx.x) * kMergeThreads + threadIdx.x) / 32;
    if (group >= a.p.batch * a.p.groups) return;
    const int width = static_cast<int>(a.p.out_channels) / a.p.groups, lane = static_cast<int>(threadIdx.x) % 32;
    const int column = a.tiles * 2 * a.phases;  // parts of the same channels
    const int number = column * (width / kPartWidth);
    const float2* from = static_cast<const float2*>(a.p.workspace) + group * number;
    const Moments m = merge(number, [&](int i) {
        const int tile = i % column / (2 * a.phases), half = i % (2 * a.phases) / a.phases;
        const int count = half_pixels(a, tile / a.tiles_x * kTile, tile % a.tiles_x * kTile, half) * kPartWidth;
        const float2 part = from[i];
        return Moments{static_cast<float>(count), part.x, part.y};
    });
    const float scale = 1.0f / sqrtf(m.squares / m.count + a.p.eps);
    const int first = static_cast<int>(group % a.p.groups) * width;
    float2* affine = reinterpret_cast<float2*>(a.p.next_affine) + group * width;
    for (int i = lane; i < width; i += 32) {
        const float weight = scale * a.p.next_weight[first + i];
        affine[i] = make_float2(weight, fmaf(-m.mean, weight, a.p.next_bias[first + i]));
    }
}

template <typename T, int N, bool kNorm>
Status launch_conv(const NormConvArgs& args, const DeviceInfo& device, cudaStream_t stream) noexcept {
#ifndef AIM_KERNELS_EMULATED
    if (device.warpgroup_products) {
        const int64_t blocks = std::min(args.work, device.sm_count);
        if (N == kOutBlock && args.p.residual != nullptr) {
            constexpr bool kAdds = N == kOutBlock;
            return launch_kernel(kOp, norm_conv_wgmma<T, N, kNorm, kAdds>, blocks, kWgmmaThreads,
                                 BlockRing<N, kAdds>::kBytes, stream, args);
        }
        return launch_kernel(kOp, norm_conv_wgmma<T, N, kNorm, false>, blocks, kWgmmaThreads,
                             BlockRing<N, false>::kBytes, stream, args);
    }
#endif
    if (!device.tensor_cores) {
        return fail(Status::kUnsupportedArch, "%s: this GPU's code was built for less than sm_80, which has no products "
                    "of this kind", kOp);
    }
    return launch_kernel(kOp, norm_conv_portable<T, N, kNorm>, args.work, kPortableThreads, 0, stream, args);
}

template <typename T, int N>
Status launch_block(const NormConvArgs& args, const DeviceInfo& device, cudaStream_t stream) noexcept {
    return args.p.affine == nullptr ? launch_conv<T, N, false>(args, device, stream)
                                    : launch_conv<T, N, true>(args, device, stream);
}

template <typename T>
Status launch_typed(const NormConvArgs& args, const DeviceInfo& device, cudaStream_t stream) noexcept {
    if (args.p.kind == ConvKind::kImage) return launch_block<T, kImageBlock>(args, device, stream);
    AIM_CHECK((launch_block<T, kOutBlock>(args, device, stream)));
    const int64_t blocks = ceil_div(args.p.batch * args.p.groups * 32, kMergeThreads);
    return launch_dependent(kOp, merge_parts, blocks, kMergeThreads, stream, args);
}

Status check_steps(const char* name, int64_t value, int64_t step, int64_t largest) noexcept {
    if (value >= step && value <= largest && value % step == 0) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: %s is %lld; supported: %lld to %lld in steps of %lld", kOp, name,
                static_cast<long long>(value), static_cast<long long>(step), static_cast<long long>(largest),
                static_cast<long long>(step));
}

}  // namespace

Status validate_shapes(const NormConvParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "batch", p.batch));
    AIM_CHECK(check_positive(kOp, "height", p.height));
    AIM_CHECK(check_positive(kOp, "width", p.width));
    AIM_CHECK(check_steps("in_channels", p.in_channels, kChunk, 2048));
    if (p.kind != ConvKind::kSame && p.kind != ConvKind::kUpsample && p.kind != ConvKind::kImage) {
        return fail(Status::kUnsupportedShape, "%s: kind is %d; supported: 0 (same), 1 (upsample), 2 (image)", kOp,
                    static_cast<int>(p.kind));
    }
    const bool image = p.kind == ConvKind::kImage;
    AIM_CHECK(check_steps("out_channels", p.out_channels, image ? 1 : kOutBlock, image ? kImageBlock : 2048));
    if (!image && (p.groups < 1 || p.out_channels % p.groups != 0 || p.out_channels / p.groups % kPartWidth != 0)) {
        return fail(Status::kUnsupportedShape, "%s: groups is %d and out_channels is %lld; supported: groups of a "
                    "multiple of %d channels", kOp, p.groups, static_cast<long long>(p.out_channels), kPartWidth);
    }
    const int64_t channels = std::max(p.in_channels, p.out_channels * phases(p));
    if (p.height > kMostElements / p.width || channels > kMostElements / (p.height * p.width)) {
        return fail(Status::kUnsupportedShape, "%s: an image is %lld x %lld x %lld; supported: up to %lld elements", kOp,
                    static_cast<long long>(channels), static_cast<long long>(p.height),
                    static_cast<long long>(p.width), static_cast<long long>(kMostElements));
    }
    // Of y, of its statistics, and of tiles times blocks of channels, which are fewer than either.
    const int64_t pixels = std::max({p.height * p.width * phases(p), parts(p), tiles(p) * phases(p) * 16});
    if (p.batch > kMostPixels / pixels) {
        return fail(Status::kUnsupportedShape, "%s: batch is %lld; supported with images of %lld x %lld: up to %lld", kOp,
                    static_cast<long long>(p.batch), static_cast<long long>(p.height),
                    static_cast<long long>(p.width), static_cast<long long>(kMostPixels / pixels));
    }
    AIM_CHECK(check_eps(kOp, p.eps));
    if (p.dtype == DType::kFloat16 || p.dtype == DType::kBFloat16) return Status::kSuccess;
    return fail(Status::kUnsupportedDType, "%s: dtype is %d; supported: 1 (float16), 2 (bfloat16)", kOp,
                static_cast<int>(p.dtype));
}

size_t workspace_bytes(const NormConvParams& p) noexcept {
    return sizeof(float2) * static_cast<size_t>(p.batch) * static_cast<size_t>(parts(p));
}

Status validate(const NormConvParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    const bool image = p.kind == ConvKind::kImage;
    const struct {
        const char* name;
        const void* pointer;
        bool needed, refused;
    } pointers[] = {
        {"x", p.x, true, false},
        {"affine", p.affine, false, false},
        {"weight", p.weight, true, false},
        {"bias", p.bias, true, false},
        {"residual", p.residual, false, image},
        {"next_weight", p.next_weight, !image, image},
        {"next_bias", p.next_bias, !image, image},
        {"y", p.y, true, false},
        {"next_affine", p.next_affine, !image, image},
        {"workspace", p.workspace, !image, false},
    };
    for (const auto& entry : pointers) {
        if (entry.needed) AIM_CHECK(check_pointer(kOp, entry.name, entry.pointer));
        if (entry.refused && entry.pointer != nullptr) {
            return fail(Status::kUnsupportedShape, "%s: %s is given, which kind 2 (image) has no use for", kOp,
                        entry.name);
        }
        AIM_CHECK(check_aligned_16(kOp, entry.name, entry.pointer));
    }
    if (p.workspace_size >= workspace_bytes(p)) return Status::kSuccess;
    return fail(Status::kWorkspaceTooSmall, "%s: the workspace has %zu bytes; these sizes need %zu", kOp,
                p.workspace_size, workspace_bytes(p));
}

Status launch(const NormConvParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    const DeviceInfo device = device_info();
    AIM_CHECK(device.status);
    NormConvArgs args;
    args.p = p;
    args.tiles_x = static_cast<int>(ceil_div(p.width, kTile));
    args.tiles = static_cast<int>(tiles(p));
    args.phases = static_cast<int>(phases(p));
    args.blocks = static_cast<int>(ceil_div(p.out_channels, kOutBlock)) * args.phases;
    args.taps = p.kind == ConvKind::kUpsample ? 4 : 9;
    args.chunks = static_cast<int>(p.in_channels / kChunk);
    args.work = static_cast<int>(p.batch) * args.tiles * args.blocks;
    return p.dtype == DType::kFloat16 ? launch_typed<__half>(args, device, stream)
                                      : launch_typed<__nv_bfloat16>(args, device, stream);
}

}  // namespace aim_kernels
