// Calls of the convolutions with norms around them: NormConv, UpsampleConv and NormConvImage.
#pragma once

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "v3_cases.h"

// (out, in, 9) in the kernel's order: (blocks, in / 64, 9, 8, n, 8). Rows past `out` are zero.
inline std::vector<double> packed_taps(const std::vector<double>& weight, int64_t out, int64_t in, int64_t taps,
                                       int64_t n) {
    std::vector<double> made;
    for (int64_t block = 0; block * n < out; ++block) {
        for (int64_t at = 0; at < in / 64 * taps * 8 * n * 8; ++at) {
            const int64_t e = at % 8, row = at / 8 % n, plane = at / (8 * n) % 8, tap = at / (64 * n) % taps;
            const int64_t channel = at / (64 * n * taps) * 64 + plane * 8 + e, output = block * n + row;
            made.push_back(output < out ? weight[(output * in + channel) * taps + tap] : 0.0);
        }
    }
    return made;
}

// The four convolutions of 2x2 taps that an upsampling and a 3x3 are, one after another.
inline std::vector<double> packed_phases(const std::vector<double>& weight, int64_t out, int64_t in) {
    std::vector<double> made;
    for (int phase = 0; phase < 4; ++phase) {
        std::vector<double> taps(static_cast<size_t>(out * in * 4));
        for (int64_t i = 0; i < out * in * 9; ++i) {
            // Which of the two input rows (columns) a tap of this phase falls on.
            const int64_t row = (i % 9 / 3 + 1 + phase / 2) / 2 - phase / 2;
            const int64_t column = (i % 3 + 1 + phase % 2) / 2 - phase % 2;
            taps[i / 9 * 4 + row * 2 + column] += weight[i];
        }
        const auto part = packed_taps(taps, out, in, 4, 128);
        made.insert(made.end(), part.begin(), part.end());
    }
    return made;
}

struct ConvSizes2d {
    int64_t batch, in, height, width, out, groups;
    bool norm = false, residual = false;
};

inline Case norm_conv_case(const char* op, const char* name, DataType type, ConvSizes2d n) {
    Draw draw(19);
    Case made{op, name, {number("aim_edge_version", 1)}, {}, {}, {}, {}, false};
    const bool upsample = made.op == "UpsampleConv", image = made.op == "NormConvImage";
    const int64_t scale = upsample ? 2 : 1, chunks = n.in / 64, blocks = n.out / 128;
    auto next = [&](Tensor tensor, bool last = false) -> const Tensor& {
        tensor.channels_last = last;
        made.inputs.push_back(std::move(tensor));
        return made.inputs.back();
    };
    made.inputs.reserve(7);
    const Tensor& x = next(draw.normal("x", type, {n.batch, n.in, n.height, n.width}), true);
    const Tensor w = draw.normal("w", type, {n.out, n.in, 9}, 1.0 / std::sqrt(9.0 * double(n.in)));
    const auto order = upsample ? packed_phases(w.values, n.out, n.in)
                                : packed_taps(w.values, n.out, n.in, 9, image ? 8 : 128);
    size_t at = 0;
    const std::vector<int64_t> shape = {image ? 1 : scale * scale * blocks, chunks, upsample ? 4 : 9, 8, image ? 8 : 128, 8};
    next(make_tensor("weight", type, shape, [&] { return order[at++]; }));
    const Tensor& bias = next(draw.normal("bias", DataType::kFLOAT, {n.out}));
    if (!image) next(draw.normal("next_weight", DataType::kFLOAT, {n.out}));
    if (!image) next(draw.normal("next_bias", DataType::kFLOAT, {n.out}));
    std::vector<double> affine, residual;
    if (n.norm || image) affine = next(draw.uniform("affine", {n.batch, n.in, 2}, -1.0, 1.0)).values;
    const std::vector<int64_t> grown = {n.batch, n.out, scale * n.height, scale * n.width};
    if (n.residual) residual = next(draw.normal("residual", type, grown), true).values;
    auto y = reference::norm_conv({n.batch, n.in, n.height, n.width, n.out}, scale, x.values, affine, w.values,
                                  bias.values, residual);
    if (image) {
        made.outputs = {Tensor{"image", DataType::kFLOAT, grown, std::move(y)}};
        made.bounds = {bound_of(type)};
        made.aliases = {-1};
        return made;
    }
    made.attributes.insert(made.attributes.end(), {number("groups", n.groups), real("eps", 1e-6f)});
    if (!upsample) {
        made.attributes.insert(made.attributes.end(), {number("has_norm", n.norm), number("has_residual", n.residual)});
    }
    made.any_size = upsample;
    const auto next_affine = reference::norm_affine(n.out, grown[2] * grown[3], n.groups, 1e-6, y, made.inputs[3].values,
                                                    made.inputs[4].values);
    made.outputs = {Tensor{"y", type, grown, std::move(y)},
                    Tensor{"next_affine", DataType::kFLOAT, {n.batch, n.out, 2}, next_affine}};
    made.outputs[0].channels_last = true;
    made.bounds = {bound_of(type), bound_of(type)};
    made.aliases = {-1, -1};
    return made;
}
