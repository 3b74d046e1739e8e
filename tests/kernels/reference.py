"""What the kernels compute, in float64 NumPy, one time step after the other.

Arrays are (rows, L, ...) as in plugins/include/aim_kernels. Nothing here is fast; every line is the definition.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def silu(v: Array) -> Array:
    return v / (1.0 + np.exp(-v))


def softplus(v: Array) -> Array:
    return np.logaddexp(0.0, v)


def causal_conv1d(
    x: Array, weight: Array, bias: Array | None, conv_state: Array, apply_silu: bool
) -> tuple[Array, Array]:
    """x (rows, L, channels), weight (channels, d_conv), conv_state (rows, channels, d_conv - 1), oldest input first.

    Returns y (rows, L, channels) and the final conv_state.
    """
    y = np.empty_like(x)
    window = conv_state.copy()
    for t in range(x.shape[1]):
        full = np.concatenate([window, x[:, t, :, None]], axis=2)
        y[:, t] = (full * weight).sum(axis=2)
        window = full[:, :, 1:]
    if bias is not None:
        y += bias
    return (silu(y) if apply_silu else y), window


def selective_scan(
    x: Array,
    dt: Array,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None,
    dt_bias: Array | None,
    dt_softplus: bool,
    z: Array | None,
    ssm_state: Array,
) -> tuple[Array, Array]:
    """x, z (rows, L, nheads, headdim), dt (rows, L, nheads), B, C (rows, L, ngroups, d_state), D, dt_bias (nheads).

    A is (nheads) for Mamba-2, and (channels, d_state) for Mamba-1, whose channels are heads of headdim 1.
    Returns y like x and the final ssm_state (rows, nheads, headdim, d_state).
    """
    nheads = x.shape[2]
    heads_per_group = nheads // B.shape[2]
    per_head_A = A[:, None, None] if A.ndim == 1 else A[:, None, :]  # (nheads, 1, 1 or d_state)
    y = np.empty_like(x)
    state = ssm_state.copy()
    for t in range(x.shape[1]):
        delta = dt[:, t] + (0.0 if dt_bias is None else dt_bias)
        if dt_softplus:
            delta = softplus(delta)
        delta = delta[:, :, None, None]
        b = np.repeat(B[:, t], heads_per_group, axis=1)[:, :, None, :]
        c = np.repeat(C[:, t], heads_per_group, axis=1)[:, :, None, :]
        state = np.exp(delta * per_head_A) * state + delta * x[:, t, :, :, None] * b
        y[:, t] = (state * c).sum(axis=3)
    if D is not None:
        y += D[:, None] * x
    return (y if z is None else y * silu(z)), state


def ada_ln_norm(
    hidden: Array, residual: Array, modulation: Array, weight: Array, gate: int, shift: int, scale: int, eps: float
) -> tuple[Array, Array]:
    """hidden, residual (rows, d_model), modulation (rows, vectors, d_model). Returns x and the new residual."""
    residual = residual + hidden * modulation[:, gate]
    normed = residual / np.sqrt((residual**2).mean(axis=-1, keepdims=True) + eps) * weight
    return normed * (1 + modulation[:, scale]) + modulation[:, shift], residual


def final_norm(
    hidden: Array, residual: Array, modulation: Array, final_modulation: Array, norm_f: Array, norm_final: Array,
    gate: int, eps: float, final_eps: float,
) -> Array:  # fmt: skip
    """As ada_ln_norm, with two norms in a row; final_modulation (rows, 2, d_model) is shift and scale."""
    normed = residual + hidden * modulation[:, gate]
    for weight, of_norm in ((norm_f, eps), (norm_final, final_eps)):
        normed = normed / np.sqrt((normed**2).mean(axis=-1, keepdims=True) + of_norm) * weight
    x: Array = normed * (1 + final_modulation[:, 1]) + final_modulation[:, 0]
    return x


def cached_attention(
    qkv: Array, rotary: Array, position: NDArray[np.int32], k_cache: Array, v_cache: Array
) -> tuple[Array, Array, Array]:
    """qkv (rows, 3 nheads headdim), rotary (T, headdim), position (positions), caches (rows, nheads, T, headdim).

    Returns out (rows, nheads headdim) and both caches.
    """
    rows, nheads, _, headdim = k_cache.shape
    q, k, v = np.moveaxis(qkv.reshape(rows, 3, nheads, headdim), 1, 0)
    at = position[np.arange(rows) % len(position)]
    cosine, sine = np.moveaxis(rotary.reshape(-1, 1, headdim // 2, 2)[at], -1, 0)

    def turned(x: Array) -> Array:
        pairs = np.stack([x[..., ::2] * cosine - x[..., 1::2] * sine, x[..., 1::2] * cosine + x[..., ::2] * sine], -1)
        return pairs.reshape(x.shape)

    keys, values, out = k_cache.copy(), v_cache.copy(), np.empty((rows, nheads, headdim))
    for row, t in enumerate(at):
        keys[row, :, t], values[row, :, t] = turned(k)[row], v[row]
        scores = np.einsum("hp,htp->ht", turned(q)[row], keys[row, :, : t + 1]) / np.sqrt(headdim)
        shares = np.exp(scores - scores.max(axis=1, keepdims=True))
        shares /= shares.sum(axis=1, keepdims=True)
        out[row] = np.einsum("ht,htp->hp", shares, values[row, :, : t + 1])
    return out.reshape(rows, -1), keys, values


def group_norm_silu(x: Array, weight: Array, bias: Array, groups: int, eps: float, apply_silu: bool) -> Array:
    """x (batch, channels, height, width), weight and bias (channels)."""
    grouped = x.reshape(len(x), groups, -1)
    spread = np.sqrt(grouped.var(axis=-1, keepdims=True) + eps)
    normed = ((grouped - grouped.mean(axis=-1, keepdims=True)) / spread).reshape(x.shape)
    y = normed * weight[:, None, None] + bias[:, None, None]
    return silu(y) if apply_silu else y


def conv3x3(x: Array, weight: Array, bias: Array) -> Array:
    """x (batch, in_channels, height, width), weight (out_channels, in_channels, 3, 3), bias (out_channels)."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    out = np.zeros((len(x), len(weight), height, width))
    for dy in range(3):
        for dx in range(3):
            out += np.einsum("oi,bihw->bohw", weight[:, :, dy, dx], padded[:, :, dy : dy + height, dx : dx + width],
                             optimize=True)  # fmt: skip
    return out + bias[:, None, None]


