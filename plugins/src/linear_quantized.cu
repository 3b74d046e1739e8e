// As linear.cu, whose comments say why: a block makes 16 or 32 features of up to 64 rows, its warps share the sum. A lane
// takes 16 bytes of a weight row, 16 or 32 codes, and the same of x: a chunk is what its four lanes hold. With 4 bits that
// is 128 features, a group, whose sum is scaled on its way into the row's.
#include "aim_kernels/linear_quantized.h"

#include "dependent.cuh"
#include "device_math.cuh"
#include "linear_quantized.cuh"
#include "linear_quantized_many.h"
#include "mma.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "linear_quantized";
constexpr int kFeatures = 16;  // a tile
constexpr int kGroup = 128;    // of in_features that share a scale, with 4 bits
constexpr int kTileRows = 64;

struct LinearQuantizedArgs {
    LinearQuantizedParams p;
    int64_t row_tiles;
};

template <typename T, int BITS>
struct Codes;

// A word is four codes, a product's a lane.
template <typename T>
struct Codes<T, 8> {
    static constexpr int kLane = 16, kProducts = 4;
    static __device__ __forceinline__ void spread(const uint4& raw, unsigned (&pairs)[kProducts][2]) {
        const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) spread8(words[i], pairs[i], T());
    }
    static __device__ __forceinline__ void arrange(const uint4& v, unsigned (&pairs)[4]) {
        pairs[0] = v.x, pairs[1] = v.y, pairs[2] = v.z, pairs[3] = v.w;
    }
};

template <typename T>
struct Codes<T, 4> {
    static constexpr int kLane = 32, kProducts = 8;
    static __device__ __forceinline__ void spread(const uint4& raw, unsigned (&pairs)[kProducts][2]) {
        const unsigned words[4] = {raw.x, raw.y, raw.z, raw.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            unsigned four[4];
            spread4<T>(words[i], four);
            pairs[2 * i][0] = four[0], pairs[2 * i][1] = four[1];
            pairs[2 * i + 1][0] = four[2], pairs[2 * i + 1][1] = four[3];
        }
    }
    static __device__ __forceinline__ void arrange(const uint4& v, unsigned (&pairs)[4]) { interleave(v, pairs); }
};

