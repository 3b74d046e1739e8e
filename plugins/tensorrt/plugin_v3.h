// IPluginV3 over an Operator: TensorRT 10 and later.
#pragma once

#include <NvInferRuntime.h>

#if NV_TENSORRT_MAJOR >= 10

#include "fields.h"
#include "operator.h"

namespace aim_edge {

// Outputs that alias inputs, so that a state may be updated in place: from 10.3 on.
#define AIM_EDGE_ALIASED_IO (NV_TENSORRT_MAJOR > 10 || NV_TENSORRT_MINOR >= 3)
#if AIM_EDGE_ALIASED_IO
using BuildCapability = nvinfer1::IPluginV3OneBuildV2;
#else
using BuildCapability = nvinfer1::IPluginV3OneBuild;
#endif

class PluginV3 final : public nvinfer1::IPluginV3,
                       public nvinfer1::IPluginV3OneCore,
                       public BuildCapability,
                       public nvinfer1::IPluginV3OneRuntime {
public:
    explicit PluginV3(const Operator& op) noexcept : mOperator(op) {}

    nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
    nvinfer1::IPluginV3* clone() noexcept override;

    const char* getPluginName() const noexcept override { return mOperator.row().name; }
    const char* getPluginVersion() const noexcept override { return kPluginVersion; }
    const char* getPluginNamespace() const noexcept override { return ""; }

    int32_t getNbOutputs() const noexcept override { return mOperator.output_count(); }
    int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                            const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) noexcept override;
    int32_t getOutputDataTypes(nvinfer1::DataType* types, int32_t outputs, const nvinfer1::DataType* input_types,
                               int32_t inputs) const noexcept override;
    int32_t getOutputShapes(const nvinfer1::DimsExprs* in, int32_t inputs, const nvinfer1::DimsExprs* shape_inputs,
                            int32_t shape_input_count, nvinfer1::DimsExprs* out, int32_t outputs,
                            nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(int32_t pos, const nvinfer1::DynamicPluginTensorDesc* tensors, int32_t inputs,
                                   int32_t outputs) noexcept override;
    size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                            const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) const noexcept override;
#if AIM_EDGE_ALIASED_IO
    int32_t getAliasedInput(int32_t output) noexcept override { return mOperator.aliased_input(output); }
#endif

    int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                          int32_t outputs) noexcept override;
    int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                    const void* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override;
    nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
    const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

private:
    Operator mOperator;
    Exchange mExchange;
    Fields mFields;
};

}  // namespace aim_edge

#endif