def twice_as_large(x: Array) -> Array:
    """(batch, channels, height, width) by nearest neighbours."""
    return x.repeat(2, axis=2).repeat(2, axis=3)


def norm_affine(x: Array, weight: Array, bias: Array, groups: int, eps: float) -> Array:
    """(batch, channels, 2): what a group norm of x multiplies each channel by and then adds."""
    grouped = x.reshape(len(x), groups, -1)
    each = x.shape[1] // groups
    mean = grouped.mean(axis=-1).repeat(each, axis=1)
    scale = weight / np.sqrt(grouped.var(axis=-1).repeat(each, axis=1) + eps)
    return np.stack([scale, bias - mean * scale], axis=-1)


def rms_norm_gated(y: Array, z: Array | None, weight: Array, ngroups: int, eps: float) -> Array:
    """y, z (rows, L, d), weight (d)."""
    gated = y if z is None else y * silu(z)
    groups = gated.reshape(*gated.shape[:-1], ngroups, -1)
    scaled = groups / np.sqrt((groups**2).mean(axis=-1, keepdims=True) + eps)
    out: Array = scaled.reshape(gated.shape) * weight
    return out


def mamba2_decode_step(
    zxbcdt: Array,
    conv_weight: Array,
    conv_bias: Array | None,
    A: Array,
    D: Array | None,
    dt_bias: Array | None,
    norm_weight: Array,
    conv_state: Array,
    ssm_state: Array,
    ngroups: int,
    eps: float,
) -> tuple[Array, Array, Array]:
    """zxbcdt (rows, d_in_proj). Returns out (rows, d_inner), conv_state and ssm_state."""
    rows, nheads, headdim, d_state = ssm_state.shape
    d_inner, bc = nheads * headdim, ngroups * d_state
    z, xbc, dt = np.split(zxbcdt[:, None], [d_inner, 2 * d_inner + 2 * bc], axis=2)
    xbc, conv_state = causal_conv1d(xbc, conv_weight, conv_bias, conv_state, apply_silu=True)
    x, B, C = np.split(xbc, [d_inner, d_inner + bc], axis=2)
    y, ssm_state = selective_scan(
        x.reshape(rows, 1, nheads, headdim),
        dt,
        A,
        B.reshape(rows, 1, ngroups, d_state),
        C.reshape(rows, 1, ngroups, d_state),
        D,
        dt_bias,
        True,
        None,
        ssm_state,
    )
    out = rms_norm_gated(y.reshape(rows, 1, d_inner), z, norm_weight, ngroups, eps)
    return out[:, 0], conv_state, ssm_state


