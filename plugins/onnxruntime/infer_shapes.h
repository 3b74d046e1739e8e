// The shapes of a node's outputs, for ONNX Runtime's planning and the nodes after it.
#pragma once

#include <onnxruntime_c_api.h>

namespace aim_edge {

// OrtCustomOp::InferOutputShapeFn of a CustomOp. Of a node that is wrong nothing is inferred, and nothing said: the
// kernel's checks know more, and name the node.
OrtStatus* infer_shapes(const OrtCustomOp* op, OrtShapeInferContext* context) noexcept;

}  // namespace aim_edge
