"""The state arena: layout, halves, and snapshots that cross lowerings."""

from __future__ import annotations

import numpy as np
import pytest
from toy_bundle import DIMS, make_contract

from aim_edge.runtime.arena import StateArena

ROWS = 6


def fill(arena: StateArena, seed: int = 0) -> None:
    random = np.random.default_rng(seed)
    for view in arena.views(arena.current):
        view[...] = random.standard_normal(view.shape)


def test_views_are_apart_aligned_and_shaped_as_the_graphs_have_them() -> None:
    contract = make_contract("float16", transposed=True)
    arena = StateArena(contract, ROWS)
    views = [view for half in range(2) for view in arena.views(half)]
    for number, view in enumerate(views):
        assert view.dtype == np.float16 and view.shape == (ROWS, *contract.states[number % 4].shape)
        assert view.ctypes.data % 64 == 0 and not view.any()
        view[...] = number + 1
    assert [set(view.ravel().tolist()) for view in views] == [{number + 1} for number in range(len(views))]


def test_swap_alternates_the_halves_and_zero_clears_the_current_one() -> None:
    arena = StateArena(make_contract(), ROWS)
    fill(arena)
    first = arena.snapshot()
    arena.swap()
    assert not any(array.any() for array in arena.snapshot().values())
    arena.swap()
    np.testing.assert_array_equal(arena.snapshot()["ssm_state_1"], first["ssm_state_1"])
    arena.zero()
    assert not any(array.any() for array in arena.snapshot().values())


def test_snapshot_is_a_canonical_copy() -> None:
    arena = StateArena(make_contract(transposed=True), ROWS)
    fill(arena)
    taken = arena.snapshot()
    assert set(taken) == {f"{kind}_state_{i}" for kind in ("conv", "ssm") for i in range(DIMS.n_layer)}
    assert taken["conv_state_0"].shape == (ROWS, DIMS.conv_dim, DIMS.d_conv - 1)
    assert taken["ssm_state_0"].shape == (ROWS, DIMS.nheads, DIMS.headdim, DIMS.d_state)
    kept = taken["ssm_state_0"].copy()
    arena.zero()
    np.testing.assert_array_equal(taken["ssm_state_0"], kept)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_snapshot_of_one_layout_restores_into_the_other(transposed: bool) -> None:
    source = StateArena(make_contract(transposed=transposed), ROWS)
    target = StateArena(make_contract(transposed=not transposed), ROWS)
    fill(source)
    target.restore(source.snapshot())
    for name, array in target.snapshot().items():
        np.testing.assert_array_equal(array, source.snapshot()[name])
    read = target.views(target.current)[1]
    np.testing.assert_array_equal(read, source.views(source.current)[1].swapaxes(-1, -2))


def test_a_float16_snapshot_survives_a_float32_arena() -> None:
    half, full = StateArena(make_contract("float16"), ROWS), StateArena(make_contract(), ROWS)
    fill(half)
    full.restore(half.snapshot())
    again = StateArena(make_contract("float16"), ROWS)
    again.restore(full.snapshot())
    for name, array in half.snapshot().items():
        np.testing.assert_array_equal(again.snapshot()[name], array)


def test_what_does_not_fit_is_named_and_changes_nothing() -> None:
    arena = StateArena(make_contract(), ROWS)
    fill(arena)
    before = arena.snapshot()
    bad = arena.snapshot()
    bad["ssm_state_9"] = bad.pop("ssm_state_0")
    bad["conv_state_1"] = bad["conv_state_1"][:2]
    bad["ssm_state_1"] = bad["ssm_state_1"].astype(np.int32)
    with pytest.raises(ValueError) as caught:
        arena.restore(bad)
    for part in ("ssm_state_9 is unknown", "ssm_state_0 is missing", "conv_state_1 is", "ssm_state_1 is int32"):
        assert part in str(caught.value)
    for name, array in arena.snapshot().items():
        np.testing.assert_array_equal(array, before[name])
