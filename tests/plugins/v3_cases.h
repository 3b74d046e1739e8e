// Calls of the operators: attributes, random inputs, and the outputs that the reference gives.
#pragma once

#include <string>
#include <vector>

#include "v3_reference.h"
#include "v3_tensors.h"

// One attribute; text where it is a string, real where it is a float, else an integer.
struct Attribute {
    std::string name;
    int64_t integer = 0;
    bool is_real = false;
    float real = 0.0f;
    std::string text;
};

inline Attribute number(std::string name, int64_t value) { return {std::move(name), value, false, 0.0f, ""}; }
inline Attribute real(std::string name, float value) { return {std::move(name), 0, true, value, ""}; }
inline Attribute text(std::string name, std::string value) {
    return {std::move(name), 0, false, 0.0f, std::move(value)};
}

struct Case {
    std::string op, name;
    std::vector<Attribute> attributes;
    std::vector<Tensor> inputs;
    std::vector<Tensor> outputs;  // with the expected values
    std::vector<double> bounds;   // of the relative error, one an output
    std::vector<int> aliases;     // the input that an output may overwrite, or -1
    bool sequence = true;         // dimensions 0 and 1 are rows and length; else 0 alone is open
    bool any_size = false;        // of images, height and width are open too
};

struct Types {
    DataType activations, states;
};

inline double bound_of(DataType type) {
    return type == DataType::kFLOAT ? 1e-5 : type == DataType::kHALF ? 2e-3 : 1e-2;
}
inline double state_bound(const Types& types) { return std::fmax(bound_of(types.activations), bound_of(types.states)); }

class Draw {
public:
    explicit Draw(unsigned seed) : mEngine(seed) {}
    double normal() { return mNormal(mEngine); }
    double uniform(double low, double high) { return low + (high - low) * mUniform(mEngine); }
    Tensor normal(const char* name, DataType type, std::vector<int64_t> shape, double scale = 1.0) {
        return make_tensor(name, type, std::move(shape), [&] { return normal() * scale; });
    }
    Tensor uniform(const char* name, std::vector<int64_t> shape, double low, double high) {
        return make_tensor(name, DataType::kFLOAT, std::move(shape), [&] { return uniform(low, high); });
    }
    // Time steps between 0.001 and 0.1 after softplus, as Mamba is initialised.
    Tensor dt_bias(int64_t nheads, bool softplus = true) {
        if (!softplus) return uniform("dt_bias", {nheads}, 1e-3, 1e-2);
        return make_tensor("dt_bias", DataType::kFLOAT, {nheads}, [&] {
            const double step = std::exp(uniform(std::log(1e-3), std::log(1e-1)));
            return step + std::log(-std::expm1(-step));
        });
    }

private:
    std::mt19937 mEngine;
    std::normal_distribution<double> mNormal{0.0, 1.0};
    std::uniform_real_distribution<double> mUniform{0.0, 1.0};
};

// Rows that are not active keep their state; what they give is not defined, which NaN stands for.
inline Tensor activity(int64_t rows) {
    int64_t row = 0;
    return make_tensor("active", DataType::kINT32, {rows}, [&] { return row++ % 2 == 0 ? 1.0 : 0.0; });
}

inline void restore_inactive(const Tensor& active, const Tensor& before, std::vector<double>& after) {
    const size_t each = before.count() / active.count();
    for (size_t r = 0; r < active.count(); ++r) {
        for (size_t i = r * each; active.values[r] == 0.0 && i < (r + 1) * each; ++i) after[i] = before.values[i];
    }
}

inline void forget_inactive(const Tensor& active, std::vector<double>& given) {
    const size_t each = given.size() / active.count();
    for (size_t i = 0; i < given.size(); ++i) given[i] = active.values[i / each] == 0.0 ? NAN : given[i];
}

