// Which shapes go to linear_quantized_many, and how it shares them out.
#include "linear_quantized_many.cuh"

#if defined(AIM_KERNELS_EMULATED) || CUDART_VERSION >= 12000

#include <algorithm>

namespace aim_kernels {
namespace detail {
namespace {

constexpr const char* kOp = "linear_quantized";
constexpr int64_t kMostRows = 1 << 20, kMostFeatures = 1 << 24;
constexpr int kMostSplitBits = 2;
constexpr struct {
    int rows, features;
} kTiles[] = {{32, 64}, {64, 64}, {128, 64}, {64, 128}, {128, 128}, {256, 128}};
// Of shared memory: what each of two blocks of a multiprocessor can have.
constexpr int64_t kHalfBytes = (228 / 2 - 1) * 1024;
constexpr int64_t kGoodStages = 4;

// What a plan's blocks are and have.
struct Layout {
    int64_t share, blocks, stage_bytes, other_bytes;
    Layout(const LinearQuantizedParams& p, const LinearQuantizedManyPlan& plan) noexcept
        : share(ceil_div(ceil_div(p.in_features, kTileColumns), plan.splits)),
          blocks(ceil_div(p.rows, plan.rows) * ceil_div(p.out_features, plan.features) * plan.splits),
          stage_bytes(quantized_many_stage(p.bits, plan.rows, plan.features)),
          other_bytes(quantized_many_other(plan.rows, plan.features, plan.splits)) {
        if (p.bits == 4) share = (share + 1) / 2 * 2;  // whole groups of scales
    }
    int64_t stages_within(int64_t bytes) const noexcept {
        return std::min({share, (bytes - other_bytes) / stage_bytes, static_cast<int64_t>(kMostQuantizedStages)});
    }
    int64_t bytes(int64_t stages) const noexcept { return other_bytes + stages * stage_bytes; }
};

// Fewer rows than this are as fast or faster without.
int64_t least_rows(const LinearQuantizedParams& p) noexcept {
    return p.bits == 8 ? 33 : 65;
}

// What a plan is expected to take beyond what all take, in ns.
double expected(const Layout& layout, const LinearQuantizedManyPlan& plan, int sm_count) noexcept {
    const int64_t together = layout.bytes(plan.stages) <= kHalfBytes ? 2 : 1;
    const int64_t blocks = ceil_div(layout.blocks, sm_count), turns = ceil_div(layout.blocks, sm_count * together);
    const double reads = static_cast<double>(layout.share * layout.stage_bytes), tile = plan.rows * plan.features;
    const double flight = static_cast<double>(std::min(blocks, together) * plan.stages * layout.stage_bytes);
    double time = static_cast<double>(blocks) * (reads / std::min(73.0, flight / 2200.0) + tile / 27.0);
    if (plan.splits > 1) time += 850.0 + static_cast<double>(blocks * (plan.splits - 1)) * tile * 4.0 / plan.splits / 10.0;
    time += 600.0 * static_cast<double>(turns - 1) + (together == 1 ? 3300.0 : 0.0);
    return time + static_cast<double>(layout.blocks) * reads / 20000.0;
}

template <typename T, int BITS, int ROWS, int FEATURES>
Status launch_tile(const LinearQuantizedParams& p, const LinearQuantizedManyPlan& plan, cudaStream_t stream) noexcept {
    const Layout layout(p, plan);
    LinearQuantizedManyArgs args = {};
    AIM_CHECK(make_tile_map(kOp, &args.x, p.x, p.rows, p.in_features, ROWS));
    AIM_CHECK(make_tile_map(kOp, &args.weight, p.weight, p.out_features, p.in_features * BITS / 16, FEATURES,
                            kTileColumns * BITS / 16));
    args.p = p;
    args.chunks = static_cast<int>(ceil_div(p.in_features, kTileColumns));
    args.share = static_cast<int>(layout.share);
    while (1 << args.split_bits < plan.splits) ++args.split_bits;
    args.row_tiles = static_cast<int>(ceil_div(p.rows, ROWS));
    args.stages = plan.stages;
    return launch_dependent(kOp, linear_quantized_many<T, BITS, ROWS, FEATURES>, layout.blocks,
                            LinearQuantizedMany<BITS, ROWS, FEATURES>::kThreads, stream, args,
                            static_cast<size_t>(layout.bytes(plan.stages)), plan.splits);
}

template <typename T, int BITS>
Status launch_typed(const LinearQuantizedParams& p, const LinearQuantizedManyPlan& plan, cudaStream_t stream) noexcept {
#define AIM_TILE(ROWS, FEATURES) \
    if (plan.rows == ROWS && plan.features == FEATURES) return launch_tile<T, BITS, ROWS, FEATURES>(p, plan, stream)
    AIM_TILE(32, 64);
    AIM_TILE(64, 64);
    AIM_TILE(128, 64);
    AIM_TILE(64, 128);
    AIM_TILE(128, 128);
    if constexpr (BITS == 8) {  // with 4 there are twice as many sums
        AIM_TILE(256, 128);
    }
#undef AIM_TILE
    return fail(Status::kUnsupportedShape, "%s: there is no tile of %d rows and %d features", kOp, plan.rows,
                plan.features);
}

}  // namespace

LinearQuantizedManyPlan plan_linear_quantized_many(const LinearQuantizedParams& p, const DeviceInfo& device) noexcept {
    LinearQuantizedManyPlan best, plan;
    // Eight features of a row of y are written at once, 16 bytes of 16-bit numbers.
    if (!p.float32_y && (p.out_features % 8 != 0 || reinterpret_cast<uintptr_t>(p.y) % 16 != 0)) return best;
    if (!device.warpgroup_products) return best;
    if (p.rows < least_rows(p) || p.rows > kMostRows || p.out_features > kMostFeatures) return best;
    double least = 0.0;
    for (const auto& tile : kTiles) {
        if (tile.rows > 64 && p.rows <= 64) continue;
        if (p.bits == 4 && tile.rows * tile.features > 128 * 128) continue;
        for (int bits = 0; bits <= kMostSplitBits; ++bits) {
            plan.rows = tile.rows, plan.features = tile.features, plan.splits = 1 << bits;
            const Layout layout(p, plan);
            const int64_t most = device.shared_bytes, enough = std::min(layout.share, kGoodStages);
            int64_t stages = layout.stages_within(std::min(kHalfBytes, most));
            if (stages < enough) stages = layout.stages_within(most);
            if (stages < std::min<int64_t>(layout.share, 2)) continue;
            plan.stages = static_cast<int>(stages);
            const double time = expected(layout, plan, device.sm_count);
            if (best.rows != 0 && time >= least) continue;
            best = plan;
            least = time;
        }
    }
    return best;
}

Status launch_linear_quantized_many(const LinearQuantizedParams& p, const LinearQuantizedManyPlan& plan,
                                    cudaStream_t stream) noexcept {
    if (p.dtype == DType::kFloat16) {
        return p.bits == 8 ? launch_typed<__half, 8>(p, plan, stream) : launch_typed<__half, 4>(p, plan, stream);
    }
    return p.bits == 8 ? launch_typed<__nv_bfloat16, 8>(p, plan, stream)
                       : launch_typed<__nv_bfloat16, 4>(p, plan, stream);
}

}  // namespace detail
}  // namespace aim_kernels

#else  // CUDA 11 has neither sm_90a nor tile maps

namespace aim_kernels {
namespace detail {

LinearQuantizedManyPlan plan_linear_quantized_many(const LinearQuantizedParams&, const DeviceInfo&) noexcept {
    return LinearQuantizedManyPlan();
}
Status launch_linear_quantized_many(const LinearQuantizedParams&, const LinearQuantizedManyPlan&, cudaStream_t) noexcept {
    return fail(Status::kUnsupportedArch, "linear_quantized: this library was built without tiles of many rows");
}

}  // namespace detail
}  // namespace aim_kernels

#endif
