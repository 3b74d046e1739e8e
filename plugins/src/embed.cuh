// Where a step's rows come from, for whoever gathers them: which rows of the tables, and which sizes there are.
#pragma once

#include <cuda_runtime_api.h>

#include "aim_kernels/embed_norm.h"
#include "host.h"

namespace aim_kernels {
namespace detail {

// Where the tables have an image's token, and its place: the nearest one that they have.
__device__ __forceinline__ int clamp_index(int index, int count) { return min(max(index, 0), count - 1); }
__device__ __forceinline__ int64_t token_of(const Embedding& of, int64_t image) {
    return clamp_index(of.token[image], of.vocab_size);
}
__device__ __forceinline__ int64_t place_of(const Embedding& of, int position) {
    return clamp_index(max(position, 0) - 1 + of.position_offset, of.num_positions);
}

inline Status check_embedding(const char* op, const Embedding& of, int64_t rows) noexcept {
    AIM_CHECK(check_positions(op, of.positions, rows));
    AIM_CHECK(check_positive(op, "vocab_size", of.vocab_size));
    AIM_CHECK(check_positive(op, "num_positions", of.num_positions));
    if (of.position_offset == 0 || of.position_offset == 1) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: position_offset is %d; supported: 0 and 1", op,
                static_cast<int>(of.position_offset));
}

}  // namespace detail
}  // namespace aim_kernels