inline Case conv_case(const char* name, Types types, reference::ConvSizes n, bool silu, bool masked) {
    Draw draw(11);
    Case made{"CausalConv1d", name, {}, {}, {}, {bound_of(types.activations), state_bound(types)}, {-1, 3}};
    made.attributes = {number("aim_edge_version", 1), text("activation", silu ? "silu" : "none"),
                       number("has_active", masked)};
    made.inputs = {draw.normal("x", types.activations, {n.rows, n.length, n.channels}),
                   draw.normal("weight", DataType::kFLOAT, {n.channels, n.width}, 0.5),
                   draw.normal("bias", DataType::kFLOAT, {n.channels}),
                   draw.normal("conv_state", types.states, {n.rows, n.channels, n.width - 1})};
    if (masked) made.inputs.push_back(activity(n.rows));
    const auto& in = made.inputs;
    auto state = in[3].values;
    auto y = reference::causal_conv1d(n, in[0].values, in[1].values, in[2].values, state, silu);
    if (masked) restore_inactive(in[4], in[3], state);
    if (masked) forget_inactive(in[4], y);
    made.outputs = {Tensor{"y", types.activations, in[0].shape, y},
                    Tensor{"conv_state_out", types.states, in[3].shape, state}};
    return made;
}

inline Case scan_case(const char* name, Types types, reference::ScanSizes n, bool gated, bool masked) {
    Draw draw(12);
    const int64_t inner = n.nheads * n.headdim, groups = n.ngroups * n.d_state;
    const DataType t = types.activations;
    Case made{"SelectiveScan", name, {}, {}, {}, {bound_of(t), state_bound(types)}, {-1, 7}};
    made.attributes = {number("aim_edge_version", 1),     text("kind", n.a_per_state ? "mamba1" : "mamba2"),
                       number("nheads", n.nheads),        number("headdim", n.headdim),
                       number("d_state", n.d_state),      number("ngroups", n.ngroups),
                       number("dt_softplus", n.softplus), number("has_z", gated),
                       number("has_active", masked)};
    const std::vector<int64_t> decays =
        n.a_per_state ? std::vector<int64_t>{n.nheads, n.d_state} : std::vector<int64_t>{n.nheads};
    const auto dt = [&] { return n.softplus ? 0.5 * draw.normal() : draw.uniform(1e-3, 1e-1); };
    made.inputs = {draw.normal("x", t, {n.rows, n.length, inner}),
                   make_tensor("dt", t, {n.rows, n.length, n.nheads}, dt),
                   draw.uniform("A", decays, -16.0, -1.0),
                   draw.normal("B", t, {n.rows, n.length, groups}),
                   draw.normal("C", t, {n.rows, n.length, groups}),
                   draw.normal("D", DataType::kFLOAT, {n.nheads}),
                   draw.dt_bias(n.nheads, n.softplus),
                   draw.normal("ssm_state", types.states, {n.rows, n.nheads, n.headdim, n.d_state})};
    if (gated) made.inputs.push_back(draw.normal("z", t, {n.rows, n.length, inner}));
    if (masked) made.inputs.push_back(activity(n.rows));
    const auto& in = made.inputs;
    auto state = in[7].values;
    const reference::ScanInputs values = {
        in[0].values, in[1].values, in[2].values, in[3].values,
        in[4].values, in[5].values, in[6].values, gated ? in[8].values : std::vector<double>{}};
    auto y = reference::selective_scan(n, values, state);
    if (masked) restore_inactive(in.back(), in[7], state);
    if (masked) forget_inactive(in.back(), y);
    made.outputs = {Tensor{"y", t, in[0].shape, y}, Tensor{"ssm_state_out", types.states, in[7].shape, state}};
    return made;
}

inline Case norm_case(const char* name, DataType type, int64_t rows, int64_t length, int64_t d, int64_t ngroups) {
    Draw draw(13);
    Case made{"RmsNormGated", name, {}, {}, {}, {bound_of(type)}, {-1}};
    made.attributes = {number("aim_edge_version", 1), number("ngroups", ngroups), real("eps", 1e-5f)};
    made.inputs = {draw.normal("y", type, {rows, length, d}), draw.normal("z", type, {rows, length, d}),
                   draw.normal("weight", DataType::kFLOAT, {d})};
    const auto& in = made.inputs;
    made.outputs = {Tensor{"out", type, in[0].shape,
                           reference::rms_norm_gated(d, ngroups, 1e-5f, in[0].values, in[1].values, in[2].values)}};
    return made;
}

