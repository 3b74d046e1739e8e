// Host-side helpers of the operators: refusals with their reason, and what the current device can do.
#pragma once

#include "aim_kernels/common.h"

namespace aim_kernels {
namespace detail {

// Records the reason for this thread's last_error() and returns `status`.
Status fail(Status status, const char* format, ...) noexcept __attribute__((format(printf, 2, 3)));

struct DeviceInfo {
    Status status = Status::kSuccess;
    int sm_count = 1;
    bool tensor_cores = false;  // the code that runs here was compiled for sm_80 or later
    bool dependent_launch = false;  // for sm_90 or later, as for barriers that count bytes
    bool warpgroup_products = false;  // for sm_90a: wgmma, which later architectures lack
    bool cooperative = false;  // all blocks of a kernel can be on the device at once
    int shared_bytes = 48 * 1024;  // of shared memory that a block can have
};

// Of the current device. Cached, so that a launch costs one cudaGetDevice.
DeviceInfo device_info() noexcept;

Status check_positive(const char* op, const char* name, int64_t value) noexcept;
Status check_steps_of_16(const char* op, const char* name, int64_t value, int64_t largest) noexcept;
Status check_d_conv(const char* op, int64_t value) noexcept;
Status check_ngroups(const char* op, int64_t ngroups, const char* of_name, int64_t of) noexcept;
// Of a step: rows of the same number modulo `positions` are of one image.
Status check_positions(const char* op, int64_t positions, int64_t rows) noexcept;
Status check_eps(const char* op, float eps, const char* name = "eps") noexcept;
Status check_activation_dtype(const char* op, DType dtype) noexcept;
Status check_state_dtype(const char* op, const char* name, DType dtype) noexcept;
// A row's state is indexed in 32 bits.
Status check_state_size(const char* op, int64_t nheads, int64_t headdim, int64_t d_state) noexcept;
Status check_pointer(const char* op, const char* name, const void* pointer) noexcept;
Status check_aligned_16(const char* op, const char* name, const void* pointer) noexcept;

// An input may be broadcast (stride 0); an output whose elements overlap would depend on the order of threads.
Status check_input_strides(const char* op, const char* name, int64_t row_stride, int64_t time_stride) noexcept;
Status check_output_strides(const char* op, const char* name, int64_t rows, int64_t length, int64_t width,
                            int64_t row_stride, int64_t time_stride) noexcept;

// Whether every (row, t) of a tensor starts on a 16-byte boundary, so that it may be moved in 16-byte pieces.
inline bool vectorizable(const void* base, int64_t row_stride, int64_t time_stride, DType dtype) noexcept {
    const int64_t per_vector = 16 / static_cast<int64_t>(dtype_size(dtype));
    return reinterpret_cast<uintptr_t>(base) % 16 == 0 && row_stride % per_vector == 0 &&
           time_stride % per_vector == 0;
}

inline int64_t ceil_div(int64_t a, int64_t b) noexcept { return (a + b - 1) / b; }

// To where the next part of a workspace may begin.
inline size_t aligned(size_t bytes) noexcept { return (bytes + 255) / 256 * 256; }

}  // namespace detail
}  // namespace aim_kernels

// Leaves the calling function with the status of a check that did not pass.
#define AIM_CHECK(expression)                                                     \
    do {                                                                          \
        const ::aim_kernels::Status aim_status_ = (expression);                   \
        if (aim_status_ != ::aim_kernels::Status::kSuccess) return aim_status_;   \
    } while (false)
