// A host program in TensorRT's place: it loads the plugin library, takes the IPluginV3 creators from it, and does with
// each operator what TensorRT does: create, ask for types, shapes and formats, configure, serialise, create again,
// clone, attach, enqueue; directly and from a CUDA graph, with states apart and in place. Results are compared with a
// float64 reference.
//
//     v3_host LIBRARY        exit status 0 if every case passed
//
// Compiled with AIM_KERNELS_EMULATED it runs a library with emulated kernels on the CPU, without CUDA graphs.
#include <dlfcn.h>

#include <algorithm>
#include <cstdarg>
#include <memory>

#include "v3_exprs.h"
#include "v3_plugin.h"
#include "v3_table.h"
#ifdef AIM_KERNELS_EMULATED
#include "emulated/captured.h"
#endif

using namespace nvinfer1;

namespace {

int g_failures = 0;

bool expect(bool holds, const Case& c, const char* format, ...) __attribute__((format(printf, 3, 4)));
bool expect(bool holds, const Case& c, const char* format, ...) {
    if (holds) return true;
    ++g_failures;
    std::printf("FAIL  %s %s: ", c.op.c_str(), c.name.c_str());
    va_list arguments;
    va_start(arguments, format);
    std::vprintf(format, arguments);
    va_end(arguments);
    std::printf("\n");
    return false;
}

std::vector<DynamicPluginTensorDesc> dynamic(const Case& c) {
    std::vector<DynamicPluginTensorDesc> made;
    for (const auto* list : {&c.inputs, &c.outputs}) {
        for (const Tensor& tensor : *list) {
            DynamicPluginTensorDesc d{};
            d.desc = tensor.description();
            d.min = d.max = d.opt = d.desc.dims;
            made.push_back(d);
        }
    }
    return made;
}

std::vector<PluginTensorDesc> descriptions(const std::vector<Tensor>& tensors) {
    std::vector<PluginTensorDesc> made;
    for (const Tensor& tensor : tensors) made.push_back(tensor.description());
    return made;
}

// What a builder asks. Returns the workspace, or -1 after a failure.
int64_t check_build(const Case& c, const Plugin& plugin) {
    const auto inputs = static_cast<int32_t>(c.inputs.size()), outputs = static_cast<int32_t>(c.outputs.size());
    IPluginV3OneBuildV2* build = plugin.build();
    if (!expect(build != nullptr && plugin.core() != nullptr && plugin.runtime() != nullptr, c,
                "a capability is missing"))
        return -1;
    expect(plugin.core()->getPluginName() == c.op, c, "the plugin's name is %s", plugin.core()->getPluginName());
    expect(build->getNbOutputs() == outputs, c, "%d outputs", build->getNbOutputs());

    std::vector<DataType> types, given(c.outputs.size());
    for (const Tensor& tensor : c.inputs) types.push_back(tensor.type);
    expect(build->getOutputDataTypes(given.data(), outputs, types.data(), inputs) == 0, c, "getOutputDataTypes failed");
    Expressions builder;
    std::vector<DimsExprs> shapes, shaped(c.outputs.size());
    for (const Tensor& tensor : c.inputs) {
        const bool batched = tensor.shape[0] == c.inputs[0].shape[0] && tensor.shape.size() > 1;
        const bool open = c.any_size && tensor.shape.size() == 4;
        shapes.push_back(builder.shape(tensor.shape, batched ? (c.sequence && tensor.shape.size() == 3 ? 2 : 1) : 0,
                                       open ? 2 : Dims::MAX_DIMS));
    }
    expect(build->getOutputShapes(shapes.data(), inputs, nullptr, 0, shaped.data(), outputs, builder) == 0, c,
           "getOutputShapes failed");
    for (size_t i = 0; i < c.outputs.size(); ++i) {
        expect(given[i] == c.outputs[i].type, c, "output %zu has type %d", i, static_cast<int>(given[i]));
        expect(values_of(shaped[i]) == c.outputs[i].shape, c, "output %zu has another shape", i);
        expect(build->getAliasedInput(static_cast<int32_t>(i)) == c.aliases[i], c, "output %zu has another alias", i);
    }

    auto all = dynamic(c);
    for (int32_t pos = 0; pos < inputs + outputs; ++pos) {
        expect(build->supportsFormatCombination(pos, all.data(), inputs, outputs), c, "tensor %d's type is refused",
               pos);
        auto other = all;
        other[static_cast<size_t>(pos)].desc.format = TensorFormat::kCHW32;
        expect(!build->supportsFormatCombination(pos, other.data(), inputs, outputs), c, "tensor %d: CHW32 passes",
               pos);
        // Channels last is for images of 16 bits, and then for all of them; convolutions take no others.
        const auto format = all[static_cast<size_t>(pos)].desc.format;
        const bool group_norm = c.op == "GroupNormSilu" || c.op == "AddGroupNormSilu";
        const bool first_image = group_norm && pos == 0 && c.inputs[0].type != DataType::kFLOAT;
        other = all;
        other[static_cast<size_t>(pos)].desc.format =
            format == TensorFormat::kHWC8 ? TensorFormat::kLINEAR : TensorFormat::kHWC8;
        expect(first_image || !build->supportsFormatCombination(pos, other.data(), inputs, outputs), c,
               "tensor %d: another layout passes", pos);
        other = all;
        other[static_cast<size_t>(pos)].desc.type = DataType::kINT8;
        expect(!build->supportsFormatCombination(pos, other.data(), inputs, outputs), c, "tensor %d: int8 passes", pos);
    }
    if (c.op == "NormConv" || c.op == "UpsampleConv" || c.op == "NormConvImage") {
        auto other = all;
        for (auto& tensor : other) tensor.desc.type = DataType::kFLOAT;
        expect(!build->supportsFormatCombination(1, other.data(), inputs, outputs), c, "float32 weights pass");
    }
    if (c.op == "Mamba2Step" && c.inputs[3].type != DataType::kFLOAT) {
        auto other = all;
        for (auto& tensor : other) tensor.desc.type = DataType::kFLOAT;
        expect(!build->supportsFormatCombination(3, other.data(), inputs, outputs), c,
               "a float32 table passes for half_weights");
    }
    expect(build->configurePlugin(all.data(), inputs, all.data() + inputs, outputs) == 0, c, "configurePlugin failed");
    return static_cast<int64_t>(build->getWorkspaceSize(all.data(), inputs, all.data() + inputs, outputs));
}

// Whether this device runs the case with the kernel that takes all layers, whose plugin keeps memory between its runs.
bool keeps_memory(const Case& c) {
    int major = 9;
#ifndef AIM_KERNELS_EMULATED
    cuda_check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0), "cudaDeviceGetAttribute");
