#include "aim_kernels/mamba2_step.h"

#include "aim_kernels/embed_norm.h"
#include "aim_kernels/final_norm.h"
#include "embed.cuh"
#include "layers.cuh"

namespace aim_kernels {
namespace {

using namespace detail;

constexpr const char* kOp = "mamba2_step";

size_t residual_bytes(const Mamba2StepParams& p) noexcept {
    return aligned(static_cast<size_t>(p.layers.rows * p.layers.d_model) * sizeof(float));
}

// The layers' call. The residual lies at the workspace's end, and after it the head's input.
Mamba2LayersParams layers_of(const Mamba2StepParams& p) noexcept {
    Mamba2LayersParams layers = p.layers;
    layers.workspace_size = workspace_bytes(p.layers);
    layers.residual_out =
        reinterpret_cast<float*>(static_cast<unsigned char*>(p.layers.workspace) + aligned(layers.workspace_size));
    layers.residual = layers.residual_out;
    return layers;
}

// The first norm is the layers' own.
EmbedNormParams embed_of(const Mamba2StepParams& p, float* residual) noexcept {
    EmbedNormParams embed;
    embed.embedding = p.ends;
    embed.rows = p.layers.rows;
    embed.vectors = 3 * p.layers.layers;
    embed.d_model = p.layers.d_model;
    embed.dtype = p.layers.dtype;
    embed.residual_only = true;
    embed.residual = residual;
    return embed;
}

FinalNormParams final_norm_of(const Mamba2StepParams& p, const float* residual, void* x) noexcept {
    FinalNormParams norm;
    norm.rows = p.layers.rows;
    norm.vectors = 3 * p.layers.layers;
    norm.d_model = p.layers.d_model;
    norm.eps = norm.final_eps = p.layers.eps;
    norm.dtype = p.layers.dtype;
    norm.summed = true;  // by the layers
    norm.residual = residual;
    norm.final_modulation = p.ends.final_modulation;
    norm.norm_f = p.ends.norm_f;
    norm.norm_final = p.ends.norm_final;
    norm.x = x;
    return norm;
}

Status launch_chain(const Mamba2StepParams& p, cudaStream_t stream) noexcept {
    const Mamba2LayersParams layers = layers_of(p);
    void* const x = reinterpret_cast<unsigned char*>(layers.residual_out) + residual_bytes(p);
    AIM_CHECK(launch(embed_of(p, layers.residual_out), stream));
    AIM_CHECK(launch(layers, stream));
    AIM_CHECK(launch(final_norm_of(p, layers.residual_out, x), stream));
    const Product head = {p.ends.head, p.ends.head_scale, p.ends.vocab_size, layers.d_model};
    return launch_product(layers, head, 0, x, p.ends.logits, true, stream);
}

}  // namespace

size_t workspace_bytes(const Mamba2StepParams& p) noexcept {
    const size_t layers = workspace_bytes(p.layers);
    if (layers == 0) return 0;
    const size_t x = static_cast<size_t>(p.layers.rows * p.layers.d_model) * dtype_size(p.layers.dtype);
    return aligned(layers) + residual_bytes(p) + aligned(x);
}

Status validate_shapes(const Mamba2StepParams& p) noexcept {
    AIM_CHECK(validate_shapes(p.layers));
    return check_embedding(kOp, p.ends, p.layers.rows);
}

Status validate(const Mamba2StepParams& p) noexcept {
    AIM_CHECK(validate_shapes(p));
    const struct {
        const char* name;
        const void* pointer;
        bool vectors;
    } required[] = {
        {"token", p.ends.token, false},
        {"position", p.ends.position, false},
        {"class_embedding", p.ends.class_embedding, true},
        {"table", p.ends.table, true},
        {"head", p.ends.head, true},
        {"position_table", p.ends.position_table, true},
        {"final_modulation", p.ends.final_modulation, true},
        {"norm_f", p.ends.norm_f, true},
        {"norm_final", p.ends.norm_final, true},
        {"logits", p.ends.logits, false},
        {"workspace", p.layers.workspace, true},
    };
    for (const auto& entry : required) {
        AIM_CHECK(check_pointer(kOp, entry.name, entry.pointer));
        if (entry.vectors) AIM_CHECK(check_aligned_16(kOp, entry.name, entry.pointer));
    }
    if (p.layers.weight_bits != 0) AIM_CHECK(check_pointer(kOp, "head_scale", p.ends.head_scale));
    const size_t needed = workspace_bytes(p);
    if (p.layers.workspace_size < needed) {
        return fail(Status::kWorkspaceTooSmall, "%s: the workspace has %zu bytes; needed: %zu", kOp,
                    p.layers.workspace_size, needed);
    }
    return validate(layers_of(p));
}

bool resident(const Mamba2StepParams& p) noexcept {
    const DeviceInfo device = device_info();
    return device.status == Status::kSuccess && validate_shapes(p) == Status::kSuccess &&
           resident_fits(p.layers, &p.ends, device);
}

Status launch(const Mamba2StepParams& p, cudaStream_t stream) noexcept {
    AIM_CHECK(validate(p));
    const DeviceInfo device = device_info();
    AIM_CHECK(device.status);
    return resident_fits(p.layers, &p.ends, device) ? launch_resident(layers_of(p), &p.ends, device, stream)
                                                    : launch_chain(p, stream);
}

}  // namespace aim_kernels
