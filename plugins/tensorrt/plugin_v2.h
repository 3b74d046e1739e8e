// IPluginV2DynamicExt over an Operator: TensorRT 8 and 9.
#pragma once

#include <NvInferRuntime.h>

#if NV_TENSORRT_MAJOR < 10

#include <string>

#include "operator.h"

namespace aim_edge {

class PluginV2 final : public nvinfer1::IPluginV2DynamicExt {
public:
    explicit PluginV2(const Operator& op) noexcept : mOperator(op) {}

    const char* getPluginType() const noexcept override { return mOperator.row().name; }
    const char* getPluginVersion() const noexcept override { return kPluginVersion; }
    void setPluginNamespace(const char* name) noexcept override;
    const char* getPluginNamespace() const noexcept override { return mNamespace.c_str(); }

    int32_t getNbOutputs() const noexcept override { return mOperator.output_count(); }
    nvinfer1::DataType getOutputDataType(int32_t index, const nvinfer1::DataType* types,
                                         int32_t inputs) const noexcept override;
    nvinfer1::DimsExprs getOutputDimensions(int32_t index, const nvinfer1::DimsExprs* in, int32_t inputs,
                                            nvinfer1::IExprBuilder& builder) noexcept override;
    bool supportsFormatCombination(int32_t pos, const nvinfer1::PluginTensorDesc* tensors, int32_t inputs,
                                   int32_t outputs) noexcept override;
    void configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                         const nvinfer1::DynamicPluginTensorDesc* out, int32_t outputs) noexcept override;
    size_t getWorkspaceSize(const nvinfer1::PluginTensorDesc* in, int32_t inputs, const nvinfer1::PluginTensorDesc* out,
                            int32_t outputs) const noexcept override;
    int32_t enqueue(const nvinfer1::PluginTensorDesc* in, const nvinfer1::PluginTensorDesc* out,
                    const void* const* inputs, void* const* outputs, void* workspace,
                    cudaStream_t stream) noexcept override;

    int32_t initialize() noexcept override { return mOperator.check_device() ? 0 : 1; }
    void terminate() noexcept override {}
    void destroy() noexcept override { delete this; }
    nvinfer1::IPluginV2DynamicExt* clone() const noexcept override;
    size_t getSerializationSize() const noexcept override;
    void serialize(void* buffer) const noexcept override;

private:
    Operator mOperator;
    Exchange mExchange;
    std::string mNamespace;
    bool mRefused = false;  // shapes did not fit: no format is supported, so that the build ends
};

}  // namespace aim_edge

#endif
