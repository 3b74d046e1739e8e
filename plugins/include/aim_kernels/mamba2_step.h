// A whole decoding step but for the draw: the embedding, the layers of mamba2_layers, two norms in a row and the head.
//
//   residual = class_embedding at position 0, else table[token] + position_table[position + position_offset - 1]
//   residual = mamba2_layers(residual)
//   x = norm(norm(residual) * norm_f) * norm_final * (1 + scale) + shift, in dtype
//   logits = x head^T, summed and left in float32
//
// What mamba2_layers takes with one kernel, this does, too: the embedding is then its first loads, and the head's
// weights follow the last layer's into shared memory. Anything else is a chain of operators.
#pragma once

#include "aim_kernels/embed_norm.h"
#include "aim_kernels/mamba2_layers.h"

namespace aim_kernels {

// What comes before and after the layers. Dense; pointers are 16-byte aligned but for token, position, head_scale and
// logits.
struct StepEnds : Embedding {
    const void* head = nullptr;              // (V, d_model): as in_proj of dtype, where it may be table, or int8 codes
    const float* head_scale = nullptr;       // (V), of codes
    const float* final_modulation = nullptr; // (rows, 2, d_model): shift, then scale
    const float* norm_f = nullptr;           // (d_model)
    const float* norm_final = nullptr;       // (d_model)
    float* logits = nullptr;                 // (rows, V)
};

struct Mamba2StepParams {
    Mamba2LayersParams layers;  // residual and residual_out are not used; eps is of all norms
    StepEnds ends;
};

size_t workspace_bytes(const Mamba2StepParams& params) noexcept;
Status validate_shapes(const Mamba2StepParams& params) noexcept;
Status validate(const Mamba2StepParams& params) noexcept;
Status launch(const Mamba2StepParams& params, cudaStream_t stream) noexcept;

// Whether the current device takes these sizes and types with the one kernel.
bool resident(const Mamba2StepParams& params) noexcept;

}  // namespace aim_kernels
