// The attributes of an operator as a field collection: what a creator announces and what a plugin puts into an engine.
#pragma once

#include "attributes.h"

namespace aim_edge {

class Fields {
public:
    Fields() = default;
    Fields(const Fields&) = delete;  // the collection points into the object
    Fields& operator=(const Fields&) = delete;

    // Names and types, without values: the ONNX parser reads the attributes that are named here.
    const nvinfer1::PluginFieldCollection* announce(const OperatorRow& row) noexcept;

#if NV_TENSORRT_MAJOR >= 10
    // With values, in the form that read_fields takes back with `serialized`.
    const nvinfer1::PluginFieldCollection* serialize(const OperatorRow& row,
                                                     const PluginAttributes& attributes) noexcept;
#endif

private:
    nvinfer1::PluginField mFields[kMaxAttributes + 1];
    nvinfer1::PluginFieldCollection mCollection{};
    PluginAttributes mAttributes;
    int32_t mInts[kMaxAttributes] = {};
};

}  // namespace aim_edge
