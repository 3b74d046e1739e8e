#include "kernel.h"

#include "attributes.h"
#include "refusal.h"

namespace aim_edge {
namespace {

using aim_kernels::Status;

void need(Status status) {
    if (status != Status::kSuccess) refuse("%s: %s", aim_kernels::status_message(status), aim_kernels::last_error());
}

TensorType type_of_input(const OrtApi& api, const OrtKernelInfo* info, size_t index, const TensorRow& row) {
    OrtTypeInfo* type = nullptr;
    if (OrtStatus* status = api.KernelInfo_GetInputTypeInfo(info, index, &type)) {
        api.ReleaseStatus(status);
        refuse("'%s' is missing; expected a tensor", row.name);  // its place in the node is empty
    }
    const OrtTensorTypeAndShapeInfo* tensor = nullptr;
    OrtStatus* status = api.CastTypeInfoToTensorInfo(type, &tensor);
    TensorType found;
    if (status == nullptr && tensor != nullptr) found = read_type(api, tensor);
    api.ReleaseTypeInfo(type);
    check(api, status);
    return found;
}

// Memory for the length of one launch. ONNX Runtime knows the stream that uses it, so that it may be given back while
// the work is still running. (1.20 dies of asking for it where there is no stream.)
class Scratch {
public:
    Scratch(const OrtApi& api, OrtKernelContext* context, OrtAllocator* allocator, const void* stream, size_t bytes)
        : mAllocator(allocator) {
        if (bytes == 0) return;
        const OrtMemoryInfo* memory = nullptr;
        check(api, api.AllocatorGetInfo(allocator, &memory));
        check(api, stream != nullptr ? api.KernelContext_GetScratchBuffer(context, memory, bytes, &mData)
                                     : api.AllocatorAlloc(allocator, bytes, &mData));
    }
    ~Scratch() {
        if (mData != nullptr) mAllocator->Free(mAllocator, mData);
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    void* data() const noexcept { return mData; }

private:
    OrtAllocator* mAllocator;
    void* mData = nullptr;
};

}  // namespace

std::string title_of(const OrtApi& api, const OrtKernelInfo* info, const OperatorRow& row) {
    size_t size = 0;
    check(api, api.KernelInfo_GetNodeName(info, nullptr, &size));
    std::string name(size, '\0');
    check(api, api.KernelInfo_GetNodeName(info, name.data(), &size));
    return std::string("aim_edge.") + row.name + " '" + name.c_str() + "'";
}

Kernel::Kernel(const OrtApi& api, const OrtKernelInfo* info, const OperatorRow& row, bool on_cuda)
    : mApi(api), mRow(row), mTitle(title_of(api, info, row)), mAttributes(read_attributes(api, info, row)),
      mTensors(tensors_of(row, mAttributes.sizes)) {
    check_static(info);
    if (!on_cuda) {
        refuse("runs on the CUDA execution provider only, and ONNX Runtime gave it to the CPU. Open the graph with "
               "providers=['CUDAExecutionProvider'] where that finds CUDA and a GPU, or open the variant whose "
               "operators have bodies (without .trt in its name), which runs anywhere");
    }
    need(aim_kernels::check_device());
    check(api, api.KernelInfoGetAllocator(info, OrtMemTypeDefault, &mAllocator));
}

Kernel::~Kernel() {
    if (mAllocator != nullptr) mApi.ReleaseAllocator(mAllocator);
}

void Kernel::check_static(const OrtKernelInfo* info) const {
    size_t inputs = 0, outputs = 0;
    check(mApi, mApi.KernelInfo_GetInputCount(info, &inputs));
    check(mApi, mApi.KernelInfo_GetOutputCount(info, &outputs));
    const int expected = mTensors.input_count;
    if (inputs != static_cast<size_t>(expected)) refuse("%zu inputs; expected %d, by the attributes", inputs, expected);
    if (static_cast<int>(outputs) != mRow.output_count) refuse("%zu outputs; expected %d", outputs, mRow.output_count);
    Binding binding;
    binding.sizes = mAttributes.sizes;
    for (size_t i = 0; i < inputs; ++i) {
        const TensorRow& row = *mTensors.inputs[i];
        const TensorType found = type_of_input(mApi, info, i, row);
        check_element(row, found.element, binding);
        // A shape that is not known at all looks like a scalar's here; that of the data is checked at every run.
        if (!found.dims.empty()) check_shape(mRow, row, found.dims, binding);
    }
    check_conv_dim(mRow, binding.sizes);
    Call call;
    call.sizes = binding.sizes;
    call.reals = mAttributes.reals;
    call.activations = to_dtype(binding.activations);
    call.states = to_dtype(binding.states);
    need(validate_sizes(mRow.kind, call));
}

void Kernel::bind_inputs(OrtKernelContext* context, Call& call) const {
    Binding binding;
    binding.sizes = mAttributes.sizes;
    for (int i = 0; i < mTensors.input_count; ++i) {
        const TensorRow& row = *mTensors.inputs[i];
        const OrtValue* value = nullptr;
        check(mApi, mApi.KernelContext_GetInput(context, static_cast<size_t>(i), &value));
        if (value == nullptr) refuse("'%s' is missing; expected a tensor", row.name);
        OrtTensorTypeAndShapeInfo* info = nullptr;
        check(mApi, mApi.GetTensorTypeAndShape(value, &info));
        const TensorType found = read_type(mApi, info);
        mApi.ReleaseTensorTypeAndShapeInfo(info);
        check_element(row, found.element, binding);
        check_shape(mRow, row, found.dims, binding);
        void* data = nullptr;  // the C interface has no way to read it as const
        check(mApi, mApi.GetTensorMutableData(const_cast<OrtValue*>(value), &data));
        call.inputs[&row - mRow.inputs] = data;
    }
    check_conv_dim(mRow, binding.sizes);
    call.sizes = binding.sizes;
    call.reals = mAttributes.reals;
    call.activations = to_dtype(binding.activations);
    call.states = to_dtype(binding.states);
}

void Kernel::bind_outputs(OrtKernelContext* context, Call& call, cudaStream_t stream) const {
    for (int i = 0; i < mRow.output_count; ++i) {
        const TensorRow& row = mRow.outputs[i];
        const ShapeRow& shape = shape_of(mRow, row, call.sizes);
        int64_t dims[kMaxRank] = {};
        size_t bytes = element_size(row.element, call);
        for (int d = 0; d < shape.rank; ++d) {
            dims[d] = evaluate(shape.dims[d], call.sizes);
            bytes *= static_cast<size_t>(dims[d]);
        }
        OrtValue* value = nullptr;
        const auto rank = static_cast<size_t>(shape.rank);
        check(mApi, mApi.KernelContext_GetOutput(context, static_cast<size_t>(i), dims, rank, &value));
        if (value == nullptr) refuse("output '%s' has no name in the graph; expected one", row.name);
        check(mApi, mApi.GetTensorMutableData(value, &call.outputs[i]));
        // What the kernels leave of a state as it was must be there before, unless it is updated in place.
        if (row.alias < 0 || !keeps_states(mRow.kind, call.sizes) || call.outputs[i] == call.inputs[row.alias]) continue;
        const auto copy = cudaMemcpyDeviceToDevice;
        const cudaError_t error = cudaMemcpyAsync(call.outputs[i], call.inputs[row.alias], bytes, copy, stream);
        if (error != cudaSuccess) refuse("'%s' could not be copied: %s", row.name, cudaGetErrorString(error));
    }
}

void Kernel::compute(OrtKernelContext* context) const {
    void* stream = nullptr;
    check(mApi, mApi.KernelContext_GetGPUComputeStream(context, &stream));
    Call call;
    bind_inputs(context, call);
    bind_outputs(context, call, static_cast<cudaStream_t>(stream));
    call.workspace_size = workspace_bytes(mRow.kind, call);
    const Scratch scratch(mApi, context, mAllocator, stream, call.workspace_size);
    call.workspace = scratch.data();
    need(launch(mRow.kind, call, static_cast<cudaStream_t>(stream)));
}

}  // namespace aim_edge