inline Case ada_ln_case(const char* name, DataType type, int64_t rows, int64_t vectors, int64_t d) {
    Draw draw(15);
    Case made{"AdaLnNorm", name, {}, {}, {}, {bound_of(type), 1e-5}, {-1, -1}, false};
    made.attributes = {number("aim_edge_version", 1), number("gate_index", vectors - 1), number("shift_index", 0),
                       number("scale_index", 1), real("eps", 1e-5f)};
    made.inputs = {draw.normal("hidden", type, {rows, d}), draw.normal("residual", DataType::kFLOAT, {rows, d}),
                   draw.normal("modulation", DataType::kFLOAT, {rows, vectors, d}),
                   draw.normal("weight", DataType::kFLOAT, {d})};
    const auto& in = made.inputs;
    auto residual = in[1].values;
    const auto x = reference::ada_ln_norm(vectors, d, vectors - 1, 0, 1, 1e-5f, in[0].values, residual, in[2].values,
                                          in[3].values);
    made.outputs = {Tensor{"x", type, {rows, d}, x}, Tensor{"residual_out", DataType::kFLOAT, {rows, d}, residual}};
    return made;
}

// One value an image: from `first` on, each `step` more.
inline Tensor counting(const char* name, int64_t images, int64_t first, int64_t step, int64_t end) {
    int64_t next = first - step;
    return make_tensor(name, DataType::kINT32, {images}, [&] { return double((next += step) % end); });
}

// What a step's rows begin with, two rows an image; the first image is at position 0.
inline std::vector<Tensor> embedding_inputs(Draw& draw, DataType type, int64_t rows, int64_t d, int64_t vocab,
                                            int64_t places) {
    return {counting("token", rows / 2, 5, 11, vocab),
            counting("position", rows / 2, 0, 4, places),
            draw.normal("class_embedding", DataType::kFLOAT, {rows, d}),
            draw.normal("table", type, {vocab, d}),
            draw.normal("position_table", type, {places, d})};
}

inline std::vector<double> embedding_of(const std::vector<Tensor>& in, int64_t d) {
    return reference::step_embedding(d, in[0].values, in[1].values, in[2].values, in[3].values, in[4].values);
}

inline Case embed_norm_case(const char* name, DataType type, int64_t rows, int64_t vectors, int64_t d) {
    Draw draw(24);
    Case made{"EmbedNorm", name, {}, {}, {}, {bound_of(type), 1e-5}, {-1, -1}, false};
    made.attributes = {number("aim_edge_version", 1), number("position_offset", 1), number("shift_index", 0),
                       number("scale_index", vectors - 1), real("eps", 1e-5f)};
    made.inputs = embedding_inputs(draw, type, rows, d, 37, 9);
    made.inputs.push_back(draw.normal("modulation", DataType::kFLOAT, {rows, vectors, d}));
    made.inputs.push_back(draw.normal("weight", DataType::kFLOAT, {d}));
    const auto& in = made.inputs;
    auto residual = embedding_of(in, d);
    const std::vector<double> none(residual.size(), 0.0);
    const auto x = reference::ada_ln_norm(vectors, d, 0, 0, vectors - 1, 1e-5f, none, residual, in[5].values, in[6].values);
    made.outputs = {Tensor{"x", type, {rows, d}, x}, Tensor{"residual", DataType::kFLOAT, {rows, d}, residual}};
    return made;
}

