// Two kernels: the first takes mean and squares of slices of an image, the second merges those of a group and applies
// them. A slice's sums are of differences from a value of the slice, and merging is by differences from a mean, so that
// a large mean does not cancel. The order of all sums is fixed.
#include "aim_kernels/group_norm_silu.h"

#include <algorithm>

#include "dependent.cuh"
#include "group_norm.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "group_norm_silu";

// Slices are many enough to fill a large GPU and few enough for merging to be cheap. Not by the device's own number of
// multiprocessors: the results are then the same everywhere, and an engine's workspace fits where it was not built.
constexpr int64_t kMostSlices = 132;  // of an image, or with channels first of a group
constexpr int64_t kMostBlocks = 8 * kMostSlices;
// With channels last a block has much to do before its first and after its last pixel: as many as fit at once.
constexpr int64_t kLastBlocks = 2 * kMostSlices;
constexpr int kMostElements = 1 << 30;  // of an image, whose index a thread may count past

template <typename T, int VEC>
Status launch_first(const GroupNormSiluParams& p, cudaStream_t stream) noexcept {
    GroupNormArgs args{p};
    const int64_t groups = p.batch * p.groups;
    args.extent = static_cast<int>(p.channels / p.groups * p.height * p.width) / VEC;
    set_slices(args, std::min({kMostSlices, ceil_div(kMostBlocks, groups), ceil_div(args.extent, kFirstThreads * 2)}));
    const int64_t blocks = groups * args.slices;
    const auto statistics = p.residual == nullptr ? first_statistics<T, VEC, false> : first_statistics<T, VEC, true>;
    AIM_CHECK(launch_dependent(kOp, statistics, blocks, kFirstThreads, stream, args));
    return launch_dependent(kOp, first_apply<T, VEC>, blocks, kFirstThreads, stream, args);
}

template <typename T>
Status launch_last(const GroupNormSiluParams& p, cudaStream_t stream) noexcept {
    GroupNormArgs args{p};
    args.extent = static_cast<int>(p.height * p.width);
    args.columns = static_cast<int>(p.channels) / Vec16<T>::kSize;
    args.rows = kLastThreads / args.columns;
    const int64_t wanted = std::max(kLastBlocks / p.batch, int64_t{1});
    set_slices(args, std::min({kMostSlices, wanted, ceil_div(args.extent, args.rows * 2)}));
    const int64_t blocks = p.batch * args.slices;
    const auto statistics = p.residual == nullptr ? last_statistics<T, false> : last_statistics<T, true>;
    AIM_CHECK(launch_dependent(kOp, statistics, blocks, kLastThreads, stream, args));
    return launch_dependent(kOp, last_apply<T>, blocks, kLastThreads, stream, args);
}

template <typename T>
Status launch_typed(const GroupNormSiluParams& p, cudaStream_t stream) noexcept {
    constexpr int VEC = Vec16<T>::kSize;
    if (p.layout == Layout::kChannelsLast) return launch_last<T>(p, stream);
    // A vector is of one channel.
    return p.height * p.width % VEC == 0 ? launch_first<T, VEC>(p, stream) : launch_first<T, 1>(p, stream);
}

}  // namespace

Status validate_shapes(const GroupNormSiluParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "batch", p.batch));
    AIM_CHECK(check_positive(kOp, "channels", p.channels));
    AIM_CHECK(check_positive(kOp, "height", p.height));
    AIM_CHECK(check_positive(kOp, "width", p.width));
    AIM_CHECK(check_positive(kOp, "groups", p.groups));
    if (p.channels % p.groups != 0) {
        return fail(Status::kUnsupportedShape, "%s: groups is %d and channels is %lld; supported: groups that divide "
                    "channels", kOp, p.groups, static_cast<long long>(p.channels));
    }
    if (p.layout != Layout::kChannelsFirst && p.layout != Layout::kChannelsLast) {
        return fail(Status::kUnsupportedShape, "%s: layout is %d; supported: 0 (channels first), 1 (channels last)",
                    kOp, static_cast<int>(p.layout));
    }
    const bool fits_vectors = p.channels % 8 == 0 && p.channels <= kLastChannels;
    if (p.layout == Layout::kChannelsLast && !fits_vectors) {
        return fail(Status::kUnsupportedShape, "%s: channels is %lld; supported with channels last: 8 to %d in steps "
                    "of 8", kOp, static_cast<long long>(p.channels), kLastChannels);
    }
    if (p.height > kMostElements / p.width || p.channels > kMostElements / (p.height * p.width)) {
        return fail(Status::kUnsupportedShape, "%s: an image is %lld x %lld x %lld; supported: up to %d elements", kOp,
                    static_cast<long long>(p.channels), static_cast<long long>(p.height),
                    static_cast<long long>(p.width), kMostElements);
    }
    if (p.batch > INT32_MAX / kMostSlices / p.groups) {
        return fail(Status::kUnsupportedShape, "%s: batch is %lld; supported with %d groups: up to %lld", kOp,
                    static_cast<long long>(p.batch), p.groups,
                    static_cast<long long>(INT32_MAX / kMostSlices / p.groups));
    }
    AIM_CHECK(check_eps(kOp, p.eps));
    return check_activation_dtype(kOp, p.dtype);
}

size_t workspace_bytes(const GroupNormSiluParams& p) noexcept {
    return sizeof(float2) * static_cast<size_t>(p.groups) * static_cast<size_t>(kMostBlocks + p.batch);
}

Status validate(const GroupNormSiluParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    AIM_CHECK(check_pointer(kOp, "x", p.x));
    AIM_CHECK(check_pointer(kOp, "weight", p.weight));
    AIM_CHECK(check_pointer(kOp, "bias", p.bias));
    AIM_CHECK(check_pointer(kOp, "y", p.y));
    AIM_CHECK(check_pointer(kOp, "workspace", p.workspace));
    AIM_CHECK(check_aligned_16(kOp, "x", p.x));
    AIM_CHECK(check_aligned_16(kOp, "y", p.y));
    AIM_CHECK(check_aligned_16(kOp, "workspace", p.workspace));
    if (p.residual != nullptr) AIM_CHECK(check_pointer(kOp, "sum", p.sum));
    if (p.sum != nullptr) AIM_CHECK(check_pointer(kOp, "residual", p.residual));
    AIM_CHECK(check_aligned_16(kOp, "residual", p.residual));
    AIM_CHECK(check_aligned_16(kOp, "sum", p.sum));
    if (p.workspace_size >= workspace_bytes(p)) return Status::kSuccess;
    return fail(Status::kWorkspaceTooSmall, "%s: the workspace has %zu bytes; these sizes need %zu", kOp,
                p.workspace_size, workspace_bytes(p));
}

Status launch(const GroupNormSiluParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    AIM_CHECK(check_device());
    return with_activation_type(p.dtype, [&](auto type) { return launch_typed<decltype(type)>(p, stream); });
}

}  // namespace aim_kernels
