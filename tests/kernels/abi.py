"""plugins/capi/aim_kernels_c.h for ctypes: structs, codes and the library's functions."""

from __future__ import annotations

import ctypes
from ctypes import c_float, c_int, c_int32, c_int64, c_uint64, c_void_p
from pathlib import Path

FLOAT32, FLOAT16, BFLOAT16 = 0, 1, 2
MAMBA1, MAMBA2 = 1, 2
SUCCESS, NULL_POINTER, UNSUPPORTED_SHAPE, UNSUPPORTED_DTYPE, BAD_STRIDE = range(5)
MISALIGNED, WORKSPACE_TOO_SMALL, UNSUPPORTED_ARCH, CUDA_ERROR, VERSION_MISMATCH = range(5, 10)


def _strided(name: str) -> list[tuple[str, type]]:
    return [(name, c_void_p), (f"{name}_row_stride", c_int64), (f"{name}_time_stride", c_int64)]


def _each(kind: type, names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names.split()]


class Params(ctypes.Structure):
    """Knows its own size, as the ABI wants it."""

    def __init__(self, **fields: object) -> None:
        super().__init__(**fields)
        self.size = ctypes.sizeof(self)


class AdaLnNormParams(Params):
    _fields_ = [
        ("size", c_uint64),
        *_each(c_int64, "rows vectors d_model"),
        *_each(c_int32, "gate_index shift_index scale_index dtype"),
        ("eps", c_float),
        ("reserved", c_int32),
        *_each(c_void_p, "hidden residual modulation weight x residual_out"),
    ]


class EmbedNormParams(Params):
    _fields_ = [
        ("size", c_uint64),
        *_each(c_int64, "rows positions vectors d_model"),
        *_each(c_int32, "vocab_size num_positions position_offset shift_index scale_index dtype"),
        ("eps", c_float),
        ("reserved", c_int32),
        *_each(c_void_p, "token position class_embedding table position_table modulation weight x residual"),
    ]


class FinalNormParams(Params):
    _fields_ = [
        ("size", c_uint64),
        *_each(c_int64, "rows vectors d_model"),
        *_each(c_int32, "gate_index dtype"),
        *_each(c_float, "eps final_eps"),
        *_each(c_void_p, "hidden residual modulation final_modulation norm_f norm_final x"),
    ]


class CachedAttentionParams(Params):
    _fields_ = [
        ("size", c_uint64),
        *_each(c_int64, "rows positions"),
        *_each(c_int32, "num_tokens nheads headdim dtype state_dtype reserved"),
        *_each(c_void_p, "qkv rotary position k_cache v_cache out workspace"),
        ("workspace_size", c_uint64),
    ]


class CausalConv1dParams(Params):
    _fields_ = [
        ("size", c_uint64),
        *_each(c_int64, "rows length channels"),
        *_each(c_int32, "d_conv dtype state_dtype activation"),
        *_strided("x"),
        *_each(c_void_p, "weight bias conv_state_in conv_state_out"),
        *_strided("y"),
        ("active", c_void_p),
    ]


class SelectiveScanParams(Params):
    _fields_ = [
        ("size", c_uint64),
        *_each(c_int64, "rows length"),
        *_each(c_int32, "kind nheads headdim d_state ngroups dtype state_dtype dt_softplus"),
        *_strided("x"),
        *_strided("dt"),
        *_strided("B"),
        *_strided("C"),
        *_strided("z"),
        *_strided("y"),
        *_each(c_void_p, "A D dt_bias ssm_state_in ssm_state_out active workspace"),
        ("workspace_size", c_uint64),
    ]


class RmsNormGatedParams(Params):
    _fields_ = [
        ("size", c_uint64),
        *_each(c_int64, "rows length d"),
        *_each(c_int32, "ngroups dtype"),
        ("eps", c_float),
        ("reserved", c_int32),
        *_strided("y"),
        *_strided("z"),
        ("weight", c_void_p),
        *_strided("out"),
        ("active", c_void_p),
    ]


