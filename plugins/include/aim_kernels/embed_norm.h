// What lies between a decoding step's inputs and the first mixer of a decoder with adaptive LayerNorm modulation:
//
//   residual = class_embedding at position 0, else table[token] + position_table[position + position_offset - 1]
//   x        = residual / sqrt(mean of residual^2 + eps) * weight * (1 + scale) + shift
//
// shift and scale are vectors of `modulation`, by their index.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

// What a step's rows begin with. Dense; pointers are 16-byte aligned but for token and position.
struct Embedding {
    int64_t positions = 0;                   // divides rows; row r follows token and position r % positions
    int32_t vocab_size = 0;                  // V, >= 1
    int32_t num_positions = 0;               // >= 1
    int32_t position_offset = 1;             // 0 or 1
    // (positions). A token, or a place in a table, that is outside counts as the nearest that is inside.
    const int32_t* token = nullptr;
    const int32_t* position = nullptr;
    const float* class_embedding = nullptr;  // (rows, d_model)
    const void* table = nullptr;             // (V, d_model), of dtype
    const void* position_table = nullptr;    // (num_positions, d_model), of dtype
};

struct EmbedNormParams {
    Embedding embedding;
    int64_t rows = 0;                   // >= 1
    int64_t vectors = 0;                // of modulation, >= 1
    int64_t d_model = 0;                // 4 to 8192 in steps of 4
    int32_t shift_index = 0;            // 0 to vectors - 1, as the next
    int32_t scale_index = 0;
    float eps = 1e-5f;                  // >= 0
    DType dtype = DType::kFloat32;      // the tables and x
    bool residual_only = false;         // modulation, weight and x are not used and may be null

    // All dense and 16-byte aligned. The modulation and weight are read while the kernel before still runs, where that
    // is of this library: it may not be the one that writes them.
    const float* modulation = nullptr;  // (rows, vectors, d_model)
    const float* weight = nullptr;      // (d_model)
    void* x = nullptr;                  // (rows, d_model)
    float* residual = nullptr;          // (rows, d_model)
};

Status validate_shapes(const EmbedNormParams& params) noexcept;
Status validate(const EmbedNormParams& params) noexcept;
Status launch(const EmbedNormParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
