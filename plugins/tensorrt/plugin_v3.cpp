#include "plugin_v3.h"

#if NV_TENSORRT_MAJOR >= 10

#include <new>

#include "creators.h"
#include "log.h"

namespace aim_edge {

using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::PluginCapabilityType;
using nvinfer1::PluginTensorDesc;

namespace {

constexpr int kMaxTensors = kMaxInputs + kMaxOutputs;

PluginV3* make(const Operator& op) noexcept {
    auto* made = new (std::nothrow) PluginV3(op);
    if (made == nullptr) log_error(op.row().name, "no memory for the plugin");
    return made;
}

class CreatorV3 final : public nvinfer1::IPluginCreatorV3One {
public:
    explicit CreatorV3(const OperatorRow& row) noexcept : mRow(row) {}

    const char* getPluginName() const noexcept override { return mRow.name; }
    const char* getPluginVersion() const noexcept override { return kPluginVersion; }
    const char* getPluginNamespace() const noexcept override { return ""; }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return mFields.announce(mRow); }

    nvinfer1::IPluginV3* createPlugin(const char*, const nvinfer1::PluginFieldCollection* fields,
                                      nvinfer1::TensorRTPhase phase) noexcept override {
        Operator op;
        const bool serialized = phase == nvinfer1::TensorRTPhase::kRUNTIME;
        return Operator::create(mRow, fields, serialized, op) ? make(op) : nullptr;
    }

private:
    const OperatorRow& mRow;
    Fields mFields;
};

}  // namespace

nvinfer1::IPluginCapability* PluginV3::getCapabilityInterface(PluginCapabilityType type) noexcept {
    switch (type) {
        case PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
        case PluginCapabilityType::kBUILD: return static_cast<BuildCapability*>(this);
        case PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
    }
    return nullptr;
}

nvinfer1::IPluginV3* PluginV3::clone() noexcept { return make(mOperator); }

int32_t PluginV3::configurePlugin(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc*,
                                  int32_t) noexcept {
    PluginTensorDesc largest[kMaxInputs];
    for (int i = 0; i < inputs && i < kMaxInputs; ++i) {
        largest[i] = in[i].desc;
        largest[i].dims = in[i].max;
    }
    return mOperator.check(largest, inputs) ? 0 : 1;
}

int32_t PluginV3::getOutputDataTypes(nvinfer1::DataType* types, int32_t outputs, const nvinfer1::DataType* input_types,
                                     int32_t inputs) const noexcept {
    for (int i = 0; i < outputs; ++i) types[i] = mOperator.output_type(i, input_types, inputs);
    return outputs == mOperator.output_count() ? 0 : 1;
}

int32_t PluginV3::getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs*, int32_t,
                                  nvinfer1::DimsExprs* out, int32_t outputs, nvinfer1::IExprBuilder& builder) noexcept {
    for (int i = 0; i < outputs; ++i) {
        if (!mOperator.output_shape(i, in, inputs, out[i], builder)) return 1;
    }
    return 0;
}

bool PluginV3::supportsFormatCombination(int32_t pos, const DynamicPluginTensorDesc* tensors, int32_t inputs,
                                         int32_t outputs) noexcept {
    PluginTensorDesc descriptions[kMaxTensors];
    for (int i = 0; i <= pos && i < kMaxTensors; ++i) descriptions[i] = tensors[i].desc;
    return mOperator.supports(pos, descriptions, inputs, outputs);
}

size_t PluginV3::getWorkspaceSize(const DynamicPluginTensorDesc* in, int32_t inputs, const DynamicPluginTensorDesc*,
                                  int32_t) const noexcept {
    PluginTensorDesc largest[kMaxInputs];
    for (int i = 0; i < inputs && i < kMaxInputs; ++i) {
        largest[i] = in[i].desc;
        largest[i].dims = in[i].max;
    }
    return mOperator.workspace(largest, inputs);
}

int32_t PluginV3::onShapeChange(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc*, int32_t) noexcept {
    return mOperator.check_device() && mOperator.check(in, inputs) ? 0 : 1;
}

int32_t PluginV3::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*, const void* const* inputs,
                          void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
    return mOperator.enqueue(in, inputs, outputs, workspace, mExchange, stream);
}

nvinfer1::IPluginV3* PluginV3::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

const nvinfer1::PluginFieldCollection* PluginV3::getFieldsToSerialize() noexcept {
    return mFields.serialize(mOperator.row(), mOperator.attributes());
}

CreatorInterface* const* creators(int32_t& count) noexcept {
    count = kOperatorCount;
    return list_creators<CreatorV3>(std::make_index_sequence<kOperatorCount>());
}

}  // namespace aim_edge

#endif
