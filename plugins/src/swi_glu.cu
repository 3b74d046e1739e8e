// 16 bytes a thread. It is here for the launches at its sides, which overlap with one of this library's only.
#include "aim_kernels/swi_glu.h"

#include "dependent.cuh"
#include "device_math.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "swi_glu";
constexpr int kThreads = 128;

template <typename T>
__global__ void __launch_bounds__(kThreads) swi_glu_kernel(const SwiGluParams p) {
    constexpr int VEC = Vec16<T>::kSize;
    wait_for_previous();
    let_next_start();
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
    if (at >= p.rows * p.width / VEC) return;
    const uint4 gate = static_cast<const uint4*>(p.gate)[at], up = static_cast<const uint4*>(p.up)[at];
    float x[VEC], y[VEC];
    Vec16<T>::unpack(gate, x);
    Vec16<T>::unpack(up, y);
#pragma unroll
    for (int i = 0; i < VEC; ++i) y[i] *= silu(x[i]);
    static_cast<uint4*>(p.y)[at] = Vec16<T>::pack(y);
}

template <typename T>
Status launch_typed(const SwiGluParams& p, cudaStream_t stream) noexcept {
    const int64_t blocks = ceil_div(p.rows * p.width, static_cast<int64_t>(kThreads) * Vec16<T>::kSize);
    return launch_dependent(kOp, swi_glu_kernel<T>, blocks, kThreads, stream, p);
}

}  // namespace

Status validate_shapes(const SwiGluParams& p) noexcept {
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    if (p.width < 8 || p.width % 8 != 0 || p.width > (1 << 20)) {
        return fail(Status::kUnsupportedShape, "%s: width is %lld; supported: 8 to 1048576 in steps of 8", kOp,
                    static_cast<long long>(p.width));
    }
    return check_activation_dtype(kOp, p.dtype);
}

Status validate(const SwiGluParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    const struct {
        const char* name;
        const void* pointer;
    } required[] = {{"gate", p.gate}, {"up", p.up}, {"y", p.y}};
    for (const auto& entry : required) {
        AIM_CHECK(check_pointer(kOp, entry.name, entry.pointer));
        AIM_CHECK(check_aligned_16(kOp, entry.name, entry.pointer));
    }
    return Status::kSuccess;
}

Status launch(const SwiGluParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    AIM_CHECK(device_info().status);
    return with_activation_type(p.dtype, [&](auto type) { return launch_typed<decltype(type)>(p, stream); });
}

}  // namespace aim_kernels
