// Which shapes go to linear_quantized_many, and how it shares them out.
#include "linear_quantized_many.cuh"

#if defined(AIM_KERNELS_EMULATED) || CUDART_VERSION >= 12000

#include <algorithm>
#include <cmath>

namespace aim_kernels {
namespace detail {
namespace {

constexpr const char* kOp = "linear_quantized";
constexpr int64_t kMostRows = 1 << 20, kMostFeatures = 1 << 24;
constexpr int kMostSplitBits = 2;
constexpr struct {
    int rows, features;
} kTiles[] = {{32, 64}, {64, 64}, {128, 64}, {64, 128}, {128, 128}, {256, 128}};
// With fewer rows the weights are most of the work, and linear_quantized.cu's loads are as good.
constexpr int64_t kLeastRows = 17;
constexpr int64_t kBlockBytes = 1024;  // of shared memory that each block takes beside its own
constexpr int64_t kLeastStages = 4;

// With 4 bits a sum is two numbers.
int sums_of(int bits, const LinearQuantizedManyPlan& plan) noexcept { return 8 / bits * plan.rows / 2; }
bool has_tile(int bits, const LinearQuantizedManyPlan& plan) noexcept {
    return bits == 8 || plan.rows * plan.features < 128 * 128;
}

TileLayout layout_of(const LinearQuantizedParams& p, const LinearQuantizedManyPlan& plan) noexcept {
    TileLayout layout(p, plan, quantized_many_stage(p.bits, plan.rows, plan.features),
                      quantized_many_other(plan.rows, plan.features, plan.splits));
    if (p.bits == 4) layout.share = (layout.share + 1) / 2 * 2;  // whole groups of scales
    return layout;
}

// Blocks of a multiprocessor that registers allow.
int64_t most_together(int bits, const LinearQuantizedManyPlan& plan) noexcept {
    if (plan.features == 64) return sums_of(bits, plan) <= 32 ? 3 : 2;
    return sums_of(bits, plan) <= 64 ? 2 : 1;
}

// What a plan is expected to take beyond what all take, in ns, fitted to 650 times of an H100. A chunk takes a block that is
// alone the time from its codes to its products, those of one multiprocessor together that of their instructions, and the
// ring that of a round trip; sums that are sent; turns; no room where blocks of the next kernel would start. The constants
// of 4 bits are from before their conversion took one instruction less.
double expected(const LinearQuantizedParams& p, const LinearQuantizedManyPlan& plan, const DeviceInfo& device) noexcept {
    const TileLayout layout = layout_of(p, plan);
    const int64_t fit = (device.shared_bytes + kBlockBytes) / (layout.bytes(plan.stages) + kBlockBytes);
    const int64_t places = std::min(most_together(p.bits, plan), fit) * device.sm_count;
    const int64_t turns = ceil_div(layout.blocks, places), last = layout.blocks - (turns - 1) * places;
    const bool fills = sums_of(p.bits, plan) * plan.features >= 64 * 128;  // their ring themselves: LinearQuantizedMany
    const double alone = (p.bits == 8 ? 155.0 : 290.0) + (fills ? 120.0 : 0.0);
    const double instructions = (88.0 + 0.75 * plan.rows) * plan.features / 64.0 * (p.bits == 8 ? 1.0 : 1.5);
    const auto chunk = [&](int64_t blocks) {
        const double together = static_cast<double>(ceil_div(blocks, device.sm_count)) * instructions;
        return std::hypot(std::hypot(alone, together), 630.0 / plan.stages);
    };
    double time = static_cast<double>(layout.share) * (static_cast<double>(turns - 1) * chunk(places) + chunk(last));
    time += 2530.0 * static_cast<double>(turns - 1);
    const double sent = quantized_bytes_sent(plan.rows, plan.features, plan.splits);
    time += static_cast<double>(ceil_div(layout.blocks, device.sm_count)) * sent / 17.0;
    const double room = static_cast<double>(places - last), wanted = static_cast<double>(std::min(layout.blocks, places));
    return time + 1010.0 * (1.0 - std::min(1.0, room / wanted));
}

template <typename T, int BITS, int ROWS, int FEATURES>
Status launch_tile(const LinearQuantizedParams& p, const LinearQuantizedManyPlan& plan, cudaStream_t stream) noexcept {
    const TileLayout layout = layout_of(p, plan);
    const int64_t least = LinearQuantizedMany<BITS, ROWS, FEATURES>::kLeastStages;
    if (plan.stages < std::min(layout.share, least)) {
        return fail(Status::kUnsupportedShape, "%s: %d stages of %d rows and %d features would wait for themselves", kOp,
                    plan.stages, ROWS, FEATURES);
    }
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
    if constexpr (BITS == 8) {  // with 4 there are too many sums
        AIM_TILE(128, 128);
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
    if (p.rows < kLeastRows || p.rows > kMostRows || p.out_features > kMostFeatures) return best;
    double least = 0.0;
    for (const auto& tile : kTiles) {
        plan.rows = tile.rows, plan.features = tile.features;
        if (!has_tile(p.bits, plan) || (tile.rows > 32 && p.rows * 2 <= tile.rows)) continue;
        for (int bits = 0; bits <= kMostSplitBits; ++bits) {
            plan.splits = 1 << bits;
            const TileLayout layout = layout_of(p, plan);
            for (int64_t together = 1; together <= most_together(p.bits, plan); ++together) {
                const int64_t stages = layout.stages_within((device.shared_bytes + kBlockBytes) / together - kBlockBytes);
                if (stages < std::min(layout.share, kLeastStages)) continue;
                plan.stages = static_cast<int>(stages);
                const double time = expected(p, plan, device);
                if (best.rows != 0 && time >= least) continue;
                best = plan;
                least = time;
            }
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
