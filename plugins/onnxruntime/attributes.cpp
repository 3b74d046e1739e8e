#include "attributes.h"

#include <cstring>
#include <string>

#include "refusal.h"

namespace aim_edge {
namespace {

const char* type_name(AttributeType type) noexcept {
    switch (type) {
        case AttributeType::kInt: return "one integer";
        case AttributeType::kFloat: return "one float";
        case AttributeType::kString: return "a string";
    }
    return "";
}

// ONNX Runtime tells a missing attribute and one of another type apart in its words only.
void need(const OrtApi& api, const AttributeRow& attribute, OrtStatus* status) {
    if (status == nullptr) return;
    const std::string text = api.GetErrorMessage(status);
    api.ReleaseStatus(status);
    refuse("attribute '%s' is missing or of another type (%s); expected %s", attribute.name, text.c_str(),
           type_name(attribute.type));
}

int64_t read_int(const OrtApi& api, const OrtKernelInfo* info, const AttributeRow& attribute) {
    int64_t value = 0;
    need(api, attribute, api.KernelInfoGetAttribute_int64(info, attribute.name, &value));
    const auto shown = static_cast<long long>(value);
    if (attribute.symbol == kAimEdgeVersion && value != kOperatorVersion) {
        refuse("the graph was made for version %lld of the operators (aim_edge_version); this library has version %d. "
               "Export again, or load the library that it was exported for", shown, static_cast<int>(kOperatorVersion));
    }
    if (const char* expected = expected_instead(attribute, value)) {
        refuse("attribute '%s' is %lld; expected %s", attribute.name, shown, expected);
    }
    return value;
}

int64_t read_string(const OrtApi& api, const OrtKernelInfo* info, const AttributeRow& attribute) {
    size_t size = 0;
    need(api, attribute, api.KernelInfoGetAttribute_string(info, attribute.name, nullptr, &size));
    std::string value(size, '\0');
    need(api, attribute, api.KernelInfoGetAttribute_string(info, attribute.name, value.data(), &size));
    for (int i = 0; i < attribute.allowed_count; ++i) {
        if (std::strcmp(value.c_str(), attribute.allowed[i]) == 0) return i;
    }
    refuse("attribute '%s' is '%.64s'; expected '%s' or '%s'", attribute.name, value.c_str(), attribute.allowed[0],
           attribute.allowed[1]);
}

}  // namespace

Attributes read_attributes(const OrtApi& api, const OrtKernelInfo* info, const OperatorRow& row) {
    Attributes attributes;
    attributes.sizes.of[kOne] = 1;
    for (int i = 0; i < row.attribute_count; ++i) {
        const AttributeRow& attribute = row.attributes[i];
        int64_t& value = attributes.sizes.of[attribute.symbol];
        switch (attribute.type) {
            case AttributeType::kInt: value = read_int(api, info, attribute); break;
            case AttributeType::kString: value = read_string(api, info, attribute); break;
            case AttributeType::kFloat:
                need(api, attribute,
                     api.KernelInfoGetAttribute_float(info, attribute.name, &(attributes.reals.*attribute.real)));
                break;
        }
    }
    return attributes;
}

}  // namespace aim_edge
