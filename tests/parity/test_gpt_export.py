"""LlamaGen's Transformer as a bundle: the runtime draws what PyTorch draws, and what is AiM's alone is refused."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from needs import rtx_version

from aim_edge.aim import (
    AimModel,
    Checkpoint,
    GptConfig,
    GptModel,
    VqConfig,
    VqModel,
    decode_logits,
    load_gpt_checkpoint,
)
from aim_edge.export import compare_bundles, export_bundle, locate, validate
from aim_edge.export.compare import Side
from aim_edge.export.engines import build_engines
from aim_edge.export.parity import examine
from aim_edge.export.weight_check import check_weights
from aim_edge.runtime import Bundle, BundleError, Generator
from aim_edge.runtime.floor import step_bytes
from aim_edge.runtime.sampler import SamplingConfig
from golden.cases import load_case
from parity.reference import draw_tokens

CONFIG = GptConfig(d_model=64, n_layer=2, nheads=4, vocab_size=48, num_classes=5, num_tokens=25)
CLASSES = np.array([0, 4, 2])


@pytest.fixture(scope="module")
def checkpoint() -> Checkpoint:
    """Every weight matters: a fresh head is zero, and attention all but even."""
    torch.manual_seed(0)
    gpt = GptModel(CONFIG).eval()
    with torch.no_grad():
        for name, parameter in gpt.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, 1.0 if "embedding" in name else 0.2)
    vq = VqModel(VqConfig(n_embed=48, ch=32, ch_mult=(1, 2), z_channels=32, num_res_blocks=1)).eval()
    names = tuple(f"class {i}" for i in range(5))
    return Checkpoint(gpt, vq, names, {"guidance_scale": 2.0, "top_k": 0, "top_p": 1.0}, "random GPT", "0" * 64)


@pytest.fixture(scope="module")
def bundle(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export_bundle(checkpoint, tmp_path_factory.mktemp("gpt") / "float32")


@pytest.fixture(scope="module")
def half(checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpt") / "float16"
    return export_bundle(checkpoint, folder, precision="float16", state_dtype="float16")


def gpt_of(checkpoint: Checkpoint) -> GptModel:
    assert isinstance(checkpoint.aim, GptModel)
    return checkpoint.aim


def test_the_manifest_says_which_family(bundle: Path, tmp_path: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    assert manifest.family == "gpt"
    assert GptConfig.from_published({k: v for k, v in manifest.model_config.items() if k != "vq"}) == CONFIG
    states = manifest.contract.states
    assert [s.input for s in states] == ["k_cache_0", "v_cache_0", "k_cache_1", "v_cache_1"]
    assert {s.shape for s in states} == {(4, 25, 16)}
    assert [spec.name for spec in manifest.contract.graphs["condition"].outputs] == ["class_embedding"]
    aim = export_bundle(load_case("mamba2_mlp").checkpoint(), tmp_path / "aim")
    raw = json.loads((aim / "manifest.json").read_text())
    assert raw["contract"].pop("family") == "aim"
    (aim / "manifest.json").write_text(json.dumps(raw))  # as bundles were before there were two families
    assert Bundle.open(aim).manifest.family == "aim"


@pytest.mark.parametrize(("family", "words"), [("rnn", "'rnn'; allowed"), ("aim", "sizes are those of 'gpt'")])
def test_another_family_is_refused(bundle: Path, tmp_path: Path, family: str, words: str) -> None:
    raw = json.loads((bundle / "manifest.json").read_text())
    raw["contract"]["family"] = family
    (tmp_path / "manifest.json").write_text(json.dumps(raw))
    with pytest.raises(BundleError, match=words):
        Bundle.open(tmp_path)


@pytest.mark.parametrize("via", ["step", "scan"])
def test_forced_logits(checkpoint: Checkpoint, bundle: Path, via: str) -> None:
    tokens = np.random.default_rng(1).integers(0, 48, (3, 25))
    wanted = decode_logits(gpt_of(checkpoint), CLASSES, tokens)
    with Generator.open(bundle) as generator:
        found = generator.decode_logits(CLASSES, tokens, via=via)
    assert wanted.std() > 0.5
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "sampling",
    [SamplingConfig(guidance_scale=2.0, top_k=1), SamplingConfig(guidance_scale=1.5, top_k=20, top_p=0.95)],
    ids=["greedy", "sampled"],
)
def test_tokens_are_those_of_pytorch(checkpoint: Checkpoint, bundle: Path, sampling: SamplingConfig) -> None:
    settings = {"guidance_scale": sampling.guidance_scale, "top_k": sampling.top_k, "top_p": sampling.top_p}
    wanted = draw_tokens(gpt_of(checkpoint), CLASSES, 7, sampling)
    with Generator.open(bundle) as generator:
        images, tokens = generator.generate(CLASSES, seed=7, **settings)  # type: ignore[arg-type]
        again = generator.generate(CLASSES, seed=7, prefix_tokens=tokens[:, :11], **settings)[1]  # type: ignore[arg-type]
        *_, last = generator.stream(CLASSES, every=10, seed=7, **settings)  # type: ignore[arg-type]
    np.testing.assert_array_equal(tokens, wanted)
    np.testing.assert_array_equal(again, wanted)
    np.testing.assert_array_equal(last.tokens, wanted)
    assert images.shape == (3, 10, 10, 3) and len(np.unique(wanted)) > 5


@pytest.mark.parametrize("lowering", ["plugin", "plugin-fused"])
def test_operators_draw_the_tokens_of_pytorch(checkpoint: Checkpoint, lowering: str, tmp_path: Path) -> None:
    """Through the operators' bodies; images at different positions, too."""
    path = export_bundle(checkpoint, tmp_path / lowering, lowering=lowering)
    nodes = onnx.load(path / "step.trt.onnx", load_external_data=False).graph.node
    counts = Counter(node.op_type for node in nodes if node.domain)
    assert counts == {"CachedAttention": 2} | ({"AdaLnNorm": 4, "SwiGlu": 2} if lowering == "plugin-fused" else {})
    assert not (path / "scan.trt.onnx").exists(), "a scan has no operators of ours"
    wanted = draw_tokens(gpt_of(checkpoint), CLASSES, 7, SamplingConfig(guidance_scale=1.5, top_k=20))
    with Generator.open(path) as generator:
        tokens = generator.generate(CLASSES, seed=7, guidance_scale=1.5, top_k=20, top_p=1.0)[1]
        np.testing.assert_array_equal(tokens, wanted)
        labels, given = CLASSES[:2], np.pad(wanted[:2], ((0, 0), (1, 0)))
        logits = decode_logits(gpt_of(checkpoint), labels, wanted[:2])
        session = generator.session(2)
        session.set_condition(labels)
        session.scan(given[:, :4], 0)
        first = session.step(given[[0, 1], [9, 4]], np.array([9, 4]))
        np.testing.assert_allclose(first[[1, 3]], logits[4, [1, 3]], rtol=0, atol=1e-4)


