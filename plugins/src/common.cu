#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>

#include "host.h"

// nvcc gives the list as 800,870,900.
#define AIM_STRINGIFY_(...) #__VA_ARGS__
#define AIM_STRINGIFY(...) AIM_STRINGIFY_(__VA_ARGS__)

namespace aim_kernels {
namespace {

thread_local char t_error[512] = "";

constexpr int kMaxDevices = 64;
// 0: not asked yet; otherwise sm_count * 16 + warpgroup_products * 8 + dependent_launch * 4 + tensor_cores * 2 + 1.
std::atomic<int> g_devices[kMaxDevices];

// Stands for all the library's kernels: they are compiled for the same architectures. That one of them is sm_90a and not
// sm_90 shows in nothing that CUDA tells of a kernel, so it is told by the size of its shared memory.
__global__ void probe_kernel(int* out) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    __shared__ volatile int marker[1];
    marker[0] = 1;
    if (out != nullptr) *out = marker[0];
#else
    (void)out;
#endif
}

struct ArchList {
    char text[128];
    ArchList() noexcept {
        size_t used = 0;
        text[0] = '\0';
        for (const char* at = AIM_STRINGIFY(__CUDA_ARCH_LIST__); *at != '\0';) {
            int arch = 0;
            while (*at >= '0' && *at <= '9') arch = arch * 10 + (*at++ - '0');
            while (*at != '\0' && (*at < '0' || *at > '9')) ++at;
            const int written =
                std::snprintf(text + used, sizeof(text) - used, used ? ",%d" : "%d", arch / 10);
            if (written < 0 || used + static_cast<size_t>(written) >= sizeof(text)) break;
            used += static_cast<size_t>(written);
        }
    }
};

}  // namespace

const char* status_message(Status status) noexcept {
    switch (status) {
        case Status::kSuccess: return "success";
        case Status::kNullPointer: return "a required pointer is null";
        case Status::kUnsupportedShape: return "a size is not supported";
        case Status::kUnsupportedDType: return "a data type is not supported";
        case Status::kBadStride: return "a stride is not supported";
        case Status::kMisaligned: return "a pointer is not aligned";
        case Status::kWorkspaceTooSmall: return "the workspace is too small";
        case Status::kUnsupportedArch: return "the library holds no code for this GPU";
        case Status::kCudaError: return "CUDA reported an error";
        case Status::kVersionMismatch: return "the caller was built for another version of the library";
    }
    return "unknown status";
}

const char* last_error() noexcept { return t_error; }

int version() noexcept { return AIM_KERNELS_VERSION; }

const char* supported_archs() noexcept {
    static const ArchList list;
    return list.text;
}

Status check_device() noexcept { return detail::device_info().status; }

namespace detail {

Status fail(Status status, const char* format, ...) noexcept {
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(t_error, sizeof(t_error), format, arguments);
    va_end(arguments);
    return status;
}

DeviceInfo device_info() noexcept {
    DeviceInfo info;
    int device = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error != cudaSuccess || device < 0) {
        cudaGetLastError();
        info.status = fail(Status::kCudaError, "no CUDA device: %s", cudaGetErrorString(error));
        return info;
    }
    int packed = device < kMaxDevices ? g_devices[device].load(std::memory_order_relaxed) : 0;
    if (packed == 0) {
        int sm_count = 0, major = 0, minor = 0, shared = 0, cooperative = 0;
        cudaDeviceGetAttribute(&sm_count, cudaDevAttrMultiProcessorCount, device);
        cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
        cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device);
        cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
        cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device);
        cudaFuncAttributes attributes = {};
        error = cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(probe_kernel));
        if (error != cudaSuccess) {
            cudaGetLastError();
            info.status = fail(Status::kUnsupportedArch,
                               "device %d has compute capability %d.%d; this library was built for: %s (%s)", device,
                               major, minor, supported_archs(), cudaGetErrorString(error));
            return info;
        }
        packed = (sm_count > 0 ? sm_count : 1) << 16 | std::min(shared / 1024, 1023) << 6 |
                 (cooperative != 0 ? 16 : 0) | (attributes.sharedSizeBytes > 0 ? 8 : 0) |
                 (attributes.ptxVersion >= 90 ? 4 : 0) | (attributes.ptxVersion >= 80 ? 2 : 0) | 1;
        if (device < kMaxDevices) g_devices[device].store(packed, std::memory_order_relaxed);
    }
    info.sm_count = packed >> 16;
    info.shared_bytes = (packed >> 6 & 1023) * 1024;
    info.cooperative = (packed & 16) != 0;
    info.tensor_cores = (packed & 2) != 0;
    info.dependent_launch = (packed & 4) != 0;
    info.warpgroup_products = (packed & 8) != 0;
    return info;
}