// MT tiles of 16 features by NT tiles of 8 rows. AHEAD chunks of weights are in flight at once a warp.
template <typename T, int BITS, int WARPS, int MT, int NT, int AHEAD>
__global__ void __launch_bounds__(WARPS * 32) linear_quantized_kernel(const LinearQuantizedArgs a) {
    using Code = Codes<T, BITS>;
    constexpr int BLOCK_FEATURES = MT * kFeatures, LANE = Code::kLane, CHUNK = 4 * LANE, PRODUCTS = Code::kProducts;
    __shared__ float partial[WARPS][NT * 8][BLOCK_FEATURES + 1];
    const LinearQuantizedParams& p = a.p;
    const int tid = static_cast<int>(threadIdx.x), warp = tid / 32, lane = tid % 32, g = lane / 4, q = lane % 4;
    const int64_t k_count = p.in_features, row_bytes = k_count * BITS / 8;
    const int64_t feature0 = static_cast<int64_t>(blockIdx.x) / a.row_tiles * BLOCK_FEATURES;
    const int64_t row0 = static_cast<int64_t>(blockIdx.x) % a.row_tiles * kTileRows;
    const int features = static_cast<int>(min(static_cast<int64_t>(BLOCK_FEATURES), p.out_features - feature0));
    const int chunks = static_cast<int>((k_count + CHUNK - 1) / CHUNK);
    const int groups = BITS == 4 ? chunks : 1;
    const char* weight = static_cast<const char*>(p.weight) + feature0 * row_bytes;
    const float* scale = p.scale + feature0 * groups;
    if (tid == 0) prefetch_to_l2(weight, static_cast<unsigned>(features * row_bytes));
    const T* x = static_cast<const T*>(p.x) + row0 * k_count;
    const int rows = static_cast<int>(min(static_cast<int64_t>(NT * 8), p.rows - row0));
    // Features past the last repeat it: what they give is not stored.
    const char* line[MT][2];
    const float* scales[MT][2];
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int feature = min(m * kFeatures + half * 8 + g, features - 1);
            line[m][half] = weight + feature * row_bytes + q * 16;
            scales[m][half] = scale + static_cast<int64_t>(feature) * groups;
        }
    }
    const T* mine = x + g * k_count + q * LANE;
    const uint4 zero = make_uint4(0, 0, 0, 0);
    uint4 w[AHEAD][MT][2];
    float s[AHEAD][MT][2];
    const auto load_weights = [&](int first) {
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            const int chunk = first + i * WARPS;
            const bool inside = static_cast<int64_t>(chunk) * CHUNK + q * LANE < k_count;
#pragma unroll
            for (int m = 0; m < MT; ++m) {
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    w[i][m][half] = inside ? *reinterpret_cast<const uint4*>(line[m][half] + chunk * 64) : zero;
                    s[i][m][half] = BITS == 4 && chunk < chunks ? scales[m][half][chunk] : 0.0f;
                }
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
            const int at = (first + i * WARPS) * CHUNK;
            const bool inside = at + q * LANE < k_count;
            unsigned codes[MT][PRODUCTS][4];
#pragma unroll
            for (int m = 0; m < MT; ++m) {
                unsigned low[PRODUCTS][2], high[PRODUCTS][2];
                Code::spread(w[i][m][0], low);
                Code::spread(w[i][m][1], high);
#pragma unroll
                for (int j = 0; j < PRODUCTS; ++j) {
                    codes[m][j][0] = low[j][0], codes[m][j][1] = high[j][0];
                    codes[m][j][2] = low[j][1], codes[m][j][3] = high[j][1];
                }
            }
#pragma unroll
            for (int t = 0; t < NT; ++t) {
                const bool used = inside && t * 8 + g < rows;
                const uint4* from = reinterpret_cast<const uint4*>(mine + t * 8 * k_count + at);
                uint4 v[PRODUCTS / 2];
#pragma unroll
                for (int j = 0; j < PRODUCTS / 2; ++j) v[j] = used ? from[j] : zero;
                float group[MT][4] = {};
#pragma unroll
                for (int j = 0; j < PRODUCTS / 2; ++j) {
                    unsigned pairs[4];
                    Code::arrange(v[j], pairs);
#pragma unroll
                    for (int m = 0; m < MT; ++m) {
                        float(&into)[4] = BITS == 4 ? group[m] : sum[m][t];
                        mma<T>(into, codes[m][2 * j], pairs[0], pairs[1]);
                        mma<T>(into, codes[m][2 * j + 1], pairs[2], pairs[3]);
                    }
                }
                if (BITS == 4) {
#pragma unroll
                    for (int m = 0; m < MT; ++m) {
#pragma unroll
                        for (int e = 0; e < 4; ++e) sum[m][t][e] = fmaf(group[m][e], s[i][m][e / 2], sum[m][t][e]);
                    }
                }
            }
        }
    }
#pragma unroll
    for (int m = 0; m < MT; ++m) {
#pragma unroll
        for (int t = 0; t < NT; ++t) {
#pragma unroll
            for (int e = 0; e < 4; ++e) partial[warp][t * 8 + 2 * q + e % 2][m * kFeatures + g + e / 2 * 8] = sum[m][t][e];
        }
    }
    __syncthreads();
    const int64_t first_y = row0 * p.out_features + feature0;
    for (int i = tid; i < rows * BLOCK_FEATURES; i += WARPS * 32) {
        const int row = i / BLOCK_FEATURES, feature = i % BLOCK_FEATURES;
        if (feature >= features) continue;
        float total = 0.0f;
#pragma unroll
        for (int from = 0; from < WARPS; ++from) total += partial[from][row][feature];
        if (BITS == 8) total *= scale[feature];
        store_as<T>(p.y, p.float32_y, first_y + row * p.out_features + feature, total);
    }
}

