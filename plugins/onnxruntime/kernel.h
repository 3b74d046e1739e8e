// One node of an ONNX Runtime session: its attributes checked when the session is made, its inputs at every run.
#pragma once

#include <onnxruntime_c_api.h>

#include <string>

#include "call.h"
#include "sizes.h"
#include "tensors.h"

namespace aim_edge {

class Kernel {
public:
    // Throws Refusal for all that can be told without data: attributes, types, the shapes that are known, sizes that
    // the kernels do not have, a GPU that the library holds no code for, and any node that is not `on_cuda`.
    Kernel(const OrtApi& api, const OrtKernelInfo* info, const OperatorRow& row, bool on_cuda);
    ~Kernel();
    Kernel(const Kernel&) = delete;
    Kernel& operator=(const Kernel&) = delete;

    // Puts the work on the node's stream. Throws Refusal.
    void compute(OrtKernelContext* context) const;

    const OrtApi& api() const noexcept { return mApi; }
    // "aim_edge.SelectiveScan 'name of the node'", to begin messages with.
    const std::string& title() const noexcept { return mTitle; }

private:
    void check_static(const OrtKernelInfo* info) const;
    void bind_inputs(OrtKernelContext* context, Call& call) const;
    void bind_outputs(OrtKernelContext* context, Call& call, cudaStream_t stream) const;

    const OrtApi& mApi;
    const OperatorRow& mRow;
    std::string mTitle;
    Attributes mAttributes;
    Tensors mTensors;
    OrtAllocator* mAllocator = nullptr;
};

std::string title_of(const OrtApi& api, const OrtKernelInfo* info, const OperatorRow& row);

}  // namespace aim_edge
