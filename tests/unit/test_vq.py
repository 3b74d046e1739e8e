"""VqConfig and VqModel: what they refuse, and shapes of small models."""

from __future__ import annotations

import pytest
import torch

from aim_edge.aim import VqConfig, VqModel

SMALL = VqConfig(n_embed=20, embed_dim=3, z_channels=6, ch=8, ch_mult=(1, 2, 3), num_res_blocks=1, norm_groups=4)


@pytest.fixture
def model() -> VqModel:
    torch.manual_seed(0)
    return VqModel(SMALL).eval()


def test_defaults_are_vq_f16() -> None:
    config = VqConfig()
    assert (config.n_embed, config.embed_dim, config.z_channels, config.ch) == (16384, 8, 256, 128)
    assert config.ch_mult == (1, 1, 2, 2, 4)
    assert config.channels == (128, 128, 256, 256, 512)
    assert (config.downsample, config.image_size(16)) == (16, 256)


def test_every_bad_field_is_reported_at_once() -> None:
    with pytest.raises(ValueError) as caught:
        VqConfig(n_embed=0, embed_dim=-1, ch=2.5, ch_mult=(), norm_groups=True)  # type: ignore[arg-type]
    for part in ("n_embed is 0", "embed_dim is -1", "ch is 2.5", "ch_mult is ()", "norm_groups is True"):
        assert part in str(caught.value)


def test_norm_groups_must_divide_every_level() -> None:
    with pytest.raises(ValueError, match=r"norm_groups is 16; must divide every level's channels, not \[8, 24\]"):
        VqConfig(ch=8, ch_mult=(1, 2, 3), norm_groups=16)


def test_dict_round_trip_and_unknown_keys() -> None:
    assert VqConfig.from_dict(SMALL.to_dict()) == SMALL
    assert isinstance(SMALL.to_dict()["ch_mult"], list)
    assert VqConfig.from_dict({}) == VqConfig()
    with pytest.raises(ValueError, match=r"unknown keys \['beta', 'dropout'\]; allowed: \['n_embed'"):
        VqConfig.from_dict({"dropout": 0.0, "beta": 0.25, "ch": 128})
    with pytest.raises(TypeError, match="values is a list"):
        VqConfig.from_dict([1])  # type: ignore[arg-type]


@pytest.mark.parametrize("grid", [0, -1, 2.0, "4"])
def test_image_size_of_no_grid(grid: object) -> None:
    with pytest.raises(ValueError, match="grid is"):
        SMALL.image_size(grid)  # type: ignore[arg-type]


def test_shapes(model: VqModel) -> None:
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    with torch.no_grad():
        features, codes = model.encode_features(image), model.encode(image)
        assert features.shape == (2, 3, 4, 6)
        assert codes.shape == (2, 4, 6)
        assert codes.dtype == torch.int64
        assert int(codes.min()) >= 0
        assert int(codes.max()) < 20
        assert model.decode(codes).shape == image.shape
        assert torch.equal(model.decode(codes.int()), model.decode(codes))


@pytest.mark.parametrize("mult", [(1,), (2, 1), (1, 1, 1, 1)])
def test_any_number_of_levels(mult: tuple[int, ...]) -> None:
    config = VqConfig(n_embed=5, embed_dim=2, z_channels=4, ch=4, ch_mult=mult, num_res_blocks=1, norm_groups=2)
    side = config.image_size(2)
    model = VqModel(config).eval()
    with torch.no_grad():
        assert model.decode(model.encode(torch.zeros(1, 3, side, side))).shape == (1, 3, side, side)


def test_half_precision(model: VqModel) -> None:
    codes = torch.arange(16).view(1, 4, 4)
    with torch.no_grad():
        full = model.decode(codes)
        half = model.to(torch.bfloat16).decode(codes)
    assert half.dtype == torch.bfloat16
    assert float((half.float() - full).abs().max()) < 0.2


