// How TensorRT and its tools find the plugins.
//
// IPluginRegistry::loadLibrary and trtexec --dynamicPlugins ask for getCreators (TensorRT 10 and later) or
// getPluginCreators (8.6). polygraphy --plugins and trtexec --plugins only dlopen the library and expect it to register
// itself, which it does where a TensorRT of the version that it was compiled for is loaded already.
#include <NvInferRuntime.h>
#include <dlfcn.h>
#include <unwind.h>

#include <cstring>

#include "creators.h"
#include "log.h"

#define AIM_EDGE_EXPORT __attribute__((visibility("default")))

extern "C" {

#if NV_TENSORRT_MAJOR >= 10
AIM_EDGE_EXPORT nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count) {
    return aim_edge::creators(count);
}
#else
AIM_EDGE_EXPORT nvinfer1::IPluginCreator* const* getPluginCreators(int32_t& count) { return aim_edge::creators(count); }
#endif

AIM_EDGE_EXPORT void setLoggerFinder(void* finder) { aim_edge::set_logger_finder(finder); }

}  // extern "C"

namespace {

_Unwind_Reason_Code visit_caller(_Unwind_Context* context, void* found) {
    Dl_info info;
    const auto address = reinterpret_cast<void*>(_Unwind_GetIP(context));
    if (dladdr(address, &info) == 0 || info.dli_fname == nullptr) return _URC_NO_REASON;
    const char* slash = std::strrchr(info.dli_fname, '/');
    const char* file = slash == nullptr ? info.dli_fname : slash + 1;
    if (std::strncmp(file, "libnvinfer", std::strlen("libnvinfer")) != 0) return _URC_NO_REASON;
    *static_cast<bool*>(found) = true;
    return _URC_END_OF_STACK;
}

// Whether TensorRT is on the call stack: then it is loadLibrary that loads this library, and it will ask for the
// creators. Where they are registered already, it reports that as an error.
bool loaded_by_tensorrt() noexcept {
    bool found = false;
    _Unwind_Backtrace(visit_caller, &found);
    return found;
}

struct SelfRegistration {
    SelfRegistration() noexcept {
        if (loaded_by_tensorrt()) return;
        using GetRegistry = nvinfer1::IPluginRegistry* (*)();
        const auto get = reinterpret_cast<GetRegistry>(aim_edge::tensorrt_symbol("getPluginRegistry", true));
        nvinfer1::IPluginRegistry* registry = get == nullptr ? nullptr : get();
        if (registry == nullptr) return;
        int32_t count = 0;
        aim_edge::CreatorInterface* const* list = aim_edge::creators(count);
        for (int32_t i = 0; i < count; ++i) registry->registerCreator(*list[i], "");
    }
};

const SelfRegistration kRegistered;

}  // namespace
