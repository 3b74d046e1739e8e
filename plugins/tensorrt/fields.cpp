#include "fields.h"

#include <cstring>

namespace aim_edge {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

const nvinfer1::PluginFieldCollection* Fields::announce(const OperatorRow& row) noexcept {
    for (int i = 0; i < row.attribute_count; ++i) {
        const AttributeRow& attribute = row.attributes[i];
        PluginFieldType type = PluginFieldType::kINT32;
        if (attribute.type == AttributeType::kFloat) type = PluginFieldType::kFLOAT32;
        if (attribute.type == AttributeType::kString) type = PluginFieldType::kCHAR;
        mFields[i] = PluginField(attribute.name, nullptr, type, 1);
    }
    mCollection.nbFields = row.attribute_count;
    mCollection.fields = mFields;
    return &mCollection;
}

#if NV_TENSORRT_MAJOR >= 10
const nvinfer1::PluginFieldCollection* Fields::serialize(const OperatorRow& row,
                                                         const PluginAttributes& attributes) noexcept {
    announce(row);
    mAttributes = attributes;
    for (int i = 0; i < row.attribute_count; ++i) {
        const AttributeRow& attribute = row.attributes[i];
        const int64_t value = mAttributes.sizes.of[attribute.symbol];
        if (attribute.type == AttributeType::kString) {
            const char* text = attribute.allowed[value];
            mFields[i].data = text;
            mFields[i].length = static_cast<int32_t>(std::strlen(text));
        } else if (attribute.type == AttributeType::kFloat) {
            mFields[i].data = &(mAttributes.reals.*attribute.real);
        } else {
            mInts[i] = static_cast<int32_t>(value);
            mFields[i].data = &mInts[i];
        }
    }
    mFields[mCollection.nbFields++] =
        PluginField(kWorkspaceField, &mAttributes.scan_workspace, PluginFieldType::kINT64, 1);
    return &mCollection;
}
#endif

}  // namespace aim_edge
