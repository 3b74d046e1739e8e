// The operators in plain float64, one loop a sum: what the plugins are compared with.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

namespace reference {

using Values = std::vector<double>;

inline double silu(double value) { return value / (1.0 + std::exp(-value)); }
inline double softplus(double value) { return value > 30.0 ? value : std::log1p(std::exp(value)); }

struct ConvSizes {
    int64_t rows, length, channels, width;
};

// x (rows, length, channels) -> y; state (rows, channels, width - 1) is updated.
inline Values causal_conv1d(const ConvSizes& n, const Values& x, const Values& weight, const Values& bias,
                            Values& state, bool activate) {
    Values y(x.size());
    for (int64_t r = 0; r < n.rows; ++r) {
        for (int64_t c = 0; c < n.channels; ++c) {
            double* window = &state[(r * n.channels + c) * (n.width - 1)];
            for (int64_t t = 0; t < n.length; ++t) {
                const int64_t at = (r * n.length + t) * n.channels + c;
                double sum = bias[c] + weight[c * n.width + n.width - 1] * x[at];
                for (int64_t k = 0; k + 1 < n.width; ++k) sum += weight[c * n.width + k] * window[k];
                for (int64_t k = 0; k + 2 < n.width; ++k) window[k] = window[k + 1];
                window[n.width - 2] = x[at];
                y[at] = activate ? silu(sum) : sum;
            }
        }
    }
    return y;
}

struct ScanSizes {
    int64_t rows, length, nheads, headdim, d_state, ngroups;
    bool a_per_state, softplus;  // Mamba-1: A is (nheads, d_state)
};

struct ScanInputs {
    Values x, dt, A, B, C, D, dt_bias, z;  // z is empty where there is no gate
};

// x (rows, length, nheads, headdim) -> y; state (rows, nheads, headdim, d_state) is updated.
inline Values selective_scan(const ScanSizes& n, const ScanInputs& in, Values& state) {
    Values y(in.x.size());
    for (int64_t r = 0; r < n.rows; ++r) {
        for (int64_t t = 0; t < n.length; ++t) {
            const int64_t step = r * n.length + t;
            for (int64_t h = 0; h < n.nheads; ++h) {
                const double raw = in.dt[step * n.nheads + h] + in.dt_bias[h];
                const double dt = n.softplus ? softplus(raw) : raw;
                const int64_t group = (step * n.ngroups + h / (n.nheads / n.ngroups)) * n.d_state;
                for (int64_t p = 0; p < n.headdim; ++p) {
                    const int64_t at = (step * n.nheads + h) * n.headdim + p;
                    double* s = &state[((r * n.nheads + h) * n.headdim + p) * n.d_state];
                    double sum = in.D[h] * in.x[at];
                    for (int64_t k = 0; k < n.d_state; ++k) {
                        const double a = n.a_per_state ? in.A[h * n.d_state + k] : in.A[h];
                        s[k] = std::exp(dt * a) * s[k] + dt * in.x[at] * in.B[group + k];
                        sum += s[k] * in.C[group + k];
                    }
                    y[at] = in.z.empty() ? sum : sum * silu(in.z[at]);
                }
            }
        }
    }
    return y;
}

// y and z (steps, d), weight (d).
inline Values rms_norm_gated(int64_t d, int64_t ngroups, double eps, const Values& y, const Values& z,
                             const Values& weight) {
    Values out(y.size());
    const int64_t width = d / ngroups;
    for (int64_t begin = 0; begin < static_cast<int64_t>(y.size()); begin += width) {
        double squares = 0.0;
        for (int64_t i = begin; i < begin + width; ++i) {
            out[i] = y[i] * silu(z[i]);
            squares += out[i] * out[i];
        }
        const double scale = 1.0 / std::sqrt(squares / static_cast<double>(width) + eps);
        for (int64_t i = begin; i < begin + width; ++i) out[i] *= scale * weight[i % d];
    }
    return out;
}

// hidden and residual (rows, d), modulation (rows, vectors, d), weight (d). Returns x; the residual is updated.
struct AttentionSizes {
    int64_t rows, positions, tokens, nheads, headdim;
};

// Keys and values (rows, nheads, tokens, headdim) are updated.
inline Values cached_attention(const AttentionSizes& n, const Values& qkv, const Values& rotary, const Values& position,
                               Values& keys, Values& values) {
    const int64_t width = n.nheads * n.headdim;
    Values out(n.rows * width);
    const auto turned = [&](const double* x, int64_t t, int64_t i) {
        const double* angle = &rotary[t * n.headdim + i / 2 * 2];
        return i % 2 == 0 ? x[i] * angle[0] - x[i + 1] * angle[1] : x[i] * angle[0] + x[i - 1] * angle[1];
    };
    for (int64_t r = 0; r < n.rows; ++r) {
        const auto t = static_cast<int64_t>(position[r % n.positions]);
        for (int64_t h = 0; h < n.nheads; ++h) {
            const double* q = &qkv[r * 3 * width + h * n.headdim];
            const int64_t cache = (r * n.nheads + h) * n.tokens * n.headdim;
            for (int64_t i = 0; i < n.headdim; ++i) {
                keys[cache + t * n.headdim + i] = turned(q + width, t, i);
                values[cache + t * n.headdim + i] = q[2 * width + i];
            }
            double total = 0.0;
            double* to = &out[r * width + h * n.headdim];
            for (int64_t at = 0; at <= t; ++at) {
                double score = 0.0;
                for (int64_t i = 0; i < n.headdim; ++i) score += turned(q, t, i) * keys[cache + at * n.headdim + i];
                const double share = std::exp(score / std::sqrt(static_cast<double>(n.headdim)));
                total += share;
                for (int64_t i = 0; i < n.headdim; ++i) to[i] += share * values[cache + at * n.headdim + i];
            }
            for (int64_t i = 0; i < n.headdim; ++i) to[i] /= total;
        }
    }
    return out;
}

inline Values ada_ln_norm(int64_t vectors, int64_t d, int64_t gate, int64_t shift, int64_t scale, double eps,
                          const Values& hidden, Values& residual, const Values& modulation, const Values& weight) {
    Values x(hidden.size());
    for (int64_t r = 0; r < static_cast<int64_t>(x.size()) / d; ++r) {
        const double* vector = &modulation[r * vectors * d];
        double squares = 0.0;
        for (int64_t i = 0; i < d; ++i) {
            residual[r * d + i] += hidden[r * d + i] * vector[gate * d + i];
            squares += residual[r * d + i] * residual[r * d + i];
        }
        const double factor = 1.0 / std::sqrt(squares / static_cast<double>(d) + eps);
        for (int64_t i = 0; i < d; ++i) {
            x[r * d + i] = residual[r * d + i] * factor * weight[i] * (1.0 + vector[scale * d + i]) + vector[shift * d + i];
        }
    }
    return x;
}

// The rows that a step begins with, at an offset of 1: token and position are of images, label (rows, d).
inline Values step_embedding(int64_t d, const Values& token, const Values& position, const Values& label,
                             const Values& table, const Values& position_table) {
    Values residual = label;
    for (size_t at = 0; at < label.size(); ++at) {
        const size_t image = at / d % token.size(), column = at % d;
        const auto word = static_cast<size_t>(token[image]), place = static_cast<size_t>(position[image]);
        if (place > 0) residual[at] = table[word * d + column] + position_table[place * d + column];
    }
    return residual;
}

// `ends` is (rows, 2, d): shift, scale.
inline Values final_norm(int64_t vectors, int64_t d, int64_t gate, double eps, double final_eps, const Values& hidden,
                         Values residual, const Values& modulation, const Values& ends, const Values& norm_f,
                         const Values& norm_final) {
    const Values none(hidden.size(), 0.0), still(2 * hidden.size(), 0.0);
    for (size_t i = 0; i < hidden.size(); ++i) {
        residual[i] += hidden[i] * modulation[(i / d * vectors + gate) * d + i % d];
    }
    // Both are AdaLN of a branch that gave nothing, the first without modulation.
    Values normed = ada_ln_norm(2, d, 0, 0, 1, eps, none, residual, still, norm_f);
    return ada_ln_norm(2, d, 0, 0, 1, final_eps, none, normed, ends, norm_final);
}

// x (rows, k), weight (n, k).
inline Values linear(int64_t rows, int64_t k, int64_t n, const Values& x, const Values& weight) {
    Values y(rows * n);
    for (int64_t at = 0; at < rows * n; ++at) {
        for (int64_t i = 0; i < k; ++i) y[at] += x[at / n * k + i] * weight[at % n * k + i];
    }
    return y;
}

// x (batch, channels, plane), weight and bias (channels).
inline Values group_norm_silu(int64_t channels, int64_t plane, int64_t groups, double eps, const Values& x,
                              const Values& weight, const Values& bias) {
    Values y(x.size());
    const int64_t width = channels / groups * plane;
    for (int64_t begin = 0; begin < static_cast<int64_t>(x.size()); begin += width) {
        double mean = 0.0, variance = 0.0;
        for (int64_t i = begin; i < begin + width; ++i) mean += x[i] / static_cast<double>(width);
        for (int64_t i = begin; i < begin + width; ++i) variance += (x[i] - mean) * (x[i] - mean);
        const double scale = 1.0 / std::sqrt(variance / static_cast<double>(width) + eps);
        for (int64_t i = begin; i < begin + width; ++i) {
            const int64_t channel = i / plane % channels;
            y[i] = silu((x[i] - mean) * scale * weight[channel] + bias[channel]);
        }
    }
    return y;
}

struct ImageSizes {
    int64_t batch, in, height, width, out;
};

// x (batch, in, height, width), affine (batch, in, 2) or empty, weight (out, in, 9), residual as the result or empty. The
// convolution is of what is `scale` times as large by nearest neighbours.
inline Values norm_conv(const ImageSizes& n, int64_t scale, const Values& x, const Values& affine, const Values& weight,
                        const Values& bias, const Values& residual) {
    const int64_t height = scale * n.height, width = scale * n.width, plane = height * width;
    Values a(x);
    for (size_t i = 0; i < a.size() && !affine.empty(); ++i) {
        const size_t channel = i / (n.height * n.width);
        a[i] = silu(a[i] * affine[2 * channel] + affine[2 * channel + 1]);
    }
    Values y(n.batch * n.out * plane);
    for (int64_t at = 0; at < n.batch * n.out * plane; ++at) {
        const int64_t image = at / (n.out * plane), out = at / plane % n.out, row = at % plane / width, column = at % width;
        double sum = bias[out];
        for (int64_t tap = 0; tap < 9; ++tap) {
            const int64_t from_row = row + tap / 3 - 1, from_column = column + tap % 3 - 1;
            if (from_row < 0 || from_row >= height || from_column < 0 || from_column >= width) continue;
            const int64_t pixel = from_row / scale * n.width + from_column / scale;
            for (int64_t c = 0; c < n.in; ++c) {
                sum += weight[(out * n.in + c) * 9 + tap] * a[(image * n.in + c) * n.height * n.width + pixel];
            }
        }
        y[at] = residual.empty() ? sum : sum + residual[at];
    }
    return y;
}

// x (batch, channels, plane), weight and bias (channels) -> (batch, channels, 2): what a norm of x multiplies a channel
// by and then adds.
inline Values norm_affine(int64_t channels, int64_t plane, int64_t groups, double eps, const Values& x,
                          const Values& weight, const Values& bias) {
    Values made;
    const int64_t each = channels / groups, width = each * plane;
    for (int64_t begin = 0; begin < static_cast<int64_t>(x.size()); begin += width) {
        double mean = 0.0, variance = 0.0;
        for (int64_t i = begin; i < begin + width; ++i) mean += x[i] / static_cast<double>(width);
        for (int64_t i = begin; i < begin + width; ++i) variance += (x[i] - mean) * (x[i] - mean);
        for (int64_t i = 0; i < each; ++i) {
            const int64_t channel = begin / plane % channels + i;
            const double scale = weight[channel] / std::sqrt(variance / static_cast<double>(width) + eps);
            made.insert(made.end(), {scale, bias[channel] - mean * scale});
        }
    }
    return made;
}

struct StepOutputs {
    Values out, conv_state, ssm_state;
};

// One step of a Mamba-2 mixer between its projections, from zxbcdt (rows, z | x | B | C | dt).
inline StepOutputs mamba2_decode_step(const ScanSizes& n, int64_t d_conv, double eps, const Values& zxbcdt,
                                      const Values& conv_weight, const Values& conv_bias, const Values& A,
                                      const Values& D, const Values& dt_bias, const Values& norm_weight,
                                      Values conv_state, Values ssm_state) {
    const int64_t inner = n.nheads * n.headdim, groups = n.ngroups * n.d_state, conv_dim = inner + 2 * groups;
    const int64_t total = inner + conv_dim + n.nheads;
    const auto columns = [&](const Values& from, int64_t width, int64_t begin, int64_t count) {
        Values part;
        for (int64_t r = 0; r < n.rows; ++r) {
            part.insert(part.end(), from.begin() + r * width + begin, from.begin() + r * width + begin + count);
        }
        return part;
    };
    const ConvSizes conv = {n.rows, 1, conv_dim, d_conv};
    const Values xbc =
        causal_conv1d(conv, columns(zxbcdt, total, inner, conv_dim), conv_weight, conv_bias, conv_state, true);
    ScanInputs in;
    in.x = columns(xbc, conv_dim, 0, inner);
    in.B = columns(xbc, conv_dim, inner, groups);
    in.C = columns(xbc, conv_dim, inner + groups, groups);
    in.dt = columns(zxbcdt, total, inner + conv_dim, n.nheads);
    in.A = A;
    in.D = D;
    in.dt_bias = dt_bias;
    const Values y = selective_scan(n, in, ssm_state);
    return {rms_norm_gated(inner, n.ngroups, eps, y, columns(zxbcdt, total, 0, inner), norm_weight),
            std::move(conv_state), std::move(ssm_state)};
}

}  // namespace reference
