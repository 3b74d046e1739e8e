// What linear_many and linear_quantized_many share of their plans: how a matrix product's tiles are divided among blocks, and
// what shared memory a block's ring takes.
#pragma once

#include <algorithm>

#include "tile_copy.cuh"

namespace aim_kernels {
namespace detail {

constexpr int kTileAlign = 1024;  // of a ring
constexpr int kMostStages = 16;

struct TileLayout {
    // Chunks of in_features that a block has; blocks in all; bytes of a stage, and beside the stages.
    int64_t share, blocks, stage_bytes, other_bytes;
    template <typename Params, typename Plan>
    TileLayout(const Params& p, const Plan& plan, int64_t of_stage, int64_t of_others) noexcept
        : share(ceil_div(ceil_div(p.in_features, kTileColumns), plan.splits)),
          blocks(ceil_div(p.rows, plan.rows) * ceil_div(p.out_features, plan.features) * plan.splits),
          stage_bytes(of_stage), other_bytes(of_others) {}
    int64_t stages_within(int64_t bytes) const noexcept {
        return std::min({share, (bytes - other_bytes) / stage_bytes, static_cast<int64_t>(kMostStages)});
    }
    int64_t bytes(int64_t stages) const noexcept { return other_bytes + stages * stage_bytes; }
};

}  // namespace detail
}  // namespace aim_kernels
