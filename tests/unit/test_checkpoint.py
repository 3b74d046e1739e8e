"""Loading checkpoints: every layout that is published, and every way in which one can be wrong."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from aim_edge.aim import AimConfig, AimModel, VqConfig, VqModel, load_checkpoint

AIM = AimConfig(d_model=32, n_layer=2, vocab_size=64, num_classes=3, num_tokens=16, d_state=16, headdim=16)
VQ = VqConfig(n_embed=64, ch=32, ch_mult=(1, 1), z_channels=32, num_res_blocks=1)


def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    aim, vq = AimModel(AIM).state_dict(), VqModel(VQ).state_dict()
    state = {f"mamba.{k}": v.clone() for k, v in aim.items()} | {f"vqvae.{k}": v.clone() for k, v in vq.items()}
    return state | {"vqvae.quantize.codebook_used": torch.zeros(65536)}


def write(folder: Path, name: str = "model.safetensors", config: dict[str, Any] | None = None, **extra: Any) -> Path:
    state = weights() | extra
    state = {k: v for k, v in state.items() if v is not None}
    if name.endswith(".safetensors"):
        save_file(state, folder / name)
    else:
        torch.save(state, folder / name)
    raw = AIM.to_published() | {"vq": VQ.to_dict(), "class_names": ["a", "b", "c"]} | (config or {})
    (folder / "config.json").write_text(json.dumps(raw))
    return folder


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "model.pt"])
def test_loads(tmp_path: Path, name: str) -> None:
    loaded = load_checkpoint(write(tmp_path, name))
    assert loaded.aim.config == AIM
    assert loaded.class_names == ("a", "b", "c")
    assert len(loaded.sha256) == 64
    key = "backbone.layers.1.mixer.in_proj.weight"
    assert torch.equal(loaded.aim.state_dict()[key], weights()[f"mamba.{key}"])
    assert load_checkpoint(tmp_path / name).sha256 == loaded.sha256  # the file itself


def test_state_dict_under_a_key(tmp_path: Path) -> None:
    write(tmp_path, "model.pt")
    torch.save({"model": weights(), "epoch": 3}, tmp_path / "model.pt")
    assert load_checkpoint(tmp_path).aim.config == AIM


def test_tied_head_may_be_missing_but_not_differ(tmp_path: Path) -> None:
    load_checkpoint(write(tmp_path, **{"mamba.lm_head.weight": None}))
    with pytest.raises(ValueError, match="tied"):
        load_checkpoint(write(tmp_path, **{"mamba.lm_head.weight": torch.zeros(64, 32)}))


def test_all_wrong_keys_at_once(tmp_path: Path) -> None:
    write(
        tmp_path,
        **{
            "mamba.backbone.layers.0.mixer.D": None,
            "mamba.backbone.layers.9.mixer.D": torch.zeros(4),
            "mamba.backbone.norm_f.weight": torch.zeros(33),
            "vqvae.quant_conv.bias": None,
        },
    )
    with pytest.raises(ValueError, match="missing") as caught:
        load_checkpoint(tmp_path)
    text = str(caught.value)
    for part in ("layers.0.mixer.D", "layers.9.mixer.D", "found (33,), expected (32,)", "quant_conv.bias"):
        assert part in text


def test_neither_model(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"optimizer\.step"):
        load_checkpoint(write(tmp_path, **{"optimizer.step": torch.zeros(1)}))


class Evil:
    """Runs a command when a careless reader unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("content", ["code", "list", "nested", "garbage"])
def test_a_pickle_that_is_no_state_dict(tmp_path: Path, content: str) -> None:
    write(tmp_path, "model.pt")
    mark = tmp_path / "was-run"
    objects: dict[str, Any] = {"code": {"a": Evil(mark)}, "list": [1, 2], "nested": {"a": {"b": 1}}}
    if content == "garbage":
        (tmp_path / "model.pt").write_bytes(b"no pickle at all")
    else:
        torch.save(objects[content], tmp_path / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt"):
        load_checkpoint(tmp_path)
    assert not mark.exists()


def test_truncated_safetensors(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="no readable safetensors"):
        load_checkpoint(tmp_path)


def test_unknown_config_key_and_bad_json(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="unknown key 'flavour'"):
        load_checkpoint(write(tmp_path, config={"flavour": 1}))
    with pytest.raises(ValueError, match="class_names"):
        load_checkpoint(write(tmp_path, config={"class_names": ["a"]}))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="no JSON"):
        load_checkpoint(tmp_path)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no file, no folder and no hub id"):
        load_checkpoint(tmp_path / "missing" / "deep")
    with pytest.raises(FileNotFoundError, match="holds none of"):
        load_checkpoint(tmp_path)
    write(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"config\.json"):
        load_checkpoint(tmp_path)
