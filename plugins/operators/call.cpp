#include "call.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "norm_conv_call.h"
#include "pointers.h"
#include "step_call.h"

namespace aim_edge {
namespace {

using aim_kernels::Status;

// Frameworks hand over dense tensors: a row is `length` times `width` elements.
struct Dense {
    int64_t length;
    void operator()(int64_t width, int64_t& row_stride, int64_t& time_stride) const noexcept {
        row_stride = length * width;
        time_stride = width;
    }
};

aim_kernels::CausalConv1dParams causal_conv1d_params(const Call& call) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::CausalConv1dParams p;
    p.rows = size[kRows];
    p.length = size[kLength];
    p.channels = size[kChannels];
    p.d_conv = narrow(size[kDConv]);
    p.dtype = call.activations;
    p.state_dtype = call.states;
    p.activation = static_cast<aim_kernels::Activation>(size[kActivation]);  // the table's order is the enum's
    p.x = call.inputs[causal_conv1d::x];
    p.weight = floats(call.inputs[causal_conv1d::weight]);
    p.bias = floats(call.inputs[causal_conv1d::bias]);
    p.conv_state_in = call.inputs[causal_conv1d::conv_state];
    p.active = ints(call.inputs[causal_conv1d::active]);
    p.y = call.outputs[causal_conv1d::y];
    p.conv_state_out = call.outputs[causal_conv1d::conv_state_out];
    const Dense dense{p.length};
    dense(p.channels, p.x_row_stride, p.x_time_stride);
    dense(p.channels, p.y_row_stride, p.y_time_stride);
    return p;
}

aim_kernels::SelectiveScanParams selective_scan_params(const Call& call) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::SelectiveScanParams p;
    p.kind = size[kKind] == 0 ? aim_kernels::ScanKind::kMamba1 : aim_kernels::ScanKind::kMamba2;
    p.rows = size[kRows];
    p.length = size[kLength];
    p.nheads = narrow(size[kNheads]);
    p.headdim = narrow(size[kHeaddim]);
    p.d_state = narrow(size[kDState]);
    p.ngroups = narrow(size[kNgroups]);
    p.dtype = call.activations;
    p.state_dtype = call.states;
    p.dt_softplus = size[kDtSoftplus] != 0;
    p.x = call.inputs[selective_scan::x];
    p.dt = call.inputs[selective_scan::dt];
    p.A = floats(call.inputs[selective_scan::A]);
    p.B = call.inputs[selective_scan::B];
    p.C = call.inputs[selective_scan::C];
    p.D = floats(call.inputs[selective_scan::D]);
    p.dt_bias = floats(call.inputs[selective_scan::dt_bias]);
    p.ssm_state_in = call.inputs[selective_scan::ssm_state];
    p.z = call.inputs[selective_scan::z];
    p.active = ints(call.inputs[selective_scan::active]);
    p.y = call.outputs[selective_scan::y];
    p.ssm_state_out = call.outputs[selective_scan::ssm_state_out];
    p.workspace = call.workspace;
    p.workspace_size = call.workspace_size;
    const Dense dense{p.length};
    const int64_t inner = size[kNheads] * size[kHeaddim], group = size[kNgroups] * size[kDState];
    dense(inner, p.x_row_stride, p.x_time_stride);
    dense(size[kNheads], p.dt_row_stride, p.dt_time_stride);
    dense(group, p.B_row_stride, p.B_time_stride);
    dense(group, p.C_row_stride, p.C_time_stride);
    dense(inner, p.z_row_stride, p.z_time_stride);
    dense(inner, p.y_row_stride, p.y_time_stride);
    return p;
}

aim_kernels::RmsNormGatedParams rms_norm_gated_params(const Call& call) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::RmsNormGatedParams p;
    p.rows = size[kRows];
    p.length = size[kLength];
    p.d = size[kD];
    p.ngroups = narrow(size[kNgroups]);
    p.eps = call.reals.eps;
    p.dtype = call.activations;
    p.y = call.inputs[rms_norm_gated::y];
    p.z = call.inputs[rms_norm_gated::z];
    p.weight = floats(call.inputs[rms_norm_gated::weight]);
    p.out = call.outputs[rms_norm_gated::out];
    const Dense dense{p.length};
    dense(p.d, p.y_row_stride, p.y_time_stride);
    dense(p.d, p.z_row_stride, p.z_time_stride);
    dense(p.d, p.out_row_stride, p.out_time_stride);
    return p;
}