Status check_positive(const char* op, const char* name, int64_t value) noexcept {
    if (value >= 1) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: %s is %lld; supported: 1 or more", op, name,
                static_cast<long long>(value));
}

Status check_steps_of_16(const char* op, const char* name, int64_t value, int64_t largest) noexcept {
    if (value >= 16 && value <= largest && value % 16 == 0) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: %s is %lld; supported: 16, 32, 48, ... %lld (multiples of 16)", op,
                name, static_cast<long long>(value), static_cast<long long>(largest));
}

Status check_d_conv(const char* op, int64_t value) noexcept {
    if (value >= 2 && value <= 4) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: d_conv is %lld; supported: 2, 3, 4", op,
                static_cast<long long>(value));
}

Status check_ngroups(const char* op, int64_t ngroups, const char* of_name, int64_t of) noexcept {
    if (ngroups >= 1 && of % ngroups == 0) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: ngroups is %lld and %s is %lld; supported: an ngroups that divides %s",
                op, static_cast<long long>(ngroups), of_name, static_cast<long long>(of), of_name);
}

Status check_positions(const char* op, int64_t positions, int64_t rows) noexcept {
    AIM_CHECK(check_positive(op, "positions", positions));
    if (rows % positions == 0) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: positions is %lld; supported: one that divides rows, which is %lld", op,
                static_cast<long long>(positions), static_cast<long long>(rows));
}

Status check_eps(const char* op, float eps, const char* name) noexcept {
    // Written so that NaN does not pass.
    if (eps >= 0.0f && eps < 1.0f) return Status::kSuccess;
    return fail(Status::kUnsupportedShape, "%s: %s is %g; supported: 0 or more, below 1", op, name,
                static_cast<double>(eps));
}

Status check_activation_dtype(const char* op, DType dtype) noexcept {
    if (dtype == DType::kFloat32 || dtype == DType::kFloat16 || dtype == DType::kBFloat16) return Status::kSuccess;
    return fail(Status::kUnsupportedDType,
                "%s: the activations' dtype is %d; supported: 0 (float32), 1 (float16), 2 (bfloat16)", op,
                static_cast<int>(dtype));
}

Status check_state_dtype(const char* op, const char* name, DType dtype) noexcept {
    if (dtype == DType::kFloat32 || dtype == DType::kFloat16) return Status::kSuccess;
    return fail(Status::kUnsupportedDType, "%s: %s's dtype is %d; supported: 0 (float32), 1 (float16)", op, name,
                static_cast<int>(dtype));
}

Status check_state_size(const char* op, int64_t nheads, int64_t headdim, int64_t d_state) noexcept {
    if (nheads <= INT32_MAX / 2 / (headdim * d_state)) return Status::kSuccess;
    return fail(Status::kUnsupportedShape,
                "%s: nheads is %lld; supported with headdim %lld and d_state %lld: up to %lld", op,
                static_cast<long long>(nheads), static_cast<long long>(headdim), static_cast<long long>(d_state),
                static_cast<long long>(INT32_MAX / 2 / (headdim * d_state)));
}

Status check_pointer(const char* op, const char* name, const void* pointer) noexcept {
    if (pointer != nullptr) return Status::kSuccess;
    return fail(Status::kNullPointer, "%s: %s is null; it is required", op, name);
}

Status check_aligned_16(const char* op, const char* name, const void* pointer) noexcept {
    if (reinterpret_cast<uintptr_t>(pointer) % 16 == 0) return Status::kSuccess;
    return fail(Status::kMisaligned, "%s: %s is at %p; supported: addresses that are multiples of 16", op, name,
                pointer);
}

Status check_input_strides(const char* op, const char* name, int64_t row_stride, int64_t time_stride) noexcept {
    if (row_stride >= 0 && time_stride >= 0) return Status::kSuccess;
    return fail(Status::kBadStride, "%s: %s has strides %lld (row) and %lld (time); supported: 0 or more", op, name,
                static_cast<long long>(row_stride), static_cast<long long>(time_stride));
}

Status check_output_strides(const char* op, const char* name, int64_t rows, int64_t length, int64_t width,
                            int64_t row_stride, int64_t time_stride) noexcept {
    if ((rows == 1 || row_stride >= width) && (length == 1 || time_stride >= width)) return Status::kSuccess;
    return fail(Status::kBadStride,
                "%s: %s has strides %lld (row) and %lld (time); supported: %lld or more, so that outputs are apart",
                op, name, static_cast<long long>(row_stride), static_cast<long long>(time_stride),
                static_cast<long long>(width));
}

}  // namespace detail
}  // namespace aim_kernels