def mamba2_layers(
    residual: Array, modulation: Array, weights: dict[str, Array], conv_state: Array, ssm_state: Array, eps: float
) -> tuple[Array, Array, Array]:
    """All layers of a step. `weights` by name, each with a first dimension of layers; states (rows, layers, ...)."""
    conv_out, ssm_out = np.empty_like(conv_state), np.empty_like(ssm_state)
    hidden, gate = np.zeros_like(residual), 0
    ngroups = (conv_state.shape[2] - ssm_state.shape[2] * ssm_state.shape[3]) // (2 * ssm_state.shape[4])
    for i in range(conv_state.shape[1]):
        w = {name: values[i] for name, values in weights.items()}
        x, residual = ada_ln_norm(hidden, residual, modulation, w["norm_weight"], gate, 3 * i, 3 * i + 1, eps)
        y, conv_out[:, i], ssm_out[:, i] = mamba2_decode_step(
            x @ w["in_proj"].T, w["conv_weight"], w["conv_bias"], w["A"], w["D"], w["dt_bias"], w["gated_norm_weight"],
            conv_state[:, i], ssm_state[:, i], ngroups, eps,
        )  # fmt: skip
        hidden, gate = y @ w["out_proj"].T, 3 * i + 2
    return residual + hidden * modulation[:, gate], conv_out, ssm_out


def step_embedding(
    token: NDArray[np.int32], position: NDArray[np.int32], class_embedding: Array, table: Array, position_table: Array,
    position_offset: int,
) -> Array:  # fmt: skip
    """The rows that a step begins with; a token or a place outside of its table is the nearest inside."""
    image = np.arange(len(class_embedding)) % len(token)
    word = table[np.clip(token, 0, len(table) - 1)]
    place = position_table[np.clip(position.astype(np.int64) + position_offset - 1, 0, len(position_table) - 1)]
    return np.where((position == 0)[image, None], class_embedding, (word + place)[image])


def embed_norm(
    token: NDArray[np.int32], position: NDArray[np.int32], class_embedding: Array, table: Array, position_table: Array,
    modulation: Array, weight: Array, position_offset: int, shift: int, scale: int, eps: float,
) -> tuple[Array, Array]:  # fmt: skip
    """Returns x and the residual: ada_ln_norm of step_embedding, without a branch."""
    residual = step_embedding(token, position, class_embedding, table, position_table, position_offset)
    return ada_ln_norm(np.zeros_like(residual), residual, modulation, weight, 0, shift, scale, eps)


def step_head(
    residual: Array, final_modulation: Array, norm_f: Array, norm_final: Array, head: Array, eps: float
) -> Array:
    """Logits: two norms in a row, the second one modulated, and the head."""

    def norm(x: Array) -> Array:
        normed: Array = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
        return normed

    shift, scale = final_modulation[:, 0], final_modulation[:, 1]
    x = norm(norm(residual) * norm_f) * norm_final * (1 + scale) + shift
    logits: Array = x @ head.T
    return logits