inline Case final_norm_case(const char* name, DataType type, int64_t rows, int64_t vectors, int64_t d) {
    Draw draw(23);
    Case made{"FinalNorm", name, {}, {}, {}, {bound_of(type)}, {-1}, false};
    made.attributes = {number("aim_edge_version", 1), number("gate_index", vectors - 1), real("eps", 0.2f),
                       real("final_eps", 1e-5f)};
    made.inputs = {draw.normal("hidden", type, {rows, d}), draw.normal("residual", DataType::kFLOAT, {rows, d}),
                   draw.normal("modulation", DataType::kFLOAT, {rows, vectors, d}),
                   draw.normal("final_modulation", DataType::kFLOAT, {rows, 2, d}),
                   draw.normal("norm_f", DataType::kFLOAT, {d}), draw.normal("norm_final", DataType::kFLOAT, {d})};
    const auto& in = made.inputs;
    made.outputs = {Tensor{"x", type, {rows, d},
                           reference::final_norm(vectors, d, vectors - 1, 0.2f, 1e-5f, in[0].values, in[1].values,
                                                 in[2].values, in[3].values, in[4].values, in[5].values)}};
    return made;
}

inline Case attention_case(const char* name, Types types, reference::AttentionSizes n) {
    Draw draw(19);
    const double state = state_bound(types);
    const int64_t width = n.nheads * n.headdim;
    Case made{"CachedAttention", name, {}, {}, {}, {state, state, state}, {-1, 3, 4}, false};
    made.attributes = {number("aim_edge_version", 1), number("nheads", n.nheads), number("headdim", n.headdim)};
    int64_t image = 0;
    Tensor position = make_tensor("position", DataType::kINT32, {n.positions},
                                  [&] { return static_cast<double>((n.tokens - 1 + 5 * image++) % n.tokens); });
    made.inputs = {draw.normal("qkv", types.activations, {n.rows, 3 * width}),
                   draw.normal("rotary", DataType::kFLOAT, {n.tokens, n.headdim}), position,
                   draw.normal("k_cache", types.states, {n.rows, n.nheads, n.tokens, n.headdim}),
                   draw.normal("v_cache", types.states, {n.rows, n.nheads, n.tokens, n.headdim})};
    const auto& in = made.inputs;
    auto keys = in[3].values, values = in[4].values;
    const auto out = reference::cached_attention(n, in[0].values, in[1].values, in[2].values, keys, values);
    made.outputs = {Tensor{"out", types.activations, {n.rows, width}, out},
                    Tensor{"k_cache_out", types.states, in[3].shape, keys},
                    Tensor{"v_cache_out", types.states, in[3].shape, values}};
    return made;
}

inline Case swi_glu_case(const char* name, DataType type, int64_t rows, int64_t width) {
    Draw draw(20);
    Case made{"SwiGlu", name, {number("aim_edge_version", 1)}, {}, {}, {bound_of(type)}, {-1}, false};
    made.inputs = {draw.normal("gate", type, {rows, width}), draw.normal("up", type, {rows, width})};
    Tensor y{"y", type, {rows, width}, made.inputs[1].values};
    for (size_t i = 0; i < y.values.size(); ++i) y.values[i] *= reference::silu(made.inputs[0].values[i]);
    made.outputs = {y};
    return made;
}

// The same product by the operator whose y is float32: the sums as they are.
inline Case with_float32_y(Case made) {
    made.op += "Float32";
    made.outputs[0].type = DataType::kFLOAT;
    made.bounds = {bound_of(DataType::kFLOAT)};
    return made;
}

inline Case linear_case(const char* name, DataType type, int64_t rows, int64_t k, int64_t n) {
    Draw draw(16);
    Case made{"Linear", name, {number("aim_edge_version", 1)}, {}, {}, {bound_of(type)}, {-1}, false};
    made.inputs = {draw.normal("x", type, {rows, k}), draw.normal("weight", type, {n, k}, 1.0 / std::sqrt(double(k)))};
    const auto& in = made.inputs;
    made.outputs = {Tensor{"y", type, {rows, n}, reference::linear(rows, k, n, in[0].values, in[1].values)}};
    return made;
}

