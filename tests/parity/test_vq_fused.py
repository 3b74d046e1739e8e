"""The image decoder with its convolutions as operators: against PyTorch and against the export without the option."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch

from aim_edge.aim import Checkpoint, VqConfig
from aim_edge.aim.vq import VqModel
from aim_edge.export import export_bundle
from aim_edge.runtime import Bundle
from aim_edge.runtime.bundle import read_manifest
from aim_edge.runtime.manifest import MANIFEST, BundleError
from golden.cases import load_case

OPERATORS = ("NormConv", "UpsampleConv", "NormConvImage")
# By its channels: all fit, also where a block changes them; levels whose channels the operators do not take.
CONFIGS = {
    "fits": VqConfig(n_embed=64, ch=128, ch_mult=(1, 2), z_channels=64, num_res_blocks=1),
    "one width": VqConfig(n_embed=64, ch=128, ch_mult=(1, 1, 1), z_channels=128, num_res_blocks=2),
    "in part": VqConfig(n_embed=64, ch=32, ch_mult=(1, 4), z_channels=64, num_res_blocks=1),
    "not at all": VqConfig(n_embed=64, ch=32, ch_mult=(1, 2), z_channels=32, num_res_blocks=1),
}


def checkpoint(config: VqConfig) -> Checkpoint:
    """A tokenizer with random norms, so that one in another's place shows."""
    case = load_case("mamba2_mlp")
    torch.manual_seed(0)
    model = VqModel(VqConfig.from_dict(config.to_dict() | {"n_embed": case.model.config.vocab_size})).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.GroupNorm):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return Checkpoint(case.model, model, None, {}, "golden mamba2_mlp", "0" * 64)


def export(out: Path, given: Checkpoint, fused: bool) -> Bundle:
    path = export_bundle(given, out, lowering="plugin-fused", precision="float16", fused_convolutions=fused)
    return Bundle.open(path)


def nodes(bundle: Bundle, file: str) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(bundle.path / file, load_external_data=False).graph.node)


def images(bundle: Bundle, codes: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(str(bundle.path / "vq_decode.onnx"), providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, {"codes": codes})[0]
    return found


def decibels(found: np.ndarray, wanted: np.ndarray) -> float:
    return float(10 * np.log10(np.square(wanted).mean() / np.square(found - wanted).mean()))


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "not at all"])
def test_images_are_those_of_the_model(name: str, tmp_path: Path) -> None:
    given = checkpoint(CONFIGS[name])
    fused, plain = export(tmp_path / "fused", given, True), export(tmp_path / "plain", given, False)
    dims = fused.manifest.contract.dims
    codes = np.random.default_rng(0).integers(0, dims.vocab_size, (2, dims.grid_height, dims.grid_width), np.int32)
    with torch.no_grad():
        wanted = given.vq.decode(torch.from_numpy(codes).long()).numpy()
    found = images(fused, codes)
    assert found.dtype == np.float32 and found.shape == wanted.shape
    assert decibels(found, wanted) > 50
    assert decibels(found, images(plain, codes)) > 50
    onnx.checker.check_model(str(fused.path / "vq_decode.onnx"))


def test_what_is_fused(tmp_path: Path) -> None:
    given = checkpoint(CONFIGS["fits"])
    bundle = export(tmp_path / "bundle", given, True)
    decoder = given.vq.decoder
    blocks = [module for module in decoder.modules() if hasattr(module, "conv2")]
    attentions = [module for module in decoder.modules() if hasattr(module, "proj_out")]
    kinds = nodes(bundle, "vq_decode.onnx")
    assert kinds == nodes(bundle, "vq_decode.trt.onnx")
    assert [kinds[name] for name in OPERATORS] == [1 + 2 * len(blocks), 1, 1]
    # What is left: of 1x1, post_quant_conv, the change of channels in a block, and attention's four.
    assert kinds["Conv"] == 1 + sum(block.nin_shortcut is not None for block in blocks) + 4 * len(attentions)
    assert kinds["ConvTranspose"] == kinds["Resize"] == 0
    # Norms with no convolution before them: attention's own, and those of the blocks after it, which add.
    assert kinds["GroupNormSilu"] == len(attentions) and kinds["AddGroupNormSilu"] == len(attentions) - 1
    # Attention is the last of its level: what is added there goes to the upsampling.
    assert kinds["Add"] == 1
    graph = onnx.load(bundle.path / "vq_decode.onnx", load_external_data=False).graph
    has = Counter(
        tuple(a.i for a in node.attribute if a.name.startswith("has_")) for node in graph.node
        if node.op_type == "NormConv"
    )  # fmt: skip
    # Without a norm of its own: conv_in, and conv1 after attention.
    after_attention = len(attentions) - 1
    assert has == {(0, 0): 1 + after_attention, (1, 0): len(blocks) - after_attention, (1, 1): len(blocks)}


def test_parts_that_the_operators_do_not_take(tmp_path: Path) -> None:
    given = checkpoint(CONFIGS["not at all"])
    fused, plain = export(tmp_path / "fused", given, True), export(tmp_path / "plain", given, False)
    assert nodes(fused, "vq_decode.onnx") == nodes(plain, "vq_decode.onnx")
    kinds = nodes(export(tmp_path / "part", checkpoint(CONFIGS["in part"]), True), "vq_decode.onnx")
    assert kinds["NormConv"] > 0 and kinds["UpsampleConv"] == 1
    assert kinds["NormConvImage"] == 0 and kinds["GroupNormSilu"] > 0


def test_the_graphs_for_other_libraries(tmp_path: Path) -> None:
    """Without bodies, an operator has one name and TensorRT 8.6 reads the file; the encoder is as it was."""
    given = checkpoint(CONFIGS["fits"])
    fused, plain = export(tmp_path / "fused", given, True), export(tmp_path / "plain", given, False)
    model = onnx.load(fused.path / "vq_decode.trt.onnx", load_external_data=False)
    assert (model.ir_version, len(model.functions), {node.overload for node in model.graph.node}) == (8, 0, {""})
    for file in ("vq_encode.onnx", "vq_encode.trt.onnx"):
        assert nodes(fused, file) == nodes(plain, file)
        assert onnx.load(fused.path / file, load_external_data=False).ir_version == 8


def test_the_manifest_says_so(tmp_path: Path) -> None:
    bundle = export(tmp_path / "bundle", checkpoint(CONFIGS["not at all"]), True)
    assert bundle.manifest.fused_convolutions is True
    file = bundle.path / MANIFEST
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"fused_convolutions": 1}))
    with pytest.raises(BundleError, match="fused_convolutions is 1; expected true or false"):
        read_manifest(bundle.path)
    del values["fused_convolutions"]  # as it was before the option
    file.write_text(json.dumps(values))
    assert read_manifest(bundle.path).fused_convolutions is False


@pytest.mark.parametrize(
    ("lowering", "precision"), [("primitive", "float16"), ("plugin", "float16"), ("plugin-fused", "float32")]
)
def test_only_with_plugin_fused_in_half_precision(lowering: str, precision: str, tmp_path: Path) -> None:
    message = f"lowering '{lowering}' and precision '{precision}'; it needs lowering 'plugin-fused' or 'plugin-layers' "
    message += "and precision"
    with pytest.raises(ValueError, match=f"fused_convolutions is True with {message} 'float16' or 'bfloat16'"):
        export_bundle("demo", tmp_path / "b", lowering=lowering, precision=precision, fused_convolutions=True)
    assert not (tmp_path / "b").exists()
