// The attributes of an operator, read from a TensorRT field collection and checked against the table.
#pragma once

#include <NvInferRuntime.h>

#include "sizes.h"

namespace aim_edge {

struct PluginAttributes : Attributes {
    // Bytes of scratch memory that a scan may use. Fixed when the engine is built and kept in it, because the memory
    // is granted then: the GPU that runs the engine could ask for more.
    int64_t scan_workspace = 0;
};

constexpr const char* kWorkspaceField = "scan_workspace";

// Every attribute of `row` once, of the right type and value, and nothing else; if `serialized`, the fields of a plugin
// that was in an engine, with its scan_workspace. False after logging what was found and what was expected.
bool read_fields(const OperatorRow& row, const nvinfer1::PluginFieldCollection* fields, bool serialized,
                 PluginAttributes& attributes) noexcept;

// The same checks of a value that does not come as a field.
bool check_attribute(const OperatorRow& row, const AttributeRow& attribute, int64_t value) noexcept;

}  // namespace aim_edge
