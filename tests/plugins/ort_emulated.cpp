// The ONNX Runtime operators on the CPU's execution provider, over the emulated kernels: all of the adapter but the
// provider's name runs in CI. Stands in for plugins/onnxruntime/register.cpp.
#include <onnxruntime_c_api.h>

#include <vector>

#include "custom_op.h"
#include "refusal.h"

extern "C" ORT_EXPORT OrtStatus* ORT_API_CALL RegisterCustomOps(OrtSessionOptions* options, const OrtApiBase* base) {
    const OrtApi& api = *base->GetApi(aim_edge::kApiVersion);
    return aim_edge::guarded(api, [&] {
        static auto& ops = *new std::vector<aim_edge::CustomOp>(aim_edge::make_custom_ops(api, true));
        OrtCustomOpDomain* domain = nullptr;
        aim_edge::check(api, api.CreateCustomOpDomain("aim_edge", &domain));
        for (aim_edge::CustomOp& op : ops) {
            if (!op.on_cuda) continue;
            op.GetExecutionProviderType = [](const OrtCustomOp*) -> const char* { return nullptr; };
            aim_edge::check(api, api.CustomOpDomain_Add(domain, &op));
        }
        aim_edge::check(api, api.AddCustomOpDomain(options, domain));
    });
}