class GroupNormSiluParams(Params):
    _fields_ = [
        ("size", c_uint64),
        *_each(c_int64, "batch channels height width"),
        *_each(c_int32, "groups layout dtype silu"),
        ("eps", c_float),
        ("reserved", c_int32),
        *_each(c_void_p, "x weight bias y residual sum workspace"),
        ("workspace_size", c_uint64),
    ]


class NormConvParams(Params):
    _fields_ = [
        ("size", c_uint64),
        *_each(c_int64, "batch in_channels height width out_channels"),
        *_each(c_int32, "groups kind dtype"),
        ("eps", c_float),
        *_each(c_void_p, "x affine weight bias residual next_weight next_bias y next_affine workspace"),
        ("workspace_size", c_uint64),
    ]


class LinearParams(Params):
    _fields_ = [
        ("size", c_uint64),
        *_each(c_int64, "rows in_features out_features"),
        *_each(c_int32, "dtype float32_y"),
        *_each(c_void_p, "x weight y"),
    ]


class SwiGluParams(Params):
    _fields_ = [
        ("size", c_uint64),
        *_each(c_int64, "rows width"),
        *_each(c_int32, "dtype reserved"),
        *_each(c_void_p, "gate up y"),
    ]


class LinearQuantizedParams(Params):
    _fields_ = [
        ("size", c_uint64),
        *_each(c_int64, "rows in_features out_features"),
        *_each(c_int32, "bits group_size dtype float32_y"),
        *_each(c_void_p, "x weight scale y"),
    ]


class Mamba2DecodeStepParams(Params):
    _fields_ = [
        ("size", c_uint64),
        ("rows", c_int64),
        *_each(c_int32, "nheads headdim d_state ngroups d_conv dtype conv_state_dtype ssm_state_dtype"),
        ("eps", c_float),
        ("reserved", c_int32),
        ("zxbcdt", c_void_p),
        ("zxbcdt_row_stride", c_int64),
        *_each(c_void_p, "conv_weight conv_bias A D dt_bias norm_weight"),
        *_each(c_void_p, "conv_state_in conv_state_out ssm_state_in ssm_state_out out"),
        ("out_row_stride", c_int64),
        *_each(c_void_p, "active workspace"),
        ("workspace_size", c_uint64),
    ]


class Mamba2LayersParams(Params):
    _fields_ = [
        ("size", c_uint64),
        ("rows", c_int64),
        *_each(c_int32, "layers d_model nheads headdim d_state ngroups d_conv dtype conv_state_dtype ssm_state_dtype"),
        ("eps", c_float),
        ("weight_bits", c_int32),
        *_each(c_void_p, "residual modulation norm_weight in_proj conv_weight conv_bias A D dt_bias gated_norm_weight"),
        *_each(c_void_p, "out_proj in_proj_scale out_proj_scale conv_state_in conv_state_out ssm_state_in"),
        *_each(c_void_p, "ssm_state_out residual_out active workspace"),
        ("workspace_size", c_uint64),
        ("exchange", c_void_p),
    ]


class Mamba2StepParams(Params):
    _fields_ = [
        ("size", c_uint64),
        ("layers", Mamba2LayersParams),
        ("positions", c_int64),
        *_each(c_int32, "vocab_size num_positions position_offset reserved"),
        *_each(c_void_p, "token position class_embedding table head head_scale position_table final_modulation"),
        *_each(c_void_p, "norm_f norm_final logits"),
    ]


class Mamba2LazyStepParams(Params):
    _fields_ = [
        ("size", c_uint64),
        ("step", Mamba2DecodeStepParams),
        *_each(c_int32, "capacity fold_every"),
        *_each(c_void_p, "x_history_in x_history_out B_history_in B_history_out"),
        *_each(c_void_p, "dt_history_in dt_history_out counters_in counters_out"),
    ]


class SampleParams(Params):
    _fields_ = [
        ("size", c_uint64),
        ("batch", c_int64),
        *_each(c_int32, "vocab_size num_tokens"),
        *_each(c_void_p, "logits sampling image_index token position tokens status active"),
    ]