#endif
    return c.name.rfind("one kernel", 0) == 0 && major >= 9;
}

// One run of `plugin`, and how far from the reference each output is; with a graph, what is captured is run twice.
// `first`: the plugin has not run before.
void check_enqueue(const Case& c, const Plugin& plugin, const char* who, size_t workspace, bool in_place, bool graph,
                   bool first = false) {
    IPluginV3OneRuntime* runtime = plugin.runtime();
    const auto in = descriptions(c.inputs), out = descriptions(c.outputs);
    const auto inputs = static_cast<int32_t>(in.size()), outputs = static_cast<int32_t>(out.size());
    if (!expect(runtime->onShapeChange(in.data(), inputs, out.data(), outputs) == 0, c, "%s: onShapeChange failed",
                who))
        return;

    std::vector<std::unique_ptr<DeviceBuffer>> buffers, results;
    std::vector<const void*> sources;
    std::vector<void*> targets;
    for (const Tensor& tensor : c.inputs) {
        buffers.push_back(std::make_unique<DeviceBuffer>(tensor));
        sources.push_back(buffers.back()->get());
    }
    for (size_t i = 0; i < c.outputs.size(); ++i) {
        results.push_back(std::make_unique<DeviceBuffer>(c.outputs[i].bytes()));
        const bool shared = in_place && c.aliases[i] >= 0;
        targets.push_back(shared ? buffers[static_cast<size_t>(c.aliases[i])]->get() : results.back()->get());
    }
    DeviceBuffer scratch(workspace);
    cudaStream_t stream = nullptr;
    cuda_check(cudaStreamCreate(&stream), "cudaStreamCreate");
    int32_t code = 0;
#ifndef AIM_KERNELS_EMULATED
    if (graph) {
        cudaGraph_t captured = nullptr;
        cudaGraphExec_t executable = nullptr;
        cuda_check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "cudaStreamBeginCapture");
        code = runtime->enqueue(in.data(), out.data(), sources.data(), targets.data(), scratch.get(), stream);
        cuda_check(cudaStreamEndCapture(stream, &captured), "cudaStreamEndCapture");
        cuda_check(cudaGraphInstantiate(&executable, captured, 0), "cudaGraphInstantiate");
        for (int i = 0; i < (in_place ? 1 : 2); ++i) cuda_check(cudaGraphLaunch(executable, stream), "cudaGraphLaunch");
        cuda_check(cudaStreamSynchronize(stream), "the captured run");
        cudaGraphExecDestroy(executable);
        cudaGraphDestroy(captured);
    }
#else
    if (graph) {
        code = runtime->enqueue(in.data(), out.data(), sources.data(), targets.data(), scratch.get(), captured_stream());
    }
