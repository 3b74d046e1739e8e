"""Bundles with lazily folded states: the same codes and states as the ordinary ones, through the operator's body."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aim_edge.export import compare_bundles, export_bundle, validate
from aim_edge.export.compare import Side
from aim_edge.runtime import Bundle, Generator
from aim_edge.runtime.lazy import plain_states


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("lazy")
    return {
        "plain": export_bundle("demo", folder / "plain", lowering="plugin-fused"),
        "lazy": export_bundle("demo", folder / "lazy", lowering="plugin-fused", lazy_states=True),
    }


def test_the_manifest_and_the_contract_say_it(bundles: dict[str, Path]) -> None:
    manifest = Bundle.open(bundles["lazy"]).manifest
    assert manifest.lazy_states and not Bundle.open(bundles["plain"]).manifest.lazy_states
    names = [state.input for state in manifest.contract.states][:6]
    assert names == ["conv_state_0", "ssm_state_0", "x_history_0", "B_history_0", "dt_history_0", "history_counters_0"]


@pytest.mark.parametrize("sampling", [{"top_k": 1}, {}], ids=["greedy", "seeded"])
def test_the_codes_are_the_ordinary_bundles(bundles: dict[str, Path], sampling: dict[str, int]) -> None:
    drawn = []
    for path in bundles.values():
        with Generator.open(path) as generator:
            drawn.append(generator.generate(np.array([0, 3], np.int32), seed=5, **sampling)[1])
    np.testing.assert_array_equal(*drawn)


def test_scan_folds_what_came_in_and_steps_go_on_from_it(bundles: dict[str, Path]) -> None:
    """20 steps, 30 positions by scan, then steps again over a fold: states beside the ordinary bundle's."""
    labels, tokens = np.array([1], np.int32), np.arange(90, dtype=np.int32)[None] % 300
    found = []
    for path in bundles.values():
        with Generator.open(path) as generator:
            session = generator.session(1)
            session.set_condition(labels)
            session.reset()
            for t in range(20):
                logits = session.step(tokens[:, t], t)
            scanned = session.scan(tokens[:, 20:50], 20)
            raw = session.snapshot()
            if "history_counters_0" in raw:
                assert (raw["history_counters_0"][..., :2] == [0, 1]).all()
            after_scan = plain_states(raw)
            for t in range(50, 75):
                logits = session.step(tokens[:, t], t)
            found.append((logits, scanned, after_scan, plain_states(session.snapshot())))
    for plain, lazy in zip(found[0][:2], found[1][:2], strict=True):
        np.testing.assert_allclose(lazy, plain, rtol=0, atol=1e-3)
    for plain, lazy in zip(found[0][2:], found[1][2:], strict=True):
        assert plain.keys() == lazy.keys()
        for name, wanted in plain.items():
            np.testing.assert_allclose(lazy[name], wanted, rtol=1e-3, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("state_dtype", ["float32", "float16"])
def test_validate_and_compare_fold_before_they_judge(
    bundles: dict[str, Path], tmp_path: Path, state_dtype: str
) -> None:
    precision = state_dtype
    path = export_bundle(
        "demo", tmp_path / "b", lowering="plugin-fused", precision=precision, state_dtype=state_dtype, lazy_states=True
    )
    report = validate(path, images=1, steps=140)
    assert report.passed, report.failures
    assert {state.kind for state in report.states} == {"conv", "ssm"}
    compared = compare_bundles(Side(path), Side(bundles["plain"]), images=1, steps=140).report
    assert compared.passed, compared.failures


def test_what_it_cannot_be_combined_with(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="lazy_states is True with lowering 'plugin'; it needs 'plugin-fused'"):
        export_bundle("demo", tmp_path / "b", lowering="plugin", lazy_states=True)
