#include "norm_conv_call.h"

#include "pointers.h"

namespace aim_edge {
namespace {

using aim_kernels::ConvKind;
using aim_kernels::NormConvParams;
using aim_kernels::Status;
using aim_kernels::TransposeParams;

// The three begin alike.
static_assert(int{upsample_conv::next_bias} == int{norm_conv::next_bias});
static_assert(int{norm_conv_image::bias} == int{norm_conv::bias} && int{norm_conv_image::image} == int{norm_conv::y});

size_t padded(int64_t elements) noexcept { return (static_cast<size_t>(elements) * 2 + 255) / 256 * 256; }

// An image's turn between (channels, pixels) and (pixels, channels).
TransposeParams turn(const NormConvParams& p, int64_t rows, int64_t columns, const void* from, void* to) noexcept {
    TransposeParams made;
    made.batch = p.batch;
    made.rows = rows;
    made.columns = columns;
    made.x = from;
    made.y = to;
    return made;
}

// Places for what the kernel takes and gives with channels last.
struct Turned {
    int64_t x_pixels, y_pixels;
    size_t own, x, residual, y;  // bytes: the kernel's workspace, and each image
    Turned(const NormConvParams& p, const Call& call) noexcept {
        x_pixels = p.height * p.width;
        y_pixels = p.kind == ConvKind::kUpsample ? 4 * x_pixels : x_pixels;
        own = (aim_kernels::workspace_bytes(p) + 255) / 256 * 256;
        x = padded(p.batch * x_pixels * p.in_channels);
        const size_t out = padded(p.batch * y_pixels * p.out_channels);
        y = p.kind == ConvKind::kImage ? 0 : out;
        residual = call.sizes.of[kHasResidual] == 0 ? 0 : out;
    }
    size_t bytes() const noexcept { return own + x + residual + y; }
};

}  // namespace

bool is_norm_conv(OperatorKind kind) noexcept {
    return kind == OperatorKind::kNormConv || kind == OperatorKind::kUpsampleConv ||
           kind == OperatorKind::kNormConvImage;
}

NormConvParams norm_conv_params(OperatorKind kind, const Call& call) noexcept {
    const int64_t* size = call.sizes.of;
    const bool image = kind == OperatorKind::kNormConvImage;
    NormConvParams p;
    p.batch = size[kBatch];
    p.in_channels = 64 * size[kChunks];
    p.height = size[kHeight];
    p.width = size[kWidth];
    p.out_channels = image ? size[kOutChannels] : 128 * size[kBlocks];
    p.groups = static_cast<int32_t>(size[kGroups]);
    p.kind = image ? ConvKind::kImage : kind == OperatorKind::kUpsampleConv ? ConvKind::kUpsample : ConvKind::kSame;
    p.dtype = call.activations;
    p.eps = call.reals.eps;
    p.x = call.inputs[norm_conv::x];
    p.weight = call.inputs[norm_conv::weight];
    p.bias = floats(call.inputs[norm_conv::bias]);
    p.affine = floats(call.inputs[image ? int{norm_conv_image::affine} : int{norm_conv::affine}]);
    p.next_weight = image ? nullptr : floats(call.inputs[norm_conv::next_weight]);
    p.next_bias = image ? nullptr : floats(call.inputs[norm_conv::next_bias]);
    p.residual = call.inputs[norm_conv::residual];
    p.y = call.outputs[norm_conv::y];
    p.next_affine = static_cast<float*>(call.outputs[norm_conv::next_affine]);
    p.workspace = call.workspace;
    p.workspace_size = call.workspace_size;
    return p;
}

size_t norm_conv_workspace(OperatorKind kind, const Call& call) noexcept {
    const NormConvParams p = norm_conv_params(kind, call);
    return call.channels_last ? aim_kernels::workspace_bytes(p) : Turned(p, call).bytes();
}

Status launch_norm_conv(OperatorKind kind, const Call& call, cudaStream_t stream) noexcept {
    NormConvParams p = norm_conv_params(kind, call);
    if (call.channels_last) return aim_kernels::launch(p, stream);
    const Turned turned(p, call);
    auto* at = static_cast<unsigned char*>(call.workspace);
    auto turn_in = [&](int64_t channels, int64_t pixels, const void*& image, size_t bytes) {
        const Status status = aim_kernels::launch(turn(p, channels, pixels, image, at), stream);
        image = at;
        at += bytes;
        return status;
    };
    at += turned.own;
    Status status = turn_in(p.in_channels, turned.x_pixels, p.x, turned.x);
    if (status == Status::kSuccess && turned.residual > 0) {
        status = turn_in(p.out_channels, turned.y_pixels, p.residual, turned.residual);
    }
    if (status != Status::kSuccess) return status;
    void* const y = p.y;
    if (p.kind != ConvKind::kImage) p.y = at;
    status = aim_kernels::launch(p, stream);
    if (status != Status::kSuccess || p.kind == ConvKind::kImage) return status;
    return aim_kernels::launch(turn(p, turned.y_pixels, p.out_channels, p.y, y), stream);
}

}  // namespace aim_edge