// int8 codes, four a word. The last of each is 0, so that a word is a number that every type here holds.
inline Tensor code_words(const char* name, std::vector<int64_t> shape, uint32_t state) {
    const auto word = [&] { return static_cast<double>((state = state * 1664525u + 1013904223u) >> 9); };
    return make_tensor(name, DataType::kINT32, std::move(shape), word);
}

// What they stand for: a scale for each `inputs` of them.
inline std::vector<double> dense_of(const Tensor& words, const Tensor& scale, int64_t inputs) {
    std::vector<double> dense(words.values.size() * 4);
    for (size_t at = 0; at < dense.size(); ++at) {
        const int64_t stored = static_cast<int64_t>(words.values[at / 4]) >> 8 * (at % 4) & 255;
        dense[at] = static_cast<double>(stored > 127 ? stored - 256 : stored) * scale.values[at / inputs];
    }
    return dense;
}

inline Case linear_quantized_case(const char* name, DataType type, int64_t rows, int64_t k, int64_t n) {
    Draw draw(22);
    Case made{"LinearQuantized", name, {}, {}, {}, {bound_of(type)}, {-1}, false};
    made.attributes = {number("aim_edge_version", 1), number("bits", 8), number("group_size", 0)};
    made.inputs = {draw.normal("x", type, {rows, k}), code_words("weight", {n, k / 4}, 1),
                   draw.uniform("scale", {n, 1}, 0.001, 0.002)};
    const auto& in = made.inputs;
    const std::vector<double> dense = dense_of(in[1], in[2], k);
    made.outputs = {Tensor{"y", type, {rows, n}, reference::linear(rows, k, n, in[0].values, dense)}};
    return made;
}

inline Case group_norm_case(const char* name, DataType type, int64_t batch, int64_t channels, int64_t side,
                            int64_t groups, bool channels_last = false) {
    Draw draw(17);
    Case made{"GroupNormSilu", name, {}, {}, {}, {bound_of(type)}, {-1}, false};
    made.attributes = {number("aim_edge_version", 1), number("groups", groups), number("silu", 1), real("eps", 1e-6f)};
    made.inputs = {draw.normal("x", type, {batch, channels, side, side}),
                   draw.normal("weight", DataType::kFLOAT, {channels}), draw.normal("bias", DataType::kFLOAT, {channels})};
    const auto& in = made.inputs;
    made.outputs = {Tensor{"y", type, in[0].shape,
                           reference::group_norm_silu(channels, side * side, groups, 1e-6f, in[0].values, in[1].values,
                                                      in[2].values)}};
    made.inputs[0].channels_last = made.outputs[0].channels_last = channels_last;
    return made;
}

inline Case add_group_norm_case(const char* name, DataType type, int64_t batch, int64_t channels, int64_t side,
                                int64_t groups, bool channels_last = false) {
    Case made = group_norm_case(name, type, batch, channels, side, groups, channels_last);
    made.op = "AddGroupNormSilu";
    made.inputs.push_back(Draw(18).normal("residual", type, made.inputs[0].shape));
    made.inputs[3].channels_last = channels_last;
    made.bounds = {bound_of(type), bound_of(type)};
    made.aliases = {-1, -1};
    const auto& in = made.inputs;
    Tensor sum{"sum", type, in[0].shape, in[0].values};
    for (size_t i = 0; i < sum.values.size(); ++i) sum.values[i] += in[3].values[i];
    sum.channels_last = channels_last;
    made.outputs[0].values = reference::group_norm_silu(channels, side * side, groups, 1e-6f, sum.values, in[1].values,
                                                        in[2].values);
    made.outputs.push_back(sum);
    return made;
}

