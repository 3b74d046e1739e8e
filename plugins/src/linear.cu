// A block makes 16 or 32 features of up to 64 rows; its warps share the sum over in_features. The weights are the product's
// 16 x k operand and go from memory into registers, each line once; the rows are its k x 8 operands.
//
// A product does not care in which order k runs, so a lane takes 8 neighbours of a weight row, one 16-byte load, as
// what two m16n8k16 products want of it, and the same 8 of x.
#include "aim_kernels/linear.h"

#include "dependent.cuh"
#include "device_math.cuh"
#include "linear_many.h"
#include "mma.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "linear";
constexpr int kFeatures = 16;  // a tile
constexpr int kChunk = 32;     // of in_features: what the four lanes of a weight row load at a time
constexpr int kTileRows = 64;

struct LinearArgs {
    LinearParams p;
    int64_t row_tiles;
};

// MT tiles of 16 features by NT tiles of 8 rows. AHEAD chunks of weights are in flight at once a warp.
template <typename T, int WARPS, int MT, int NT, int AHEAD>
__global__ void __launch_bounds__(WARPS * 32) linear_kernel(const LinearArgs a) {
    constexpr int BLOCK_FEATURES = MT * kFeatures;
    __shared__ float partial[WARPS][NT * 8][BLOCK_FEATURES + 1];
    const LinearParams& p = a.p;
    const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32, g = lane / 4, q = lane % 4;
    const int64_t k_count = p.in_features;
    const int64_t feature0 = static_cast<int64_t>(blockIdx.x) / a.row_tiles * BLOCK_FEATURES;
    const int64_t row0 = static_cast<int64_t>(blockIdx.x) % a.row_tiles * kTileRows;
    const int features = static_cast<int>(min(static_cast<int64_t>(BLOCK_FEATURES), p.out_features - feature0));
    const T* weight = static_cast<const T*>(p.weight) + feature0 * k_count;
    if (tid == 0) prefetch_to_l2(weight, static_cast<unsigned>(features * k_count * sizeof(T)));
    const T* x = static_cast<const T*>(p.x) + row0 * k_count;
    const int rows = static_cast<int>(min(static_cast<int64_t>(NT * 8), p.rows - row0));
    const int chunks = static_cast<int>((k_count + kChunk - 1) / kChunk);
    // Features past the last repeat it: what they give is not stored.
    const T* line[MT][2];
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            line[m][half] = weight + min(m * kFeatures + half * 8 + g, features - 1) * k_count + q * 8;
        }
    }
    const T* mine = x + g * k_count + q * 8;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    uint4 w[AHEAD][MT][2];
    const auto load_weights = [&](int first) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int at = (first + i * WARPS) * kChunk;
            const bool inside = at + q * 8 < k_count;
#pragma unroll
            for (int m = 0; m < MT; ++m) {
                w[i][m][0] = inside ? *reinterpret_cast<const uint4*>(line[m][0] + at) : zero;
                w[i][m][1] = inside ? *reinterpret_cast<const uint4*>(line[m][1] + at) : zero;
            }
        }
    };
    load_weights(warp);  // the header says who may have written them
    wait_for_previous();
    let_next_start();

    float sum[MT][NT][4] = {};
    for (int first = warp; first < chunks; first += WARPS * AHEAD) {
        if (first != warp) load_weights(first);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int at = (first + i * WARPS) * kChunk;
            const bool inside = at + q * 8 < k_count;
            unsigned low[MT][4], high[MT][4];
#pragma unroll
            for (int m = 0; m < MT; ++m) {
                low[m][0] = w[i][m][0].x, low[m][1] = w[i][m][1].x, low[m][2] = w[i][m][0].y, low[m][3] = w[i][m][1].y;
                high[m][0] = w[i][m][0].z, high[m][1] = w[i][m][1].z;
                high[m][2] = w[i][m][0].w, high[m][3] = w[i][m][1].w;
            }
#pragma unroll
            for (int t = 0; t < NT; ++t) {
                const bool used = inside && t * 8 + g < rows;
                const uint4 v = used ? *reinterpret_cast<const uint4*>(mine + t * 8 * k_count + at) : zero;
#pragma unroll
                for (int m = 0; m < MT; ++m) {
                    mma<T>(sum[m][t], low[m], v.x, v.y);
                    mma<T>(sum[m][t], high[m], v.z, v.w);
                }
            }
        }
    }
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int t = 0; t < NT; ++t) {
#pragma unroll
            for (int i = 0; i < 4; ++i) {
                partial[warp][t * 8 + 2 * q + i % 2][m * kFeatures + g + i / 2 * 8] = sum[m][t][i];
            }
        }
    }
    __syncthreads();
    const int64_t first_y = row0 * p.out_features + feature0;
    for (int i = tid; i < rows * BLOCK_FEATURES; i += WARPS * 32) {
        const int row = i / BLOCK_FEATURES, feature = i % BLOCK_FEATURES;
        float total = 0.0f;
#pragma unroll
        for (int from = 0; from < WARPS; ++from) total += partial[from][row][feature];
        if (feature < features) store_as<T>(p.y, p.float32_y, first_y + row * p.out_features + feature, total);
    }
}

