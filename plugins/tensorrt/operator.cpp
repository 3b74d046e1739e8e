#include "operator.h"

#include <algorithm>

#include "call.h"
#include "log.h"
#include "types.h"

namespace aim_edge {

using aim_kernels::Status;
using nvinfer1::PluginTensorDesc;

namespace {

bool succeeded(const OperatorRow& row, Status status) noexcept {
    if (status == Status::kSuccess) return true;
    log_error(row.name, "%s: %s", aim_kernels::status_message(status), aim_kernels::last_error());
    return false;
}

// What a scan of these attributes can use on the current device, whatever its rows, length and types. 0 without a GPU.
size_t scan_workspace_limit(const Attributes& attributes) noexcept {
    Call call;
    call.sizes = attributes.sizes;
    call.sizes.of[kLength] = 1 << 16;  // long enough that the device, not the sequence, limits the segments
    size_t most = 0;
    for (auto dtype : {aim_kernels::DType::kFloat32, aim_kernels::DType::kFloat16}) {
        call.activations = dtype;
        for (int64_t rows = 1; rows <= 1024; rows *= 2) {
            call.sizes.of[kRows] = rows;
            most = std::max(most, workspace_bytes(OperatorKind::kSelectiveScan, call));
        }
    }
    return most;
}

}  // namespace

bool Operator::create(const OperatorRow& row, const nvinfer1::PluginFieldCollection* fields, bool serialized,
                      Operator& made) noexcept {
    PluginAttributes attributes;
    if (!read_fields(row, fields, serialized, attributes)) return false;
    // Fixed here, in the process that builds the engine; see PluginAttributes.
    const bool scan = !serialized && row.kind == OperatorKind::kSelectiveScan;
    if (scan) attributes.scan_workspace = static_cast<int64_t>(scan_workspace_limit(attributes));
    return create(row, attributes, made);
}

bool Operator::create(const OperatorRow& row, const PluginAttributes& attributes, Operator& made) noexcept {
    Call call;
    call.sizes = attributes.sizes;
    call.reals = attributes.reals;
    if (!succeeded(row, validate_sizes(row.kind, call))) return false;
    made.mRow = &row;
    made.mAttributes = attributes;
    if (has_conv_dim(row.kind)) made.mAttributes.sizes.of[kConvDim] = conv_dim_of(attributes.sizes);
    made.mTensors = tensors_of(row, attributes.sizes);
    return true;
}

bool Operator::fill(const PluginTensorDesc* inputs, int count, Call& call) const noexcept {
    if (count != input_count()) {
        log_error(mRow->name, "%d inputs; expected %d, by the attributes", count, input_count());
        return false;
    }
    call.sizes = mAttributes.sizes;
    call.reals = mAttributes.reals;
    for (int i = 0; i < count; ++i) {
        const TensorRow& tensor = *mTensors.inputs[i];
        if (!check_shape(*mRow, tensor, inputs[i].dims, call.sizes)) return false;
        if (!is_supported(asked_of(tensor.element), inputs[i].type)) {
            log_error(mRow->name, "'%s' has TensorRT data type %d, which is not supported there", tensor.name,
                      static_cast<int>(inputs[i].type));
            return false;
        }
        const bool activation = tensor.element == Element::kActivation || tensor.element == Element::kHalf;
        if (activation) to_dtype(inputs[i].type, call.activations);
        if (tensor.element == Element::kState) to_dtype(inputs[i].type, call.states);
        const bool image = tensor.images != Images::kChannelsFirst;
        if (image) call.channels_last = inputs[i].format != nvinfer1::TensorFormat::kLINEAR;
    }
    return true;
}

bool Operator::check(const PluginTensorDesc* inputs, int count) const noexcept {
    Call call;
    return fill(inputs, count, call) && succeeded(*mRow, validate_sizes(mRow->kind, call));
}

size_t Operator::workspace(const PluginTensorDesc* inputs, int count) const noexcept {
    Call call;
    if (!fill(inputs, count, call)) return 0;
    if (mRow->kind != OperatorKind::kSelectiveScan) return workspace_bytes(mRow->kind, call);
    return call.sizes.of[kLength] == 1 ? 0 : static_cast<size_t>(mAttributes.scan_workspace);
}

bool Operator::check_device() const noexcept { return succeeded(*mRow, aim_kernels::check_device()); }

int32_t Operator::enqueue(const PluginTensorDesc* descriptions, const void* const* inputs, void* const* outputs,
                          void* workspace, Exchange& exchange, cudaStream_t stream) const noexcept {
    Call call;
    if (!fill(descriptions, input_count(), call)) return 1;
    for (int i = 0; i < input_count(); ++i) call.inputs[mTensors.inputs[i] - mRow->inputs] = inputs[i];
    for (int i = 0; i < output_count(); ++i) {
        call.outputs[i] = outputs[i];
        // What the kernels leave of a state as it was must be there before, unless it is updated in place.
        const int alias = mTensors.outputs[i]->alias;
        if (alias < 0 || !keeps_states(mRow->kind, call.sizes) || outputs[i] == inputs[alias]) continue;
        size_t bytes = element_size(mTensors.outputs[i]->element, call);
        const nvinfer1::Dims& dims = descriptions[alias].dims;
        for (int d = 0; d < dims.nbDims; ++d) bytes *= static_cast<size_t>(dims.d[d]);
        const cudaError_t error = cudaMemcpyAsync(outputs[i], inputs[alias], bytes, cudaMemcpyDeviceToDevice, stream);
        if (error != cudaSuccess) {
            log_error(mRow->name, "'%s' could not be copied: %s", mTensors.outputs[i]->name, cudaGetErrorString(error));
            return 1;
        }
    }
    call.workspace = workspace;
    const bool scan = mRow->kind == OperatorKind::kSelectiveScan;
    const bool step = call.sizes.of[kLength] == 1;
    call.workspace_size =
        !scan ? workspace_bytes(mRow->kind, call) : (step ? 0 : static_cast<size_t>(mAttributes.scan_workspace));
    call.exchange = exchange.memory(mRow->name, call.sizes.of[kRows], exchange_bytes(mRow->kind, call), stream);
    return succeeded(*mRow, launch(mRow->kind, call, stream)) ? 0 : 1;
}

}  // namespace aim_edge