// Of GroupNormSilu and AddGroupNormSilu: the second has a tensor more at either end of the same list.
static_assert(int{add_group_norm_silu::bias} == int{group_norm_silu::bias});
static_assert(int{add_group_norm_silu::y} == int{group_norm_silu::y});

aim_kernels::GroupNormSiluParams group_norm_silu_params(const Call& call) noexcept {
    const int64_t* size = call.sizes.of;
    aim_kernels::GroupNormSiluParams p;
    p.batch = size[kBatch];
    p.channels = size[kChannels];
    p.height = size[kHeight];
    p.width = size[kWidth];
    p.groups = narrow(size[kGroups]);
    p.silu = size[kSilu] != 0;
    p.layout = call.channels_last ? aim_kernels::Layout::kChannelsLast : aim_kernels::Layout::kChannelsFirst;
    p.eps = call.reals.eps;
    p.dtype = call.activations;
    p.x = call.inputs[group_norm_silu::x];
    p.weight = floats(call.inputs[group_norm_silu::weight]);
    p.bias = floats(call.inputs[group_norm_silu::bias]);
    p.y = call.outputs[group_norm_silu::y];
    p.residual = call.inputs[add_group_norm_silu::residual];
    p.sum = call.outputs[add_group_norm_silu::sum];
    p.workspace = call.workspace;
    p.workspace_size = call.workspace_size;
    return p;
}

// Calls `use` with the parameters of the operator.
template <typename Use>
auto with_params(OperatorKind kind, const Call& call, Use use) noexcept {
    switch (kind) {
        case OperatorKind::kCausalConv1d: return use(causal_conv1d_params(call));
        case OperatorKind::kSelectiveScan: return use(selective_scan_params(call));
        case OperatorKind::kRmsNormGated: return use(rms_norm_gated_params(call));
        case OperatorKind::kMamba2Layers: return use(mamba2_layers_params(call));
        case OperatorKind::kMamba2LayersQuantized: return use(mamba2_layers_quantized_params(call));
        case OperatorKind::kMamba2Step: return use(mamba2_step_params(call));
        case OperatorKind::kMamba2StepQuantized: return use(mamba2_step_quantized_params(call));
        case OperatorKind::kMamba2LazyStep: return use(mamba2_lazy_step_params(call));
        case OperatorKind::kAdaLnNorm: return use(ada_ln_norm_params(call));
        case OperatorKind::kEmbedNorm: return use(embed_norm_params(call));
        case OperatorKind::kFinalNorm: return use(final_norm_params(call));
        case OperatorKind::kCachedAttention: return use(cached_attention_params(call));
        case OperatorKind::kLinear: return use(linear_params(call, false));
        case OperatorKind::kLinearFloat32: return use(linear_params(call, true));
        case OperatorKind::kSwiGlu: return use(swi_glu_params(call));
        case OperatorKind::kLinearQuantized: return use(linear_quantized_params(call, false));
        case OperatorKind::kLinearQuantizedFloat32: return use(linear_quantized_params(call, true));
        case OperatorKind::kGroupNormSilu:
        case OperatorKind::kAddGroupNormSilu: return use(group_norm_silu_params(call));
        case OperatorKind::kNormConv:
        case OperatorKind::kUpsampleConv:
        case OperatorKind::kNormConvImage: return use(norm_conv_params(kind, call));
        case OperatorKind::kMamba2DecodeStep: break;
    }
    return use(mamba2_decode_step_params(call));
}

bool is_group_norm(OperatorKind kind) noexcept {
    return kind == OperatorKind::kGroupNormSilu || kind == OperatorKind::kAddGroupNormSilu;
}

}  // namespace

bool keeps_states(OperatorKind kind, const Sizes& sizes) noexcept {
    return kind == OperatorKind::kCachedAttention || sizes.of[kHasActive] != 0;
}

size_t element_size(Element element, const Call& call) noexcept {
    if (element == Element::kState) return aim_kernels::dtype_size(call.states);
    if (element == Element::kFloat32 || element == Element::kInt32) return 4;
    return aim_kernels::dtype_size(call.activations);
}