inline Case step_case(const char* name, Types types, reference::ScanSizes n, int64_t d_conv, bool masked) {
    Draw draw(14);
    const int64_t inner = n.nheads * n.headdim, conv_dim = inner + 2 * n.ngroups * n.d_state;
    const double state = state_bound(types);
    Case made{"Mamba2DecodeStep", name, {}, {}, {}, {bound_of(types.activations), state, state}, {-1, 7, 8}, false};
    made.attributes = {number("aim_edge_version", 1),
                       number("nheads", n.nheads),
                       number("headdim", n.headdim),
                       number("d_state", n.d_state),
                       number("ngroups", n.ngroups),
                       number("d_conv", d_conv),
                       real("eps", 1e-5f),
                       number("has_active", masked)};
    made.inputs = {draw.normal("zxbcdt", types.activations, {n.rows, inner + conv_dim + n.nheads}),
                   draw.normal("conv_weight", DataType::kFLOAT, {conv_dim, d_conv}, 0.5),
                   draw.normal("conv_bias", DataType::kFLOAT, {conv_dim}),
                   draw.uniform("A", {n.nheads}, -16.0, -1.0),
                   draw.normal("D", DataType::kFLOAT, {n.nheads}),
                   draw.dt_bias(n.nheads),
                   draw.normal("norm_weight", DataType::kFLOAT, {inner}),
                   draw.normal("conv_state", types.states, {n.rows, conv_dim, d_conv - 1}),
                   draw.normal("ssm_state", types.states, {n.rows, n.nheads, n.headdim, n.d_state})};
    if (masked) made.inputs.push_back(activity(n.rows));
    const auto& in = made.inputs;
    auto expected =
        reference::mamba2_decode_step(n, d_conv, 1e-5f, in[0].values, in[1].values, in[2].values, in[3].values,
                                      in[4].values, in[5].values, in[6].values, in[7].values, in[8].values);
    if (masked) forget_inactive(in.back(), expected.out);
    if (masked) restore_inactive(in.back(), in[7], expected.conv_state);
    if (masked) restore_inactive(in.back(), in[8], expected.ssm_state);
    made.outputs = {Tensor{"out", types.activations, {n.rows, inner}, expected.out},
                    Tensor{"conv_state_out", types.states, in[7].shape, expected.conv_state},
                    Tensor{"ssm_state_out", types.states, in[8].shape, expected.ssm_state}};
    return made;
}

