// How ONNX Runtime finds the operators: register_custom_ops_library of Python's SessionOptions and C's
// RegisterCustomOpsLibrary_V2 both call RegisterCustomOps.
#include <onnxruntime_c_api.h>

#include <cstdio>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "custom_op.h"
#include "refusal.h"

namespace aim_edge {
namespace {

// Seen in ONNX Runtime 1.20 and 1.22: the process dies of a null pointer where a node leaves an optional input empty
// and its operator infers shapes. 1.24 does not. Without, memory is planned less well.
bool may_infer_shapes(const OrtApiBase& base) noexcept {
    int major = 0, minor = 0;
    return std::sscanf(base.GetVersionString(), "%d.%d", &major, &minor) == 2 && (major > 1 || minor >= 24);
}

struct Domain {
    std::vector<CustomOp> ops;
    OrtCustomOpDomain* domain = nullptr;
};

// Sessions refer to the domain for as long as they live, and nothing says when the last is gone: it is made once for an
// ONNX Runtime, of which a process may hold several, and stays. The library does too (-z nodelete).
OrtCustomOpDomain* domain_of(const OrtApi& api, const OrtApiBase& base) {
    static auto& mutex = *new std::mutex;
    static auto& domains = *new std::map<const OrtApi*, std::unique_ptr<Domain>>;
    const std::lock_guard<std::mutex> lock(mutex);
    std::unique_ptr<Domain>& known = domains[&api];
    if (known != nullptr) return known->domain;
    auto made = std::make_unique<Domain>();
    made->ops = make_custom_ops(api, may_infer_shapes(base));
    check(api, api.CreateCustomOpDomain("aim_edge", &made->domain));
    for (const CustomOp& op : made->ops) check(api, api.CustomOpDomain_Add(made->domain, &op));
    known = std::move(made);
    return known->domain;
}

OrtStatus* refuse_version(const OrtApiBase& base) noexcept {
    const OrtApi* first = base.GetApi(1);
    if (first == nullptr) return nullptr;  // no ONNX Runtime that could be told
    return guarded(*first, [&] {
        refuse("aim_edge: ONNX Runtime is %s; expected 1.%u or later", base.GetVersionString(), kApiVersion);
    });
}

}  // namespace
}  // namespace aim_edge

extern "C" ORT_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
    const OrtApi* api = base->GetApi(aim_edge::kApiVersion);
    if (api == nullptr) return aim_edge::refuse_version(*base);
    return aim_edge::guarded(*api, [&] {
        aim_edge::check(*api, api->AddCustomOpDomain(options, aim_edge::domain_of(*api, *base)));
    });
}