class ImageParams(Params):
    _fields_ = [
        ("size", c_uint64),
        ("batch", c_int64),
        *_each(c_int32, "channels height width reserved"),
        *_each(c_void_p, "image pixels status"),
    ]


OPERATORS: dict[str, type[Params]] = {
    "ada_ln_norm": AdaLnNormParams,
    "embed_norm": EmbedNormParams,
    "final_norm": FinalNormParams,
    "cached_attention": CachedAttentionParams,
    "causal_conv1d": CausalConv1dParams,
    "selective_scan": SelectiveScanParams,
    "group_norm_silu": GroupNormSiluParams,
    "linear": LinearParams,
    "swi_glu": SwiGluParams,
    "linear_quantized": LinearQuantizedParams,
    "norm_conv": NormConvParams,
    "rms_norm_gated": RmsNormGatedParams,
    "mamba2_decode_step": Mamba2DecodeStepParams,
    "mamba2_layers": Mamba2LayersParams,
    "mamba2_step": Mamba2StepParams,
    "mamba2_lazy_step": Mamba2LazyStepParams,
    "sample": SampleParams,
    "image_to_uint8": ImageParams,
}


class Refused(RuntimeError):
    """A call that the library did not carry out."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"code {code}: {message}")
        self.code = code
        self.message = message


class Library:
    """libaim_kernels, or the same sources built for the CPU emulator."""

    def __init__(self, path: Path) -> None:
        self._c = ctypes.CDLL(str(path))
        for name, params in OPERATORS.items():
            getattr(self._c, f"aim_{name}").argtypes = [ctypes.POINTER(params), c_void_p]
        workspaces = "selective_scan mamba2_decode_step mamba2_layers mamba2_step mamba2_lazy_step group_norm_silu"
        for name in (*workspaces.split(), "norm_conv", "cached_attention"):
            function = getattr(self._c, f"aim_{name}_workspace")
            function.argtypes = [ctypes.POINTER(OPERATORS[name]), ctypes.POINTER(c_uint64)]
        for name in ("mamba2_layers", "mamba2_step"):
            getattr(self._c, f"aim_{name}_resident").argtypes = [ctypes.POINTER(OPERATORS[name])]
        self._c.aim_mamba2_layers_exchange.argtypes = [ctypes.POINTER(Mamba2LayersParams), ctypes.POINTER(c_uint64)]
        for name in ("last_error", "status_message", "supported_archs"):
            getattr(self._c, f"aim_{name}").restype = ctypes.c_char_p
        self._c.aim_status_message.argtypes = [c_int]

    def code(self, name: str, params: Params | None, stream: int = 0) -> int:
        return int(getattr(self._c, f"aim_{name}")(None if params is None else ctypes.byref(params), stream))

    def call(self, name: str, params: Params, stream: int = 0) -> None:
        self._check(self.code(name, params, stream))

    def workspace(self, name: str, params: Params) -> int:
        size = c_uint64()
        self._check(getattr(self._c, f"aim_{name}_workspace")(ctypes.byref(params), ctypes.byref(size)))
        return size.value

    def exchange(self, layers: Mamba2LayersParams) -> int:
        """Bytes; 0 where the device does not take these layers with one kernel."""
        size = c_uint64()
        self._check(self._c.aim_mamba2_layers_exchange(ctypes.byref(layers), ctypes.byref(size)))
        return size.value

    def resident(self, params: Mamba2LayersParams | Mamba2StepParams) -> bool:
        name = "mamba2_layers" if isinstance(params, Mamba2LayersParams) else "mamba2_step"
        return bool(getattr(self._c, f"aim_{name}_resident")(ctypes.byref(params)))

    def check_device(self) -> None:
        self._check(self._c.aim_check_device())

    def last_error(self) -> str:
        return str(self._c.aim_last_error().decode())

    def status_message(self, code: int) -> str:
        return str(self._c.aim_status_message(code).decode())

    def supported_archs(self) -> str:
        return str(self._c.aim_supported_archs().decode())

    def version(self) -> int:
        return int(self._c.aim_version())

    def _check(self, code: int) -> None:
        if code != SUCCESS:
            raise Refused(code, self.last_error())
