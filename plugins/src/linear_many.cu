// Which shapes go to linear_many, and how it shares them out.
#include "linear_many.cuh"

#if defined(AIM_KERNELS_EMULATED) || CUDART_VERSION >= 12000

#include <algorithm>

namespace aim_kernels {
namespace detail {
namespace {

constexpr const char* kOp = "linear";
constexpr int64_t kMostRows = 1 << 20, kMostFeatures = 1 << 24;
constexpr int kSplits[] = {1, 2, 4};
constexpr struct {
    int rows, features;
} kTiles[] = {{64, 32}, {64, 64}, {64, 112}, {128, 64}, {128, 112}, {128, 144}, {128, 208}, {128, 256}};
// Of shared memory: what each of two blocks of a multiprocessor can have.
constexpr int64_t kHalfBytes = (228 / 2 - 1) * 1024;
constexpr int64_t kGoodStages = 4, kLeastStages = 2;

TileLayout layout_of(const LinearParams& p, const LinearManyPlan& plan) noexcept {
    return TileLayout(p, plan, linear_many_stage(plan.rows, plan.features),
                      linear_many_other(plan.rows, plan.features, plan.splits));
}

// Fewer rows than this are as fast or faster without, by the time of an H100: weights that take the memory long leave time
// for tiles of 64 rows that are mostly empty.
int64_t least_rows(const LinearParams& p) noexcept {
    const int64_t weights = p.in_features * p.out_features;
    return weights >= int64_t{8} << 20 ? 9 : weights >= int64_t{4} << 20 ? 17 : 33;
}

// So few rows leave half of a tile empty. Their time is the memory's, and what counts is that the next kernel's blocks can
// start beside these: with AiM-XL's in_proj at 16 rows in blocks that leave no room a whole step took 9% longer.
constexpr int64_t kFewRows = 32;

// Blocks of a cluster are neighbours, so some multiprocessors are left over.
int64_t usable(int sm_count, int splits) noexcept { return std::max(sm_count - 4 * (splits - 1), 1); }

// What a plan is expected to take beyond what all take, in ns, fitted to 1000 times of an H100: a multiprocessor's chunks, each
// by its products or by its bytes, at what it reads or what its ring holds a round trip; sums that are sent; turns; blocks
// that are alone, so that none of the next kernel's starts beside them; what the L2 gives in all.
double expected(const TileLayout& layout, const LinearManyPlan& plan, int sm_count) noexcept {
    const int64_t together = layout.bytes(plan.stages) <= kHalfBytes ? 2 : 1, sms = usable(sm_count, plan.splits);
    const int64_t blocks = ceil_div(layout.blocks, sms), turns = ceil_div(layout.blocks, sms * together);
    const double chunks = static_cast<double>(blocks * layout.share), tile = plan.rows * plan.features;
    const double flight = static_cast<double>(std::min(blocks, together) * plan.stages * layout.stage_bytes);
    const double read = static_cast<double>(layout.stage_bytes) / std::min(92.0, flight / 2050.0);
    double time = chunks * (26.0 + std::max(read, tile / 33.0)) + static_cast<double>(blocks) * tile / 140.0;
    if (plan.splits > 1) time += 600.0 + static_cast<double>(blocks * (plan.splits - 1)) * tile * 4.0 / plan.splits / 14.0;
    time += 530.0 * static_cast<double>(turns - 1) + (together == 1 ? 2000.0 : 0.0);
    return time + static_cast<double>(layout.blocks * layout.share * layout.stage_bytes) / 11700.0;
}

template <typename T, int ROWS, int N>
Status launch_tile(const LinearParams& p, const LinearManyPlan& plan, cudaStream_t stream) noexcept {
    if (plan.splits > 1 && N >= kUnsplitFeatures) {
        return fail(Status::kUnsupportedShape, "%s: tiles of %d features have no splits", kOp, N);
    }
    const TileLayout layout = layout_of(p, plan);
    LinearManyArgs args;
    AIM_CHECK(make_tile_map(kOp, &args.x, p.x, p.rows, p.in_features, ROWS));
    AIM_CHECK(make_tile_map(kOp, &args.weight, p.weight, p.out_features, p.in_features, N));
    args.p = p;
    args.chunks = static_cast<int>(ceil_div(p.in_features, kTileColumns));
    args.share = static_cast<int>(layout.share);
    args.splits = plan.splits;
    args.row_tiles = static_cast<int>(ceil_div(p.rows, ROWS));
    args.tiles = static_cast<int>(layout.blocks / plan.splits);
    args.stages = plan.stages;
    const int64_t blocks = plan.blocks > 0 ? plan.blocks : layout.blocks;
    return launch_dependent(kOp, linear_many<T, ROWS, N>, blocks, LinearMany<ROWS, N>::kThreads, stream, args,
                            static_cast<size_t>(layout.bytes(plan.stages)), plan.splits);
}

template <typename T>
Status launch_typed(const LinearParams& p, const LinearManyPlan& plan, cudaStream_t stream) noexcept {
#define AIM_TILE(ROWS, N) \
    if (plan.rows == ROWS && plan.features == N) return launch_tile<T, ROWS, N>(p, plan, stream)
    AIM_TILE(64, 32);
    AIM_TILE(64, 64);
    AIM_TILE(64, 112);
    AIM_TILE(128, 64);
    AIM_TILE(128, 112);
    AIM_TILE(128, 144);
    AIM_TILE(128, 208);
    AIM_TILE(128, 256);
#undef AIM_TILE
    return fail(Status::kUnsupportedShape, "%s: there is no tile of %d rows and %d features", kOp, plan.rows,
                plan.features);
}

}  // namespace

LinearManyPlan plan_linear_many(const LinearParams& p, const DeviceInfo& device) noexcept {
    LinearManyPlan best, plan;
    // Eight features of a row of y are written at once, 16 bytes of 16-bit numbers.
    if (p.out_features % 8 != 0 || reinterpret_cast<uintptr_t>(p.y) % 16 != 0) return best;
    if (!device.warpgroup_products) return best;
    if (p.rows < least_rows(p) || p.rows > kMostRows || p.out_features > kMostFeatures) return best;
    double least = 0.0;
    for (const auto& tile : kTiles) {
        if (tile.rows > 64 && p.rows <= 64) continue;
        for (const int splits : kSplits) {
            if (splits > 1 && tile.features >= kUnsplitFeatures) continue;
            plan.rows = tile.rows, plan.features = tile.features, plan.splits = splits;
            const TileLayout layout = layout_of(p, plan);
            // A ring that leaves room for another block, or all there is.
            for (const bool all : {false, true}) {
                if (all && p.rows <= kFewRows) continue;
                const int64_t most = device.shared_bytes;
                const int64_t stages = layout.stages_within(all ? most : std::min(kHalfBytes, most));
                if (stages < std::min(layout.share, all ? kLeastStages : kGoodStages)) continue;
                plan.stages = static_cast<int>(stages);
                const int64_t together = layout.bytes(stages) <= kHalfBytes ? 2 : 1;
                plan.blocks = splits > 1 ? 0 : static_cast<int>(std::min(layout.blocks, device.sm_count * together));
                const double time = expected(layout, plan, device.sm_count);
                if (best.rows != 0 && time >= least) continue;
                best = plan;
                least = time;
            }
        }
    }
    return best;
}

Status launch_linear_many(const LinearParams& p, const LinearManyPlan& plan, cudaStream_t stream) noexcept {
    return p.dtype == DType::kFloat16 ? launch_typed<__half>(p, plan, stream)
                                      : launch_typed<__nv_bfloat16>(p, plan, stream);
}

}  // namespace detail
}  // namespace aim_kernels

#else  // CUDA 11 has neither sm_90a nor tile maps

namespace aim_kernels {
namespace detail {

LinearManyPlan plan_linear_many(const LinearParams&, const DeviceInfo&) noexcept { return LinearManyPlan(); }
Status launch_linear_many(const LinearParams&, const LinearManyPlan&, cudaStream_t) noexcept {
    return fail(Status::kUnsupportedArch, "linear: this library was built without tiles of many rows");
}

}  // namespace detail
}  // namespace aim_kernels

#endif
