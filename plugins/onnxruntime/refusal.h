// How this library says no: inside it with an exception, to ONNX Runtime with an OrtStatus. Nothing else crosses the
// boundary.
#pragma once

#include <onnxruntime_c_api.h>

#include <new>
#include <stdexcept>

namespace aim_edge {

// What was found and what was expected.
class Refusal : public std::runtime_error {
public:
    using std::runtime_error::runtime_error;
};

[[noreturn]] void refuse(const char* format, ...) __attribute__((format(printf, 1, 2)));

// Takes over `status`; a failed one becomes a Refusal with ONNX Runtime's own words.
void check(const OrtApi& api, OrtStatus* status);

// Runs `body` where ONNX Runtime calls us.
template <typename Body>
OrtStatus* guarded(const OrtApi& api, Body body) noexcept {
    try {
        body();
        return nullptr;
    } catch (const Refusal& refusal) {
        return api.CreateStatus(ORT_INVALID_ARGUMENT, refusal.what());
    } catch (const std::bad_alloc&) {
        return api.CreateStatus(ORT_FAIL, "aim_edge: out of memory");
    } catch (const std::exception& error) {
        return api.CreateStatus(ORT_FAIL, error.what());
    } catch (...) {
        return api.CreateStatus(ORT_FAIL, "aim_edge: unknown error");
    }
}

}  // namespace aim_edge
