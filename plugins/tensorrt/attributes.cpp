#include "attributes.h"

#include <cstring>

#include "log.h"

namespace aim_edge {
namespace {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldType;

const char* type_name(AttributeType type) noexcept {
    switch (type) {
        case AttributeType::kInt: return "one integer (INT32 or INT64)";
        case AttributeType::kFloat: return "one FLOAT32";
        case AttributeType::kString: return "a string (CHAR)";
    }
    return "";
}

// The ONNX parser of TensorRT 8 hands integers over as 32 bits, that of TensorRT 10 as 64.
bool read_int(const PluginField& field, int64_t& value) noexcept {
    if (field.length != 1) return false;
    if (field.type == PluginFieldType::kINT32) {
        int32_t narrow = 0;
        std::memcpy(&narrow, field.data, sizeof(narrow));
        value = narrow;
        return true;
    }
#if NV_TENSORRT_MAJOR >= 10
    if (field.type == PluginFieldType::kINT64) {
        std::memcpy(&value, field.data, sizeof(value));
        return true;
    }
#endif
    return false;
}

bool is_text(const PluginField& field, const char* text) noexcept {
    // With or without a terminating null: parsers differ.
    const char* data = static_cast<const char*>(field.data);
    size_t length = static_cast<size_t>(field.length);
    if (length > 0 && data[length - 1] == '\0') --length;
    return length == std::strlen(text) && std::memcmp(data, text, length) == 0;
}

bool wrong_type(const OperatorRow& row, const AttributeRow& attribute, const PluginField& field) noexcept {
    log_error(row.name, "attribute '%s' has field type %d and length %d; expected %s", attribute.name,
              static_cast<int>(field.type), static_cast<int>(field.length), type_name(attribute.type));
    return false;
}

bool read_string(const OperatorRow& row, const AttributeRow& attribute, const PluginField& field,
                 PluginAttributes& attributes) noexcept {
    if (field.type != PluginFieldType::kCHAR || field.length < 0) return wrong_type(row, attribute, field);
    for (int i = 0; i < attribute.allowed_count; ++i) {
        if (is_text(field, attribute.allowed[i])) {
            attributes.sizes.of[attribute.symbol] = i;
            return true;
        }
    }
    const int shown = field.length < 64 ? static_cast<int>(field.length) : 64;
    log_error(row.name, "attribute '%s' is '%.*s'; expected '%s' or '%s'", attribute.name, shown,
              static_cast<const char*>(field.data), attribute.allowed[0], attribute.allowed[1]);
    return false;
}

bool read_field(const OperatorRow& row, const AttributeRow& attribute, const PluginField& field,
                PluginAttributes& attributes) noexcept {
    if (field.data == nullptr) {
        log_error(row.name, "attribute '%s' has no data; expected %s", attribute.name, type_name(attribute.type));
        return false;
    }
    if (attribute.type == AttributeType::kString) return read_string(row, attribute, field, attributes);
    if (attribute.type == AttributeType::kFloat) {
        if (field.type != PluginFieldType::kFLOAT32 || field.length != 1) return wrong_type(row, attribute, field);
        std::memcpy(&(attributes.reals.*attribute.real), field.data, sizeof(float));
        return true;
    }
    int64_t value = 0;
    if (!read_int(field, value)) return wrong_type(row, attribute, field);
    if (!check_attribute(row, attribute, value)) return false;
    attributes.sizes.of[attribute.symbol] = value;
    return true;
}

const AttributeRow* find(const OperatorRow& row, const char* name) noexcept {
    for (int i = 0; i < row.attribute_count; ++i) {
        if (std::strcmp(row.attributes[i].name, name) == 0) return &row.attributes[i];
    }
    return nullptr;
}

bool read_workspace(const OperatorRow& row, const PluginField& field, PluginAttributes& attributes) noexcept {
    const bool valid = field.data != nullptr && read_int(field, attributes.scan_workspace);
    if (valid && attributes.scan_workspace >= 0) return true;
    log_error(row.name, "serialized field '%s' is not an integer of 0 or more: the engine is damaged", kWorkspaceField);
    return false;
}

}  // namespace

bool check_attribute(const OperatorRow& row, const AttributeRow& attribute, int64_t value) noexcept {
    const auto shown = static_cast<long long>(value);
    if (attribute.symbol == kAimEdgeVersion && value != kOperatorVersion) {
        log_error(row.name,
                  "the graph or engine was made for version %lld of the operators; this library has version "
                  "%d. Export again, or load the library that it was exported for",
                  shown, static_cast<int>(kOperatorVersion));
        return false;
    }
    if (const char* expected = expected_instead(attribute, value)) {
        log_error(row.name, "attribute '%s' is %lld; expected %s", attribute.name, shown, expected);
        return false;
    }
    return true;
}

bool read_fields(const OperatorRow& row, const nvinfer1::PluginFieldCollection* fields, bool serialized,
                 PluginAttributes& attributes) noexcept {
    bool seen[kMaxAttributes] = {};
    bool seen_workspace = false;
    const int count = fields == nullptr || fields->fields == nullptr ? 0 : fields->nbFields;
    for (int i = 0; i < count; ++i) {
        const PluginField& field = fields->fields[i];
        const char* name = field.name == nullptr ? "" : field.name;
        if (serialized && std::strcmp(name, kWorkspaceField) == 0) {
            if (!read_workspace(row, field, attributes)) return false;
            seen_workspace = true;
            continue;
        }
        const AttributeRow* attribute = find(row, name);
        if (attribute == nullptr) {
            log_error(row.name, "unknown attribute '%.64s'; expected those of plugins/operators.json", name);
            return false;
        }
        bool& once = seen[attribute - row.attributes];
        if (once) {
            log_error(row.name, "attribute '%s' is given twice; expected once", name);
            return false;
        }
        once = true;
        if (!read_field(row, *attribute, field, attributes)) return false;
    }
    for (int i = 0; i < row.attribute_count; ++i) {
        if (seen[i]) continue;
        log_error(row.name, "attribute '%s' is missing; expected %s", row.attributes[i].name,
                  type_name(row.attributes[i].type));
        return false;
    }
    if (serialized && !seen_workspace) {
        log_error(row.name, "serialized field '%s' is missing: the engine is damaged or of another version",
                  kWorkspaceField);
        return false;
    }
    return true;
}

}  // namespace aim_edge