// Before sm_80: a warp a feature, 8 rows at a time, a lane a word's or half a word's 4 codes.
template <typename T, int BITS>
__global__ void __launch_bounds__(128) plain_kernel(const LinearQuantizedArgs a) {
    constexpr int kRows = 8;
    wait_for_previous();
    let_next_start();
    const LinearQuantizedParams& p = a.p;
    const int lane = static_cast<int>(threadIdx.x) % 32;
    const int64_t feature = static_cast<int64_t>(blockIdx.x) / a.row_tiles * 4 + threadIdx.x / 32;
    const int64_t row0 = static_cast<int64_t>(blockIdx.x) % a.row_tiles * kRows;
    if (feature >= p.out_features) return;
    const int64_t groups = BITS == 4 ? (p.in_features + kGroup - 1) / kGroup : 1;
    const unsigned char* weight = static_cast<const unsigned char*>(p.weight) + feature * p.in_features * BITS / 8;
    const T* x = static_cast<const T*>(p.x) + row0 * p.in_features;
    const int rows = static_cast<int>(min(static_cast<int64_t>(kRows), p.rows - row0));
    float sum[kRows] = {};
    for (int64_t k = lane * 4; k < p.in_features; k += 128) {
        const float scale = BITS == 4 ? p.scale[feature * groups + k / kGroup] : 1.0f;
        float codes[4];
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const int byte = weight[(k + i) * BITS / 8];
            codes[i] = static_cast<float>(BITS == 8 ? (byte ^ 128) - 128 : (byte >> i % 2 * 4 & 15) - 8) * scale;
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
            if (r >= rows) break;
#pragma unroll
            for (int i = 0; i < 4; ++i) sum[r] = fmaf(codes[i], to_float(x[r * p.in_features + k + i]), sum[r]);
        }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
        for (int offset = 16; offset > 0; offset /= 2) sum[r] += __shfl_xor_sync(0xffffffffu, sum[r], offset);
        if (lane == 0 && r < rows) {
            const float total = BITS == 8 ? sum[r] * p.scale[feature] : sum[r];
            store_as<T>(p.y, p.float32_y, (row0 + r) * p.out_features + feature, total);
        }
    }
}

template <typename T, int BITS, int WARPS, int MT, int NT, int AHEAD>
Status launch_shape(const LinearQuantizedArgs& args, cudaStream_t stream) noexcept {
    const int64_t blocks = ceil_div(args.p.out_features, MT * kFeatures) * args.row_tiles;
    return launch_dependent(kOp, linear_quantized_kernel<T, BITS, WARPS, MT, NT, AHEAD>, blocks, WARPS * 32, stream, args);
}

// Few rows: every chunk of a warp's in flight at once, up to 3072 features with 8 bits and 4096 with 4.
template <typename T, int BITS, int NT>
Status launch_few(const LinearQuantizedArgs& args, cudaStream_t stream) noexcept {
    constexpr int AHEAD = BITS == 8 ? 3 : 2, REACH = AHEAD * 4 * Codes<T, BITS>::kLane;
    if (args.p.in_features <= 4 * REACH) return launch_shape<T, BITS, 4, 1, NT, AHEAD>(args, stream);
    if (args.p.in_features <= 8 * REACH) return launch_shape<T, BITS, 8, 1, NT, AHEAD>(args, stream);
    return launch_shape<T, BITS, 16, 1, NT, AHEAD>(args, stream);
}

template <typename T, int BITS, int NT>
Status launch_many(const LinearQuantizedArgs& args, int sm_count, cudaStream_t stream) noexcept {
    constexpr int AHEAD = BITS == 8 ? 2 : 1, REACH = AHEAD * 4 * Codes<T, BITS>::kLane;
    const int64_t wide = ceil_div(args.p.out_features, 2 * kFeatures) * args.row_tiles;
    if (wide >= sm_count) return launch_shape<T, BITS, 4, 2, NT, AHEAD>(args, stream);
    if (args.p.in_features <= 4 * REACH) return launch_shape<T, BITS, 4, 1, NT, AHEAD>(args, stream);
    return launch_shape<T, BITS, 8, 1, NT, AHEAD>(args, stream);
}