def test_operators_in_float16(checkpoint: Checkpoint, tmp_path: Path) -> None:
    kinds = {"precision": "float16", "state_dtype": "float16"}
    path = export_bundle(checkpoint, tmp_path / "b", lowering="plugin-fused", **kinds)  # type: ignore[arg-type]
    nodes = onnx.load(path / "step.trt.onnx", load_external_data=False).graph.node
    counts = Counter(node.op_type for node in nodes if node.domain)
    assert counts["Linear"] == 2 * 5 and counts["LinearFloat32"] == 1 and counts["CachedAttention"] == 2
    assert not [node for node in nodes if node.op_type == "MatMul"]
    report = validate(path, checkpoint, state_every=4)
    assert report.passed, report.failures
    unknown = check_weights(Bundle.open(path), checkpoint).unknown
    assert not [name for name in unknown if not name.startswith("vq_")]


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_graph_becomes_an_engine(checkpoint: Checkpoint, precision: str, tmp_path: Path) -> None:
    """By a parser of TensorRT's that needs no GPU."""
    rtx_version()
    path = export_bundle(checkpoint, tmp_path / "b", precision=precision, state_dtype=precision)
    (made,) = build_engines(path, ["rtx:sm89"], batch=(1, 2, 4), length=(1, 12, 25)).values()
    assert list(made.graphs) == ["condition", "step", "scan", "vq_decode"]
    assert Bundle.open(path).manifest.engines["rtx:sm89"] == made


