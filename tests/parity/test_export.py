"""export_bundle: what it writes, what it refuses, and that it leaves nothing half made."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from aim_edge.aim import AimConfig, AimModel, Checkpoint, VqConfig, VqModel
from aim_edge.export import export_bundle, validate
from aim_edge.export import weights as weights_module
from aim_edge.export.parity import compare_steps, find_failures
from aim_edge.export.parity_report import GATES
from aim_edge.runtime import Bundle, BundleError, Generator
from golden.cases import load_case

CASE = "mamba2_mlp"


@pytest.mark.parametrize(
    ("argument", "value"), [("lowering", "tensor"), ("precision", "int8"), ("state_dtype", "bfloat16")]
)
def test_refuses_unknown_choices(argument: str, value: str, tmp_path: Path) -> None:
    choices: dict[str, Any] = {argument: value}
    with pytest.raises(ValueError, match=f"{argument} is '{value}'; allowed"):
        export_bundle(load_case(CASE).checkpoint(), tmp_path / "b", **choices)
    assert not list(tmp_path.iterdir())


def test_refuses_to_replace_unless_asked(tmp_path: Path) -> None:
    checkpoint = load_case(CASE).checkpoint()
    path = export_bundle(checkpoint, tmp_path / "b")
    with pytest.raises(FileExistsError, match="exists"):
        export_bundle(checkpoint, path)
    export_bundle(checkpoint, path, overwrite=True, precision="float16")
    assert Bundle.open(path).manifest.precision == "float16"


def test_the_same_checkpoint_gives_the_same_bundle(tmp_path: Path) -> None:
    checkpoint = load_case(CASE).checkpoint()
    first, second = (export_bundle(checkpoint, tmp_path / name) for name in "ab")
    assert Bundle.open(first).manifest == Bundle.open(second).manifest


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    calls = 0
    save = ir.save

    def third_fails(*args: Any, **kwargs: Any) -> None:
        nonlocal calls
        calls += 1
        (full if calls == 3 else save)(*args, **kwargs)

    monkeypatch.setattr(ir, "save", third_fails)
    with pytest.raises(OSError, match="No space left"):
        export_bundle(load_case(CASE).checkpoint(), tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_a_kill_leaves_no_bundle_and_the_next_export_clears_up(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import os, signal, sys
        sys.path.insert(0, sys.argv[1])
        from golden.cases import load_case
        from aim_edge.export import export_bundle
        def progress(what, done, total):
            if done == 4:
                os.kill(os.getpid(), signal.SIGKILL)
        export_bundle(load_case("mamba2_mlp").checkpoint(), sys.argv[2], progress=progress)
        """
    )
    tests = Path(__file__).parents[1]
    out = tmp_path / "b"
    done = subprocess.run([sys.executable, "-c", script, str(tests), str(out)], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    assert not out.exists()
    assert list(tmp_path.iterdir()), "the killed process had begun"
    export_bundle(load_case(CASE).checkpoint(), out)
    assert [p.name for p in tmp_path.iterdir()] == ["b"]
    Bundle.open(out)


def test_large_weights_go_to_one_shared_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = load_case("mamba2_adaln")
    inside = export_bundle(case.checkpoint(), tmp_path / "inside")
    monkeypatch.setattr("aim_edge.export.bundle.EXTERNAL_ABOVE", 1000)
    beside = export_bundle(case.checkpoint(), tmp_path / "beside")
    size = {path.name: sum(f.stat().st_size for f in path.iterdir()) for path in (inside, beside)}
    assert (beside / "weights.data").is_file() and not (inside / "weights.data").exists()
    scan = (inside / "scan.onnx").stat().st_size
    assert size["inside"] - size["beside"] > 0.8 * scan, "step and scan share their weights"
    with Generator.open(inside) as a, Generator.open(beside) as b:
        tokens = case["tokens"]
        np.testing.assert_array_equal(
            a.decode_logits(case["labels"], tokens), b.decode_logits(case["labels"], tokens)
        )
    with (beside / "weights.data").open("r+b") as file:
        file.seek(5000)
        byte = file.read(1)
        file.seek(5000)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(BundleError, match=r"weights\.data: altered"):
        Generator.open(beside)
    assert weights_module.EXTERNAL_ABOVE == 1 << 30


def test_codebook_and_vocabulary_must_agree(tmp_path: Path) -> None:
    good = load_case(CASE).checkpoint()
    other = VqModel(VqConfig(n_embed=32, ch=32, ch_mult=(1,), z_channels=32)).eval()
    with pytest.raises(ValueError, match="n_embed = 32"):
        export_bundle(replace(good, vq=other), tmp_path / "b")
    config = AimConfig(d_model=32, n_layer=1, vocab_size=32, num_tokens=15, headdim=16, num_classes=2)
    with pytest.raises(ValueError, match="square"):
        export_bundle(Checkpoint(AimModel(config).eval(), other, None, {}, "x", "0" * 64), tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_validate_passes_and_names_what_fails(tmp_path: Path) -> None:
    checkpoint = load_case(CASE).checkpoint()
    path = export_bundle(checkpoint, tmp_path / "b")
    report = validate(path, checkpoint, images=2)
    assert report.passed and "PASS" in report.line()
    assert len(report.steps) == checkpoint.aim.config.num_tokens
    json.dumps(report.to_dict())
    broken = AimModel(checkpoint.aim.config)
    broken.load_state_dict(checkpoint.aim.state_dict())
    broken.backbone.layers[1].mixer.D.data.neg_()  # type: ignore[union-attr]
    report = validate(path, replace(checkpoint, aim=broken.eval()), images=2)
    assert not report.passed and "cosine" in report.failures[0] and "FAIL" in report.line()


def test_validate_refuses_another_checkpoint(tmp_path: Path) -> None:
    checkpoint = load_case(CASE).checkpoint()
    path = export_bundle(checkpoint, tmp_path / "b")
    with pytest.raises(ValueError, match="was exported from"):
        validate(path, replace(checkpoint, sha256="f" * 64))


def test_gates_see_scale_and_nan() -> None:
    reference = np.random.default_rng(0).standard_normal((4, 2, 16)).astype(np.float32)
    assert not find_failures(compare_steps(reference, reference), 0.0, GATES["float32"])
    scaled = find_failures(compare_steps(reference, reference * np.float32(1.02)), 0.0, GATES["float16"])
    assert len(scaled) == 1 and scaled[0].startswith("norm_ratio: 4 of 4 steps")
    bad = reference.copy()
    bad[2, 1, 3] = np.nan
    failures = find_failures(compare_steps(reference, bad), float("nan"), GATES["float16"])
    assert [f.split(":")[0] for f in failures] == ["cosine", "norm_ratio", "image_max_abs"]
    assert "the first 2" in failures[0]
