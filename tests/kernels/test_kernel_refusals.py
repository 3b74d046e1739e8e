"""What the library refuses, and that it says what it found and what it supports. Nothing here reaches a kernel."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import pytest
from kernels import abi
from kernels.abi import Library, Params
from kernels.harness import Device

SOME = 1 << 20  # an address that no refused call looks at
CONV = {"rows": 1, "length": 1, "channels": 8, "d_conv": 4} | dict.fromkeys(("x", "weight", "y"), SOME)
SCAN = {"rows": 1, "length": 4, "kind": abi.MAMBA2, "nheads": 4, "headdim": 16, "d_state": 16, "ngroups": 1}
SCAN |= dict.fromkeys(("x", "dt", "B", "C", "A", "y"), SOME) | {"y_row_stride": 256, "y_time_stride": 64}
NORM = {"rows": 1, "length": 1, "d": 8, "ngroups": 1} | dict.fromkeys(("y", "weight", "out"), SOME)
DECODE = {"rows": 1, "nheads": 4, "headdim": 16, "d_state": 16, "ngroups": 1, "d_conv": 4}
DECODE |= dict.fromkeys(("zxbcdt", "conv_weight", "A", "norm_weight", "conv_state_in", "conv_state_out"), SOME)
DECODE |= dict.fromkeys(("ssm_state_in", "ssm_state_out", "out", "workspace"), SOME) | {"workspace_size": 1 << 20}
ADA_LN = {"rows": 1, "vectors": 3, "d_model": 8, "gate_index": 2, "shift_index": 0, "scale_index": 1}
ADA_LN |= dict.fromkeys(("hidden", "residual", "modulation", "weight", "x", "residual_out"), SOME)
EMBED_NORM = {"rows": 2, "positions": 1, "vectors": 3, "d_model": 8, "shift_index": 0, "scale_index": 1}
EMBED_NORM |= {"vocab_size": 5, "num_positions": 3, "position_offset": 1}
EMBED_NORM |= dict.fromkeys(("token", "position", "class_embedding", "table", "position_table"), SOME)
EMBED_NORM |= dict.fromkeys(("modulation", "weight", "x", "residual"), SOME)
FINAL_NORM = {"rows": 1, "vectors": 3, "d_model": 8, "gate_index": 2}
FINAL_NORM |= dict.fromkeys(("hidden", "residual", "modulation", "final_modulation", "norm_f", "norm_final", "x"), SOME)
SAMPLE = {"batch": 1, "vocab_size": 8, "num_tokens": 4} | dict.fromkeys(("logits", "sampling", "image_index"), SOME)
SAMPLE |= dict.fromkeys(("token", "position", "tokens", "status"), SOME)
IMAGE = {"batch": 1, "channels": 3, "height": 8, "width": 8, "image": SOME, "pixels": SOME, "status": SOME}
BASES = {"causal_conv1d": CONV, "selective_scan": SCAN, "rms_norm_gated": NORM, "mamba2_decode_step": DECODE}
LINEAR = {"rows": 1, "in_features": 16, "out_features": 3} | dict.fromkeys(("x", "weight", "y"), SOME)
GROUP_NORM = {"batch": 1, "channels": 16, "height": 4, "width": 4, "groups": 2, "workspace_size": 1 << 20}
GROUP_NORM |= dict.fromkeys(("x", "weight", "bias", "y", "workspace"), SOME)
BASES |= {"group_norm_silu": GROUP_NORM, "ada_ln_norm": ADA_LN, "linear": LINEAR}
BASES |= {"embed_norm": EMBED_NORM, "final_norm": FINAL_NORM}
QUANTIZED = {**LINEAR, "in_features": 64, "bits": 4, "group_size": 128, "dtype": abi.FLOAT16, "scale": SOME}
BASES |= {"linear_quantized": QUANTIZED}
LAYERS = {"rows": 1, "layers": 2, "d_model": 64, "nheads": 2, "headdim": 32, "d_state": 16, "ngroups": 1, "d_conv": 4}
LAYERS |= {"dtype": abi.FLOAT16, "weight_bits": 8, "workspace_size": 1 << 20}
LAYERS |= dict.fromkeys(("residual", "modulation", "norm_weight", "in_proj", "conv_weight", "conv_bias"), SOME)
LAYERS |= dict.fromkeys(("A", "D", "dt_bias", "gated_norm_weight", "out_proj", "in_proj_scale"), SOME)
LAYERS |= dict.fromkeys(("conv_state_in", "conv_state_out", "ssm_state_in", "ssm_state_out"), SOME)
LAYERS |= dict.fromkeys(("out_proj_scale", "residual_out", "workspace"), SOME)
BASES |= {"mamba2_layers": LAYERS}
STEP = {"layers": abi.Mamba2LayersParams(**{k: v for k, v in LAYERS.items() if not k.startswith("residual")})}
STEP |= {"positions": 1, "vocab_size": 5, "num_positions": 3, "position_offset": 1}
STEP |= dict.fromkeys(("token", "position", "class_embedding", "table", "head", "head_scale", "position_table"), SOME)
STEP |= dict.fromkeys(("final_modulation", "norm_f", "norm_final", "logits"), SOME)
BASES |= {"mamba2_step": STEP}
NORM_CONV = {"batch": 1, "in_channels": 64, "height": 4, "width": 4, "out_channels": 128, "groups": 32}
NORM_CONV |= {"dtype": abi.FLOAT16, "workspace_size": 1 << 20}
NORM_CONV |= dict.fromkeys(("x", "weight", "bias", "next_weight", "next_bias", "y", "next_affine", "workspace"), SOME)
BASES |= {"norm_conv": NORM_CONV}
ATTENTION = {"rows": 2, "positions": 1, "num_tokens": 16, "nheads": 3, "headdim": 64}
ATTENTION |= dict.fromkeys(("qkv", "rotary", "position", "k_cache", "v_cache", "out"), SOME)
BASES |= {"cached_attention": ATTENTION}
BASES |= {"swi_glu": {"rows": 1, "width": 16} | dict.fromkeys(("gate", "up", "y"), SOME)}
BASES |= {"sample": SAMPLE, "image_to_uint8": IMAGE}

# Operator, the field that is wrong, its value, the code, and words of the message: what was found, what is supported.
REFUSED = [
    ("group_norm_silu", "groups", 3, abi.UNSUPPORTED_SHAPE, ["groups is 3", "channels is 16"]),
    ("group_norm_silu", "channels", 0, abi.UNSUPPORTED_SHAPE, ["channels is 0"]),
    ("group_norm_silu", "layout", 2, abi.UNSUPPORTED_SHAPE, ["layout is 2", "channels last"]),
    ("group_norm_silu", "height", 0, abi.UNSUPPORTED_SHAPE, ["height is 0"]),
    ("group_norm_silu", "height", 1 << 28, abi.UNSUPPORTED_SHAPE, ["16 x 268435456 x 4", "1073741824"]),
    ("group_norm_silu", "batch", 1 << 31, abi.UNSUPPORTED_SHAPE, ["batch is 2147483648", "2 groups: up to"]),
    ("group_norm_silu", "y", SOME + 8, abi.MISALIGNED, ["y", "16"]),
    ("group_norm_silu", "eps", float("nan"), abi.UNSUPPORTED_SHAPE, ["eps is nan"]),
    ("group_norm_silu", "dtype", 7, abi.UNSUPPORTED_DTYPE, ["dtype is 7", "bfloat16"]),
    ("group_norm_silu", "bias", None, abi.NULL_POINTER, ["bias is null"]),
    ("group_norm_silu", "residual", SOME, abi.NULL_POINTER, ["sum is null"]),
    ("group_norm_silu", "sum", SOME, abi.NULL_POINTER, ["residual is null"]),
    ("group_norm_silu", "workspace_size", 16, abi.WORKSPACE_TOO_SMALL, ["16 bytes"]),
    ("norm_conv", "in_channels", 96, abi.UNSUPPORTED_SHAPE, ["in_channels is 96", "64 to 2048 in steps of 64"]),
    ("norm_conv", "in_channels", 4096, abi.UNSUPPORTED_SHAPE, ["in_channels is 4096", "2048"]),
    ("norm_conv", "out_channels", 64, abi.UNSUPPORTED_SHAPE, ["out_channels is 64", "steps of 128"]),
    ("norm_conv", "out_channels", 192, abi.UNSUPPORTED_SHAPE, ["out_channels is 192", "steps of 128"]),
    ("norm_conv", "kind", 3, abi.UNSUPPORTED_SHAPE, ["kind is 3", "2 (image)"]),
    ("norm_conv", "kind", 2, abi.UNSUPPORTED_SHAPE, ["out_channels is 128", "1 to 8"]),
    ("norm_conv", "groups", 0, abi.UNSUPPORTED_SHAPE, ["groups is 0", "multiple of 4"]),
    ("norm_conv", "groups", 3, abi.UNSUPPORTED_SHAPE, ["groups is 3", "out_channels is 128"]),
    ("norm_conv", "groups", 64, abi.UNSUPPORTED_SHAPE, ["groups is 64", "multiple of 4"]),
    ("norm_conv", "height", 0, abi.UNSUPPORTED_SHAPE, ["height is 0"]),
    ("norm_conv", "width", 1 << 28, abi.UNSUPPORTED_SHAPE, ["128 x 4 x 268435456", "elements"]),
    ("norm_conv", "batch", 0, abi.UNSUPPORTED_SHAPE, ["batch is 0"]),
    ("norm_conv", "batch", 1 << 31, abi.UNSUPPORTED_SHAPE, ["batch is 2147483648", "4 x 4: up to"]),
    ("norm_conv", "eps", float("nan"), abi.UNSUPPORTED_SHAPE, ["eps is nan"]),
    ("norm_conv", "dtype", abi.FLOAT32, abi.UNSUPPORTED_DTYPE, ["dtype is 0", "float16", "bfloat16"]),
    ("norm_conv", "dtype", 7, abi.UNSUPPORTED_DTYPE, ["dtype is 7", "bfloat16"]),
    *(
        ("norm_conv", field, None, abi.NULL_POINTER, [f"{field} is null"])
        for field in ("x", "weight", "bias", "next_weight", "next_bias", "y", "next_affine", "workspace")
    ),
    *(
        ("norm_conv", field, SOME + 8, abi.MISALIGNED, [field, "16"])
        for field in ("x", "affine", "weight", "bias", "residual", "y", "next_affine", "workspace")
    ),
    ("norm_conv", "workspace_size", 16, abi.WORKSPACE_TOO_SMALL, ["16 bytes"]),
    ("linear", "in_features", 12, abi.UNSUPPORTED_SHAPE, ["in_features is 12", "steps of 8"]),
    ("linear", "out_features", 0, abi.UNSUPPORTED_SHAPE, ["out_features is 0"]),
    ("linear", "rows", 0, abi.UNSUPPORTED_SHAPE, ["rows is 0"]),
    ("linear", "dtype", 7, abi.UNSUPPORTED_DTYPE, ["dtype is 7", "bfloat16"]),
    ("linear", "x", SOME + 8, abi.MISALIGNED, ["x", "16"]),
    ("linear", "weight", None, abi.NULL_POINTER, ["weight is null"]),
    ("mamba2_layers", "weight_bits", 4, abi.UNSUPPORTED_SHAPE, ["weight_bits is 4", "0 (weights of dtype) and 8"]),
    ("mamba2_layers", "d_model", 72, abi.UNSUPPORTED_SHAPE, ["d_model is 72", "steps of 32"]),
    ("mamba2_layers", "nheads", 0, abi.UNSUPPORTED_SHAPE, ["nheads is 0"]),
    ("mamba2_layers", "headdim", 16 * 9, abi.UNSUPPORTED_SHAPE, ["headdim is 144"]),
    ("mamba2_layers", "dtype", abi.FLOAT32, abi.UNSUPPORTED_DTYPE, ["dtype is 0", "weight_bits 8", "bfloat16"]),
    ("mamba2_layers", "in_proj_scale", None, abi.NULL_POINTER, ["in_proj_scale is null"]),
    ("mamba2_layers", "out_proj_scale", None, abi.NULL_POINTER, ["out_proj_scale is null"]),
    ("mamba2_layers", "out_proj", SOME + 8, abi.MISALIGNED, ["out_proj", "16"]),
    ("mamba2_step", "positions", 2, abi.UNSUPPORTED_SHAPE, ["positions is 2", "divides rows"]),
    ("mamba2_step", "vocab_size", 0, abi.UNSUPPORTED_SHAPE, ["vocab_size is 0"]),
    ("mamba2_step", "num_positions", 0, abi.UNSUPPORTED_SHAPE, ["num_positions is 0"]),
    ("mamba2_step", "position_offset", 2, abi.UNSUPPORTED_SHAPE, ["position_offset is 2", "0 and 1"]),
    ("mamba2_step", "token", None, abi.NULL_POINTER, ["token is null"]),
    ("mamba2_step", "head_scale", None, abi.NULL_POINTER, ["head_scale is null"]),
    ("mamba2_step", "table", SOME + 8, abi.MISALIGNED, ["table", "16"]),
    ("linear_quantized", "in_features", 48, abi.UNSUPPORTED_SHAPE, ["in_features is 48", "steps of 32"]),
    ("linear_quantized", "out_features", 0, abi.UNSUPPORTED_SHAPE, ["out_features is 0"]),
    ("linear_quantized", "rows", 0, abi.UNSUPPORTED_SHAPE, ["rows is 0"]),
    ("linear_quantized", "bits", 8, abi.UNSUPPORTED_SHAPE, ["bits is 8", "group_size is 128", "8 with 0"]),
    ("linear_quantized", "bits", 5, abi.UNSUPPORTED_SHAPE, ["bits is 5", "4 with 128"]),
    ("linear_quantized", "group_size", 64, abi.UNSUPPORTED_SHAPE, ["group_size is 64", "4 with 128"]),
    ("linear_quantized", "dtype", abi.FLOAT32, abi.UNSUPPORTED_DTYPE, ["dtype is 0", "float16", "bfloat16"]),
    ("linear_quantized", "dtype", 7, abi.UNSUPPORTED_DTYPE, ["dtype is 7", "bfloat16"]),
    ("linear_quantized", "x", SOME + 8, abi.MISALIGNED, ["x", "16"]),
    ("linear_quantized", "weight", SOME + 8, abi.MISALIGNED, ["weight", "16"]),
    ("linear_quantized", "scale", None, abi.NULL_POINTER, ["scale is null"]),
    ("ada_ln_norm", "d_model", 10, abi.UNSUPPORTED_SHAPE, ["d_model is 10", "steps of 4"]),
    ("ada_ln_norm", "d_model", 8196, abi.UNSUPPORTED_SHAPE, ["d_model is 8196", "8192"]),
    ("ada_ln_norm", "gate_index", 3, abi.UNSUPPORTED_SHAPE, ["gate_index is 3", "vectors is 3"]),
    ("ada_ln_norm", "scale_index", -1, abi.UNSUPPORTED_SHAPE, ["scale_index is -1"]),
    ("ada_ln_norm", "eps", float("nan"), abi.UNSUPPORTED_SHAPE, ["eps is nan"]),
    ("ada_ln_norm", "dtype", 7, abi.UNSUPPORTED_DTYPE, ["dtype is 7", "bfloat16"]),
    ("ada_ln_norm", "residual", None, abi.NULL_POINTER, ["residual is null"]),
    ("ada_ln_norm", "modulation", SOME + 4, abi.MISALIGNED, ["modulation", "16"]),
    ("embed_norm", "rows", 0, abi.UNSUPPORTED_SHAPE, ["rows is 0"]),
    ("embed_norm", "positions", 0, abi.UNSUPPORTED_SHAPE, ["positions is 0", "1 or more"]),
    ("embed_norm", "positions", 4, abi.UNSUPPORTED_SHAPE, ["positions is 4", "rows, which is 2"]),
    ("embed_norm", "vectors", 0, abi.UNSUPPORTED_SHAPE, ["vectors is 0"]),
    ("embed_norm", "d_model", 10, abi.UNSUPPORTED_SHAPE, ["d_model is 10", "steps of 4"]),
    ("embed_norm", "d_model", 8196, abi.UNSUPPORTED_SHAPE, ["d_model is 8196", "8192"]),
    ("embed_norm", "vocab_size", 0, abi.UNSUPPORTED_SHAPE, ["vocab_size is 0"]),
    ("embed_norm", "num_positions", -1, abi.UNSUPPORTED_SHAPE, ["num_positions is -1"]),
    ("embed_norm", "position_offset", 2, abi.UNSUPPORTED_SHAPE, ["position_offset is 2", "0 and 1"]),
    ("embed_norm", "shift_index", -1, abi.UNSUPPORTED_SHAPE, ["shift_index is -1"]),
    ("embed_norm", "scale_index", 3, abi.UNSUPPORTED_SHAPE, ["scale_index is 3", "vectors is 3"]),
    ("embed_norm", "eps", -1.0, abi.UNSUPPORTED_SHAPE, ["eps is -1"]),
    ("embed_norm", "dtype", 7, abi.UNSUPPORTED_DTYPE, ["dtype is 7", "bfloat16"]),
    *(
        ("embed_norm", name, None, abi.NULL_POINTER, [f"{name} is null"])
        for name in ("token", "position", "class_embedding", "modulation", "weight", "x", "residual")
    ),
    ("embed_norm", "table", SOME + 8, abi.MISALIGNED, [" table is at", "16"]),
    ("embed_norm", "position_table", SOME + 2, abi.MISALIGNED, ["position_table is at", "16"]),
    ("final_norm", "rows", 0, abi.UNSUPPORTED_SHAPE, ["rows is 0"]),
    ("final_norm", "d_model", 10, abi.UNSUPPORTED_SHAPE, ["d_model is 10", "steps of 4"]),
    ("final_norm", "d_model", 8196, abi.UNSUPPORTED_SHAPE, ["d_model is 8196", "8192"]),
    ("final_norm", "gate_index", 3, abi.UNSUPPORTED_SHAPE, ["gate_index is 3", "vectors is 3"]),
    ("final_norm", "eps", -1.0, abi.UNSUPPORTED_SHAPE, [": eps is -1"]),
    ("final_norm", "final_eps", float("nan"), abi.UNSUPPORTED_SHAPE, ["final_eps is nan"]),
    ("final_norm", "dtype", 7, abi.UNSUPPORTED_DTYPE, ["dtype is 7", "bfloat16"]),
    ("final_norm", "final_modulation", None, abi.NULL_POINTER, ["final_modulation is null"]),
    ("final_norm", "norm_f", SOME + 4, abi.MISALIGNED, ["norm_f", "16"]),
    ("cached_attention", "rows", 0, abi.UNSUPPORTED_SHAPE, ["rows is 0", "1 or more"]),
    ("cached_attention", "rows", 1 << 31, abi.UNSUPPORTED_SHAPE, ["2147483648 * 3", "up to 2147483647"]),
    ("cached_attention", "positions", 3, abi.UNSUPPORTED_SHAPE, ["positions is 3", "rows, which is 2"]),
    ("cached_attention", "nheads", 0, abi.UNSUPPORTED_SHAPE, ["nheads is 0"]),
    ("cached_attention", "num_tokens", 4097, abi.UNSUPPORTED_SHAPE, ["num_tokens is 4097", "1 to 4096"]),
    ("cached_attention", "headdim", 20, abi.UNSUPPORTED_SHAPE, ["headdim is 20", "steps of 8"]),
    ("cached_attention", "headdim", 136, abi.UNSUPPORTED_SHAPE, ["headdim is 136", "8 to 128"]),
    ("cached_attention", "dtype", 7, abi.UNSUPPORTED_DTYPE, ["dtype is 7", "bfloat16"]),
    ("cached_attention", "state_dtype", abi.BFLOAT16, abi.UNSUPPORTED_DTYPE, ["k_cache", "float16"]),
    *(
        ("cached_attention", field, None, abi.NULL_POINTER, [f"{field} is null"])
        for field in ("qkv", "rotary", "position", "k_cache", "v_cache", "out")
    ),
    ("cached_attention", "v_cache", SOME + 8, abi.MISALIGNED, ["v_cache", "16"]),
    ("cached_attention", "num_tokens", 4096, abi.NULL_POINTER, ["workspace is null"]),
    ("swi_glu", "rows", 0, abi.UNSUPPORTED_SHAPE, ["rows is 0"]),
    ("swi_glu", "width", 12, abi.UNSUPPORTED_SHAPE, ["width is 12", "steps of 8"]),
    ("swi_glu", "dtype", 7, abi.UNSUPPORTED_DTYPE, ["dtype is 7", "bfloat16"]),
    ("swi_glu", "up", None, abi.NULL_POINTER, ["up is null"]),
    ("swi_glu", "gate", SOME + 8, abi.MISALIGNED, ["gate", "16"]),
    ("causal_conv1d", "rows", 0, abi.UNSUPPORTED_SHAPE, ["rows is 0", "1 or more"]),
    ("causal_conv1d", "d_conv", 5, abi.UNSUPPORTED_SHAPE, ["d_conv is 5", "2, 3, 4"]),
    ("causal_conv1d", "dtype", 7, abi.UNSUPPORTED_DTYPE, ["dtype is 7", "bfloat16"]),
    ("causal_conv1d", "state_dtype", abi.BFLOAT16, abi.UNSUPPORTED_DTYPE, ["conv_state", "float16"]),
    ("causal_conv1d", "activation", 3, abi.UNSUPPORTED_SHAPE, ["activation is 3", "silu"]),
    ("causal_conv1d", "x", None, abi.NULL_POINTER, ["x is null"]),
    ("causal_conv1d", "weight", None, abi.NULL_POINTER, ["weight is null"]),
    ("causal_conv1d", "x_row_stride", -1, abi.BAD_STRIDE, ["-1", "0 or more"]),
    ("selective_scan", "headdim", 8, abi.UNSUPPORTED_SHAPE, ["headdim is 8", "16, 32, 48", "128"]),
    ("selective_scan", "headdim", 144, abi.UNSUPPORTED_SHAPE, ["headdim is 144", "128"]),
    ("selective_scan", "d_state", 20, abi.UNSUPPORTED_SHAPE, ["d_state is 20", "256"]),
    ("selective_scan", "d_state", 272, abi.UNSUPPORTED_SHAPE, ["d_state is 272", "256"]),
    ("selective_scan", "ngroups", 3, abi.UNSUPPORTED_SHAPE, ["ngroups is 3", "nheads is 4"]),
    ("selective_scan", "ngroups", 0, abi.UNSUPPORTED_SHAPE, ["ngroups is 0"]),
    ("selective_scan", "kind", 0, abi.UNSUPPORTED_SHAPE, ["kind is 0", "Mamba-1"]),
    ("selective_scan", "kind", abi.MAMBA1, abi.UNSUPPORTED_SHAPE, ["headdim is 16", "Mamba-1"]),
    ("selective_scan", "length", -2, abi.UNSUPPORTED_SHAPE, ["length is -2"]),
    ("selective_scan", "nheads", 0, abi.UNSUPPORTED_SHAPE, ["nheads is 0"]),
    ("selective_scan", "state_dtype", abi.BFLOAT16, abi.UNSUPPORTED_DTYPE, ["ssm_state", "float16"]),
    ("selective_scan", "A", None, abi.NULL_POINTER, ["A is null"]),
    ("selective_scan", "y_time_stride", 8, abi.BAD_STRIDE, ["y has strides", "64 or more"]),
    ("selective_scan", "ssm_state_out", SOME + 4, abi.MISALIGNED, ["ssm_state_out", "16"]),
    ("selective_scan", "workspace_size", 8, abi.NULL_POINTER, ["workspace is null"]),
    ("rms_norm_gated", "ngroups", 3, abi.UNSUPPORTED_SHAPE, ["ngroups is 3", "d is 8"]),
    ("rms_norm_gated", "eps", float("nan"), abi.UNSUPPORTED_SHAPE, ["eps is nan"]),
    ("rms_norm_gated", "out", None, abi.NULL_POINTER, ["out is null"]),
    ("mamba2_decode_step", "headdim", 12, abi.UNSUPPORTED_SHAPE, ["headdim is 12", "128"]),
    ("mamba2_decode_step", "d_conv", 1, abi.UNSUPPORTED_SHAPE, ["d_conv is 1", "2, 3, 4"]),
    ("mamba2_decode_step", "ssm_state_in", None, abi.NULL_POINTER, ["ssm_state_in is null"]),
    ("mamba2_decode_step", "ssm_state_in", SOME + 8, abi.MISALIGNED, ["ssm_state_in", "16"]),
    ("mamba2_decode_step", "workspace_size", 16, abi.WORKSPACE_TOO_SMALL, ["16 bytes", "256"]),
    ("mamba2_decode_step", "conv_state_dtype", 9, abi.UNSUPPORTED_DTYPE, ["conv_state", "9"]),
    ("sample", "batch", 0, abi.UNSUPPORTED_SHAPE, ["batch is 0", "1 or more"]),
    ("sample", "batch", 1 << 31, abi.UNSUPPORTED_SHAPE, ["2147483648 blocks", "2147483647"]),
    ("sample", "vocab_size", 0, abi.UNSUPPORTED_SHAPE, ["vocab_size is 0", "1 to 65536"]),
    ("sample", "vocab_size", 65537, abi.UNSUPPORTED_SHAPE, ["vocab_size is 65537", "1 to 65536"]),
    ("sample", "num_tokens", 0, abi.UNSUPPORTED_SHAPE, ["num_tokens is 0", "1 or more"]),
    *(
        ("sample", field, None, abi.NULL_POINTER, [f"{field} is null", "required"])
        for field in ("logits", "sampling", "image_index", "token", "position", "tokens", "status")
    ),
    *(
        ("image_to_uint8", field, 0, abi.UNSUPPORTED_SHAPE, [f"{field} is 0", "1 or more"])
        for field in ("batch", "channels", "height", "width")
    ),
    ("image_to_uint8", "height", 1 << 28, abi.UNSUPPORTED_SHAPE, ["height * width is 2147483648", "1073741824"]),
    ("image_to_uint8", "batch", 1 << 31, abi.UNSUPPORTED_SHAPE, ["batch is 2147483648", "8 x 8", "up to 2147483647"]),
    ("image_to_uint8", "image", None, abi.NULL_POINTER, ["image is null"]),
    ("image_to_uint8", "pixels", None, abi.NULL_POINTER, ["pixels is null"]),
    ("image_to_uint8", "status", None, abi.NULL_POINTER, ["status is null"]),
    *((name, "size", 8, abi.VERSION_MISMATCH, ["8 bytes", "expects"]) for name in BASES),
]


def params_for(name: str, **changes: Any) -> Params:
    params = abi.OPERATORS[name](**BASES[name])
    for field, value in changes.items():
        setattr(params, field, value)
    return params


@pytest.mark.parametrize(("name", "field", "value", "code", "words"), REFUSED)
def test_a_wrong_field_is_refused(
    device: Device, name: str, field: str, value: object, code: int, words: list[str]
) -> None:
    assert device.library.code(name, params_for(name, **{field: value})) == code
    message = device.library.last_error()
    assert message.startswith(name)
    assert all(word in message for word in words), message


@pytest.mark.parametrize("field", ["residual", "next_weight", "next_bias", "next_affine"])
def test_a_convolution_to_an_image_refuses_what_it_has_no_use_for(device: Device, field: str) -> None:
    unused = dict.fromkeys(("next_weight", "next_bias", "next_affine"))
    params = params_for("norm_conv", kind=2, out_channels=3, **{**unused, field: SOME})
    assert device.library.code("norm_conv", params) == abi.UNSUPPORTED_SHAPE
    assert f"norm_conv: {field} is given" in device.library.last_error()


@pytest.mark.parametrize("name", BASES)
def test_no_params_at_all_are_refused(device: Device, name: str) -> None:
    assert device.library.code(name, None) == abi.NULL_POINTER
    assert "params is null" in device.library.last_error()


def test_a_workspace_is_asked_for_without_pointers(device: Device) -> None:
    shapes = {key: value for key, value in SCAN.items() if value != SOME}
    assert device.library.workspace("selective_scan", abi.SelectiveScanParams(**shapes)) >= 0
    with pytest.raises(abi.Refused, match="d_state is 8"):
        device.library.workspace("selective_scan", abi.SelectiveScanParams(**{**shapes, "d_state": 8}))


def test_the_library_describes_itself(device: Device) -> None:
    assert device.library.version() >= 100
    assert all(part.isdigit() for part in device.library.supported_archs().split(","))
    codes = range(abi.VERSION_MISMATCH + 1)
    assert len({device.library.status_message(code) for code in codes}) == len(codes)
    assert device.library.status_message(99) == "unknown status"


@pytest.mark.gpu
def test_a_gpu_that_the_library_was_not_built_for_is_refused() -> None:
    path = os.environ.get("AIM_KERNELS_OTHER_ARCH_LIBRARY")
    if not path:
        pytest.skip("AIM_KERNELS_OTHER_ARCH_LIBRARY names no library without code for this GPU: NOT tested here")
    other = Library(Path(path))
    built_for = other.supported_archs()
    for name in BASES:
        assert other.code(name, params_for(name)) == abi.UNSUPPORTED_ARCH
        message = other.last_error()
        assert "compute capability" in message and built_for in message


def test_struct_sizes_are_those_of_the_header() -> None:
    """The header has no padding to disagree on: every field is 4 or 8 bytes, and fours come in pairs."""
    for params in abi.OPERATORS.values():
        fields = sum(ctypes.sizeof(kind) for _, kind in params._fields_)
        assert ctypes.sizeof(params) == fields
