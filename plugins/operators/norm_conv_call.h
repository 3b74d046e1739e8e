// NormConv, UpsampleConv and NormConvImage: three operators over one kernel.
#pragma once

#include "call.h"

namespace aim_edge {

bool is_norm_conv(OperatorKind kind) noexcept;

// Of a call whose images have their channels last.
aim_kernels::NormConvParams norm_conv_params(OperatorKind kind, const Call& call) noexcept;

// Where the images have their channels second, the workspace holds them turned around, too.
size_t norm_conv_workspace(OperatorKind kind, const Call& call) noexcept;
aim_kernels::Status launch_norm_conv(OperatorKind kind, const Call& call, cudaStream_t stream) noexcept;

}  // namespace aim_edge
