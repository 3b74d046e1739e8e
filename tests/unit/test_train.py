"""The demo's training from pictures to checkpoint, in tiny, on synthetic pictures and a CPU."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from aim_edge.aim import AimConfig, VqConfig, VqModel, load_checkpoint
from aim_edge.aim.train import TrainOptions, parse, probe, run
from aim_edge.aim.train_aim import AimOptions, Batches
from aim_edge.aim.train_data import Augmentation, DemoData, cosine_rate, entropy, psnr, to_bytes, to_unit
from aim_edge.aim.train_vq import CodebookAverage, VqOptions

CPU = torch.device("cpu")
SIDE = 16
OPTIONS = TrainOptions(
    vq_config=VqConfig(n_embed=32, embed_dim=4, z_channels=8, ch=8, ch_mult=(1, 1, 2), num_res_blocks=1, norm_groups=4),
    aim_config=AimConfig(
        d_model=16, n_layer=3, vocab_size=32, num_classes=1, num_tokens=16, d_state=8, headdim=4, adaln_group=True,
        adaln_num_groups=2, token_drop=0.1, mixer_drop=0.1,
    ),
    vq=VqOptions(steps=6, batch=8, warmup=2, revive_every=2),
    aim=AimOptions(steps=5, batch=6, warmup=2, scan_chunk=8),
    more_guidance=(1.5,),
)  # fmt: skip


@pytest.fixture(scope="module")
def data_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    count = 40
    labels = np.arange(count) % 4 - 1  # a quarter has no class
    images = np.full((count, SIDE, SIDE, 3), 255, np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4:12, 4:12] = (60 * (label + 1), rng.integers(200), rng.integers(200))
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    np.savez_compressed(
        path, images=images, labels=labels, weights=np.ones(count, np.float32), held_out=np.arange(count) % 5 == 0,
        flippable=labels != 2, class_names=np.array(["one", "two", "three"]),
    )  # fmt: skip
    return path


@pytest.fixture(scope="module")
def trained(data_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "deep" / "checkpoint"
    run(data_path, out, OPTIONS, CPU)
    return out


def test_files_and_keys(trained: Path) -> None:
    names = {"model.safetensors", "config.json", "metrics.json", "grid.png", "grid_guidance_1.5.png", "recon.png"}
    assert names <= {path.name for path in trained.iterdir()}
    weights = load_file(trained / "model.safetensors")
    assert {key.split(".")[0] for key in weights} == {"mamba", "vqvae"}
    assert all(value.dtype == torch.float16 for value in weights.values())
    assert "mamba.lm_head.weight" not in weights
    config = json.loads((trained / "config.json").read_text())
    assert config["class_names"] == ["one", "two", "three"]
    assert config["num_classes"] == 3
    with Image.open(trained / "grid.png") as grid:
        assert grid.size == (4 * (SIDE + 2), 3 * (SIDE + 2))


def test_loads_as_a_checkpoint(trained: Path) -> None:
    checkpoint = load_checkpoint(trained)
    assert checkpoint.class_names == ("one", "two", "three")
    assert checkpoint.vq.config == OPTIONS.vq_config
    assert checkpoint.sampling["guidance_scale"] == OPTIONS.guidance


def test_metrics(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    assert [point["step"] for point in metrics["aim"]["curve"]] == [1, 2, 3, 4, 5]
    held_out = metrics["aim"]["held_out"]
    assert held_out["below_unigram"] == pytest.approx(1 - held_out["cross_entropy"] / held_out["unigram_entropy"])
    assert set(held_out["by_class"]) <= {"one", "two", "three"}
    assert metrics["bytes"] == (trained / "model.safetensors").stat().st_size
    assert metrics["seed"] == 0
    assert metrics["vq"]["held_out"]["psnr"] > 0


def test_same_seed_same_weights(trained: Path, data_path: Path, tmp_path: Path) -> None:
    run(data_path, tmp_path, OPTIONS, CPU)
    first, again = load_file(trained / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_reused_tokenizer_is_not_trained(trained: Path, data_path: Path, tmp_path: Path) -> None:
    run(data_path, tmp_path, OPTIONS, CPU, vq_from=trained / "vq.safetensors")
    first, again = load_file(trained / "model.safetensors"), load_file(tmp_path / "model.safetensors")
    assert first.keys() == again.keys()
    assert all(torch.equal(first[key], again[key]) for key in first)


def test_probe_writes_nothing_and_reports(data_path: Path) -> None:
    found = probe(data_path, OPTIONS, CPU, steps=1)
    assert found["vq_steps_a_second"] > 0
    assert found["aim_chunk_64_steps_a_second"] > 0


def test_sizes_that_do_not_fit(data_path: Path, tmp_path: Path) -> None:
    config = replace(OPTIONS.aim_config, num_tokens=9, vocab_size=31)
    with pytest.raises(ValueError, match=r"16 codes, but num_tokens is 9; n_embed is 32, but vocab_size is 31"):
        run(data_path, tmp_path, replace(OPTIONS, aim_config=config), CPU)


def test_data_that_lacks_fields(tmp_path: Path) -> None:
    np.savez(tmp_path / "bad.npz", images=np.zeros((1, 4, 4, 3), np.uint8), labels=np.zeros(1, int))
    with pytest.raises(ValueError, match=r"lacks \['weights', 'held_out', 'flippable', 'class_names'\]"):
        DemoData.load(tmp_path / "bad.npz", CPU)


def test_command_line() -> None:
    found, options = parse(["d.npz", "o", "--vq-steps", "7", "--aim-batch", "3", "--token-drop", "0.2", "--probe"])
    assert (options.vq.steps, options.aim.batch, options.aim_config.token_drop) == (7, 3, 0.2)
    assert found.probe


def test_batches_carry_null_labels_and_only_training_pictures(data_path: Path) -> None:
    data = DemoData.load(data_path, CPU)
    batches = Batches(VqModel(OPTIONS.vq_config).eval(), data, replace(OPTIONS.aim, batch=500))
    assert not data.held_out[batches.rows].any()
    assert float(batches.chance.sum()) == pytest.approx(1.0)
    labels, codes = batches.draw()
    null = float((labels == 3).float().mean())
    assert 0.15 < null < 0.32  # 0.15 without a class, and a tenth of the rest
    assert codes.shape == (500, 16)


def test_balanced_sampling_is_equal_by_class(data_path: Path) -> None:
    data = DemoData.load(data_path, CPU)
    rows = data.rows(held_out=False)
    chance = data.balanced(rows)
    for label in range(3):
        assert float(chance[data.labels[rows] == label].sum()) == pytest.approx(1 / 3, abs=1e-5)


def test_augmentation_without_change_is_the_identity() -> None:
    images = torch.rand(3, 3, SIDE, SIDE) * 2 - 1
    still = Augmentation(moved=0.0, warped=0.0, recoloured=0.0)
    torch.testing.assert_close(still(images, torch.zeros(3, dtype=torch.bool)), images, atol=1e-5, rtol=0)


def test_augmentation_keeps_white_white_and_does_not_mirror_what_it_must_not() -> None:
    white = torch.ones(64, 3, SIDE, SIDE)
    moved = Augmentation(moved=0.5, warped=0.5, recoloured=1.0)
    torch.testing.assert_close(moved(white, torch.ones(64, dtype=torch.bool)), white, atol=1e-5, rtol=0)
    marked = white.clone()
    marked[..., :4] = -1.0
    still = Augmentation(moved=0.0, warped=0.0, recoloured=0.0)
    assert torch.all(still(marked, torch.zeros(64, dtype=torch.bool))[..., -1] > 0.9)
    mirrored = still(marked, torch.ones(64, dtype=torch.bool))[:, 0, 0, -1] < 0
    assert 10 < int(mirrored.sum()) < 54


def test_codebook_average_stays_on_the_sphere_and_revives_the_dead() -> None:
    torch.manual_seed(0)
    model = VqModel(OPTIONS.vq_config)
    average = CodebookAverage(model, decay=0.5)
    features = torch.nn.functional.normalize(torch.randn(100, 4), dim=-1)
    average.start(features)
    for _ in range(12):
        average.update(features[:10], torch.zeros(10, dtype=torch.int64))
    assert int((average.counts < 1.0).sum()) == 31
    average.revive(features, least=1.0)
    assert int((average.counts < 1.0).sum()) == 0
    torch.testing.assert_close(model.quantize.embedding.weight.norm(dim=-1), torch.ones(32))


def test_figures() -> None:
    codes = torch.tensor([[0, 1], [2, 3]])
    assert entropy(codes, torch.ones(2), 8) == pytest.approx(np.log(4))
    assert entropy(codes, torch.tensor([1.0, 0.0]), 8) == pytest.approx(np.log(2))
    black, grey = torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.full((1, 3, 2, 2), 10, dtype=torch.uint8)
    assert float(psnr(black, grey)) == pytest.approx(20 * np.log10(25.5), abs=1e-3)
    assert torch.equal(to_bytes(to_unit(torch.arange(256, dtype=torch.uint8))), torch.arange(256, dtype=torch.uint8))
    assert cosine_rate(0, 100, 10) == pytest.approx(0.1)
    assert cosine_rate(10, 100, 10) == pytest.approx(1.0)
    assert cosine_rate(100, 100, 10, floor=0.02) == pytest.approx(0.02)