// All layers of a step: the reference's parts one after another. `given`: the residual, in place of a random one.
inline Case layers_case(const char* name, Types types, reference::ScanSizes n, int64_t layers, int64_t d, bool masked,
                        bool quantized = false, const std::vector<double>* given = nullptr) {
    Draw draw(21);
    const int64_t d_conv = 4, inner = n.nheads * n.headdim, conv_dim = inner + 2 * n.ngroups * n.d_state;
    const int64_t width = inner + conv_dim + n.nheads;
    // What the layers round adds up.
    const double state = 2 * state_bound(types);
    Case made{"Mamba2Layers", name, {}, {}, {}, {2 * bound_of(types.activations), state, state}, {-1, 11, 12}, false};
    made.attributes = {number("aim_edge_version", 1), number("nheads", n.nheads),   number("headdim", n.headdim),
                       number("d_state", n.d_state),  number("ngroups", n.ngroups), number("d_conv", d_conv),
                       real("eps", 1e-5f),            number("has_active", masked)};
    made.inputs = {draw.normal("residual", DataType::kFLOAT, {n.rows, d}),
                   draw.normal("modulation", DataType::kFLOAT, {n.rows, 3 * layers, d}, 0.3),
                   draw.normal("norm_weight", DataType::kFLOAT, {layers, d}),
                   draw.normal("in_proj", types.activations, {layers, width, d}, 1.0 / std::sqrt(double(d))),
                   draw.normal("conv_weight", DataType::kFLOAT, {layers, conv_dim, d_conv}, 0.5),
                   draw.normal("conv_bias", DataType::kFLOAT, {layers, conv_dim}),
                   draw.uniform("A", {layers, n.nheads}, -16.0, -1.0),
                   draw.normal("D", DataType::kFLOAT, {layers, n.nheads}),
                   draw.uniform("dt_bias", {layers, n.nheads}, -5.0, -2.0),
                   draw.normal("gated_norm_weight", DataType::kFLOAT, {layers, inner}),
                   draw.normal("out_proj", types.activations, {layers, d, inner}, 1.0 / std::sqrt(double(inner))),
                   draw.normal("conv_state", types.states, {n.rows, layers, conv_dim, d_conv - 1}),
                   draw.normal("ssm_state", types.states, {n.rows, layers, n.nheads, n.headdim, n.d_state})};
    if (given != nullptr) made.inputs[0].values = *given;
    std::vector<double> in_proj = made.inputs[3].values, out_proj = made.inputs[10].values;
    if (quantized) {
        made.op = "Mamba2LayersQuantized";
        made.inputs[3] = code_words("in_proj", {layers, width, d / 4}, 1);
        made.inputs[10] = code_words("out_proj", {layers, d, inner / 4}, 2);
        made.inputs.push_back(draw.uniform("in_proj_scale", {layers, width}, 0.001, 0.002));
        made.inputs.push_back(draw.uniform("out_proj_scale", {layers, d}, 0.001, 0.002));
        in_proj = dense_of(made.inputs[3], made.inputs[13], d);
        out_proj = dense_of(made.inputs[10], made.inputs[14], inner);
    }
    if (masked) made.inputs.push_back(activity(n.rows));
    const auto& in = made.inputs;
    // One layer's part of a stack; a state's rows each have all layers.
    const auto part = [](const std::vector<double>& from, int64_t rows, int64_t count, int64_t layer) {
        const int64_t size = static_cast<int64_t>(from.size()) / (rows * count);
        std::vector<double> to;
        for (int64_t r = 0; r < rows; ++r) {
            const auto first = from.begin() + (r * count + layer) * size;
            to.insert(to.end(), first, first + size);
        }
        return to;
    };
    std::vector<double> residual = in[0].values, hidden(residual.size(), 0.0), states[2] = {in[11].values, in[12].values};
    for (int64_t i = 0; i < layers; ++i) {
        const auto of = [&](int index) { return part(in[index].values, 1, layers, i); };
        const auto x = reference::ada_ln_norm(3 * layers, d, i == 0 ? 0 : 3 * i - 1, 3 * i, 3 * i + 1, 1e-5f, hidden,
                                              residual, in[1].values, of(2));
        const auto step = reference::mamba2_decode_step(
            n, d_conv, 1e-5f, reference::linear(n.rows, d, width, x, part(in_proj, 1, layers, i)), of(4), of(5), of(6),
            of(7), of(8), of(9), part(states[0], n.rows, layers, i), part(states[1], n.rows, layers, i));
        hidden = reference::linear(n.rows, inner, d, step.out, part(out_proj, 1, layers, i));
        const std::vector<double>* after[2] = {&step.conv_state, &step.ssm_state};
        for (int kind = 0; kind < 2; ++kind) {
            const int64_t size = static_cast<int64_t>(after[kind]->size()) / n.rows;
            for (int64_t r = 0; r < n.rows; ++r) {
                std::copy_n(after[kind]->begin() + r * size, size, states[kind].begin() + (r * layers + i) * size);
            }
        }
    }
    for (size_t at = 0; at < residual.size(); ++at) {
        const int64_t r = static_cast<int64_t>(at) / d, column = static_cast<int64_t>(at) % d;
        residual[at] += hidden[at] * in[1].values[(r * 3 * layers + 3 * layers - 1) * d + column];
    }
    if (masked) forget_inactive(in.back(), residual);
    for (int kind = 0; masked && kind < 2; ++kind) restore_inactive(in.back(), in[11 + kind], states[kind]);
    made.outputs = {Tensor{"residual_out", DataType::kFLOAT, in[0].shape, residual},
                    Tensor{"conv_state_out", types.states, in[11].shape, states[0]},
                    Tensor{"ssm_state_out", types.states, in[12].shape, states[1]}};
    return made;
}