// float32, and 16-bit types before sm_80: a warp a feature, 8 rows at a time.
template <typename T>
__global__ void __launch_bounds__(128) plain_kernel(const LinearArgs a) {
    constexpr int kRows = 8, VEC = Vec16<T>::kSize;
    wait_for_previous();
    let_next_start();
    const LinearParams& p = a.p;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t feature = static_cast<int64_t>(blockIdx.x) / a.row_tiles * 4 + threadIdx.x / 32;
    const int64_t row0 = static_cast<int64_t>(blockIdx.x) % a.row_tiles * kRows;
    if (feature >= p.out_features) return;
    const T* weight = static_cast<const T*>(p.weight) + feature * p.in_features;
    const T* x = static_cast<const T*>(p.x) + row0 * p.in_features;
    const int rows = static_cast<int>(min(static_cast<int64_t>(kRows), p.rows - row0));
    float sum[kRows] = {};
    for (int64_t k = lane * VEC; k < p.in_features; k += 32 * VEC) {
        float w[VEC];
        Vec16<T>::unpack(*reinterpret_cast<const uint4*>(weight + k), w);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            if (r >= rows) break;
            float v[VEC];
            Vec16<T>::unpack(*reinterpret_cast<const uint4*>(x + r * p.in_features + k), v);
#pragma unroll
            for (int i = 0; i < VEC; ++i) sum[r] = fmaf(w[i], v[i], sum[r]);
        }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], offset);
        if (lane == 0 && r < rows) store_as<T>(p.y, p.float32_y, (row0 + r) * p.out_features + feature, sum[r]);
    }
}

template <typename T, int WARPS, int MT, int NT, int AHEAD>
Status launch_shape(const LinearArgs& args, cudaStream_t stream) noexcept {
    const int64_t blocks = ceil_div(args.p.out_features, MT * kFeatures) * args.row_tiles;
    return launch_dependent(kOp, linear_kernel<T, WARPS, MT, NT, AHEAD>, blocks, WARPS * 32, stream, args);
}

// Few rows: every chunk of a warp's in flight at once, up to 3072 features.
template <typename T, int NT>
Status launch_few(const LinearArgs& args, cudaStream_t stream) noexcept {
    constexpr int AHEAD = 6;
    if (args.p.in_features <= 4 * AHEAD * kChunk) return launch_shape<T, 4, 1, NT, AHEAD>(args, stream);
    if (args.p.in_features <= 8 * AHEAD * kChunk) return launch_shape<T, 8, 1, NT, AHEAD>(args, stream);
    return launch_shape<T, 16, 1, NT, AHEAD>(args, stream);
}

// Many rows: what is read of x, once for every tile of features, is most of the traffic. Two tiles a block halve it,
// where enough blocks are left to fill the device; else more warps share the sum.
template <typename T, int NT>
Status launch_many(const LinearArgs& args, int sm_count, cudaStream_t stream) noexcept {
    constexpr int AHEAD = 3;
    const int64_t wide = ceil_div(args.p.out_features, 2 * kFeatures) * args.row_tiles;
    if (wide >= sm_count) return launch_shape<T, 4, 2, NT, AHEAD>(args, stream);
    if (args.p.in_features <= 4 * AHEAD * kChunk) return launch_shape<T, 4, 1, NT, AHEAD>(args, stream);
    return launch_shape<T, 8, 1, NT, AHEAD>(args, stream);
}

template <typename T>
Status launch_plain(const LinearParams& p, cudaStream_t stream) noexcept {
    const LinearArgs args = {p, ceil_div(p.rows, 8)};
    return launch_dependent(kOp, plain_kernel<T>, ceil_div(p.out_features, 4) * args.row_tiles, 128, stream, args);
}

template <typename T>
Status launch_typed(const LinearParams& p, const DeviceInfo& device, cudaStream_t stream) noexcept {
    if (!device.tensor_cores) return launch_plain<T>(p, stream);
    const LinearManyPlan plan = plan_linear_many(p, device);
    if (plan.rows > 0) return launch_linear_many(p, plan, stream);
    const LinearArgs args = {p, ceil_div(p.rows, kTileRows)};
    if (p.rows <= 8) return launch_few<T, 1>(args, stream);
    if (p.rows <= 16) return launch_few<T, 2>(args, stream);
    if (p.rows <= 32) return launch_many<T, 4>(args, device.sm_count, stream);
    return launch_many<T, 8>(args, device.sm_count, stream);
}

}  // namespace

Status validate_shapes(const LinearParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positive(kOp, "out_features", p.out_features));
    if (p.in_features < 8 || p.in_features % 8 != 0 || p.in_features > (1 << 20)) {
        return fail(Status::kUnsupportedShape, "%s: in_features is %lld; supported: 8 to 1048576 in steps of 8", kOp,
                    static_cast<long long>(p.in_features));
    }
    return check_activation_dtype(kOp, p.dtype);
}

Status validate(const LinearParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    AIM_CHECK(check_pointer(kOp, "x", p.x));
    AIM_CHECK(check_aligned_16(kOp, "x", p.x));
    AIM_CHECK(check_pointer(kOp, "weight", p.weight));
    AIM_CHECK(check_aligned_16(kOp, "weight", p.weight));
    return check_pointer(kOp, "y", p.y);
}

Status launch(const LinearParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    const DeviceInfo device = device_info();
    AIM_CHECK(device.status);
    switch (p.dtype) {
        case DType::kFloat16: return launch_typed<__half>(p, device, stream);
        case DType::kBFloat16: return launch_typed<__nv_bfloat16>(p, device, stream);
        default: return launch_plain<float>(p, stream);
    }
}

}  // namespace aim_kernels