template <typename T, int BITS>
Status launch_typed(const LinearQuantizedParams& p, const DeviceInfo& device, cudaStream_t stream) noexcept {
    if (!device.tensor_cores) {
        const LinearQuantizedArgs args = {p, ceil_div(p.rows, 8)};
        const int64_t blocks = ceil_div(p.out_features, 4) * args.row_tiles;
        return launch_dependent(kOp, plain_kernel<T, BITS>, blocks, 128, stream, args);
    }
    const LinearQuantizedManyPlan plan = plan_linear_quantized_many(p, device);
    if (plan.rows > 0) return launch_linear_quantized_many(p, plan, stream);
    const LinearQuantizedArgs args = {p, ceil_div(p.rows, kTileRows)};
    if (p.rows <= 8) return launch_few<T, BITS, 1>(args, stream);
    if (p.rows <= 16) return launch_few<T, BITS, 2>(args, stream);
    if (p.rows <= 32) return launch_many<T, BITS, 4>(args, device.sm_count, stream);
    return launch_many<T, BITS, 8>(args, device.sm_count, stream);
}

}  // namespace

Status validate_shapes(const LinearQuantizedParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positive(kOp, "out_features", p.out_features));
    if (p.in_features < 32 || p.in_features % 32 != 0 || p.in_features > (1 << 20)) {
        return fail(Status::kUnsupportedShape, "%s: in_features is %lld; supported: 32 to 1048576 in steps of 32", kOp,
                    static_cast<long long>(p.in_features));
    }
    if (!(p.bits == 8 && p.group_size == 0) && !(p.bits == 4 && p.group_size == kGroup)) {
        return fail(Status::kUnsupportedShape,
                    "%s: bits is %d and group_size is %d; supported: 8 with 0 (a scale a feature), 4 with 128", kOp,
                    static_cast<int>(p.bits), static_cast<int>(p.group_size));
    }
    const int64_t words = p.in_features * p.bits / 32, scales = p.bits == 8 ? 1 : ceil_div(p.in_features, kGroup);
    if ((p.words != 0 && p.words != words) || (p.scales != 0 && p.scales != scales)) {
        return fail(Status::kUnsupportedShape,
                    "%s: weight has %lld words a feature and scale %lld; in_features is %lld and bits %d: expected %lld and "
                    "%lld", kOp, static_cast<long long>(p.words), static_cast<long long>(p.scales),
                    static_cast<long long>(p.in_features), static_cast<int>(p.bits), static_cast<long long>(words),
                    static_cast<long long>(scales));
    }
    if (p.dtype != DType::kFloat16 && p.dtype != DType::kBFloat16) {
        return fail(Status::kUnsupportedDType, "%s: dtype is %d; supported: float16 (1) and bfloat16 (2)", kOp,
                    static_cast<int>(p.dtype));
    }
    return Status::kSuccess;
}

Status validate(const LinearQuantizedParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    AIM_CHECK(check_pointer(kOp, "x", p.x));
    AIM_CHECK(check_aligned_16(kOp, "x", p.x));
    AIM_CHECK(check_pointer(kOp, "weight", p.weight));
    AIM_CHECK(check_aligned_16(kOp, "weight", p.weight));
    AIM_CHECK(check_pointer(kOp, "scale", p.scale));
    return check_pointer(kOp, "y", p.y);
}

Status launch(const LinearQuantizedParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    const DeviceInfo device = device_info();
    AIM_CHECK(device.status);
    if (p.dtype == DType::kFloat16) {
        return p.bits == 8 ? launch_typed<__half, 8>(p, device, stream) : launch_typed<__half, 4>(p, device, stream);
    }
    return p.bits == 8 ? launch_typed<__nv_bfloat16, 8>(p, device, stream)
                       : launch_typed<__nv_bfloat16, 4>(p, device, stream);
}

}  // namespace aim_kernels
