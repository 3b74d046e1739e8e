#include "plugin_v2.h"

#if NV_TENSORRT_MAJOR < 10

#include <cstring>
#include <new>

#include "creators.h"
#include "fields.h"
#include "log.h"

namespace aim_edge {

using nvinfer1::PluginTensorDesc;

namespace {

// What a plugin is in an engine of TensorRT 8.
struct Blob {
    char magic[8] = {'A', 'I', 'M', 'E', 'D', 'G', 'E', '\0'};
    int32_t version = kOperatorVersion;
    int32_t kind = 0;
    int64_t values[kMaxAttributes] = {};  // in the table's order; 0 in place of a float
    int64_t scan_workspace = 0;
    Reals reals;
};

bool set_namespace(std::string& target, const char* name) noexcept {
    try {
        target = name == nullptr ? "" : name;
        return true;
    } catch (...) {
        log_error("setPluginNamespace", "no memory for the name");
        return false;
    }
}

nvinfer1::IPluginV2DynamicExt* make(const Operator& op, const char* name_space) noexcept {
    auto* made = new (std::nothrow) PluginV2(op);
    if (made == nullptr) {
        log_error(op.row().name, "no memory for the plugin");
        return nullptr;
    }
    made->setPluginNamespace(name_space);
    return made;
}

bool read_blob(const OperatorRow& row, const void* data, size_t length, Operator& op) noexcept {
    Blob blob;
    const Blob expected;
    if (data == nullptr || length != sizeof(blob)) {
        log_error(row.name,
                  "the engine holds %zu bytes for this plugin; expected %zu: it is damaged or was built with "
                  "another version of this library. Build it again",
                  length, sizeof(blob));
        return false;
    }
    std::memcpy(&blob, data, sizeof(blob));
    const bool ours = std::memcmp(blob.magic, expected.magic, sizeof(blob.magic)) == 0;
    if (!ours || blob.kind != static_cast<int32_t>(row.kind)) {
        log_error(row.name, "the engine's data for this plugin is not of this operator: it is damaged. Build it again");
        return false;
    }
    if (blob.version != kOperatorVersion) {
        log_error(row.name,
                  "the engine was built with version %d of the operators; this library has version %d. "
                  "Build it again, or load the library that it was built with",
                  static_cast<int>(blob.version), static_cast<int>(kOperatorVersion));
        return false;
    }
    PluginAttributes attributes;
    for (int i = 0; i < row.attribute_count; ++i) {
        const AttributeRow& attribute = row.attributes[i];
        if (attribute.type == AttributeType::kFloat) continue;
        if (!check_attribute(row, attribute, blob.values[i])) return false;
        attributes.sizes.of[attribute.symbol] = blob.values[i];
    }
    attributes.reals = blob.reals;
    attributes.scan_workspace = blob.scan_workspace < 0 ? 0 : blob.scan_workspace;
    return Operator::create(row, attributes, op);
}

class CreatorV2 final : public nvinfer1::IPluginCreator {
public:
    explicit CreatorV2(const OperatorRow& row) noexcept : mRow(row) {}

    const char* getPluginName() const noexcept override { return mRow.name; }
    const char* getPluginVersion() const noexcept override { return kPluginVersion; }
    const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return mFields.announce(mRow); }
    void setPluginNamespace(const char* name) noexcept override { set_namespace(mNamespace, name); }
    const char* getPluginNamespace() const noexcept override { return mNamespace.c_str(); }

    nvinfer1::IPluginV2DynamicExt* createPlugin(const char*,
                                                const nvinfer1::PluginFieldCollection* fields) noexcept override {
        Operator op;
        return Operator::create(mRow, fields, false, op) ? make(op, mNamespace.c_str()) : nullptr;
    }

    nvinfer1::IPluginV2DynamicExt* deserializePlugin(const char*, const void* data, size_t length) noexcept override {
        Operator op;
        return read_blob(mRow, data, length, op) ? make(op, mNamespace.c_str()) : nullptr;
    }

private:
    const OperatorRow& mRow;
    Fields mFields;
    std::string mNamespace;
};

}  // namespace

void PluginV2::setPluginNamespace(const char* name) noexcept { set_namespace(mNamespace, name); }

nvinfer1::DataType PluginV2::getOutputDataType(int32_t index, const nvinfer1::DataType* types,
                                               int32_t inputs) const noexcept {
    return mOperator.output_type(index, types, inputs);
}

nvinfer1::DimsExprs PluginV2::getOutputDimensions(int32_t index, const nvinfer1::DimsExprs* in, int32_t inputs,
                                                  nvinfer1::IExprBuilder& builder) noexcept {
    nvinfer1::DimsExprs shape{};
    if (mOperator.output_shape(index, in, inputs, shape, builder)) return shape;
    // There is no way to say no here. The shape of an input is harmless; supportsFormatCombination then says it.
    mRefused = true;
    return inputs > 0 ? in[0] : shape;
}

bool PluginV2::supportsFormatCombination(int32_t pos, const PluginTensorDesc* tensors, int32_t inputs,
                                         int32_t outputs) noexcept {
    return !mRefused && mOperator.supports(pos, tensors, inputs, outputs);
}

void PluginV2::configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t inputs,
                               const nvinfer1::DynamicPluginTensorDesc*, int32_t) noexcept {
    PluginTensorDesc descriptions[kMaxInputs];
    for (int i = 0; i < inputs && i < kMaxInputs; ++i) descriptions[i] = in[i].desc;
    // Logs what does not fit; enqueue refuses it.
    mOperator.check(descriptions, inputs);
}

size_t PluginV2::getWorkspaceSize(const PluginTensorDesc* in, int32_t inputs, const PluginTensorDesc*,
                                  int32_t) const noexcept {
    return mOperator.workspace(in, inputs);
}

int32_t PluginV2::enqueue(const PluginTensorDesc* in, const PluginTensorDesc*, const void* const* inputs,
                          void* const* outputs, void* workspace, cudaStream_t stream) noexcept {
    return mOperator.enqueue(in, inputs, outputs, workspace, mExchange, stream);
}

nvinfer1::IPluginV2DynamicExt* PluginV2::clone() const noexcept {
    auto* made = static_cast<PluginV2*>(make(mOperator, mNamespace.c_str()));
    if (made != nullptr) made->mRefused = mRefused;
    return made;
}

size_t PluginV2::getSerializationSize() const noexcept { return sizeof(Blob); }

void PluginV2::serialize(void* buffer) const noexcept {
    const OperatorRow& row = mOperator.row();
    Blob blob;
    blob.kind = static_cast<int32_t>(row.kind);
    for (int i = 0; i < row.attribute_count; ++i) {
        if (row.attributes[i].type == AttributeType::kFloat) continue;
        blob.values[i] = mOperator.attributes().sizes.of[row.attributes[i].symbol];
    }
    blob.reals = mOperator.attributes().reals;
    blob.scan_workspace = mOperator.attributes().scan_workspace;
    std::memcpy(buffer, &blob, sizeof(blob));
}

CreatorInterface* const* creators(int32_t& count) noexcept {
    count = kOperatorCount;
    return list_creators<CreatorV2>(std::make_index_sequence<kOperatorCount>());
}

}  // namespace aim_edge

#endif
