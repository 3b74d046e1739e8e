// Attention of one decoding step over a cache of keys and values, in place:
//
//   q, k = turned by the position's angles; k and v are written to the caches at the position
//   out = softmax(q k^T / sqrt(headdim)) v over the positions 0..position
//
// Every head has keys of its own. Arithmetic is float32; of the caches only what lies before the position is read.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {

struct CachedAttentionParams {
    int64_t rows = 0;                      // >= 1
    int64_t positions = 0;                 // divides rows; row r is at position[r % positions]
    int32_t num_tokens = 0;                // T: 1 to 4096
    int32_t nheads = 0;                    // >= 1
    int32_t headdim = 0;                   // P: 8 to 128 in steps of 8
    DType dtype = DType::kFloat32;         // qkv and out
    DType state_dtype = DType::kFloat32;   // float32 or float16

    // All dense and 16-byte aligned but position.
    const void* qkv = nullptr;             // (rows, 3 * nheads * headdim): queries, keys, values
    // (T, P): cosine and sine of every angle in turn, for the neighbours (2i, 2i + 1) of a head.
    const float* rotary = nullptr;
    // (positions); one outside 0..T-1 counts as the nearest. It and the caches are read while the kernel before still
    // runs, where that is of this library: of those it may not be what writes them.
    const int32_t* position = nullptr;
    void* k_cache = nullptr;               // (rows, nheads, T, P): keys already turned; updated in place
    void* v_cache = nullptr;               // the same of values
    void* out = nullptr;                   // (rows, nheads * headdim)

    void* workspace = nullptr;             // 16-byte aligned; null where workspace_bytes() is 0
    size_t workspace_size = 0;             // bytes; at least workspace_bytes()
};

// Enough for any number of rows up to that given.
size_t workspace_bytes(const CachedAttentionParams& params) noexcept;
Status validate_shapes(const CachedAttentionParams& params) noexcept;
Status validate(const CachedAttentionParams& params) noexcept;
Status launch(const CachedAttentionParams& params, cudaStream_t stream) noexcept;

}  // namespace aim_kernels