#endif
    if (!graph) code = runtime->enqueue(in.data(), out.data(), sources.data(), targets.data(), scratch.get(), stream);
    cuda_check(cudaStreamSynchronize(stream), "the run");
    cudaStreamDestroy(stream);
    if (!expect(code == 0, c, "%s: enqueue returned %d", who, code)) return;
    for (size_t i = 0; i < c.outputs.size(); ++i) {
        Tensor found = c.outputs[i];
        const bool shared = in_place && c.aliases[i] >= 0;
        found.read(shared ? buffers[static_cast<size_t>(c.aliases[i])]->bytes() : results[i]->bytes());
        const double error = relative_error(found.values, c.outputs[i].values);
        expect(error <= c.bounds[i], c, "%s: %s is %.2e from the reference; at most %.0e", who, found.name.c_str(),
               error, c.bounds[i]);
    }
    if (keeps_memory(c)) {
        // It can't be had while the stream is captured: the workspace then does, as without it.
        const auto left = scratch.bytes();
        const bool untouched = std::all_of(left.begin(), left.end(), [](unsigned char byte) { return byte == 0xff; });
        expect(untouched != (graph && first), c, "%s: the workspace is %s", who, untouched ? "not used" : "used");
    }
    sources[0] = nullptr;
    expect(runtime->enqueue(in.data(), out.data(), sources.data(), targets.data(), scratch.get(), nullptr) != 0, c,
           "%s: a null pointer passes", who);
    auto wrong = in;
    wrong[1].dims.d[wrong[1].dims.nbDims - 1] += 1;
    expect(runtime->onShapeChange(wrong.data(), inputs, out.data(), outputs) != 0, c, "%s: a wrong shape passes", who);
}

void run(const Case& c, IPluginCreatorV3One& creator) {
    const int before = g_failures;
    auto refused = c.attributes;
    refused[0].integer = 2;
    expect(creator.createPlugin("x", OwnedFields(refused).get(), TensorRTPhase::kBUILD) == nullptr, c,
           "a graph of another version passes");
    OwnedFields fields(c.attributes);
    const Plugin first{creator.createPlugin("x", fields.get(), TensorRTPhase::kBUILD)};
    if (!expect(first.object != nullptr, c, "createPlugin failed")) return;
    const int64_t workspace = check_build(c, first);
    if (workspace < 0) return;

    OwnedFields saved(*first.runtime()->getFieldsToSerialize());
    const Plugin again{creator.createPlugin("x", saved.get(), TensorRTPhase::kRUNTIME)};
    if (!expect(again.object != nullptr, c, "createPlugin from the serialised fields failed")) return;
    expect(saved == OwnedFields(*again.runtime()->getFieldsToSerialize()), c, "serialised fields change");
    const Plugin copy{first.object->clone()};
    const Plugin attached{again.runtime()->attachToContext(nullptr)};
    if (!expect(copy.object != nullptr && attached.object != nullptr, c, "clone or attachToContext failed")) return;
    delete first.object;  // copies must stand alone
    delete again.object;

    const auto size = static_cast<size_t>(workspace);
    check_enqueue(c, copy, "clone", size, false, false, true);
    check_enqueue(c, attached, "recreated", size, false, false);
    check_enqueue(c, attached, "in place", size, true, false);
    const Plugin captured{attached.object->clone()};
    if (keeps_memory(c) && expect(captured.object != nullptr, c, "clone failed")) {
        check_enqueue(c, captured, "captured first", size, false, true, true);
        check_enqueue(c, captured, "after the capture", size, false, false);
    }
    delete captured.object;
#ifndef AIM_KERNELS_EMULATED
    check_enqueue(c, attached, "graph", size, false, true);
    check_enqueue(c, attached, "graph in place", size, true, true);
#endif
    delete copy.object;
    delete attached.object;
    if (g_failures == before)
        std::printf("PASS  %s %s (workspace %lld)\n", c.op.c_str(), c.name.c_str(), static_cast<long long>(workspace));
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 2) {
        std::fprintf(stderr, "usage: v3_host LIBRARY\n");
        return 2;
    }
    void* library = dlopen(arguments[1], RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        std::fprintf(stderr, "%s\n", dlerror());
        return 2;
    }
    using GetCreators = IPluginCreatorInterface* const* (*)(int32_t&);
    const auto get = reinterpret_cast<GetCreators>(dlsym(library, "getCreators"));
    if (get == nullptr) {
        std::fprintf(stderr, "%s exports no getCreators\n", arguments[1]);
        return 2;
    }
    int32_t creators = 0;
    IPluginCreatorInterface* const* list = get(creators);
    const auto cases = all_cases();
    for (const Case& c : cases) {
        IPluginCreatorV3One* creator = nullptr;
        for (int32_t i = 0; i < creators; ++i) {
            auto* one = static_cast<IPluginCreatorV3One*>(list[i]);
            if (one->getPluginName() == c.op) creator = one;
        }
        if (expect(creator != nullptr, c, "no creator of this name")) run(c, *creator);
    }
    std::printf("%zu cases, %d failures\n", cases.size(), g_failures);
    return g_failures == 0 ? 0 : 1;
}
