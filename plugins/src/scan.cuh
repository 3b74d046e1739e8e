// How a scan over more than one step is cut up, shared by the kernels that carry it out.
//
// The sequence is cut into segments that run side by side. With more than one: every segment but the last is first
// run for its final state from zero; `pass` turns those into the segments' true initial states; then all segments are
// run for their outputs. One segment needs the last of the three alone.
#pragma once

#include "aim_kernels/selective_scan.h"
#include "host.h"

namespace aim_kernels {
namespace detail {

struct ScanArgs {
    SelectiveScanParams p;
    int32_t segments = 1;
    int32_t tiles = 1;            // blocks that share a head's headdim, or all channels of Mamba-1
    int64_t segment_length = 0;
    // (rows, segments, nheads, headdim, d_state): final states from zero, then initial states. Null for one segment.
    float* states = nullptr;
    // (rows, segments, nheads): what a segment's decay is the exponential of: the sum of dt * A for Mamba-2, and for
    // Mamba-1 the sum of dt, still to be multiplied by A.
    float* decays = nullptr;
    bool wide_x = false;          // may be moved in 16-byte pieces
    bool wide_bc = false;
    bool wide_z = false;
    bool wide_y = false;
};

// Steps of a chunk that the tensor cores take at a time. Segments are whole chunks but for the last.
constexpr int64_t kChunk = 64;

struct ScanPlan {
    bool single_step = false;   // L = 1 of Mamba-2
    bool tensor_cores = false;
    int32_t tiles = 1;
    int32_t segments = 1;
    int64_t segment_length = 0;
    size_t workspace = 0;       // bytes
};

// `limit` is the most workspace that the plan may use.
ScanPlan plan_scan(const SelectiveScanParams& params, const DeviceInfo& device, size_t limit) noexcept;

// Channels that one block of the recurrent kernel covers, and headdim that one of the tensor core kernel covers.
int recurrent_block_width(const SelectiveScanParams& params) noexcept;
int chunked_block_width(const SelectiveScanParams& params) noexcept;

Status launch_recurrent(const ScanArgs& args, bool output, cudaStream_t stream) noexcept;
Status launch_chunked(const ScanArgs& args, bool output, cudaStream_t stream) noexcept;
Status launch_pass(const ScanArgs& args, cudaStream_t stream) noexcept;

}  // namespace detail
}  // namespace aim_kernels