def test_snapshots_and_images_that_stand_apart(checkpoint: Checkpoint, bundle: Path) -> None:
    """One image restored at position 9, one at position 3, from two runs; both go on together."""
    tokens = np.random.default_rng(2).integers(0, 48, (2, 25))
    labels, given = CLASSES[:2], np.pad(tokens, ((0, 0), (1, 0)))
    wanted = decode_logits(gpt_of(checkpoint), labels, tokens)
    with Generator.open(bundle) as generator:
        session = generator.session(2)
        session.set_condition(labels)
        kept: list[dict[str, Any]] = []
        for length in (9, 3):
            session.reset()
            session.scan(given[:, :length], 0)
            kept.append(session.snapshot())
        mixed = {name: array.copy() for name, array in kept[0].items()}
        for name, array in mixed.items():
            array[[1, 3]] = kept[1][name][[1, 3]]
            assert not array[[1, 3], :, 3:].any() and array[[0, 2], :, 8].any()
        session.restore(mixed)
        at = np.array([9, 3])
        for _ in range(4):
            logits = session.step(given[[0, 1], at], at)
            for row in range(4):
                np.testing.assert_allclose(logits[row], wanted[at[row % 2], row], rtol=0, atol=1e-4)
            at += 1
        with pytest.raises(ValueError, match=r"position\[0\] is 25; allowed: 0..24"):
            session.step(given[:, 24], 25)
        with pytest.raises(ValueError, match="k_cache_0 is missing"):
            session.restore({name: array for name, array in mixed.items() if name != "k_cache_0"})


def test_validate(checkpoint: Checkpoint, bundle: Path, half: Path) -> None:
    report = validate(bundle, checkpoint, state_every=4)
    assert report.passed, report.failures
    assert {s.name for s in report.states} == {"k_cache_0", "v_cache_0", "k_cache_1", "v_cache_1"}
    assert max(s.max_abs for s in report.steps) < 1e-4 and max(s.max_abs for s in report.states) < 1e-4
    report = validate(half, checkpoint)
    assert report.passed, report.failures
    assert max(s.max_abs for s in report.steps) > 1e-4, "it was float16"
    assert compare_bundles(Side(half), Side(bundle)).report.passed


