#include "refusal.h"

#include <cstdarg>
#include <cstdio>
#include <string>

namespace aim_edge {

void refuse(const char* format, ...) {
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof(text), format, arguments);
    va_end(arguments);
    throw Refusal(text);
}

void check(const OrtApi& api, OrtStatus* status) {
    if (status == nullptr) return;
    const std::string text = api.GetErrorMessage(status);
    api.ReleaseStatus(status);
    throw Refusal(text);
}

}  // namespace aim_edge
