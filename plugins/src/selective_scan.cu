#include "aim_kernels/selective_scan.h"

#include "scan.cuh"
#include "step.cuh"

namespace aim_kernels {
namespace detail {
namespace {

constexpr const char* kOp = "selective_scan";
// Below this many steps a chunk of the tensor cores would be mostly padding.
constexpr int64_t kShortest = 32;
// Blocks a multiprocessor holds at a time, of either kernel.
constexpr int kRecurrentBlocks = 8;
constexpr int kChunkedBlocks = 3;

constexpr size_t kAlignment = 256;
constexpr int64_t kLongest = INT32_MAX - kChunk;

size_t states_bytes(const SelectiveScanParams& p, int64_t segments) noexcept {
    const int64_t elements = p.rows * segments * p.nheads * p.headdim * p.d_state;
    return (static_cast<size_t>(elements) * sizeof(float) + kAlignment - 1) / kAlignment * kAlignment;
}

size_t segments_bytes(const SelectiveScanParams& p, int64_t segments) noexcept {
    if (segments < 2) return 0;
    return states_bytes(p, segments) + static_cast<size_t>(p.rows * segments * p.nheads) * sizeof(float);
}

bool is_single_step(const SelectiveScanParams& p) noexcept { return p.kind == ScanKind::kMamba2 && p.length == 1; }

StepArgs step_args(const SelectiveScanParams& p) noexcept {
    StepArgs step;
    step.rows = p.rows;
    step.nheads = p.nheads;
    step.headdim = p.headdim;
    step.d_state = p.d_state;
    step.ngroups = p.ngroups;
    step.dtype = p.dtype;
    step.state_dtype = p.state_dtype;
    step.dt_softplus = p.dt_softplus;
    step.x = p.x;
    step.dt = p.dt;
    step.B = p.B;
    step.C = p.C;
    step.z = p.z;
    step.x_row_stride = p.x_row_stride;
    step.dt_row_stride = p.dt_row_stride;
    step.B_row_stride = p.B_row_stride;
    step.C_row_stride = p.C_row_stride;
    step.z_row_stride = p.z_row_stride;
    step.y = p.y;
    step.y_row_stride = p.y_row_stride;
    step.y_dtype = p.dtype;
    step.A = p.A;
    step.D = p.D;
    step.dt_bias = p.dt_bias;
    step.state_in = p.ssm_state_in;
    step.state_row_stride = static_cast<int64_t>(p.nheads) * p.headdim * p.d_state;
    step.state_out = p.ssm_state_out;
    step.active = p.active;
    return step;
}

}  // namespace

ScanPlan plan_scan(const SelectiveScanParams& p, const DeviceInfo& device, size_t limit) noexcept {
    ScanPlan plan;
    plan.segment_length = p.length;
    plan.single_step = is_single_step(p);
    if (plan.single_step) return plan;

    const bool mamba1 = p.kind == ScanKind::kMamba1;
    plan.tensor_cores = device.tensor_cores && !mamba1 && p.dtype != DType::kFloat32 && p.length >= kShortest;
    const int64_t width = mamba1 ? p.nheads : p.headdim;
    plan.tiles = static_cast<int32_t>(
        ceil_div(width, plan.tensor_cores ? chunked_block_width(p) : recurrent_block_width(p)));

    // Cutting costs a second pass over x and B. It pays only where one segment would leave much of the device idle.
    const int64_t blocks = p.rows * (mamba1 ? 1 : p.nheads) * plan.tiles;
    const int64_t sm_blocks = plan.tensor_cores ? kChunkedBlocks : kRecurrentBlocks;
    const int64_t wanted = device.sm_count * sm_blocks;
    const int64_t chunks = ceil_div(p.length, kChunk);
    if (blocks * 3 >= wanted) return plan;
    int64_t segments = ceil_div(wanted, blocks);
    if (segments > chunks) segments = chunks;
    while (segments > 1 && segments_bytes(p, segments) > limit) --segments;
    plan.segment_length = ceil_div(chunks, segments) * kChunk;
    plan.segments = static_cast<int32_t>(ceil_div(p.length, plan.segment_length));
    plan.workspace = segments_bytes(p, plan.segments);
    return plan;
}

}  // namespace detail

using namespace detail;

size_t workspace_bytes(const SelectiveScanParams& p) noexcept {
    if (validate_shapes(p) != Status::kSuccess) return 0;
    const DeviceInfo device = device_info();
    if (device.status != Status::kSuccess) return 0;
    return plan_scan(p, device, SIZE_MAX).workspace;
}

Status validate_shapes(const SelectiveScanParams& p) noexcept {
    if (p.kind != ScanKind::kMamba1 && p.kind != ScanKind::kMamba2) {
        return fail(Status::kUnsupportedShape, "%s: kind is %d; supported: 1 (Mamba-1), 2 (Mamba-2)", kOp,
                    static_cast<int>(p.kind));
    }
    AIM_CHECK(check_positive(kOp, "rows", p.rows));
    AIM_CHECK(check_positive(kOp, "length", p.length));
    if (p.length > kLongest) {
        return fail(Status::kUnsupportedShape, "%s: length is %lld; supported: up to %lld", kOp,
                    static_cast<long long>(p.length), static_cast<long long>(kLongest));
    }
    AIM_CHECK(check_positive(kOp, "nheads", p.nheads));
    AIM_CHECK(check_steps_of_16(kOp, "d_state", p.d_state, 256));
    if (p.kind == ScanKind::kMamba1) {
        if (p.headdim != 1 || p.ngroups != 1) {
            return fail(Status::kUnsupportedShape,
                        "%s: headdim is %d and ngroups is %d; supported for Mamba-1: 1 and 1", kOp, p.headdim,
                        p.ngroups);
        }
    } else {
        AIM_CHECK(check_steps_of_16(kOp, "headdim", p.headdim, 128));
        AIM_CHECK(check_ngroups(kOp, p.ngroups, "nheads", p.nheads));
    }
    AIM_CHECK(check_state_size(kOp, p.nheads, p.headdim, p.d_state));
    AIM_CHECK(check_activation_dtype(kOp, p.dtype));
    AIM_CHECK(check_state_dtype(kOp, "ssm_state", p.state_dtype));
    AIM_CHECK(check_input_strides(kOp, "x", p.x_row_stride, p.x_time_stride));
    AIM_CHECK(check_input_strides(kOp, "dt", p.dt_row_stride, p.dt_time_stride));
    AIM_CHECK(check_input_strides(kOp, "B", p.B_row_stride, p.B_time_stride));
    AIM_CHECK(check_input_strides(kOp, "C", p.C_row_stride, p.C_time_stride));
    AIM_CHECK(check_input_strides(kOp, "z", p.z_row_stride, p.z_time_stride));
    return check_output_strides(kOp, "y", p.rows, p.length, static_cast<int64_t>(p.nheads) * p.headdim,
                                p.y_row_stride, p.y_time_stride);
}

Status validate(const SelectiveScanParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    const struct {
        const char* name;
        const void* pointer;
    } required[] = {{"x", p.x}, {"dt", p.dt}, {"A", p.A}, {"B", p.B}, {"C", p.C}, {"y", p.y}};
    for (const auto& entry : required) AIM_CHECK(check_pointer(kOp, entry.name, entry.pointer));
    AIM_CHECK(check_aligned_16(kOp, "ssm_state_in", p.ssm_state_in));
    AIM_CHECK(check_aligned_16(kOp, "ssm_state_out", p.ssm_state_out));
    AIM_CHECK(check_aligned_16(kOp, "workspace", p.workspace));
    if (p.workspace_size > 0) AIM_CHECK(check_pointer(kOp, "workspace", p.workspace));
    return Status::kSuccess;
}

Status launch(const SelectiveScanParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    const DeviceInfo device = device_info();
    AIM_CHECK(device.status);
    const ScanPlan plan = plan_scan(p, device, p.workspace_size);
    if (plan.single_step) return launch_step(kOp, step_args(p), false, device.sm_count, stream);

    ScanArgs args;
    args.p = p;
    args.segments = plan.segments;
    args.tiles = plan.tiles;
    args.segment_length = plan.segment_length;
    args.wide_x = vectorizable(p.x, p.x_row_stride, p.x_time_stride, p.dtype);
    args.wide_bc = vectorizable(p.B, p.B_row_stride, p.B_time_stride, p.dtype) &&
                   vectorizable(p.C, p.C_row_stride, p.C_time_stride, p.dtype);
    args.wide_z = vectorizable(p.z, p.z_row_stride, p.z_time_stride, p.dtype);
    args.wide_y = vectorizable(p.y, p.y_row_stride, p.y_time_stride, p.dtype);
    const auto run = plan.tensor_cores ? launch_chunked : launch_recurrent;
    if (plan.segments > 1) {
        args.states = static_cast<float*>(p.workspace);
        args.decays = args.states + states_bytes(p, plan.segments) / sizeof(float);
        AIM_CHECK(run(args, false, stream));
        AIM_CHECK(launch_pass(args, stream));
    }
    return run(args, true, stream);
}

}  // namespace aim_kernels
