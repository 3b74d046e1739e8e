"""Every kernel once over small sizes, for compute-sanitizer, under which the whole test table would take too long.

    PYTHONPATH=tests compute-sanitizer --tool memcheck python -m kernels.sanitizer_driver [OPERATOR...]

The sizes reach every kernel variant: each tile of the chunked scan, each shape of the recurrence, wide and narrow
copies, one and several segments, ragged ends. Results are compared too: a tool that made the kernels fail is no proof.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from kernels import (
    decode_case,
    norm_conv_case,
    scan_case,
    test_ada_ln_norm,
    test_cached_attention,
    test_causal_conv1d,
    test_embed_norm,
    test_final_norm,
    test_group_norm_silu,
    test_image,
    test_linear,
    test_linear_quantized,
    test_mamba2_layers,
    test_mamba2_lazy_step,
    test_mamba2_step,
    test_norm_conv,
    test_rms_norm_gated,
    test_sample,
)
from kernels.abi import BFLOAT16, FLOAT16, FLOAT32, MAMBA1, Library
from kernels.decode_case import DecodeCase
from kernels.harness import CudaMemory, Device, decode, encode, relative_error
from kernels.lazy_case import LazyCase
from kernels.scan_case import ScanCase
from kernels.tolerances import BOUND, state_bound

CHUNKED = ScanCase(rows=1, length=130, nheads=2, ngroups=1, headdim=32, d_state=64, dtype=BFLOAT16)
RECURRENT = ScanCase(rows=1, length=70, nheads=2, ngroups=2, headdim=48, d_state=64)
MAMBA1_CASE = ScanCase(name="mamba1", kind=MAMBA1, rows=2, length=70, nheads=40, headdim=1, d_state=16, ngroups=1)
SCANS = [
    *(CHUNKED.but(headdim=p, d_state=n) for p, n in ((32, 64), (64, 48), (32, 128), (80, 112), (48, 144))),
    CHUNKED.but(dtype=FLOAT16, layout="packed", in_place=True),
    CHUNKED.but(layout="odd", rows=2, inactive=True),
    CHUNKED.but(workspace=False, gate=False, skip=False, dt_bias=False, initial_state=False),
    CHUNKED.but(length=33, state_dtype=FLOAT16),
    *(RECURRENT.but(d_state=n) for n in (16, 32, 64, 112, 240)),
    RECURRENT.but(length=5, dtype=FLOAT16, layout="packed", state_dtype=FLOAT16, in_place=True),
    RECURRENT.but(layout="odd", rows=2, inactive=True, workspace=False),
    *(MAMBA1_CASE.but(d_state=n) for n in (16, 32, 48, 128, 256)),
    MAMBA1_CASE.but(length=1, dtype=BFLOAT16, inactive=True, in_place=True),
    *(RECURRENT.but(length=1, d_state=n, state_dtype=s) for n in (16, 64, 112, 240) for s in (FLOAT32, FLOAT16)),
    RECURRENT.but(length=1, rows=3, layout="odd", inactive=True, in_place=True),
]
DECODES = [
    *(DecodeCase(rows=2, nheads=3, headdim=16, d_state=n, ssm_state_dtype=s)
      for n in (16, 48, 112, 240) for s in (FLOAT32, FLOAT16)),
    DecodeCase(rows=3, ngroups=2, dtype=FLOAT16, in_place=True, inactive=True, padding=3, d_conv=2),
    DecodeCase(rows=2, headdim=80, dtype=BFLOAT16, conv_state_dtype=FLOAT16, conv_bias=False, skip=False),
]  # fmt: skip
CONVS = [
    test_causal_conv1d.BASE.but(dtype=dtype, length=length, d_conv=d_conv, in_place=True, inactive=inactive)
    for dtype in (FLOAT32, FLOAT16, BFLOAT16)
    for length, d_conv, inactive in ((1, 4, True), (2, 3, False), (37, 4, False), (37, 2, True))
]
NORMS = [
    test_rms_norm_gated.BASE.but(dtype=dtype, d=d, ngroups=2, inactive=inactive, in_place=inactive)
    for dtype in (FLOAT32, FLOAT16, BFLOAT16)
    for d, inactive in ((256, False), (50, True))
]
SAMPLES = [
    *(test_sample.BASE.but(vocab_size=v, top_k=k, top_p=p, steps=2, inactive=inactive)
      for v, k, p, inactive in ((7, 0, 1.0, False), (1026, 600, 0.98, True), (16384, 600, 0.98, False),
                                (16384, 0, 0.9, False), (16385, 600, 1.0, False), (20000, 0, 0.9, True))),
    test_sample.BASE.but(vocab_size=4096, top_k=1500, logits="ties", top_p=0.5, steps=2),
]  # fmt: skip
IMAGES = [(2, 3, 17, 31), (1, 1, 16, 16)]

ADA_LNS = [
    test_ada_ln_norm.BASE.but(dtype=dtype, d_model=d_model, in_place=in_place)
    for dtype in (FLOAT32, FLOAT16)
    for d_model, in_place in ((100, True), (1028, False), (2052, False), (4100, True))
]
EMBED_NORMS = [
    test_embed_norm.BASE.but(dtype=dtype, d_model=d_model, rows=6, positions=3)
    for dtype in (FLOAT32, FLOAT16)
    for d_model in (100, 1028, 2052, 4100)
]
FINAL_NORMS = [
    test_final_norm.BASE.but(dtype=dtype, d_model=d_model, in_place=in_place)
    for dtype in (FLOAT32, FLOAT16)
    for d_model, in_place in ((100, True), (1028, False), (2052, False), (4100, True))
]
ATTENTIONS = [
    test_cached_attention.BASE.but(dtype=dtype, state_dtype=dtype, **factor)
    for dtype in (FLOAT32, FLOAT16)
    for factor in (
        {"headdim": 48},
        {"num_tokens": 600, "at": (511, 200)},
        {"positions": 1, "each": 1, "num_tokens": 1500, "at": (1400,)},
    )
]
LINEARS = [
    test_linear.BASE.but(dtype=dtype, rows=rows, in_features=k, out_features=19)
    for dtype in (FLOAT32, FLOAT16, BFLOAT16)
    for rows, k in ((2, 40), (9, 1000), (2, 3080), (20, 800), (70, 96))
] + [
    test_linear.BASE.but(dtype=dtype, rows=rows, in_features=k, out_features=out)
    for dtype in (FLOAT16, BFLOAT16)
    for rows, k, out in ((70, 712, 40), (40, 3072, 32), (130, 200, 3352))
]

GROUP_NORMS = [
    test_group_norm_silu.BASE.but(
        dtype=dtype, channels_last=last, in_place=last, silu=last, adds=adds, height=height, width=width
    )
    for adds in (False, True)
    for dtype in (FLOAT32, FLOAT16)
    for last in (False, True)
    for height, width in ((7, 5), (32, 16))
]
NORM_CONVS = [
    *(
        test_norm_conv.BASE.but(kind=kind, dtype=dtype, norm=norm, residual=residual, height=height, width=19)
        for kind in (norm_conv_case.SAME, norm_conv_case.UPSAMPLE)
        for dtype, height in ((FLOAT16, 5), (BFLOAT16, 18))
        for norm in (False, True)
        for residual in (False, True)
    ),
    *(
        test_norm_conv.BASE.but(kind=norm_conv_case.IMAGE, out_channels=3, dtype=dtype, norm=norm, height=5, width=19)
        for dtype in (FLOAT16, BFLOAT16)
        for norm in (False, True)
    ),
    test_norm_conv.BASE.but(batch=2, in_channels=128, out_channels=256, residual=True, in_place=True),
]
QUANTIZED = [
    test_linear_quantized.BASE.but(dtype=dtype, bits=bits, rows=rows)
    for dtype in (FLOAT16, BFLOAT16)
    for bits in (8, 4)
    for rows in (2, 20, 70)
]
LAYERS = [  # any sizes, and AiM's own
    test_mamba2_layers.BASE.but(rows=3, layers=3, inactive=True),
    test_mamba2_layers.BASE.but(dtype=FLOAT32, resident=False),
    *(test_mamba2_layers.AIM_B.but(rows=rows, layers=2) for rows in (2, 4)),
    test_mamba2_layers.INT8.but(rows=3, layers=3, inactive=True),
    test_mamba2_layers.AIM_B.but(weight_bits=8, layers=2),
    test_mamba2_layers.AIM_B.but(layers=2, exchange=True),
]
STEPS = [
    test_mamba2_step.BASE.but({"rows": 4, "inactive": True}, images=2, vocab_size=1402),
    test_mamba2_step.chain(test_mamba2_step.BASE, FLOAT32),
    *(test_mamba2_step.WHOLE_B.but({"layers": 2, "weight_bits": bits}) for bits in (0, 8)),
    test_mamba2_step.BASE.but({"rows": 4, "inactive": True, "exchange": True}, images=2),
]
LAZY_STEPS = [  # over a first fold and another
    LazyCase("lazy", steps=18, in_place=True, inactive=True),
    LazyCase("lazy halves", steps=13, nheads=10, headdim=64, d_state=144, ngroups=2, ssm_state_dtype=FLOAT16),
]
TABLES: list[tuple[Callable[[Device, Any], None], list[Any]]] = [
    (test_causal_conv1d.test_matches_the_reference, CONVS),
    (test_rms_norm_gated.test_matches_the_reference, NORMS),
    (test_ada_ln_norm.test_matches_the_reference, ADA_LNS),
    (test_embed_norm.test_matches_the_reference, EMBED_NORMS),
    (test_final_norm.test_matches_the_reference, FINAL_NORMS),
    (test_cached_attention.test_matches_the_reference, ATTENTIONS),
    (test_linear.test_matches_the_reference, LINEARS),
    (test_group_norm_silu.test_matches_the_reference, GROUP_NORMS),
    (test_norm_conv.test_matches_the_reference, NORM_CONVS),
    (test_sample.test_draws_the_codes_of_the_host, SAMPLES),
    (test_image.test_makes_the_pixels_of_the_host, IMAGES),
    (test_linear_quantized.test_matches_the_reference, QUANTIZED),
    (test_mamba2_layers.test_matches_the_reference, LAYERS),
    (test_mamba2_step.test_matches_the_reference, STEPS),
    (test_mamba2_lazy_step.test_matches_the_plain_recurrence_over_folds, LAZY_STEPS),
]


def check(name: str, error: float, bound: float) -> None:
    if not error <= bound:
        sys.exit(f"{name}: relative error {error} is over {bound}")


def main(only: list[str]) -> None:
    tables = [(test, cases) for test, cases in TABLES if not only or test.__module__.split(".test_")[1] in only]
    scans = SCANS if not only or "selective_scan" in only else []
    decodes = DECODES if not only or "mamba2_decode_step" in only else []
    if not (tables or scans or decodes):
        raise SystemExit(f"no cases of {', '.join(only)}; expected operators such as mamba2_layers")
    device = Device(Library(Path(os.environ["AIM_KERNELS_LIBRARY"])), CudaMemory(), emulated=False)
    for scan in scans:
        inputs = scan_case.draw(scan, seed=21)
        outputs = scan_case.run(device, scan, inputs)
        y, state = scan_case.expected(scan, inputs)
        live = inputs.active
        check(f"scan {scan}", relative_error(outputs.y[live], y[live]), BOUND[scan.dtype])
        state_error = relative_error(outputs.state[live], state[live])
        check(f"scan state {scan}", state_error, state_bound(scan.dtype, scan.state_dtype))
        device.release()
    for case in decodes:
        weights = decode_case.draw_weights(case, seed=1)
        conv, ssm = decode_case.draw_states(case, seed=2)
        zxbcdt = decode_case.draw_input(case, seed=3)
        active = np.arange(case.rows) % 2 == 1 if case.inactive else np.ones(case.rows, bool)
        buffers = decode_case.place(device, case, weights, conv, ssm, active if case.inactive else None)
        padded = np.concatenate([zxbcdt, np.full((case.rows, case.padding), np.nan)], axis=1)
        buffers.zxbcdt.fill(encode(padded, case.dtype))
        device.run("mamba2_decode_step", buffers.params)
        out, _, state = decode_case.expected(case, weights, zxbcdt, conv, ssm)
        found = decode(buffers.out.read())[:, : case.d_inner]
        check(f"decode {case}", relative_error(found[active], out[active]), BOUND[case.dtype])
        found = decode(buffers.ssm_state_out.read())
        check(f"decode state {case}", relative_error(found[active], state[active]), BOUND[case.ssm_state_dtype])
        device.release()
    for test, cases in tables:
        for case in cases:
            test(device, case)
            device.release()
    calls = len(scans) + len(decodes) + sum(len(cases) for _, cases in tables)
    sys.stdout.write(f"{calls} calls, all within bounds\n")


if __name__ == "__main__":
    main(sys.argv[1:])
