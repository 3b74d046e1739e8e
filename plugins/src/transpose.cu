#include "aim_kernels/transpose.h"

#include "launch.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "transpose";
constexpr int kSide = 32, kThreads = 256, kRowsAtOnce = kThreads / kSide;

struct TransposeArgs {
    TransposeParams p;
    int64_t across, tiles;  // tiles of a row, and of a matrix
};

// A block a tile: rows of it are read, and columns of it written, in neighbouring addresses.
__global__ __launch_bounds__(kThreads) void transpose_kernel(TransposeArgs a) {
    __shared__ uint16_t tile[kSide][kSide + 1];
    const int64_t matrix = blockIdx.x / a.tiles, within = blockIdx.x % a.tiles;
    const int64_t row = within / a.across * kSide, column = within % a.across * kSide;
    const int64_t first = matrix * a.p.rows * a.p.columns;
    const uint16_t* x = static_cast<const uint16_t*>(a.p.x) + first;
    uint16_t* y = static_cast<uint16_t*>(a.p.y) + first;
    const int lane = threadIdx.x % kSide;
    for (int i = threadIdx.x / kSide; i < kSide; i += kRowsAtOnce) {
        if (row + i < a.p.rows && column + lane < a.p.columns) tile[i][lane] = x[(row + i) * a.p.columns + column + lane];
    }
    __syncthreads();
    for (int i = threadIdx.x / kSide; i < kSide; i += kRowsAtOnce) {
        if (column + i < a.p.columns && row + lane < a.p.rows) y[(column + i) * a.p.rows + row + lane] = tile[lane][i];
    }
}

}  // namespace

Status validate(const TransposeParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "batch", p.batch));
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positive(kOp, "columns", p.columns));
    AIM_CHECK(check_pointer(kOp, "x", p.x));
    return check_pointer(kOp, "y", p.y);
}

Status launch(const TransposeParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    AIM_CHECK(check_device());
    const int64_t across = ceil_div(p.columns, kSide), tiles = across * ceil_div(p.rows, kSide);
    return launch_kernel(kOp, transpose_kernel, p.batch * tiles, kThreads, 0, stream, TransposeArgs{p, across, tiles});
}

}  // namespace aim_kernels
