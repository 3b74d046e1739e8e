"""The image tokenizer in every lowering against PyTorch, through ONNX Runtime, and what its norms are written as."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from aim_edge.aim.vq import VqModel
from aim_edge.export import export_bundle
from aim_edge.export.lowerings import LOWERINGS
from aim_edge.runtime import Bundle
from golden.cases import load_case

# As ONNX Runtime runs them: opset 27 is newer than what it has.
RUNNABLE = ("primitive", "onnx", "plugin", "plugin-fused")
LEVELS = {"float32": 1e-3, "float16": 2e-2}  # of an image in [-1, 1]


def export(tmp_path: Path, lowering: str, precision: str = "float32") -> tuple[Bundle, VqModel]:
    checkpoint = load_case("mamba2_group" if lowering == "plugin-layers" else "mamba2_mlp").checkpoint()  # no MLP there
    path = export_bundle(checkpoint, tmp_path / "bundle", lowering=lowering, precision=precision)
    return Bundle.open(path), checkpoint.vq


def run(bundle: Bundle, graph: str, value: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(bundle.path / f"{graph}.onnx"), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {session.get_inputs()[0].name: value})[0]
    return found


@pytest.mark.parametrize("precision", LEVELS)
@pytest.mark.parametrize("lowering", RUNNABLE)
def test_images_and_codes(lowering: str, precision: str, tmp_path: Path) -> None:
    bundle, model = export(tmp_path, lowering, precision)
    dims = bundle.manifest.contract.dims
    codes = np.random.default_rng(0).integers(0, dims.vocab_size, (3, dims.grid_height, dims.grid_width), np.int32)
    with torch.no_grad():
        images = model.decode(torch.from_numpy(codes).long()).numpy()
        expected = model.encode(torch.from_numpy(images).clamp(-1, 1)).numpy()
    np.testing.assert_allclose(run(bundle, "vq_decode", codes), images, rtol=0, atol=LEVELS[precision])
    found = run(bundle, "vq_encode", images.clip(-1, 1))
    assert (found == expected).mean() >= (1.0 if precision == "float32" else 0.9)


@pytest.mark.parametrize("lowering", LOWERINGS)
@pytest.mark.parametrize("graph", ["vq_decode", "vq_encode"])
def test_norms(graph: str, lowering: str, tmp_path: Path) -> None:
    """TensorRT 8's parser makes of InstanceNormalization a plugin of its own that calls cuDNN."""
    bundle, model = export(tmp_path, lowering)
    side = model.decoder if graph == "vq_decode" else model.encoder
    norms = [module for module in side.modules() if isinstance(module, torch.nn.GroupNorm)]
    nodes = onnx.load(bundle.path / f"{graph}.onnx").graph.node
    own = [node for node in nodes if node.op_type in ("GroupNormSilu", "AddGroupNormSilu")]
    native = [node for node in nodes if node.op_type == "InstanceNormalization"]
    assert len(native) == (len(norms) if lowering.startswith("onnx") else 0)
    assert len(own) == (len(norms) if lowering in ("plugin-fused", "plugin-layers") else 0)
    assert (bundle.path / f"{graph}.trt.onnx").exists() == bool(own)
    if own:
        assert {f"{graph}.onnx", f"{graph}.trt.onnx"} <= set(bundle.manifest.files)
        silu = [a.i for node in own for a in node.attribute if a.name == "silu"]
        plain = sum(node.op_type == "Sigmoid" for node in nodes)
        attentions = sum(hasattr(module, "proj_out") for module in side.modules())
        assert (silu.count(0), plain) == (attentions, 0)


def test_what_the_fused_lowering_leaves_to_its_operators(tmp_path: Path) -> None:
    """Sums before norms are the norms'; upsampling and its convolution are one."""
    bundle, model = export(tmp_path, "plugin-fused")
    kinds = [node.op_type for node in onnx.load(bundle.path / "vq_decode.onnx").graph.node]
    ups = sum(hasattr(module, "upsample") and module.upsample is not None for module in model.decoder.modules())
    assert kinds.count("ConvTranspose") == ups > 0
    assert "Resize" not in kinds
    assert kinds.count("Add") == ups  # of the block before it: no norm follows
    assert kinds.count("AddGroupNormSilu") > 0
