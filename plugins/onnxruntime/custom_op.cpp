#include "custom_op.h"

#include <array>
#include <utility>

#include "infer_shapes.h"
#include "kernel.h"
#include "refusal.h"

namespace aim_edge {
namespace {

constexpr auto kUndefined = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
constexpr auto kSingle = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr auto kHalf = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
constexpr auto kBrain = ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16;

const CustomOp& self(const OrtCustomOp* op) noexcept { return *static_cast<const CustomOp*>(op); }

ONNXTensorElementDataType element_type(const CustomOp& op, Element element) noexcept {
    switch (element) {
        case Element::kActivation:
        case Element::kHalf: return op.activations;
        case Element::kState: return op.states;
        case Element::kFloat32: return kSingle;
        case Element::kInt32: break;
    }
    return ONNX_TENSOR_ELEMENT_DATA_TYPE_INT32;
}

// The first of the inputs that may be absent, where another follows; else -1.
int first_of_two(const OperatorRow& row) noexcept {
    for (int i = 0; i + 1 < row.input_count; ++i) {
        if (row.inputs[i].condition != kOne) return i;
    }
    return -1;
}

// Inputs that a node lacks leave no gap: without z, the input after SelectiveScan's state is `active`.
ONNXTensorElementDataType input_type(const OrtCustomOp* op, size_t index) noexcept {
    const CustomOp& custom = self(op);
    if (!custom.on_cuda) return kUndefined;
    const TensorRow* tensor = &custom.row->inputs[index];
    if (!custom.has_first && static_cast<int>(index) == first_of_two(*custom.row)) ++tensor;
    return element_type(custom, tensor->element);
}

ONNXTensorElementDataType output_type(const OrtCustomOp* op, size_t index) noexcept {
    return self(op).on_cuda ? element_type(self(op), self(op).row->outputs[index].element) : kUndefined;
}

OrtCustomOpInputOutputCharacteristic input_presence(const OrtCustomOp* op, size_t index) noexcept {
    return self(op).row->inputs[index].condition == kOne ? INPUT_OUTPUT_REQUIRED : INPUT_OUTPUT_OPTIONAL;
}

OrtStatus* create_kernel(const OrtCustomOp* op, const OrtApi* api, const OrtKernelInfo* info, void** kernel) noexcept {
    return guarded(*api, [&] {
        try {
            *kernel = new Kernel(*api, info, *self(op).row, self(op).on_cuda);
        } catch (const Refusal& refusal) {
            refuse("%s: %s", title_of(*api, info, *self(op).row).c_str(), refusal.what());
        }
    });
}

OrtStatus* compute(void* kernel, OrtKernelContext* context) noexcept {
    const Kernel& made = *static_cast<Kernel*>(kernel);
    return guarded(made.api(), [&] {
        try {
            made.compute(context);
        } catch (const Refusal& refusal) {
            refuse("%s: %s", made.title().c_str(), refusal.what());
        }
    });
}

// Which outputs may overwrite which inputs. ONNX Runtime asks without saying for which operator, hence a function each.
template <int kOperator>
size_t list_aliases(int** inputs, int** outputs) noexcept {
    static int from[kMaxOutputs], to[kMaxOutputs];
    static const size_t count = [] {
        size_t used = 0;
        for (int i = 0; i < kOperators[kOperator].output_count; ++i) {
            if (kOperators[kOperator].outputs[i].alias < 0) continue;
            from[used] = kOperators[kOperator].outputs[i].alias;
            to[used++] = i;
        }
        return used;
    }();
    *inputs = from;
    *outputs = to;
    return count;
}

template <size_t... kIndices>
constexpr auto aliases(std::index_sequence<kIndices...>) noexcept {
    return std::array{list_aliases<static_cast<int>(kIndices)>...};
}

constexpr auto kAliases = aliases(std::make_index_sequence<kOperatorCount>());

CustomOp make(const OrtApi& api, bool infers_shapes, int index) noexcept {
    CustomOp op{};
    op.version = kApiVersion;
    op.GetName = [](const OrtCustomOp* op) { return self(op).row->name; };
    op.GetExecutionProviderType = [](const OrtCustomOp* op) -> const char* {
        return self(op).on_cuda ? "CUDAExecutionProvider" : nullptr;
    };
    op.GetInputType = input_type;
    op.GetInputTypeCount = [](const OrtCustomOp* op) { return static_cast<size_t>(self(op).row->input_count); };
    op.GetOutputType = output_type;
    op.GetOutputTypeCount = [](const OrtCustomOp* op) { return static_cast<size_t>(self(op).row->output_count); };
    op.KernelDestroy = [](void* kernel) { delete static_cast<Kernel*>(kernel); };
    op.GetInputCharacteristic = input_presence;
    op.GetOutputCharacteristic = [](const OrtCustomOp*, size_t) { return INPUT_OUTPUT_REQUIRED; };
    op.GetInputMemoryType = [](const OrtCustomOp*, size_t) { return OrtMemTypeDefault; };
    op.CreateKernelV2 = create_kernel;
    op.KernelComputeV2 = compute;
    op.InferOutputShapeFn = infers_shapes ? infer_shapes : nullptr;
    op.GetMayInplace = kAliases[index];
    op.ReleaseMayInplace = [](int*, int*) {};
    op.api = &api;
    op.row = &kOperators[index];
    return op;
}

bool uses(const OperatorRow& row, Element element) noexcept {
    for (const TensorRow& input : row.inputs) {
        if (input.name != nullptr && input.element == element) return true;
    }
    return false;
}

}  // namespace

std::vector<CustomOp> make_custom_ops(const OrtApi& api, bool infers_shapes) {
    std::vector<CustomOp> ops;
    for (int index = 0; index < kOperatorCount; ++index) {
        CustomOp op = make(api, infers_shapes, index);
        op.on_cuda = true;
        for (auto activations : {kSingle, kHalf, kBrain}) {
            if (activations == kSingle && uses(*op.row, Element::kHalf)) continue;
            for (auto states : {kSingle, kHalf}) {
                if (states != kSingle && !uses(*op.row, Element::kState)) continue;
                for (bool has_first : {true, false}) {
                    if (!has_first && first_of_two(*op.row) < 0) continue;
                    op.activations = activations;
                    op.states = states;
                    op.has_first = has_first;
                    ops.push_back(op);
                }
            }
        }
        ops.push_back(make(api, infers_shapes, index));
    }
    return ops;
}

}  // namespace aim_edge