def test_every_choice_of_precisions(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tokens = np.random.default_rng(1).integers(0, 48, (3, 6))
    wanted = decode_logits(gpt_of(checkpoint), CLASSES, tokens)
    for precision, state_dtype in (("float32", "float16"), ("float16", "float32")):
        path = export_bundle(checkpoint, tmp_path / precision, precision=precision, state_dtype=state_dtype)
        with Generator.open(path) as generator:
            for via in ("step", "scan"):
                found = generator.decode_logits(CLASSES, tokens, via=via)
                np.testing.assert_allclose(found, wanted, rtol=0, atol=0.02 * float(np.abs(wanted).max()))


def test_a_fault_is_seen_and_named(checkpoint: Checkpoint, bundle: Path) -> None:
    changed = GptModel(CONFIG)
    changed.load_state_dict(gpt_of(checkpoint).state_dict())
    for name in ("wqkv", "wo"):
        a, b = (getattr(changed.layers[i].attention, name).weight for i in (0, 1))  # type: ignore[union-attr]
        a.data, b.data = b.data, a.data
    other = replace(checkpoint, aim=changed.eval())
    seen = examine(bundle, other)
    # The class's own key is zero, so the first state to differ is not k_cache_0.
    assert not seen.report.passed and "the first v_cache_0 at step 0" in seen.report.failures[-1]
    found = locate(bundle, other, seen)
    assert any("layers 0 and 1" in finding.text for finding in found.findings)
    assert any("not a Transformer" in note for note in found.notes)
    whole = check_weights(Bundle.open(bundle), checkpoint)
    assert not whole.differences and not whole.unknown and whole.compared["step"] == 2 * 7 + 3


def test_the_floors_weights_are_those_of_the_model(checkpoint: Checkpoint, bundle: Path) -> None:
    gpt, moved = gpt_of(checkpoint), step_bytes(Bundle.open(bundle).manifest.contract, "float32")
    matrices = [p for name, p in gpt.named_parameters() if "norm" not in name and "embedding" not in name]
    assert moved.weights == 4 * sum(matrix.numel() for matrix in matrices)


def test_refusals(checkpoint: Checkpoint, bundle: Path, tmp_path: Path) -> None:
    for lowering in ("onnx", "onnx-opset27"):
        with pytest.raises(ValueError, match=rf"lowering is '{lowering}'.*allowed for it: 'primitive', 'plugin', "):
            export_bundle(checkpoint, tmp_path / "b", lowering=lowering)
    with pytest.raises(ValueError, match="precision is 'bfloat16'; allowed: float32, float16"):
        export_bundle(checkpoint, tmp_path / "b", precision="bfloat16")
    wrong = replace(checkpoint, aim=GptModel(replace(CONFIG, vocab_size=32)))
    with pytest.raises(ValueError, match="vocab_size is 32 but the codebook has n_embed = 48"):
        export_bundle(wrong, tmp_path / "b")
    assert not list(tmp_path.iterdir())
    with pytest.raises(ValueError, match="a Transformer's, and load_checkpoint does not read its"):
        validate(bundle)
    heads = replace(checkpoint, aim=GptModel(replace(CONFIG, d_model=60, nheads=3)))
    with pytest.raises(ValueError, match="nheads is 20; CachedAttention takes 8 to 128 in steps of 8; the lowering"):
        export_bundle(heads, tmp_path / "b", lowering="plugin")
    long = replace(checkpoint, aim=GptModel(replace(CONFIG, num_tokens=4225)))
    with pytest.raises(ValueError, match="num_tokens is 4225; CachedAttention takes up to 4096"):
        export_bundle(long, tmp_path / "b", lowering="plugin-fused")


def test_weight_files(checkpoint: Checkpoint, bundle: Path, tmp_path: Path) -> None:
    torch.save({"model": checkpoint.aim.state_dict()}, tmp_path / "c2i.pt")
    torch.save({"model": checkpoint.vq.state_dict()}, tmp_path / "vq.pt")
    with pytest.raises(FileNotFoundError, match="tokenizer's weight file"):
        load_gpt_checkpoint(tmp_path / "c2i.pt", CONFIG, tmp_path / "none.pt")
    with pytest.raises(ValueError, match=r"vq\.pt: "):
        load_gpt_checkpoint(tmp_path / "c2i.pt", CONFIG, tmp_path / "vq.pt")
    loaded = load_gpt_checkpoint(tmp_path / "c2i.pt", CONFIG, tmp_path / "vq.pt", checkpoint.vq.config)
    path = export_bundle(loaded, tmp_path / "b")
    record, files = Bundle.open(path).manifest.checkpoint, Bundle.open(path).manifest.files
    assert record.sha256 == hashlib.sha256((tmp_path / "c2i.pt").read_bytes()).hexdigest()
    assert files == Bundle.open(bundle).manifest.files
    with pytest.raises(ValueError, match="was exported from"):
        validate(path, checkpoint)


def test_large_weights_beside_the_graphs(
    checkpoint: Checkpoint, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Step and scan share a file; a constant's name may be another array's in the other graph, so none is in there."""
    monkeypatch.setattr("aim_edge.export.bundle.EXTERNAL_ABOVE", 1000)
    beside = export_bundle(checkpoint, tmp_path / "beside")
    for name in ("step.onnx", "scan.onnx"):
        initialisers = onnx.load(beside / name, load_external_data=False).graph.initializer
        outside = {i.name for i in initialisers if i.data_location == onnx.TensorProto.EXTERNAL}
        assert "output.weight.T" in outside and not [found for found in outside if found.startswith("const_")]
    tokens = np.random.default_rng(1).integers(0, 48, (3, 25))
    with Generator.open(bundle) as a, Generator.open(beside) as b:
        for via in ("step", "scan"):
            np.testing.assert_array_equal(
                a.decode_logits(CLASSES, tokens, via=via), b.decode_logits(CLASSES, tokens, via=via)
            )


def test_not_compared_with_aim(checkpoint: Checkpoint, bundle: Path, tmp_path: Path) -> None:
    case = load_case("mamba2_mlp").checkpoint()
    assert isinstance(case.aim, AimModel)
    aim = export_bundle(case, tmp_path / "aim")
    with pytest.raises(ValueError, match="family is gpt and aim"):
        compare_bundles(Side(bundle), Side(aim))
