// The calls that the host program makes.
#pragma once

#include <utility>
#include <vector>

#include "v3_cases.h"
#include "v3_convs.h"

inline std::vector<Case> all_cases() {
    constexpr DataType f32 = DataType::kFLOAT, f16 = DataType::kHALF, bf16 = DataType::kBF16;
    const Types single = {f32, f32}, half = {f16, f16}, brain = {bf16, f32}, mixed = {f16, f32};
    const bool small =
#ifdef AIM_KERNELS_EMULATED
        true;
#else
        false;
#endif
    const int64_t L = small ? 37 : 256, heads = small ? 4 : 24, state = small ? 48 : 128;
    // nheads, headdim and d_state all differ, so that a transposed state cannot pass.
    const reference::ScanSizes scan = {3, L, heads, 32, state, 2, false, true},
                               step = {3, 1, heads, 32, state, 2, false, true};
    const reference::ScanSizes long_scan = {1, small ? 70 : 4096, heads, 64, state, 1, false, true};
    const reference::ScanSizes mamba1 = {2, small ? 19 : 200, 40, 1, 16, 1, true, true};
    std::vector<Case> cases;
    for (const auto& [name, types] : {std::pair<const char*, Types>{"float32", single},
                                      {"float16", half},
                                      {"bfloat16, float32 states", brain},
                                      {"float16, float32 states", mixed}}) {
        cases.push_back(conv_case(name, types, {3, L, 56, 4}, true, false));
        cases.push_back(scan_case(name, types, scan, false, false));
        cases.push_back(norm_case(name, types.activations, 3, L, 96, 2));
        cases.push_back(step_case(name, types, step, 4, false));
        cases.push_back(lazy_case(step_case(name, types, step, 4, false), types));
        cases.push_back(layers_case(name, types, step, 2, 96, false));
        cases.push_back(whole_case(name, types, {6, 1, heads, 32, state, 2, false, true}, 2, 96, false));
        cases.push_back(ada_ln_case(name, types.activations, 3, 5, 96));
        cases.push_back(embed_norm_case(name, types.activations, 6, 5, 96));
        cases.push_back(final_norm_case(name, types.activations, 3, 5, 96));
        cases.push_back(attention_case(name, types, {4, 2, 20, 3, 16}));
        cases.push_back(swi_glu_case(name, types.activations, 3, 96));
        cases.push_back(linear_case(name, types.activations, 3, 96, 40));
        cases.push_back(group_norm_case(name, types.activations, 2, 48, 9, 3));
        cases.push_back(add_group_norm_case(name, types.activations, 2, 48, 9, 3));
    }
    cases.push_back(group_norm_case("channels last", f16, 2, 48, 9, 3, true));
    cases.push_back(add_group_norm_case("channels last", f16, 2, 48, 9, 3, true));
    cases.push_back(group_norm_case("channels last, a large image", f16, 1, 128, small ? 24 : 256, 32, true));
    const int64_t side = small ? 5 : 21;
    for (const auto& [name, type] : {std::pair<const char*, DataType>{"float16", f16}, {"bfloat16", bf16}}) {
        for (const bool norm : {false, true}) {
            for (const bool residual : {false, true}) {
                const std::string told = std::string(name) + (norm ? ", norm" : "") + (residual ? ", residual" : "");
                cases.push_back(norm_conv_case("NormConv", told.c_str(), type, {2, 64, side, 6, 128, 8, norm, residual}));
            }
        }
        cases.push_back(norm_conv_case("UpsampleConv", name, type, {2, 64, 4, side, 128, 32}));
        cases.push_back(linear_quantized_case(name, type, 3, 96, 40));
        cases.push_back(with_float32_y(linear_case(name, type, 3, 96, 40)));
        cases.push_back(with_float32_y(linear_quantized_case(name, type, 3, 96, 40)));
        cases.push_back(norm_conv_case("NormConvImage", name, type, {2, 128, side, 6, 3, 1}));
    }
    cases.push_back(norm_conv_case("NormConv", "several blocks and chunks", f16, {1, 192, side, 3, 256, 16, true, true}));
    cases.push_back(norm_conv_case("UpsampleConv", "several blocks and chunks", f16, {1, 128, 3, side, 256, 32}));
    cases.push_back(conv_case("one step, no activation, masked", single, {4, 1, 40, 3}, false, true));
    cases.push_back(scan_case("one step, gate, masked", half, {4, 1, heads, 32, state, 1, false, true}, true, true));
    cases.push_back(scan_case("Mamba-1", single, mamba1, true, false));
    cases.push_back(scan_case("Mamba-1, float16, masked", half, mamba1, true, true));
    cases.push_back(scan_case("long, no softplus", single, {1, L, heads, 32, state, 1, false, false}, false, false));
    cases.push_back(scan_case("one row, long", brain, long_scan, false, false));
    cases.push_back(attention_case("GPT-B", half, {small ? 2 : 16, small ? 1 : 8, 256, 12, 64}));
    cases.push_back(attention_case("in parts", half, {1, 1, 1200, 2, 64}));
    cases.push_back(step_case("masked", single, step, 3, true));
    cases.push_back(layers_case("one kernel, masked", half, {4, 1, heads, 32, state, 1, false, true}, 2, 96, true));
    cases.push_back(layers_case("float16", half, step, 2, 96, false, true));
    cases.push_back(layers_case("one kernel, masked", half, {4, 1, heads, 32, state, 1, false, true}, 2, 128, true, true));
    for (const bool quantized : {false, true}) {
        const reference::ScanSizes few = {4, 1, heads, 32, state, 1, false, true};
        cases.push_back(whole_case("one kernel, masked", half, few, 2, 128, true, quantized));
        cases.push_back(whole_case("one kernel", half, few, 3, 64, false, quantized));
    }
    cases.push_back(whole_case("float16, chain", half, {6, 1, heads, 32, state, 2, false, true}, 2, 96, false, true));
    cases.push_back(lazy_case(step_case("masked", single, step, 3, true), single));
    cases.push_back(lazy_case(step_case("masked halves", half, step, 3, true), half));
    cases.push_back(step_case("AiM-B", half, {small ? 1 : 8, 1, 24, 64, 128, 1, false, true}, 4, false));
    return cases;
}