Status validate_sizes(OperatorKind kind, Call call) noexcept {
    const int64_t* size = call.sizes.of;
    const int64_t width = kind == OperatorKind::kSwiGlu ? 8 : std::max<int64_t>(size[kNgroups], 1);
    const int64_t vectors = 1 + std::max({size[kGateIndex], size[kShiftIndex], size[kScaleIndex]});
    const int64_t channels = is_group_norm(kind) ? size[kGroups] : 1;
    // The fewest blocks of 128 channels that these groups divide, each a multiple of 4.
    const int64_t fours = 4 * std::max<int64_t>(size[kGroups], 1), blocks = fours / std::gcd(fours, int64_t{128});
    const bool quantized =
        kind == OperatorKind::kLinearQuantized || kind == OperatorKind::kLinearQuantizedFloat32;
    const bool codes = kind == OperatorKind::kMamba2LayersQuantized || kind == OperatorKind::kMamba2StepQuantized;
    const bool stacked = kind == OperatorKind::kMamba2Layers || kind == OperatorKind::kMamba2Step;
    const int64_t model = codes ? 32 : stacked ? 8 : 4;
    const std::pair<Symbol, int64_t> smallest[] = {
        {kRows, std::max<int64_t>(size[kPositions], 1)}, {kPositions, 1}, {kNumTokens, 1},
        {kLength, 1},        {kChannels, channels}, {kDConv, 2},      {kD, width},
        {kDModel, model},    {kVectors, vectors},
        {kInFeatures, quantized ? 32 : 8},       {kOutFeatures, 1},   {kBatch, 1},
        {kHeight, 1},   {kWidth, 1},         {kLayers, 1},          {kChunks, 1},      {kBlocks, blocks},
        {kOutChannels, 1}, {kVocabSize, 1}, {kNumPositions, 1}, {kCapacity, std::max<int64_t>(2, size[kFoldEvery])}};
    if (quantized && size[kInFeatures] == 0) call.sizes.of[kWords] = call.sizes.of[kScales] = 0;  // not known yet
    if (size[kDModel] == 0) call.sizes.of[kInWords] = 0;                                          // likewise
    for (const auto& [symbol, value] : smallest) {
        if (call.sizes.of[symbol] == 0) call.sizes.of[symbol] = value;
    }
    const bool single = call.activations == aim_kernels::DType::kFloat32;
    // Not known yet: these have no float32.
    const bool single_y = kind == OperatorKind::kLinearFloat32;
    const bool half = is_norm_conv(kind) || quantized || single_y || codes || size[kHalfWeights] != 0;
    if (half && single) call.activations = aim_kernels::DType::kFloat16;
    return with_params(kind, call, [](const auto& params) { return aim_kernels::validate_shapes(params); });
}

size_t workspace_bytes(OperatorKind kind, const Call& call) noexcept {
    if (kind == OperatorKind::kSelectiveScan) return aim_kernels::workspace_bytes(selective_scan_params(call));
    if (is_group_norm(kind)) return aim_kernels::workspace_bytes(group_norm_silu_params(call));
    if (is_norm_conv(kind)) return norm_conv_workspace(kind, call);
    if (kind == OperatorKind::kMamba2LazyStep) return aim_kernels::workspace_bytes(mamba2_lazy_step_params(call));
    if (kind == OperatorKind::kMamba2DecodeStep) return aim_kernels::workspace_bytes(mamba2_decode_step_params(call));
    if (kind == OperatorKind::kMamba2Layers) return aim_kernels::workspace_bytes(mamba2_layers_params(call));
    if (kind == OperatorKind::kMamba2LayersQuantized) {
        return aim_kernels::workspace_bytes(mamba2_layers_quantized_params(call));
    }
    if (kind == OperatorKind::kMamba2Step) return aim_kernels::workspace_bytes(mamba2_step_params(call));
    if (kind == OperatorKind::kMamba2StepQuantized) {
        return aim_kernels::workspace_bytes(mamba2_step_quantized_params(call));
    }
    if (kind == OperatorKind::kCachedAttention) return aim_kernels::workspace_bytes(cached_attention_params(call));
    return 0;
}

size_t exchange_bytes(OperatorKind kind, const Call& call) noexcept {
    switch (kind) {
        case OperatorKind::kMamba2Layers: return aim_kernels::exchange_bytes(mamba2_layers_params(call));
        case OperatorKind::kMamba2LayersQuantized:
            return aim_kernels::exchange_bytes(mamba2_layers_quantized_params(call));
        case OperatorKind::kMamba2Step: return aim_kernels::exchange_bytes(mamba2_step_params(call).layers);
        case OperatorKind::kMamba2StepQuantized:
            return aim_kernels::exchange_bytes(mamba2_step_quantized_params(call).layers);
        default: return 0;
    }
}

Status launch(OperatorKind kind, const Call& call, cudaStream_t stream) noexcept {
    if (is_norm_conv(kind)) return launch_norm_conv(kind, call, stream);
    return with_params(kind, call, [stream](const auto& params) { return aim_kernels::launch(params, stream); });
}

}  // namespace aim_edge