// A whole step but for the draw: two rows an image; of one image it is the first step.
inline Case whole_case(const char* name, Types types, reference::ScanSizes n, int64_t layers, int64_t d, bool masked,
                       bool quantized = false) {
    Draw draw(23);
    const int64_t vocab = 37, places = 9;
    const DataType type = types.activations;
    std::vector<Tensor> ends = embedding_inputs(draw, type, n.rows, d, vocab, places);
    ends.push_back(draw.normal("final_modulation", DataType::kFLOAT, {n.rows, 2, d}, 0.3));
    ends.push_back(draw.normal("norm_f", DataType::kFLOAT, {d}));
    ends.push_back(draw.normal("norm_final", DataType::kFLOAT, {d}));
    const std::vector<double> residual = embedding_of(ends, d);
    Case made = layers_case(name, types, n, layers, d, masked, quantized, &residual);
    made.op = quantized ? "Mamba2StepQuantized" : "Mamba2Step";
    made.attributes.push_back(number("position_offset", 1));
    if (!quantized) made.attributes.push_back(number("half_weights", type == DataType::kFLOAT ? 0 : 1));
    made.aliases = {-1, 18, 19};
    std::vector<Tensor> inputs = ends;
    inputs.insert(inputs.end(), made.inputs.begin() + 1, made.inputs.end());
    std::vector<double> head = ends[3].values;
    if (quantized) {
        const auto at = inputs.end() - (masked ? 1 : 0);
        const Tensor codes = code_words("head", {vocab, d / 4}, 3);
        const Tensor scale = draw.uniform("head_scale", {vocab, 1}, 0.001, 0.002);
        inputs.insert(inputs.insert(at, codes) + 1, scale);
        head = dense_of(codes, scale, d);
    }
    made.inputs = inputs;
    const std::vector<double> none(n.rows * d, 0.0);
    const auto x = reference::final_norm(1, d, 0, 1e-5f, 1e-5f, none, made.outputs[0].values, none, ends[5].values,
                                         ends[6].values, ends[7].values);
    made.outputs[0] = Tensor{"logits", DataType::kFLOAT, {n.rows, vocab}, reference::linear(n.rows, d, vocab, x, head)};
    return made;
}

// Mamba2LazyStep with an empty history that folds at once: the same numbers as Mamba2DecodeStep's.
inline Case lazy_case(Case made, Types types) {
    Draw draw(15);
    const int64_t rows = made.inputs[8].shape[0], nheads = made.inputs[8].shape[1], capacity = 5;
    const int64_t inner = nheads * made.inputs[8].shape[2], conv_dim = made.inputs[7].shape[1];
    const bool masked = made.inputs.size() > 9;
    Tensor mask;
    if (masked) mask = made.inputs.back();
    if (masked) made.inputs.pop_back();
    made.op = "Mamba2LazyStep";
    made.attributes.push_back(number("fold_every", 1));
    Tensor counters = draw.uniform("counters", {rows, nheads, 3}, 0.0, 0.0), counted = counters;
    for (int64_t i = 0; i < rows * nheads; ++i) {
        counters.values[3 * i + 1] = counted.values[3 * i + 1] = 1.0;
        counted.values[3 * i + 2] = made.inputs[3].values[i % nheads];
    }
    const Tensor history[] = {draw.normal("x_history", types.states, {rows, capacity, inner}),
                              draw.normal("B_history", types.states, {rows, capacity, (conv_dim - inner) / 2}),
                              draw.uniform("dt_history", {rows, nheads, capacity}, 1e-3, 1e-1), counters};
    for (const Tensor& tensor : history) {
        made.inputs.push_back(tensor);
        Tensor after = &tensor == history + 3 ? counted : tensor;
        after.name = std::string(tensor.name) + "_out";
        if (masked && &tensor == history + 3) restore_inactive(mask, tensor, after.values);
        made.outputs.push_back(after);
        // A fold may leave the newest token's x at its place, past the count, where nobody reads it.
        const bool left = &tensor == history && types.states == DataType::kHALF;
        made.bounds.push_back(left ? 1e9 : 1e-7);
    }
    if (masked) made.inputs.push_back(mask);
    for (int alias = 9; alias <= 12; ++alias) made.aliases.push_back(alias);
    return made;
}
