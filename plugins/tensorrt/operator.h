// An operator with its attributes: all of a plugin that no version of TensorRT changes. plugin_v2 and plugin_v3 are
// thin shells over it.
#pragma once

#include <NvInferRuntime.h>

#include "attributes.h"
#include "exchange.h"
#include "shapes.h"

namespace aim_edge {

constexpr const char* kPluginVersion = "1";

class Operator {
public:
    // From the fields that a parser gives, or those that a plugin put into an engine (`serialized`). False after
    // logging why: a wrong attribute, another version, sizes that the kernels do not have.
    static bool create(const OperatorRow& row, const nvinfer1::PluginFieldCollection* fields, bool serialized,
                       Operator& made) noexcept;
    static bool create(const OperatorRow& row, const PluginAttributes& attributes, Operator& made) noexcept;

    const OperatorRow& row() const noexcept { return *mRow; }
    const PluginAttributes& attributes() const noexcept { return mAttributes; }
    int input_count() const noexcept { return mTensors.input_count; }
    int output_count() const noexcept { return mTensors.output_count; }
    // The input that output `index` may overwrite, or -1.
    int aliased_input(int index) const noexcept;

    // Whether tensor `pos` (inputs, then outputs) may have its type and format, given those before it.
    bool supports(int pos, const nvinfer1::PluginTensorDesc* tensors, int inputs, int outputs) const noexcept;

    nvinfer1::DataType output_type(int index, const nvinfer1::DataType* inputs, int count) const noexcept;

    // False after logging which input does not fit.
    bool output_shape(int index, const nvinfer1::DimsExprs* inputs, int count, nvinfer1::DimsExprs& shape,
                      nvinfer1::IExprBuilder& builder) const noexcept;

    // Shapes against the table and the kernels; -1 is a dimension that is not known yet. False after logging.
    bool check(const nvinfer1::PluginTensorDesc* inputs, int count) const noexcept;

    // For inputs of these shapes or smaller ones.
    size_t workspace(const nvinfer1::PluginTensorDesc* inputs, int count) const noexcept;

    // Whether the library has code for the current GPU. False after logging which it has.
    bool check_device() const noexcept;

    // 0, or 1 after logging why. Waits for nothing, and allocates nothing but what it asks of `exchange`, which is the
    // caller's own.
    int32_t enqueue(const nvinfer1::PluginTensorDesc* descriptions, const void* const* inputs, void* const* outputs,
                    void* workspace, Exchange& exchange, cudaStream_t stream) const noexcept;

private:
    // Below TensorRT 10 a builder is free to run an operator in any type that it has, and takes float32 where it has
    // nothing to choose by: an operator that was made for weights of 16 bits says so.
    Element asked_of(Element element) const noexcept {
        const bool half = element == Element::kActivation && mAttributes.sizes.of[kHalfWeights] != 0;
        return half ? Element::kHalf : element;
    }
    bool fill(const nvinfer1::PluginTensorDesc* inputs, int count, struct Call& call) const noexcept;

    const OperatorRow* mRow = nullptr;
    PluginAttributes mAttributes;
    Tensors mTensors;
};

}  // namespace aim_edge