def test_encode_picks_the_nearest_code(model: VqModel) -> None:
    features = torch.randn(1, 3, 2, 2)
    unit = torch.nn.functional.normalize(features, dim=1)[0].flatten(1).t()
    book = torch.nn.functional.normalize(model.quantize.embedding.weight, dim=-1)
    with torch.no_grad():
        expected = torch.cdist(unit, book).argmin(dim=1)
        assert torch.equal(model.quantize.nearest(features).flatten(), expected)
        # Only the direction counts.
        assert torch.equal(model.quantize.nearest(features * 100).flatten(), expected)


def test_straight_through(model: VqModel) -> None:
    features = torch.randn(2, 3, 2, 2, requires_grad=True)
    found = model.quantise(features)
    assert torch.allclose(found.embedded, model.quantize.lookup(found.codes), atol=1e-6)
    weight = torch.randn_like(found.embedded)
    (got,) = torch.autograd.grad((found.embedded * weight).sum(), features, retain_graph=True)
    unit = torch.nn.functional.normalize(features, dim=1)
    (expected,) = torch.autograd.grad((unit * weight).sum(), features)
    torch.testing.assert_close(got, expected)
    book = model.quantize.embedding.weight
    assert torch.autograd.grad(found.commitment_loss, book, retain_graph=True, allow_unused=True) == (None,)
    assert torch.autograd.grad(found.codebook_loss, features, retain_graph=True, allow_unused=True) == (None,)
    assert float(torch.autograd.grad(found.codebook_loss, book)[0].abs().sum()) > 0


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 1, 16, 16), (1, 3, 15, 16), (1, 3, 16, 18)])
def test_images_that_do_not_fit(model: VqModel, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"image has shape .*; expected \(B, 3, H, W\), H and W multiples of 4"):
        model.encode(torch.zeros(shape))


def test_codes_that_do_not_fit(model: VqModel) -> None:
    with pytest.raises(TypeError, match=r"codes are torch\.float32"):
        model.decode(torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match=r"codes have shape \(1, 16\)"):
        model.decode(torch.zeros(1, 16, dtype=torch.int64))
    for low, high in ((-1, 0), (0, 20)):
        codes = torch.tensor([[[low, high]]])
        with pytest.raises(ValueError, match=rf"codes are in \[{low}, {high}\]; allowed: \[0, 19\]"):
            model.decode(codes)


@pytest.mark.parametrize("prefix", ["", "vqvae."])
def test_load_published(model: VqModel, prefix: str) -> None:
    state = {prefix + key: value.half() for key, value in model.state_dict().items()}
    state[prefix + "quantize.codebook_used"] = torch.zeros(65536)
    state["mamba.lm_head.weight"] = torch.zeros(1)
    other = VqModel(SMALL)
    assert other.load_published(state) is other
    for key, value in other.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, model.state_dict()[key].half().float())


def test_every_wrong_key_is_reported_at_once(model: VqModel) -> None:
    state = {"vqvae." + key: value for key, value in model.state_dict().items()}
    del state["vqvae.quant_conv.bias"], state["vqvae.encoder.mid.1.q.weight"]
    state["vqvae.encoder.extra"] = torch.zeros(1)
    state["vqvae.decoder.conv_out.bias"] = torch.zeros(4)
    other = VqModel(SMALL)
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(ValueError) as caught:
        other.load_published(state)
    for part in ("quant_conv.bias", "encoder.mid.1.q.weight", "encoder.extra", "decoder.conv_out.bias", "(4,)", "(3,)"):
        assert part in str(caught.value)
    assert all(torch.equal(before[key], value) for key, value in other.state_dict().items())


def test_exports_without_looking_at_values(model: VqModel) -> None:
    class Decode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vq = model

        def forward(self, codes: torch.Tensor) -> torch.Tensor:
            return self.vq.decode(codes)

    codes = torch.arange(16).view(1, 4, 4)
    program = torch.export.export(Decode(), (codes,))
    with torch.no_grad():
        torch.testing.assert_close(program.module()(codes), model.decode(codes))
