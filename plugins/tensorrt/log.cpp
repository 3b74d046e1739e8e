#include "log.h"

#include <dlfcn.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <initializer_list>

namespace aim_edge {
namespace {

// The latest major version that may be asked for its logger. ILogger has had one layout since TensorRT 8.
constexpr int kLatestMajor = 16;

std::atomic<void*> g_finder{nullptr};

void* symbol_of_major(const char* name, int major) noexcept {
    for (const char* library : {"libnvinfer.so", "libnvinfer_lean.so", "libnvinfer_dispatch.so"}) {
        char file[64];
        std::snprintf(file, sizeof(file), "%s.%d", library, major);
        // RTLD_NOLOAD: finds what is loaded, loads nothing.
        void* handle = dlopen(file, RTLD_LAZY | RTLD_NOLOAD);
        if (handle == nullptr) continue;
        void* symbol = dlsym(handle, name);
        dlclose(handle);  // gives back the reference that dlopen took; the library stays
        if (symbol != nullptr) return symbol;
    }
    return nullptr;
}

nvinfer1::ILogger* find_logger() noexcept {
#if NV_TENSORRT_MAJOR > 8 || NV_TENSORRT_MINOR >= 6
    if (void* finder = g_finder.load()) {
        if (nvinfer1::ILogger* logger = static_cast<nvinfer1::ILoggerFinder*>(finder)->findLogger()) return logger;
    }
#endif
    using GetLogger = nvinfer1::ILogger* (*)();
    const auto get_logger = reinterpret_cast<GetLogger>(tensorrt_symbol("getLogger", false));
    return get_logger == nullptr ? nullptr : get_logger();
}

}  // namespace

void* tensorrt_symbol(const char* name, bool same_major) noexcept {
    if (void* symbol = symbol_of_major(name, NV_TENSORRT_MAJOR)) return symbol;
    for (int major = 8; !same_major && major <= kLatestMajor; ++major) {
        if (void* symbol = symbol_of_major(name, major)) return symbol;
    }
    return nullptr;
}

void set_logger_finder(void* finder) noexcept {
    // ILoggerFinder's layout changed in TensorRT 11: another version's must not be called.
    g_finder.store(tensorrt_symbol("getInferLibVersion", true) != nullptr ? finder : nullptr);
}

void log_error(const char* who, const char* format, ...) noexcept {
    char text[1024];
    int used = std::snprintf(text, sizeof(text), "aim_edge: %s: ", who);
    if (used < 0 || used >= static_cast<int>(sizeof(text))) used = 0;
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text + used, sizeof(text) - static_cast<size_t>(used), format, arguments);
    va_end(arguments);
    if (nvinfer1::ILogger* logger = find_logger()) {
        logger->log(nvinfer1::ILogger::Severity::kERROR, text);
    } else {
        std::fprintf(stderr, "[error] %s\n", text);
    }
}

}  // namespace aim_edge
