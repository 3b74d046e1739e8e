"""A Transformer on the TensorRT backend, library faked: caches that lie once, and a scan that writes apart."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from trt_case import Case, Make, make_case  # noqa: F401

from aim_edge.aim import Checkpoint, GptConfig, GptModel, VqConfig, VqModel
from aim_edge.export import export_bundle
from aim_edge.runtime import Generator

CONFIG = GptConfig(d_model=32, n_layer=2, nheads=2, vocab_size=24, num_classes=3, num_tokens=9)
LABELS = np.array([2, 0, 1], np.int32)
DRAW: dict[str, Any] = {"seed": 5, "temperature": 0.9, "top_k": 9, "top_p": 0.95}
IN_PLACE = {"step": {"CachedAttention": 2, "AdaLnNorm": 4}}
TWICE = {"step": {"CachedAttention": 4, "AdaLnNorm": 8}}  # an engine of two profiles lists its layers twice


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    model = GptModel(CONFIG).eval()
    torch.nn.init.normal_(model.output.weight, std=0.3)
    vq = VqModel(VqConfig(n_embed=24, ch=32, ch_mult=(1, 1), z_channels=32, num_res_blocks=1)).eval()
    checkpoint = Checkpoint(model, vq, None, {}, "random GPT", "0" * 64)
    return export_bundle(checkpoint, tmp_path_factory.mktemp("gpt") / "bundle", lowering="plugin-fused")


@pytest.fixture(params=[IN_PLACE, TWICE, {"step": {"SelectiveScan": 1}}], ids=["in place", "two profiles", "apart"])
def case(make: Make, exported: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Case:
    bundle = Path(shutil.copytree(exported, tmp_path / "gpt"))
    return make(bundle=bundle, operators=request.param)


def is_in_place(case: Case) -> bool:
    return "CachedAttention" in case.backend().record.graphs["step"].plugins


def test_it_draws_what_onnx_runtime_draws(case: Case) -> None:
    with Generator.open(case.root, threads=1) as other:
        wanted = other.generate(LABELS, **DRAW)[1]
    generator = case.generator()
    for _ in range(2):
        np.testing.assert_array_equal(generator.generate(LABELS, **DRAW)[1], wanted)
    # Scanned in pieces of up to five, and what is left in steps.
    for kept in (1, 5, 8):
        found = generator.generate(LABELS, **DRAW, prefix_tokens=wanted[:, :kept])[1]
        np.testing.assert_array_equal(found, wanted)


def test_where_the_caches_lie(case: Case) -> None:
    session = case.backend().session(3)
    one = sum(2 * 3 * math.prod(state.shape) * 4 for state in session._states)
    once = is_in_place(case)
    halves = session.memory()["states"] / one  # a little is lost to alignment
    assert 1.0 <= halves < 1.1 if once else 2.0 <= halves < 2.2
    session.set_condition(LABELS)
    tokens = np.random.default_rng(0).integers(0, 24, (3, 9))
    given = np.pad(tokens[:, :-1], ((0, 0), (1, 0)))
    stepped = np.stack([session.step(given[:, t], t).copy() for t in range(9)], axis=1)
    after = session.snapshot()
    session.reset()
    np.testing.assert_allclose(session.scan(given, 0), stepped, atol=1e-5)
    for name, array in session.snapshot().items():
        np.testing.assert_allclose(array, after[name], atol=1e-5, err_msg=name)
    scratch = {use: size for use, size in session.memory().items() if use.startswith("scan")}
    assert (scratch["scan"] >= one) == once
