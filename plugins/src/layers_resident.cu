// mamba2_layers and mamba2_step for few rows: what the kernel can take, how its work is divided, and its launch.
#include "layers_resident.cuh"

#include <algorithm>

namespace aim_kernels {
namespace detail {
namespace {

constexpr const char* kOp = "mamba2_layers";
constexpr int kFewestUnits = 2, kMostUnits = 8, kMostWidth = 8;
constexpr int64_t kMostElements = INT32_MAX;  // of a state: offsets are 32 bits

// The blocks that the kernel runs with, all on the device at once.
int blocks_of(const DeviceInfo& device) noexcept {
#ifdef AIM_KERNELS_EMULATED
    return emulator::blocks_together(device.sm_count);
#else
    return device.sm_count;
#endif
}

Product divide(const void* weight, const float* scale, int features, int inputs, int item, int blocks) noexcept {
    Product m;
    m.weight = weight, m.scale = scale, m.features = features, m.inputs = inputs;
    m.a_block = static_cast<int>(ceil_div(features, 2 * blocks)) * 2;  // out_proj's travel in pairs
    // 64 bytes past a multiple of 128: eight lanes of two features, or of two rows, meet all banks.
    m.line = static_cast<int>(ceil_div(inputs * item - 64, 128)) * 128 + 64;
    m.a_unit = kUnitBytes / m.line < 16 ? kUnitBytes / m.line : 16;
    return m;
}

// Of the exchange's first part: the tags given, a number a block. The words come after it.
size_t given_bytes(const DeviceInfo& device) noexcept {
    return aligned(static_cast<size_t>(blocks_of(device)) * sizeof(unsigned));
}

ResidentArgs arguments(const Mamba2LayersParams& p, const StepEnds* ends, const DeviceInfo& device) noexcept {
    const int blocks = blocks_of(device);
    ResidentArgs a;
    a.p = p;
    a.d_inner = p.nheads * p.headdim;
    a.conv_dim = a.d_inner + 2 * p.ngroups * p.d_state;
    const int width = a.d_inner + a.conv_dim + p.nheads;
    const int item = p.weight_bits == 8 ? 1 : 2;
    a.product[0] = divide(p.in_proj, p.in_proj_scale, width, p.d_model, item, blocks);
    a.product[1] = divide(p.out_proj, p.out_proj_scale, p.d_model, a.d_inner, item, blocks);
    if (ends != nullptr) {
        a.ends = *ends;
        a.head = divide(ends->head, ends->head_scale, ends->vocab_size, p.d_model, item, blocks);
    }
    a.row_shift = p.rows <= 2 ? 1 : 2;
    const int rows = static_cast<int>(p.rows), most_a_row = rows < blocks ? blocks / rows : 1;
    a.lines_a_block = static_cast<int>(ceil_div(a.d_inner, 2 * most_a_row)) * 2;
    a.blocks_a_row = static_cast<int>(ceil_div(a.d_inner, a.lines_a_block));
    // Who has no share stays away: on a multiprocessor left free the kernel before may still run, or the next wait.
    a.blocks = rows * a.blocks_a_row;
    for (const Product& m : {a.product[0], a.product[1], a.head}) {
        if (m.features > 0) a.blocks = std::max(a.blocks, static_cast<int>(ceil_div(m.features, m.a_block)));
    }
    const int longest = a.d_inner > p.d_model ? a.d_inner : p.d_model;
    a.x_stride = static_cast<int>(ceil_div(longest - 32, 64)) * 64 + 32;
    a.zxbcdt = static_cast<Word*>(p.workspace);
    if (p.exchange != nullptr) {
        a.given = static_cast<unsigned*>(p.exchange);
        a.zxbcdt = reinterpret_cast<Word*>(static_cast<unsigned char*>(p.exchange) + given_bytes(device));
    }
    a.y = a.zxbcdt + p.rows * width;
    a.hidden = a.y + p.rows * a.d_inner / 2;
    return a;
}

// d_model, and half of d_inner, over 256.
int width_of(const ResidentArgs& a) noexcept {
    const int model = static_cast<int>(ceil_div(a.p.d_model, 256)), inner = static_cast<int>(ceil_div(a.d_inner, 512));
    return inner > model ? inner : model;
}

int units_of(const ResidentArgs& a, const DeviceInfo& device) noexcept {
    int units = kMostUnits;
    while (units >= kFewestUnits && layout_of(a, units).total > device.shared_bytes) --units;
    return units >= kFewestUnits ? units : 0;
}

template <typename S, typename W, int WIDTH, int ROWS, bool EXACT>
Status launch_sized(const ResidentArgs& a, cudaStream_t stream) noexcept {
    const size_t smem = static_cast<size_t>(layout_of(a, a.units).total);
    return launch_together(kOp, resident_kernel<S, W, WIDTH, ROWS, EXACT>, a.blocks, kResidentThreads + 32, smem, stream,
                           a, a.given != nullptr);
}

template <typename S, typename W, int WIDTH, bool EXACT>
Status launch_wide(const ResidentArgs& a, cudaStream_t stream) noexcept {
    return a.row_shift == 1 ? launch_sized<S, W, WIDTH, 2, EXACT>(a, stream)
                            : launch_sized<S, W, WIDTH, 4, EXACT>(a, stream);
}

// AiM's sizes, whichever of its widths; a warp's lines of the state are then few, or the device is small.
bool exact(const ResidentArgs& a) noexcept {
    const int width = width_of(a), pairs = width << a.row_shift, lines = (pairs / 2 + 3) / 4 * 4;
    return a.p.d_model == 256 * width && a.d_inner == 512 * width && a.p.headdim == 64 && a.p.d_state == 128 &&
           a.p.d_conv == 4 && a.lines_a_block <= lines * kResidentWarps;
}

template <typename S, typename W>
Status launch_typed(const ResidentArgs& a, cudaStream_t stream) noexcept {
    const int width = width_of(a);
    if (exact(a)) {
        switch (width) {
            case 3: return launch_wide<S, W, 3, true>(a, stream);  // AiM-B
            case 4: return launch_wide<S, W, 4, true>(a, stream);  // AiM-L
            case 6: return launch_wide<S, W, 6, true>(a, stream);  // AiM-XL
            case 8: return launch_wide<S, W, 8, true>(a, stream);  // AiM-1B
            default: break;
        }
    }
    if (width == 1) return launch_wide<S, W, 1, false>(a, stream);
    if (width <= 4) return launch_wide<S, W, 4, false>(a, stream);
    return launch_wide<S, W, kMostWidth, false>(a, stream);
}

}  // namespace

bool resident_fits(const Mamba2LayersParams& p, const StepEnds* ends, const DeviceInfo& device) noexcept {
    if (p.dtype != DType::kFloat16 || !device.dependent_launch || !device.cooperative || p.rows > kMostRows) return false;
    if (p.ngroups != 1 || p.d_state > 128 || p.conv_state_dtype != p.ssm_state_dtype) return false;
    const ResidentArgs a = arguments(p, ends, device);
    const int64_t state = p.rows * p.layers * static_cast<int64_t>(a.d_inner) * p.d_state;
    const int chunk = p.weight_bits == 8 ? Chunk<int8_t>::kInputs : Chunk<__half>::kInputs;
    const bool whole_chunks = p.d_model % chunk == 0 && a.d_inner % chunk == 0;
    return whole_chunks && a.product[0].a_unit > 0 && a.product[1].a_unit > 0 && state <= kMostElements &&
           width_of(a) <= kMostWidth && a.blocks <= blocks_of(device) && a.lines_a_block <= 16 * kResidentWarps &&
           a.product[0].a_block << a.row_shift <= kResidentThreads &&
           a.product[1].a_block << a.row_shift <= kResidentThreads &&
           units_of(a, device) != 0;
}

size_t resident_workspace(const Mamba2LayersParams& p) noexcept {
    const int64_t d_inner = static_cast<int64_t>(p.nheads) * p.headdim;
    const int64_t width = 2 * d_inner + 2 * static_cast<int64_t>(p.ngroups) * p.d_state + p.nheads;
    const int64_t words = width + d_inner / 2 + p.d_model / 2;
    return static_cast<size_t>(p.rows * words) * sizeof(Word);
}

size_t resident_exchange(const Mamba2LayersParams& p, const DeviceInfo& device) noexcept {
    return given_bytes(device) + resident_workspace(p);
}

Status launch_resident(const Mamba2LayersParams& p, const StepEnds* ends, const DeviceInfo& device,
                       cudaStream_t stream) noexcept {
    if (p.exchange == nullptr) AIM_CHECK(clear_workspace(kOp, p.workspace, resident_workspace(p), stream));
    ResidentArgs a = arguments(p, ends, device);
    a.units = units_of(a, device);
    if (p.weight_bits == 8) {
        return p.ssm_state_dtype == DType::kFloat16 ? launch_typed<__half, int8_t>(a, stream)
                                                    : launch_typed<float, int8_t>(a, stream);
    }
    return p.ssm_state_dtype == DType::kFloat16 ? launch_typed<__half, __half>(a, stream)
                                                : launch_typed<float, __half>(a, stream);
}

}  // namespace detail
}  // namespace aim_kernels
