// The parameters of the operators that a decoding step consists of.
#pragma once

#include "call.h"

namespace aim_edge {

aim_kernels::Mamba2DecodeStepParams mamba2_decode_step_params(const Call& call) noexcept;
aim_kernels::Mamba2LayersParams mamba2_layers_params(const Call& call) noexcept;
aim_kernels::Mamba2LayersParams mamba2_layers_quantized_params(const Call& call) noexcept;
aim_kernels::Mamba2StepParams mamba2_step_params(const Call& call) noexcept;
aim_kernels::Mamba2StepParams mamba2_step_quantized_params(const Call& call) noexcept;
aim_kernels::Mamba2LazyStepParams mamba2_lazy_step_params(const Call& call) noexcept;
aim_kernels::AdaLnNormParams ada_ln_norm_params(const Call& call) noexcept;
aim_kernels::EmbedNormParams embed_norm_params(const Call& call) noexcept;
aim_kernels::FinalNormParams final_norm_params(const Call& call) noexcept;
aim_kernels::CachedAttentionParams cached_attention_params(const Call& call) noexcept;
// Of Linear and LinearFloat32: the latter's y is float32. Likewise the quantized one's.
aim_kernels::LinearParams linear_params(const Call& call, bool float32_y) noexcept;
aim_kernels::SwiGluParams swi_glu_params(const Call& call) noexcept;
aim_kernels::LinearQuantizedParams linear_quantized_params(const Call& call, bool float32_y) noexcept;

}  // namespace aim_edge
