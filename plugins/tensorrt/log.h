// Where the plugins' messages go: TensorRT's own logger where one can be found, else the standard error stream.
#pragma once

#include <NvInferRuntime.h>

namespace aim_edge {

// A symbol of the TensorRT library that this process has loaded, full or lean. The plugin library itself does not link
// TensorRT, so that it can serve either. Null if none is loaded. `same_major`: only of the major version that this
// library was compiled for, whose objects have the layout that this library expects.
void* tensorrt_symbol(const char* name, bool same_major) noexcept;

void set_logger_finder(void* finder) noexcept;

// One line "aim_edge: <who>: <what>" with severity kERROR.
void log_error(const char* who, const char* format, ...) noexcept __attribute__((format(printf, 2, 3)));

}  // namespace aim_edge
