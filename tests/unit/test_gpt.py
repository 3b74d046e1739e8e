"""The Transformer: presets, config errors, keys, steps and cache against the whole sequence, precisions, loading."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aim_edge.aim import AimConfig, GptConfig, GptModel, decode_logits, load_checkpoint, load_gpt
from aim_edge.aim.gpt import rotary_table

# nheads, headdim, T and the number of layers all differ, so that no transposed cache can pass.
SMALL = GptConfig(d_model=40, n_layer=3, nheads=5, vocab_size=32, num_classes=4, num_tokens=16)
PUBLISHED_B: dict[str, Any] = {
    "dim": 768, "n_layer": 12, "n_head": 12, "n_kv_head": None, "multiple_of": 256, "ffn_dim_multiplier": None,
    "rope_base": 10000, "norm_eps": 1e-5, "initializer_range": 0.02, "token_dropout_p": 0.1, "attn_dropout_p": 0.0,
    "resid_dropout_p": 0.1, "ffn_dropout_p": 0.1, "drop_path_rate": 0.0, "num_classes": 1000, "caption_dim": 2048,
    "class_dropout_prob": 0.1, "model_type": "c2i", "vocab_size": 16384, "cls_token_num": 1, "block_size": 256,
    "max_batch_size": 32, "max_seq_len": 2048,
}  # fmt: skip


def make(**changes: Any) -> GptModel:
    """A model whose every weight matters (a fresh head is zero, and attention all but even)."""
    torch.manual_seed(0)
    model = GptModel(replace(SMALL, **changes)).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, 1.0 if "embedding" in name else 0.2)
    return model


def inputs(config: GptConfig, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(config.num_classes, (batch,), generator=generator)
    return labels, torch.randint(config.vocab_size, (batch, config.num_tokens), generator=generator)


@pytest.mark.parametrize(
    ("name", "millions", "exact", "mlp_hidden"),
    [("B", 111, 110_888_448, 2048), ("L", 343, 342_910_976, 2816), ("GPT-XL", 775, 774_699_520, 3584)],
)
def test_parameters_of_the_presets(name: str, millions: int, exact: int, mlp_hidden: int) -> None:
    config = GptConfig.preset(name)
    with torch.device("meta"):
        model = GptModel(config)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert (round(count / 1e6), count) == (millions, exact)  # the published rounding, and the published code's own
    assert (config.headdim, config.mlp_hidden, config.grid_size) == (64, mlp_hidden, 16)
    assert GptConfig.preset(name, num_tokens=576).grid_size == 24


def test_published_config() -> None:
    assert GptConfig.from_published(PUBLISHED_B) == GptConfig.preset("B")
    for config in (SMALL, GptConfig.preset("XL", num_tokens=576)):
        assert GptConfig.from_published(config.to_published()) == config


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "t2i"}, "only class-conditional"),
        ({"cls_token_num": 120}, "a class is one token"),
        ({"n_kv_head": 4}, "n_kv_head is 4"),
        ({"class_dropout_prob": 0.0}, "without a null class"),
        ({"multiple_of": 128}, "multiple_of is 128"),
        ({"ffn_dim_multiplier": 1.3}, "ffn_dim_multiplier is 1.3"),
        ({"a": 1, "b": 2}, "unknown key 'a'; unknown key 'b'"),
        ({"dim": "768"}, "d_model is '768'; expected int"),
    ],
)
def test_published_config_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=r"published config|GptConfig") as caught:
        GptConfig.from_published(PUBLISHED_B | change)
    assert words in str(caught.value)


def test_published_config_of_another_kind() -> None:
    with pytest.raises(ValueError, match=r"'dim' is missing; key 'n_layer' is missing; key 'n_head' is missing"):
        GptConfig.from_published({})
    with pytest.raises(TypeError, match="list"):
        GptConfig.from_published([])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"n_layer": 0, "vocab_size": -1, "norm_epsilon": 0.0}, r"n_layer is 0.*vocab_size is -1.*norm_epsilon is 0"),
        ({"d_model": 768.0, "nheads": True}, r"d_model is 768.0; expected int; nheads is True; expected int"),
        ({"num_tokens": 200}, "num_tokens is 200; must be a square"),
        ({"num_tokens": -4, "rope_base": float("nan")}, r"num_tokens is -4.*rope_base is nan"),
        ({"nheads": 7}, "nheads is 7; must divide d_model = 768"),
        ({"d_model": 60, "nheads": 10}, "nheads is 10; d_model / nheads = 6 must be a multiple of 4"),
    ],
)
def test_config_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=rf"GptConfig: {words}"):
        GptConfig(**fields)


def test_unknown_preset() -> None:
    with pytest.raises(ValueError, match=r"'XXL' is unknown; allowed: \['b', 'demo', 'l', 'xl'\]"):
        GptConfig.preset("XXL")


def test_published_keys() -> None:
    found = {key: tuple(value.shape) for key, value in make().state_dict().items()}
    first = {key: shape for key, shape in found.items() if key.startswith("layers.0.")}
    assert first == {
        "layers.0.attention.wqkv.weight": (120, 40),
        "layers.0.attention.wo.weight": (40, 40),
        "layers.0.feed_forward.w1.weight": (256, 40),
        "layers.0.feed_forward.w3.weight": (256, 40),
        "layers.0.feed_forward.w2.weight": (40, 256),
        "layers.0.attention_norm.weight": (40,),
        "layers.0.ffn_norm.weight": (40,),
    }
    assert {key: shape for key, shape in found.items() if not key.startswith("layers.")} == {
        "cls_embedding.embedding_table.weight": (5, 40),
        "tok_embeddings.weight": (32, 40),
        "norm.weight": (40,),
        "output.weight": (32, 40),
    }
    assert len(found) == 3 * len(first) + 4


def test_a_fresh_model_prefers_nothing() -> None:
    labels, tokens = inputs(SMALL)
    assert not GptModel(SMALL)(tokens, labels).any()


def test_rotary_table_of_a_code() -> None:
    table = rotary_table(SMALL)
    assert table.shape == (16, 4, 2)
    assert not table[0].any()  # the class token, as published
    angles = torch.tensor([2.0, 2.0 * 10000**-0.5, 1.0, 10000**-0.5])  # code 9 lies in row 2, column 1
    torch.testing.assert_close(table[10], torch.stack([angles.cos(), angles.sin()], dim=-1))


@pytest.mark.parametrize("via", ["step", "scan"])
def test_decoding_equals_forward(via: str) -> None:
    model = make()
    labels, tokens = inputs(model.config)
    logits = decode_logits(model, labels.numpy(), tokens.numpy(), via=via)
    assert logits.shape == (16, 6, 32)
    with torch.inference_mode():
        for rows, label in ((slice(0, 3), labels), (slice(3, 6), torch.full_like(labels, 4))):
            whole = model(tokens, label).transpose(0, 1).numpy()
            np.testing.assert_allclose(logits[:, rows], whole, rtol=0, atol=2e-5)


def test_forward_of_a_shorter_sequence_is_the_start_of_the_whole() -> None:
    model = make()
    labels, tokens = inputs(model.config)
    with torch.inference_mode():
        whole = model(tokens, labels)
        for length in (1, 7):
            part = model(tokens[:, :length], labels)
            torch.testing.assert_close(part, whole[:, :length], rtol=0, atol=2e-5)


def test_images_of_a_batch_may_stand_apart() -> None:
    """One image is prefilled with five codes, the other with two; both go on together, in one cache."""
    model = make()
    labels, tokens = inputs(model.config, batch=2)
    given = torch.nn.functional.pad(tokens, (1, 0))
    expected = decode_logits(model, labels.numpy(), tokens.numpy(), via="scan")
    state = model.init_state(4)
    start = torch.tensor([5, 2])
    addresses = [cache.k.data_ptr() for cache in state]
    with torch.inference_mode():
        condition = model.condition(labels)
        for image in range(2):
            rows = [image, image + 2]
            own = model.init_state(2)
            length = int(start[image])
            model.prefill(given[image : image + 1, :length], torch.zeros(1, dtype=torch.int64), condition[rows], own)
            for cache, part in zip(state, own, strict=True):
                cache.k[rows], cache.v[rows] = part.k, part.v
        for i in range(4):
            position = start + i
            token = given.gather(1, position[:, None])[:, 0]
            logits, state_after = model.step(token, position, condition, state)
            assert state_after is state
            for row in range(4):
                np.testing.assert_allclose(
                    logits[row].numpy(), expected[int(position[row % 2]), row], rtol=0, atol=2e-5
                )
    assert [cache.k.data_ptr() for cache in state] == addresses
    assert all(not cache.k[1, :, 6:].any() for cache in state)  # image 1 was fed positions 0..5


def test_prefill_without_guidance_rows() -> None:
    model = make()
    labels, tokens = inputs(model.config)
    given = torch.nn.functional.pad(tokens[:, :-1], (1, 0))
    with torch.inference_mode():
        logits, _ = model.prefill(given, torch.zeros_like(labels), model.condition_rows(labels), model.init_state(3))
        torch.testing.assert_close(logits, model(tokens, labels), rtol=0, atol=2e-5)


def test_refusals() -> None:
    model = make()
    labels, tokens = inputs(model.config)
    long = torch.cat([tokens, tokens[:, :1]], dim=1)
    condition, state, zero = model.condition(labels), model.init_state(6), torch.zeros_like(labels)
    with pytest.raises(ValueError, match=r"\(3, 17\); expected \(B, L\) with L in 1..16"):
        model(long, labels)
    with pytest.raises(ValueError, match=r"\(3, 17\)"):
        model.prefill(long, zero, condition, state)
    with pytest.raises(ValueError, match="17 columns"):
        decode_logits(model, labels.numpy(), long.numpy())
    with pytest.raises(ValueError, match=r"\(3, 0\)"):
        model(tokens[:, :0], labels)
    with pytest.raises(ValueError, match=r"labels has shape \(2,\); expected \(3,\)"):
        model(tokens, labels[:2])
    with pytest.raises(ValueError, match=r"position has shape \(\); expected \(3,\)"):
        model.step(tokens[:, 0], torch.tensor(0), condition, state)
    with pytest.raises(ValueError, match="condition has 4 rows for 3 rows of tokens; allowed: 3, 6"):
        model.step(tokens[:, 0], zero, condition[:4], state)
    with pytest.raises(ValueError, match=r"caches of \[3, 3, 3\] rows; expected 3 of 6"):
        model.step(tokens[:, 0], zero, condition, model.init_state(3))
    with pytest.raises(ValueError, match=r"caches of \[6, 6\] rows"):
        model.step(tokens[:, 0], zero, condition, state[:2])
    with pytest.raises(IndexError):  # beyond the cache: nothing is written elsewhere
        model.step(tokens[:, 0], zero + 16, condition, state)
    assert all(not cache.k.any() and not cache.v.any() for cache in state)


@pytest.mark.parametrize(
    ("dtype", "atol"), [(torch.float64, 2e-5), (torch.float16, 2e-2), (torch.bfloat16, 2e-1)], ids=str
)
def test_precisions(dtype: torch.dtype, atol: float) -> None:
    model = make()
    labels, tokens = inputs(model.config)
    with torch.inference_mode():
        expected = model(tokens, labels)
        model.set_precision(dtype)
        logits = model(tokens, labels)
        given = torch.nn.functional.pad(tokens[:, :-1], (1, 0))
        state = model.init_state(6, dtype)
        stepwise, _ = model.prefill(given, torch.zeros_like(labels), model.condition(labels), state)
    assert logits.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert model.norm.weight.dtype == logits.dtype and model.rotary.dtype == torch.float32
    assert state[0].k.dtype == dtype
    scale = float(expected.abs().max())
    for found in (logits, stepwise[:3]):
        np.testing.assert_allclose(found.double().numpy() / scale, expected.double().numpy() / scale, rtol=0, atol=atol)


def test_precision_refused() -> None:
    with pytest.raises(ValueError, match=r"torch\.int8"):
        make().set_precision(torch.int8)


def test_it_can_be_trained() -> None:
    model = make().train()
    labels, tokens = inputs(model.config)
    torch.nn.functional.cross_entropy(model(tokens, labels).flatten(0, 1), tokens.flatten()).backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    still = {name for name, parameter in model.named_parameters() if not parameter.grad.any()}
    assert not without and not still


@pytest.mark.parametrize("under", ["model", None])
def test_load_gpt(tmp_path: Path, under: str | None) -> None:
    weights = make().state_dict()
    path = tmp_path / "c2i_small.pt"
    table = {"freqs_cis": torch.zeros(17, 4, 2)}
    torch.save({under: weights, "steps": 3} if under else weights | table, path)
    model = load_gpt(path, SMALL)
    assert not model.training
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())


def test_load_gpt_refused(tmp_path: Path) -> None:
    path = tmp_path / "c2i_small.pt"
    with pytest.raises(FileNotFoundError, match="is no file"):
        load_gpt(path, SMALL)
    weights = make().state_dict()
    del weights["norm.weight"]
    torch.save({"model": weights}, path)
    with pytest.raises(ValueError, match=r"c2i_small\.pt: checkpoint does not fit GptModel") as caught:
        load_gpt(path, replace(SMALL, n_layer=2, vocab_size=33))
    for part in ("norm.weight", "layers.2.attention.wo.weight", "found (32, 40), expected (33, 40)"):
        assert part in str(caught.value)


def test_load_checkpoint_knows_a_transformer(tmp_path: Path) -> None:
    torch.save({"model": make().state_dict()}, tmp_path / "model.pt")
    with pytest.raises(FileNotFoundError, match="load_gpt reads a LlamaGen Transformer"):
        load_checkpoint(tmp_path)
    with pytest.raises(ValueError, match="holds a LlamaGen Transformer"):
        load_checkpoint(tmp_path, config=AimConfig.preset("B"))
