// Generated from plugins/operators.json by plugins/scripts/generate_operator_table.py. Do not edit.
#pragma once

#include "table.h"

namespace aim_edge {

constexpr int32_t kOperatorVersion = 1;

enum Symbol : int8_t {
    kOne,
    kAimEdgeVersion,
    kActivation,
    kHasActive,
    kRows,
    kLength,
    kChannels,
    kDConv,
    kKind,
    kNheads,
    kHeaddim,
    kDState,
    kNgroups,
    kDtSoftplus,
    kHasZ,
    kD,
    kConvDim,
    kDModel,
    kLayers,
    kFoldEvery,
    kCapacity,
    kGateIndex,
    kShiftIndex,
    kScaleIndex,
    kVectors,
    kNumTokens,
    kPositions,
    kInFeatures,
    kOutFeatures,
    kBits,
    kGroupSize,
    kWords,
    kScales,
    kGroups,
    kSilu,
    kBatch,
    kHeight,
    kWidth,
    kHasNorm,
    kHasResidual,
    kChunks,
    kBlocks,
    kOutChannels,
    kSymbolCount
};

enum class OperatorKind : int32_t { kCausalConv1d, kSelectiveScan, kRmsNormGated, kMamba2DecodeStep, kMamba2Layers, kMamba2LazyStep, kAdaLnNorm, kCachedAttention, kLinear, kSwiGlu, kLinearQuantized, kGroupNormSilu, kAddGroupNormSilu, kNormConv, kUpsampleConv, kNormConvImage };

namespace causal_conv1d {
enum Input { x, weight, bias, conv_state, active };
enum Output { y, conv_state_out };
}  // namespace causal_conv1d
namespace selective_scan {
enum Input { x, dt, A, B, C, D, dt_bias, ssm_state, z, active };
enum Output { y, ssm_state_out };
}  // namespace selective_scan
namespace rms_norm_gated {
enum Input { y, z, weight };
enum Output { out };
}  // namespace rms_norm_gated
namespace mamba2_decode_step {
enum Input { zxbcdt, conv_weight, conv_bias, A, D, dt_bias, norm_weight, conv_state, ssm_state, active };
enum Output { out, conv_state_out, ssm_state_out };
}  // namespace mamba2_decode_step
namespace mamba2_layers {
enum Input { residual, modulation, norm_weight, in_proj, conv_weight, conv_bias, A, D, dt_bias, gated_norm_weight, out_proj, conv_state, ssm_state, active };
enum Output { residual_out, conv_state_out, ssm_state_out };
}  // namespace mamba2_layers
namespace mamba2_lazy_step {
enum Input { zxbcdt, conv_weight, conv_bias, A, D, dt_bias, norm_weight, conv_state, ssm_state, x_history, B_history, dt_history, counters, active };
enum Output { out, conv_state_out, ssm_state_out, x_history_out, B_history_out, dt_history_out, counters_out };
}  // namespace mamba2_lazy_step
namespace ada_ln_norm {
enum Input { hidden, residual, modulation, weight };
enum Output { x, residual_out };
}  // namespace ada_ln_norm
namespace cached_attention {
enum Input { qkv, rotary, position, k_cache, v_cache };
enum Output { out, k_cache_out, v_cache_out };
}  // namespace cached_attention
namespace linear {
enum Input { x, weight };
enum Output { y };
}  // namespace linear
namespace swi_glu {
enum Input { gate, up };
enum Output { y };
}  // namespace swi_glu
namespace linear_quantized {
enum Input { x, weight, scale };
enum Output { y };
}  // namespace linear_quantized
namespace group_norm_silu {
enum Input { x, weight, bias };
enum Output { y };
}  // namespace group_norm_silu
namespace add_group_norm_silu {
enum Input { x, weight, bias, residual };
enum Output { y, sum };
}  // namespace add_group_norm_silu
namespace norm_conv {
enum Input { x, weight, bias, next_weight, next_bias, affine, residual };
enum Output { y, next_affine };
}  // namespace norm_conv
namespace upsample_conv {
enum Input { x, weight, bias, next_weight, next_bias };
enum Output { y, next_affine };
}  // namespace upsample_conv
namespace norm_conv_image {
enum Input { x, weight, bias, affine };
enum Output { image };
}  // namespace norm_conv_image

constexpr OperatorRow kOperators[] = {
    {
        "CausalConv1d", OperatorKind::kCausalConv1d,
        3, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"activation", AttributeType::kString, kActivation, 2, {"none", "silu"}, 1},
            {"has_active", AttributeType::kInt, kHasActive, 2, {"0", "1"}, 1},
        },
        5, {
            {"x", Element::kActivation, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"length", 1, {{1, {kLength, kOne}}}}, {"channels", 1, {{1, {kChannels, kOne}}}}}},
             {}},
            {"weight", Element::kFloat32, kOne, -1,
             {2, {{"channels", 1, {{1, {kChannels, kOne}}}}, {"d_conv", 1, {{1, {kDConv, kOne}}}}}},
             {}},
            {"bias", Element::kFloat32, kOne, -1,
             {1, {{"channels", 1, {{1, {kChannels, kOne}}}}}},
             {}},
            {"conv_state", Element::kState, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"channels", 1, {{1, {kChannels, kOne}}}}, {"d_conv - 1", 2, {{1, {kDConv, kOne}}, {-1, {kOne, kOne}}}}}},
             {}},
            {"active", Element::kInt32, kHasActive, -1,
             {1, {{"rows", 1, {{1, {kRows, kOne}}}}}},
             {}},
        },
        2, {
            {"y", Element::kActivation, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"length", 1, {{1, {kLength, kOne}}}}, {"channels", 1, {{1, {kChannels, kOne}}}}}},
             {}},
            {"conv_state_out", Element::kState, kOne, 3,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"channels", 1, {{1, {kChannels, kOne}}}}, {"d_conv - 1", 2, {{1, {kDConv, kOne}}, {-1, {kOne, kOne}}}}}},
             {}},
        },
    },
    {
        "SelectiveScan", OperatorKind::kSelectiveScan,
        9, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"kind", AttributeType::kString, kKind, 2, {"mamba1", "mamba2"}, 1},
            {"nheads", AttributeType::kInt, kNheads, 0, {}, 1},
            {"headdim", AttributeType::kInt, kHeaddim, 0, {}, 1},
            {"d_state", AttributeType::kInt, kDState, 0, {}, 1},
            {"ngroups", AttributeType::kInt, kNgroups, 0, {}, 1},
            {"dt_softplus", AttributeType::kInt, kDtSoftplus, 2, {"0", "1"}, 1},
            {"has_z", AttributeType::kInt, kHasZ, 2, {"0", "1"}, 1},
            {"has_active", AttributeType::kInt, kHasActive, 2, {"0", "1"}, 1},
        },
        10, {
            {"x", Element::kActivation, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"length", 1, {{1, {kLength, kOne}}}}, {"nheads * headdim", 1, {{1, {kNheads, kHeaddim}}}}}},
             {}},
            {"dt", Element::kActivation, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"length", 1, {{1, {kLength, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {}},
            {"A", Element::kFloat32, kOne, -1,
             {1, {{"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {2, {{"nheads", 1, {{1, {kNheads, kOne}}}}, {"d_state", 1, {{1, {kDState, kOne}}}}}}},
            {"B", Element::kActivation, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"length", 1, {{1, {kLength, kOne}}}}, {"ngroups * d_state", 1, {{1, {kNgroups, kDState}}}}}},
             {}},
            {"C", Element::kActivation, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"length", 1, {{1, {kLength, kOne}}}}, {"ngroups * d_state", 1, {{1, {kNgroups, kDState}}}}}},
             {}},
            {"D", Element::kFloat32, kOne, -1,
             {1, {{"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {}},
            {"dt_bias", Element::kFloat32, kOne, -1,
             {1, {{"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {}},
            {"ssm_state", Element::kState, kOne, -1,
             {4, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}, {"d_state", 1, {{1, {kDState, kOne}}}}}},
             {}},
            {"z", Element::kActivation, kHasZ, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"length", 1, {{1, {kLength, kOne}}}}, {"nheads * headdim", 1, {{1, {kNheads, kHeaddim}}}}}},
             {}},
            {"active", Element::kInt32, kHasActive, -1,
             {1, {{"rows", 1, {{1, {kRows, kOne}}}}}},
             {}},
        },
        2, {
            {"y", Element::kActivation, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"length", 1, {{1, {kLength, kOne}}}}, {"nheads * headdim", 1, {{1, {kNheads, kHeaddim}}}}}},
             {}},
            {"ssm_state_out", Element::kState, kOne, 7,
             {4, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}, {"d_state", 1, {{1, {kDState, kOne}}}}}},
             {}},
        },
    },
    {
        "RmsNormGated", OperatorKind::kRmsNormGated,
        3, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"ngroups", AttributeType::kInt, kNgroups, 0, {}, 1},
            {"eps", AttributeType::kFloat, kOne, 0, {}, 1},
        },
        3, {
            {"y", Element::kActivation, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"length", 1, {{1, {kLength, kOne}}}}, {"d", 1, {{1, {kD, kOne}}}}}},
             {}},
            {"z", Element::kActivation, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"length", 1, {{1, {kLength, kOne}}}}, {"d", 1, {{1, {kD, kOne}}}}}},
             {}},
            {"weight", Element::kFloat32, kOne, -1,
             {1, {{"d", 1, {{1, {kD, kOne}}}}}},
             {}},
        },
        1, {
            {"out", Element::kActivation, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"length", 1, {{1, {kLength, kOne}}}}, {"d", 1, {{1, {kD, kOne}}}}}},
             {}},
        },
    },
    {
        "Mamba2DecodeStep", OperatorKind::kMamba2DecodeStep,
        8, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"nheads", AttributeType::kInt, kNheads, 0, {}, 1},
            {"headdim", AttributeType::kInt, kHeaddim, 0, {}, 1},
            {"d_state", AttributeType::kInt, kDState, 0, {}, 1},
            {"ngroups", AttributeType::kInt, kNgroups, 0, {}, 1},
            {"d_conv", AttributeType::kInt, kDConv, 0, {}, 1},
            {"eps", AttributeType::kFloat, kOne, 0, {}, 1},
            {"has_active", AttributeType::kInt, kHasActive, 2, {"0", "1"}, 1},
        },
        10, {
            {"zxbcdt", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"2 * nheads * headdim + 2 * ngroups * d_state + nheads", 3, {{2, {kNheads, kHeaddim}}, {2, {kNgroups, kDState}}, {1, {kNheads, kOne}}}}}},
             {}},
            {"conv_weight", Element::kFloat32, kOne, -1,
             {2, {{"conv_dim", 1, {{1, {kConvDim, kOne}}}}, {"d_conv", 1, {{1, {kDConv, kOne}}}}}},
             {}},
            {"conv_bias", Element::kFloat32, kOne, -1,
             {1, {{"conv_dim", 1, {{1, {kConvDim, kOne}}}}}},
             {}},
            {"A", Element::kFloat32, kOne, -1,
             {1, {{"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {}},
            {"D", Element::kFloat32, kOne, -1,
             {1, {{"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {}},
            {"dt_bias", Element::kFloat32, kOne, -1,
             {1, {{"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {}},
            {"norm_weight", Element::kFloat32, kOne, -1,
             {1, {{"nheads * headdim", 1, {{1, {kNheads, kHeaddim}}}}}},
             {}},
            {"conv_state", Element::kState, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"conv_dim", 1, {{1, {kConvDim, kOne}}}}, {"d_conv - 1", 2, {{1, {kDConv, kOne}}, {-1, {kOne, kOne}}}}}},
             {}},
            {"ssm_state", Element::kState, kOne, -1,
             {4, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}, {"d_state", 1, {{1, {kDState, kOne}}}}}},
             {}},
            {"active", Element::kInt32, kHasActive, -1,
             {1, {{"rows", 1, {{1, {kRows, kOne}}}}}},
             {}},
        },
        3, {
            {"out", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads * headdim", 1, {{1, {kNheads, kHeaddim}}}}}},
             {}},
            {"conv_state_out", Element::kState, kOne, 7,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"conv_dim", 1, {{1, {kConvDim, kOne}}}}, {"d_conv - 1", 2, {{1, {kDConv, kOne}}, {-1, {kOne, kOne}}}}}},
             {}},
            {"ssm_state_out", Element::kState, kOne, 8,
             {4, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}, {"d_state", 1, {{1, {kDState, kOne}}}}}},
             {}},
        },
    },
    {
        "Mamba2Layers", OperatorKind::kMamba2Layers,
        8, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"nheads", AttributeType::kInt, kNheads, 0, {}, 1},
            {"headdim", AttributeType::kInt, kHeaddim, 0, {}, 1},
            {"d_state", AttributeType::kInt, kDState, 0, {}, 1},
            {"ngroups", AttributeType::kInt, kNgroups, 0, {}, 1},
            {"d_conv", AttributeType::kInt, kDConv, 0, {}, 1},
            {"eps", AttributeType::kFloat, kOne, 0, {}, 1},
            {"has_active", AttributeType::kInt, kHasActive, 2, {"0", "1"}, 1},
        },
        14, {
            {"residual", Element::kFloat32, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"d_model", 1, {{1, {kDModel, kOne}}}}}},
             {}},
            {"modulation", Element::kFloat32, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"3 * layers", 1, {{3, {kLayers, kOne}}}}, {"d_model", 1, {{1, {kDModel, kOne}}}}}},
             {}},
            {"norm_weight", Element::kFloat32, kOne, -1,
             {2, {{"layers", 1, {{1, {kLayers, kOne}}}}, {"d_model", 1, {{1, {kDModel, kOne}}}}}},
             {}},
            {"in_proj", Element::kActivation, kOne, -1,
             {3, {{"layers", 1, {{1, {kLayers, kOne}}}}, {"2 * nheads * headdim + 2 * ngroups * d_state + nheads", 3, {{2, {kNheads, kHeaddim}}, {2, {kNgroups, kDState}}, {1, {kNheads, kOne}}}}, {"d_model", 1, {{1, {kDModel, kOne}}}}}},
             {}},
            {"conv_weight", Element::kFloat32, kOne, -1,
             {3, {{"layers", 1, {{1, {kLayers, kOne}}}}, {"conv_dim", 1, {{1, {kConvDim, kOne}}}}, {"d_conv", 1, {{1, {kDConv, kOne}}}}}},
             {}},
            {"conv_bias", Element::kFloat32, kOne, -1,
             {2, {{"layers", 1, {{1, {kLayers, kOne}}}}, {"conv_dim", 1, {{1, {kConvDim, kOne}}}}}},
             {}},
            {"A", Element::kFloat32, kOne, -1,
             {2, {{"layers", 1, {{1, {kLayers, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {}},
            {"D", Element::kFloat32, kOne, -1,
             {2, {{"layers", 1, {{1, {kLayers, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {}},
            {"dt_bias", Element::kFloat32, kOne, -1,
             {2, {{"layers", 1, {{1, {kLayers, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {}},
            {"gated_norm_weight", Element::kFloat32, kOne, -1,
             {2, {{"layers", 1, {{1, {kLayers, kOne}}}}, {"nheads * headdim", 1, {{1, {kNheads, kHeaddim}}}}}},
             {}},
            {"out_proj", Element::kActivation, kOne, -1,
             {3, {{"layers", 1, {{1, {kLayers, kOne}}}}, {"d_model", 1, {{1, {kDModel, kOne}}}}, {"nheads * headdim", 1, {{1, {kNheads, kHeaddim}}}}}},
             {}},
            {"conv_state", Element::kState, kOne, -1,
             {4, {{"rows", 1, {{1, {kRows, kOne}}}}, {"layers", 1, {{1, {kLayers, kOne}}}}, {"conv_dim", 1, {{1, {kConvDim, kOne}}}}, {"d_conv - 1", 2, {{1, {kDConv, kOne}}, {-1, {kOne, kOne}}}}}},
             {}},
            {"ssm_state", Element::kState, kOne, -1,
             {5, {{"rows", 1, {{1, {kRows, kOne}}}}, {"layers", 1, {{1, {kLayers, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}, {"d_state", 1, {{1, {kDState, kOne}}}}}},
             {}},
            {"active", Element::kInt32, kHasActive, -1,
             {1, {{"rows", 1, {{1, {kRows, kOne}}}}}},
             {}},
        },
        3, {
            {"residual_out", Element::kFloat32, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"d_model", 1, {{1, {kDModel, kOne}}}}}},
             {}},
            {"conv_state_out", Element::kState, kOne, 11,
             {4, {{"rows", 1, {{1, {kRows, kOne}}}}, {"layers", 1, {{1, {kLayers, kOne}}}}, {"conv_dim", 1, {{1, {kConvDim, kOne}}}}, {"d_conv - 1", 2, {{1, {kDConv, kOne}}, {-1, {kOne, kOne}}}}}},
             {}},
            {"ssm_state_out", Element::kState, kOne, 12,
             {5, {{"rows", 1, {{1, {kRows, kOne}}}}, {"layers", 1, {{1, {kLayers, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}, {"d_state", 1, {{1, {kDState, kOne}}}}}},
             {}},
        },
    },
    {
        "Mamba2LazyStep", OperatorKind::kMamba2LazyStep,
        9, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"nheads", AttributeType::kInt, kNheads, 0, {}, 1},
            {"headdim", AttributeType::kInt, kHeaddim, 0, {}, 1},
            {"d_state", AttributeType::kInt, kDState, 0, {}, 1},
            {"ngroups", AttributeType::kInt, kNgroups, 0, {}, 1},
            {"d_conv", AttributeType::kInt, kDConv, 0, {}, 1},
            {"fold_every", AttributeType::kInt, kFoldEvery, 0, {}, 1},
            {"eps", AttributeType::kFloat, kOne, 0, {}, 1},
            {"has_active", AttributeType::kInt, kHasActive, 2, {"0", "1"}, 1},
        },
        14, {
            {"zxbcdt", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"2 * nheads * headdim + 2 * ngroups * d_state + nheads", 3, {{2, {kNheads, kHeaddim}}, {2, {kNgroups, kDState}}, {1, {kNheads, kOne}}}}}},
             {}},
            {"conv_weight", Element::kFloat32, kOne, -1,
             {2, {{"conv_dim", 1, {{1, {kConvDim, kOne}}}}, {"d_conv", 1, {{1, {kDConv, kOne}}}}}},
             {}},
            {"conv_bias", Element::kFloat32, kOne, -1,
             {1, {{"conv_dim", 1, {{1, {kConvDim, kOne}}}}}},
             {}},
            {"A", Element::kFloat32, kOne, -1,
             {1, {{"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {}},
            {"D", Element::kFloat32, kOne, -1,
             {1, {{"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {}},
            {"dt_bias", Element::kFloat32, kOne, -1,
             {1, {{"nheads", 1, {{1, {kNheads, kOne}}}}}},
             {}},
            {"norm_weight", Element::kFloat32, kOne, -1,
             {1, {{"nheads * headdim", 1, {{1, {kNheads, kHeaddim}}}}}},
             {}},
            {"conv_state", Element::kState, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"conv_dim", 1, {{1, {kConvDim, kOne}}}}, {"d_conv - 1", 2, {{1, {kDConv, kOne}}, {-1, {kOne, kOne}}}}}},
             {}},
            {"ssm_state", Element::kState, kOne, -1,
             {4, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}, {"d_state", 1, {{1, {kDState, kOne}}}}}},
             {}},
            {"x_history", Element::kState, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"capacity", 1, {{1, {kCapacity, kOne}}}}, {"nheads * headdim", 1, {{1, {kNheads, kHeaddim}}}}}},
             {}},
            {"B_history", Element::kState, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"capacity", 1, {{1, {kCapacity, kOne}}}}, {"ngroups * d_state", 1, {{1, {kNgroups, kDState}}}}}},
             {}},
            {"dt_history", Element::kFloat32, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"capacity", 1, {{1, {kCapacity, kOne}}}}}},
             {}},
            {"counters", Element::kFloat32, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"3", 1, {{3, {kOne, kOne}}}}}},
             {}},
            {"active", Element::kInt32, kHasActive, -1,
             {1, {{"rows", 1, {{1, {kRows, kOne}}}}}},
             {}},
        },
        7, {
            {"out", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads * headdim", 1, {{1, {kNheads, kHeaddim}}}}}},
             {}},
            {"conv_state_out", Element::kState, kOne, 7,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"conv_dim", 1, {{1, {kConvDim, kOne}}}}, {"d_conv - 1", 2, {{1, {kDConv, kOne}}, {-1, {kOne, kOne}}}}}},
             {}},
            {"ssm_state_out", Element::kState, kOne, 8,
             {4, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}, {"d_state", 1, {{1, {kDState, kOne}}}}}},
             {}},
            {"x_history_out", Element::kState, kOne, 9,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"capacity", 1, {{1, {kCapacity, kOne}}}}, {"nheads * headdim", 1, {{1, {kNheads, kHeaddim}}}}}},
             {}},
            {"B_history_out", Element::kState, kOne, 10,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"capacity", 1, {{1, {kCapacity, kOne}}}}, {"ngroups * d_state", 1, {{1, {kNgroups, kDState}}}}}},
             {}},
            {"dt_history_out", Element::kFloat32, kOne, 11,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"capacity", 1, {{1, {kCapacity, kOne}}}}}},
             {}},
            {"counters_out", Element::kFloat32, kOne, 12,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"3", 1, {{3, {kOne, kOne}}}}}},
             {}},
        },
    },
    {
        "AdaLnNorm", OperatorKind::kAdaLnNorm,
        5, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"gate_index", AttributeType::kInt, kGateIndex, 0, {}, 0},
            {"shift_index", AttributeType::kInt, kShiftIndex, 0, {}, 0},
            {"scale_index", AttributeType::kInt, kScaleIndex, 0, {}, 0},
            {"eps", AttributeType::kFloat, kOne, 0, {}, 1},
        },
        4, {
            {"hidden", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"d_model", 1, {{1, {kDModel, kOne}}}}}},
             {}},
            {"residual", Element::kFloat32, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"d_model", 1, {{1, {kDModel, kOne}}}}}},
             {}},
            {"modulation", Element::kFloat32, kOne, -1,
             {3, {{"rows", 1, {{1, {kRows, kOne}}}}, {"vectors", 1, {{1, {kVectors, kOne}}}}, {"d_model", 1, {{1, {kDModel, kOne}}}}}},
             {}},
            {"weight", Element::kFloat32, kOne, -1,
             {1, {{"d_model", 1, {{1, {kDModel, kOne}}}}}},
             {}},
        },
        2, {
            {"x", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"d_model", 1, {{1, {kDModel, kOne}}}}}},
             {}},
            {"residual_out", Element::kFloat32, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"d_model", 1, {{1, {kDModel, kOne}}}}}},
             {}},
        },
    },
    {
        "CachedAttention", OperatorKind::kCachedAttention,
        3, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"nheads", AttributeType::kInt, kNheads, 0, {}, 1},
            {"headdim", AttributeType::kInt, kHeaddim, 0, {}, 1},
        },
        5, {
            {"qkv", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"3 * nheads * headdim", 1, {{3, {kNheads, kHeaddim}}}}}},
             {}},
            {"rotary", Element::kFloat32, kOne, -1,
             {2, {{"num_tokens", 1, {{1, {kNumTokens, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}}},
             {}},
            {"position", Element::kInt32, kOne, -1,
             {1, {{"positions", 1, {{1, {kPositions, kOne}}}}}},
             {}},
            {"k_cache", Element::kState, kOne, -1,
             {4, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"num_tokens", 1, {{1, {kNumTokens, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}}},
             {}},
            {"v_cache", Element::kState, kOne, -1,
             {4, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"num_tokens", 1, {{1, {kNumTokens, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}}},
             {}},
        },
        3, {
            {"out", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads * headdim", 1, {{1, {kNheads, kHeaddim}}}}}},
             {}},
            {"k_cache_out", Element::kState, kOne, 3,
             {4, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"num_tokens", 1, {{1, {kNumTokens, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}}},
             {}},
            {"v_cache_out", Element::kState, kOne, 4,
             {4, {{"rows", 1, {{1, {kRows, kOne}}}}, {"nheads", 1, {{1, {kNheads, kOne}}}}, {"num_tokens", 1, {{1, {kNumTokens, kOne}}}}, {"headdim", 1, {{1, {kHeaddim, kOne}}}}}},
             {}},
        },
    },
    {
        "Linear", OperatorKind::kLinear,
        1, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
        },
        2, {
            {"x", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"in_features", 1, {{1, {kInFeatures, kOne}}}}}},
             {}},
            {"weight", Element::kActivation, kOne, -1,
             {2, {{"out_features", 1, {{1, {kOutFeatures, kOne}}}}, {"in_features", 1, {{1, {kInFeatures, kOne}}}}}},
             {}},
        },
        1, {
            {"y", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"out_features", 1, {{1, {kOutFeatures, kOne}}}}}},
             {}},
        },
    },
    {
        "SwiGlu", OperatorKind::kSwiGlu,
        1, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
        },
        2, {
            {"gate", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"d", 1, {{1, {kD, kOne}}}}}},
             {}},
            {"up", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"d", 1, {{1, {kD, kOne}}}}}},
             {}},
        },
        1, {
            {"y", Element::kActivation, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"d", 1, {{1, {kD, kOne}}}}}},
             {}},
        },
    },
    {
        "LinearQuantized", OperatorKind::kLinearQuantized,
        3, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"bits", AttributeType::kInt, kBits, 0, {}, 1},
            {"group_size", AttributeType::kInt, kGroupSize, 0, {}, 0},
        },
        3, {
            {"x", Element::kHalf, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"in_features", 1, {{1, {kInFeatures, kOne}}}}}},
             {}},
            {"weight", Element::kInt32, kOne, -1,
             {2, {{"out_features", 1, {{1, {kOutFeatures, kOne}}}}, {"words", 1, {{1, {kWords, kOne}}}}}},
             {}},
            {"scale", Element::kFloat32, kOne, -1,
             {2, {{"out_features", 1, {{1, {kOutFeatures, kOne}}}}, {"scales", 1, {{1, {kScales, kOne}}}}}},
             {}},
        },
        1, {
            {"y", Element::kHalf, kOne, -1,
             {2, {{"rows", 1, {{1, {kRows, kOne}}}}, {"out_features", 1, {{1, {kOutFeatures, kOne}}}}}},
             {}},
        },
    },
    {
        "GroupNormSilu", OperatorKind::kGroupNormSilu,
        4, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"groups", AttributeType::kInt, kGroups, 0, {}, 1},
            {"silu", AttributeType::kInt, kSilu, 2, {"0", "1"}, 1},
            {"eps", AttributeType::kFloat, kOne, 0, {}, 1},
        },
        3, {
            {"x", Element::kActivation, kOne, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"channels", 1, {{1, {kChannels, kOne}}}}, {"height", 1, {{1, {kHeight, kOne}}}}, {"width", 1, {{1, {kWidth, kOne}}}}}},
             {}, Images::kEither},
            {"weight", Element::kFloat32, kOne, -1,
             {1, {{"channels", 1, {{1, {kChannels, kOne}}}}}},
             {}},
            {"bias", Element::kFloat32, kOne, -1,
             {1, {{"channels", 1, {{1, {kChannels, kOne}}}}}},
             {}},
        },
        1, {
            {"y", Element::kActivation, kOne, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"channels", 1, {{1, {kChannels, kOne}}}}, {"height", 1, {{1, {kHeight, kOne}}}}, {"width", 1, {{1, {kWidth, kOne}}}}}},
             {}, Images::kEither},
        },
    },
    {
        "AddGroupNormSilu", OperatorKind::kAddGroupNormSilu,
        4, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"groups", AttributeType::kInt, kGroups, 0, {}, 1},
            {"silu", AttributeType::kInt, kSilu, 2, {"0", "1"}, 1},
            {"eps", AttributeType::kFloat, kOne, 0, {}, 1},
        },
        4, {
            {"x", Element::kActivation, kOne, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"channels", 1, {{1, {kChannels, kOne}}}}, {"height", 1, {{1, {kHeight, kOne}}}}, {"width", 1, {{1, {kWidth, kOne}}}}}},
             {}, Images::kEither},
            {"weight", Element::kFloat32, kOne, -1,
             {1, {{"channels", 1, {{1, {kChannels, kOne}}}}}},
             {}},
            {"bias", Element::kFloat32, kOne, -1,
             {1, {{"channels", 1, {{1, {kChannels, kOne}}}}}},
             {}},
            {"residual", Element::kActivation, kOne, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"channels", 1, {{1, {kChannels, kOne}}}}, {"height", 1, {{1, {kHeight, kOne}}}}, {"width", 1, {{1, {kWidth, kOne}}}}}},
             {}, Images::kEither},
        },
        2, {
            {"y", Element::kActivation, kOne, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"channels", 1, {{1, {kChannels, kOne}}}}, {"height", 1, {{1, {kHeight, kOne}}}}, {"width", 1, {{1, {kWidth, kOne}}}}}},
             {}, Images::kEither},
            {"sum", Element::kActivation, kOne, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"channels", 1, {{1, {kChannels, kOne}}}}, {"height", 1, {{1, {kHeight, kOne}}}}, {"width", 1, {{1, {kWidth, kOne}}}}}},
             {}, Images::kEither},
        },
    },
    {
        "NormConv", OperatorKind::kNormConv,
        5, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"groups", AttributeType::kInt, kGroups, 0, {}, 1},
            {"eps", AttributeType::kFloat, kOne, 0, {}, 1},
            {"has_norm", AttributeType::kInt, kHasNorm, 2, {"0", "1"}, 1},
            {"has_residual", AttributeType::kInt, kHasResidual, 2, {"0", "1"}, 1},
        },
        7, {
            {"x", Element::kHalf, kOne, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"64 * chunks", 1, {{64, {kChunks, kOne}}}}, {"height", 1, {{1, {kHeight, kOne}}}}, {"width", 1, {{1, {kWidth, kOne}}}}}},
             {}, Images::kChannelsLast},
            {"weight", Element::kHalf, kOne, -1,
             {6, {{"blocks", 1, {{1, {kBlocks, kOne}}}}, {"chunks", 1, {{1, {kChunks, kOne}}}}, {"9", 1, {{9, {kOne, kOne}}}}, {"8", 1, {{8, {kOne, kOne}}}}, {"128", 1, {{128, {kOne, kOne}}}}, {"8", 1, {{8, {kOne, kOne}}}}}},
             {}},
            {"bias", Element::kFloat32, kOne, -1,
             {1, {{"128 * blocks", 1, {{128, {kBlocks, kOne}}}}}},
             {}},
            {"next_weight", Element::kFloat32, kOne, -1,
             {1, {{"128 * blocks", 1, {{128, {kBlocks, kOne}}}}}},
             {}},
            {"next_bias", Element::kFloat32, kOne, -1,
             {1, {{"128 * blocks", 1, {{128, {kBlocks, kOne}}}}}},
             {}},
            {"affine", Element::kFloat32, kHasNorm, -1,
             {3, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"64 * chunks", 1, {{64, {kChunks, kOne}}}}, {"2", 1, {{2, {kOne, kOne}}}}}},
             {}},
            {"residual", Element::kHalf, kHasResidual, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"128 * blocks", 1, {{128, {kBlocks, kOne}}}}, {"height", 1, {{1, {kHeight, kOne}}}}, {"width", 1, {{1, {kWidth, kOne}}}}}},
             {}, Images::kChannelsLast},
        },
        2, {
            {"y", Element::kHalf, kOne, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"128 * blocks", 1, {{128, {kBlocks, kOne}}}}, {"height", 1, {{1, {kHeight, kOne}}}}, {"width", 1, {{1, {kWidth, kOne}}}}}},
             {}, Images::kChannelsLast},
            {"next_affine", Element::kFloat32, kOne, -1,
             {3, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"128 * blocks", 1, {{128, {kBlocks, kOne}}}}, {"2", 1, {{2, {kOne, kOne}}}}}},
             {}},
        },
    },
    {
        "UpsampleConv", OperatorKind::kUpsampleConv,
        3, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
            {"groups", AttributeType::kInt, kGroups, 0, {}, 1},
            {"eps", AttributeType::kFloat, kOne, 0, {}, 1},
        },
        5, {
            {"x", Element::kHalf, kOne, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"64 * chunks", 1, {{64, {kChunks, kOne}}}}, {"height", 1, {{1, {kHeight, kOne}}}}, {"width", 1, {{1, {kWidth, kOne}}}}}},
             {}, Images::kChannelsLast},
            {"weight", Element::kHalf, kOne, -1,
             {6, {{"4 * blocks", 1, {{4, {kBlocks, kOne}}}}, {"chunks", 1, {{1, {kChunks, kOne}}}}, {"4", 1, {{4, {kOne, kOne}}}}, {"8", 1, {{8, {kOne, kOne}}}}, {"128", 1, {{128, {kOne, kOne}}}}, {"8", 1, {{8, {kOne, kOne}}}}}},
             {}},
            {"bias", Element::kFloat32, kOne, -1,
             {1, {{"128 * blocks", 1, {{128, {kBlocks, kOne}}}}}},
             {}},
            {"next_weight", Element::kFloat32, kOne, -1,
             {1, {{"128 * blocks", 1, {{128, {kBlocks, kOne}}}}}},
             {}},
            {"next_bias", Element::kFloat32, kOne, -1,
             {1, {{"128 * blocks", 1, {{128, {kBlocks, kOne}}}}}},
             {}},
        },
        2, {
            {"y", Element::kHalf, kOne, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"128 * blocks", 1, {{128, {kBlocks, kOne}}}}, {"2 * height", 1, {{2, {kHeight, kOne}}}}, {"2 * width", 1, {{2, {kWidth, kOne}}}}}},
             {}, Images::kChannelsLast},
            {"next_affine", Element::kFloat32, kOne, -1,
             {3, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"128 * blocks", 1, {{128, {kBlocks, kOne}}}}, {"2", 1, {{2, {kOne, kOne}}}}}},
             {}},
        },
    },
    {
        "NormConvImage", OperatorKind::kNormConvImage,
        1, {
            {"aim_edge_version", AttributeType::kInt, kAimEdgeVersion, 0, {}, 1},
        },
        4, {
            {"x", Element::kHalf, kOne, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"64 * chunks", 1, {{64, {kChunks, kOne}}}}, {"height", 1, {{1, {kHeight, kOne}}}}, {"width", 1, {{1, {kWidth, kOne}}}}}},
             {}, Images::kChannelsLast},
            {"weight", Element::kHalf, kOne, -1,
             {6, {{"1", 1, {{1, {kOne, kOne}}}}, {"chunks", 1, {{1, {kChunks, kOne}}}}, {"9", 1, {{9, {kOne, kOne}}}}, {"8", 1, {{8, {kOne, kOne}}}}, {"8", 1, {{8, {kOne, kOne}}}}, {"8", 1, {{8, {kOne, kOne}}}}}},
             {}},
            {"bias", Element::kFloat32, kOne, -1,
             {1, {{"out_channels", 1, {{1, {kOutChannels, kOne}}}}}},
             {}},
            {"affine", Element::kFloat32, kOne, -1,
             {3, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"64 * chunks", 1, {{64, {kChunks, kOne}}}}, {"2", 1, {{2, {kOne, kOne}}}}}},
             {}},
        },
        1, {
            {"image", Element::kFloat32, kOne, -1,
             {4, {{"batch", 1, {{1, {kBatch, kOne}}}}, {"out_channels", 1, {{1, {kOutChannels, kOne}}}}, {"height", 1, {{1, {kHeight, kOne}}}}, {"width", 1, {{1, {kWidth, kOne}}}}}},
             {}},
        },
    },
};

constexpr int kOperatorCount = 16;

}  // namespace aim_edge
