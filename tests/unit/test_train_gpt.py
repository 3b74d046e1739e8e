"""Training the Transformer that the demo is compared with: in tiny, on a CPU, from pictures to checkpoint."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from test_train import CPU, SIDE, data_path, trained  # noqa: F401

from aim_edge.aim import GptConfig, GptModel, load_checkpoint
from aim_edge.aim.train_aim import AimOptions, cross_entropies
from aim_edge.aim.train_data import DemoData
from aim_edge.aim.train_gpt import GptTrainOptions, dropped, parse, run
from aim_edge.aim.train_vq import encode_rows

OPTIONS = GptTrainOptions(
    GptConfig(d_model=16, n_layer=2, nheads=2, num_classes=1), AimOptions(steps=40, batch=6, warmup=2, rate=1e-2)
)


@pytest.fixture(autouse=True)
def _demo(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr("aim_edge.aim.checkpoint.DEMO", trained)


@pytest.fixture
def checkpoint(data_path: Path, tmp_path: Path) -> Path:  # noqa: F811
    run(data_path, tmp_path / "gpt", OPTIONS, CPU)
    return tmp_path / "gpt"


def test_the_checkpoint_is_as_published_and_shares_the_demos_tokenizer(
    checkpoint: Path,
    trained: Path,  # noqa: F811
    data_path: Path,  # noqa: F811
) -> None:
    weights = load_file(checkpoint / "model.safetensors")
    assert set(weights) == set(GptModel(OPTIONS.config).state_dict())
    assert all(value.dtype == torch.float16 for value in weights.values())
    loaded = load_checkpoint(checkpoint)
    demo = load_checkpoint(trained)
    assert loaded.aim.config == replace(OPTIONS.config, vocab_size=32, num_classes=3, num_tokens=16)
    assert loaded.class_names == demo.class_names and loaded.sampling == demo.sampling
    assert all(torch.equal(value, demo.vq.state_dict()[name]) for name, value in loaded.vq.state_dict().items())
    with Image.open(checkpoint / "grid.png") as grid:
        assert grid.size == (4 * (SIDE + 2), 3 * (SIDE + 2))

    metrics = json.loads((checkpoint / "metrics.json").read_text())
    found = metrics["gpt"]["held_out"]["cross_entropy"]
    data = DemoData.load(data_path, CPU)
    rows = data.rows(held_out=True)
    codes = encode_rows(demo.vq, data, rows)
    each = cross_entropies(loaded.aim, data.labels[rows], codes)
    share = data.weights[rows] / data.weights[rows].sum()
    assert found == pytest.approx(float((share * each).sum()), abs=1e-4)
    assert found == pytest.approx(min(one["held_out_ce"] for one in metrics["gpt"]["curve"]), abs=0.02)
    assert metrics["aim"]["held_out"]["cross_entropy"] > 0 and metrics["gpt"]["steps"] == 40
    # A fresh head is zero: log(32) nats. It has learned something.
    assert found < 0.95 * torch.log(torch.tensor(32.0))


def test_same_seed_same_weights(data_path: Path, checkpoint: Path, tmp_path: Path) -> None:  # noqa: F811
    run(data_path, tmp_path / "again", OPTIONS, CPU)
    first, again = (load_file(folder / "model.safetensors") for folder in (checkpoint, tmp_path / "again"))
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_seconds_take_fewer_steps_and_never_more(
    data_path: Path,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from aim_edge.aim import train_gpt

    real, asked = train_gpt.train_aim, []

    def train_aim(model: Any, vq: Any, data: Any, options: AimOptions, **more: Any) -> dict[str, Any]:
        asked.append(options.steps)
        return real(model, vq, data, options, **more) | {"seconds": 10.0}

    monkeypatch.setattr(train_gpt, "_PROBE", 2)
    monkeypatch.setattr(train_gpt, "train_aim", train_aim)
    for seconds, steps in ((15.0, 2), (1e6, 40), (0.001, 1)):
        run(data_path, tmp_path / str(seconds), replace(OPTIONS, seconds=seconds), CPU)
        assert asked[-3:] == [2, 2, steps]


def test_dropout_is_of_the_training_alone() -> None:
    torch.manual_seed(0)
    model = GptModel(GptConfig(d_model=16, n_layer=1, nheads=2, vocab_size=8, num_classes=2, num_tokens=4))
    torch.nn.init.normal_(model.output.weight)
    codes, labels = torch.zeros(1, 4, dtype=torch.int64), torch.zeros(1, dtype=torch.int64)
    plain = model.train()(codes, labels)
    with dropped(model, 0.5):
        assert not torch.equal(model(codes, labels), plain)
        assert torch.equal(model.eval()(codes, labels), plain)
    assert torch.equal(model.train()(codes, labels), plain)
    assert torch.equal(model.teacher_forced(labels, codes), plain)


def test_refusals(checkpoint: Path, data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    config = json.loads((checkpoint / "config.json").read_text())
    for changes, message in (
        ({"tokenizer": "other"}, "tokenizer is 'other'; allowed: 'demo'"),
        ({"class_names": ["one"]}, "1 class_names for 3 classes"),
        ({"dim": 32}, "tok_embeddings.weight"),
        ({"model_type": "t2i"}, "only class-conditional models"),
    ):
        (checkpoint / "config.json").write_text(json.dumps(config | changes))
        with pytest.raises(ValueError, match=message):
            load_checkpoint(checkpoint)
    weights = load_file(checkpoint / "model.safetensors")
    weights |= {name: torch.zeros(9, 16) for name in ("tok_embeddings.weight", "output.weight")}
    save_file(weights, checkpoint / "model.safetensors")
    (checkpoint / "config.json").write_text(json.dumps(config | {"vocab_size": 9}))
    with pytest.raises(ValueError, match="vocab_size is 9, but the demo's tokenizer has 32"):
        load_checkpoint(checkpoint)
    monkeypatch.setattr("aim_edge.aim.checkpoint.DEMO_GPT", tmp_path / "none")
    with pytest.raises(FileNotFoundError, match="is not in this installation"):
        load_checkpoint("demo-gpt")
    data = DemoData.load(data_path, CPU)
    monkeypatch.setattr(DemoData, "load", lambda *_: replace(data, class_names=("a", "b", "c")))
    with pytest.raises(ValueError, match="has the classes"):
        run(data_path, tmp_path / "x", OPTIONS, CPU)


def test_command_line(tmp_path: Path) -> None:
    found, options = parse(["d.npz", "o", "--steps", "7", "--seconds", "60", "--dropout", "0.2", "--device", "cpu"])
    assert (options.training.steps, options.seconds, options.dropout, found.device) == (7, 60.0, 0.2, "cpu")
    assert options.config == GptConfig.preset("demo") and parse(["d.npz", "o"])[1].seconds is None
