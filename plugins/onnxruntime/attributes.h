// The attributes of a node, read from ONNX Runtime and checked against the table.
#pragma once

#include <onnxruntime_c_api.h>

#include "sizes.h"

namespace aim_edge {

// Every attribute of `row`, of the right type and value. Throws Refusal. ONNX Runtime's interface does not list the
// attributes of a node, so that one that the table does not have goes unseen.
Attributes read_attributes(const OrtApi& api, const OrtKernelInfo* info, const OperatorRow& row);

}  // namespace aim_edge
