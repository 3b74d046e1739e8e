"""What the bundle does, beside PyTorch changed in one way at a time: the change that matches is the fault."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from aim_edge.aim.gpt import GptModel
from aim_edge.aim.model import AimModel
from aim_edge.runtime import Generator
from aim_edge.runtime.arena import Snapshot
from aim_edge.runtime.lazy import plain_states

from .diagnosis import Finding
from .parity import Examination, Floats, compare_steps, find_failures, leaves, outside
from .parity_report import Gates, StateGates
from .states import (
    Decoded,
    Ids,
    StateParity,
    compare_states,
    decode_beside,
    feed,
    reference_steps,
    similarity,
    to_snapshot,
)
from .weight_findings import EXPORT_AGAIN

HALF_MAX = 65504.0  # float16's largest
_NEAR = 0.9
_KEPT = 3  # steps, from the first outside on, whose states are kept: those of all steps may be many GB
_FULL = (
    "export with --keep-float32 and that layer's number, with --state-dtype float32, or all with --precision float32"
)


class Search:
    """The bundle's first steps, and changes to the reference tried against them. Build it with `Search.of`.

    Args:
        seen: the examination that failed.
        decoded: both decoded with every step's states compared, up to a little after the first that was seen outside.
        first: the first step with anything outside.
        states: the bundle's states after step `first` and a few more.
    """

    def __init__(self, seen: Examination, decoded: Decoded, first: int, states: dict[int, Snapshot]) -> None:
        if isinstance(seen.checkpoint.aim, GptModel):
            raise TypeError("the checkpoint holds a Transformer; causes are looked for in AiM models only")
        self.model = seen.checkpoint.aim
        self.gates: Gates = seen.report.gates
        self.state_gates: StateGates = seen.report.state_gates
        self.half = "float16" in (seen.report.precision, seen.report.state_dtype)
        self.labels: Ids = seen.labels
        self.decoded, self.first, self.states = decoded, first, states
        self.tokens: Ids = seen.tokens[:, : len(decoded.engine)]
        self.wanted = self._reference(self.model)[1]
        self.outside = [s for s in decoded.states if s.step == first and outside(s, self.state_gates)]

    @classmethod
    def of(cls, generator: Generator, seen: Examination, broken: int) -> Search:
        """Decodes up to a little after `broken`, the first step that was seen outside, with every state compared."""
        labels, gates = seen.labels, seen.report.gates
        tokens = seen.tokens[:, : min(broken + _KEPT, len(seen.report.steps))]
        session = generator.session(len(labels))
        decoded = decode_beside(session, seen.checkpoint.aim, labels, tokens, 1)
        steps = compare_steps(decoded.reference, decoded.engine)
        bad = [s.step for s in steps if find_failures((s,), 0.0, gates)]
        bad += [s.step for s in decoded.states if outside(s, seen.report.state_gates)]
        first = min(bad, default=broken)
        given, states = feed(tokens), dict[int, Snapshot]()
        session.reset()
        for t in range(min(first + _KEPT, tokens.shape[1])):
            session.step(given[:, t], t)
            if t >= first:
                states[t] = plain_states(session.snapshot())
        return cls(seen, decoded, first, states)

    def findings(self, *, explained: bool) -> list[Finding]:
        """Whole-model causes, states laid out otherwise, overflow, and in any case the first state outside.

        Args:
            explained: weights differ already, so that no layers need be tried in each other's place.
        """
        found = [*self._rows(), *self._offset(), *self._layouts(), *self._overflow()]
        if not found and not explained:
            found += self._swapped_layers()
        return [*found, *self._first_outside()]

    def _reference(self, model: AimModel) -> tuple[Floats, dict[int, Snapshot]]:
        """Logits of all steps, and the states of those that are kept of the bundle's."""
        logits, states = [], dict[int, Snapshot]()
        for t, (values, state) in enumerate(reference_steps(model, self.labels, self.tokens)):
            logits.append(values)
            if t in self.states:
                states[t] = to_snapshot(state)
        return np.stack(logits), states

    def _matches(self, logits: Floats, states: dict[int, Snapshot]) -> bool:
        """Whether a changed reference keeps the gates: all logits, and the states that are kept."""
        if find_failures(compare_steps(logits, self.decoded.engine), 0.0, self.gates):
            return False
        measured = (s for t, found in self.states.items() for s in compare_states(t, states[t], found))
        return not any(outside(s, self.state_gates) for s in measured)

    def _alike(self, wanted: NDArray[Any], found: NDArray[Any]) -> bool:
        cosine, ratio, _ = similarity(wanted, found)
        return not leaves(cosine, ratio, self.state_gates)

    def _rows(self) -> Iterator[Finding]:
        """Label rows and null-label rows exchanged: all through, or in the logits only."""
        half = len(self.labels)
        logits = np.roll(self.decoded.reference, half, axis=1)
        rolled = {t: {name: np.roll(a, half, axis=0) for name, a in s.items()} for t, s in self.wanted.items()}
        for where, states in (("logits and states", rolled), ("logits", self.wanted)):
            if self._matches(logits, states):
                yield Finding(
                    "guidance-rows-swapped", where, "certain",
                    f"guidance rows are swapped in the {where}: with label rows and null-label rows exchanged, all of "
                    "it matches",
                    "rows 0..B-1 belong to the label and B..2B-1 to the null label; see in which order the condition "
                    "graph puts them",
                )  # fmt: skip
                return

    def _offset(self) -> Iterator[Finding]:
        """Another position embedding than the checkpoint's configuration asks for; step 0 has none."""
        ours = self.model.config.decode_position_offset
        for offset in (0, 1, 2):
            if offset == ours or self.tokens.shape[1] < 2:
                continue
            if self._matches(*self._reference(_at_offset(self.model, offset))):
                yield Finding(
                    "position-offset", "step", "certain",
                    f"position offset is off by one: step t takes the position embedding {_shifted(offset)}, where the "
                    f"checkpoint has {_shifted(ours)} (decode_position_offset = {ours}); with {offset} PyTorch matches",
                    f"export with decode_position_offset = {ours} in config.json, or look for what shifts `position`",
                )  # fmt: skip
                return

    def _layouts(self) -> Iterator[Finding]:
        """At the first step outside: states that match once transposed, or that are each other's."""
        wanted, found = self.wanted[self.first], self.states[self.first]
        bad = [s.name for s in self.outside]
        for name in bad:
            *lead, rows, cols = found[name].shape
            if self._alike(wanted[name], found[name].reshape(*lead, cols, rows).swapaxes(-1, -2)):
                yield Finding(
                    "state-transposed", name, "certain",
                    f"layer {name.split('_')[2]}: {name} is transposed: after step {self.first} its memory holds "
                    f"(..., {cols}, {rows}) where the contract has (..., {rows}, {cols}); read so, it matches",
                    "transpose that output in the graph, or set the state's `transposed` in the contract",
                )  # fmt: skip
        for a, b in combinations(bad, 2):
            if a[:4] == b[:4] and self._alike(wanted[b], found[a]) and self._alike(wanted[a], found[b]):
                yield Finding(
                    "states-exchanged", f"{a}, {b}", "certain",
                    f"{a} and {b} are exchanged: after step {self.first} each holds the other's values",
                    "bind each state's output to its own input",
                )  # fmt: skip

    def _overflow(self) -> Iterator[Finding]:
        """The first NaN or infinity by step and layer, or else a state that comes near float16's end."""
        if self.decoded.non_finite:
            first = self.decoded.non_finite[0]
            kind = "float16 overflow" if self.half else "overflow, or a division by zero,"
            yield Finding(
                "overflow", first.where, "certain" if self.half else "likely",
                f"{kind} in {self._stretch(first.where, first.layer)}: at step {first.step} {first.where} is the first "
                f"with NaN or infinity ({first.count} numbers); every state before it is finite",
                _FULL if self.half else "look at that layer's inputs and weights",
            )  # fmt: skip
            return
        for state in self.decoded.states:
            if self.half and state.peak >= _NEAR * HALF_MAX:
                yield Finding(
                    "near-overflow", state.name, "possible",
                    f"layer {state.layer}: {state.name} reaches {state.peak:.0f} at step {state.step}; float16 ends at "
                    f"{HALF_MAX:.0f}",
                    _FULL,
                )  # fmt: skip
                return

    def _swapped_layers(self) -> Iterator[Finding]:
        """Two layers in each other's place, in the graph itself: this shows at step 0, or it is not so."""
        if self.first > 0 or not self.outside:
            return
        layer = self.outside[0].layer
        others = (i for i in range(self.model.config.n_layer) if i > layer)
        for other in others:
            for whole in (False, True):
                if self._matches(*self._reference(_swapped(self.model, layer, other, whole=whole))):
                    what = "with" if whole else "without"
                    yield Finding(
                        "layers-swapped", f"layers {layer} and {other}", "certain",
                        f"layers {layer} and {other} are swapped in the step graph ({what} their modulation): with the "
                        "same done to PyTorch, all of it matches",
                        EXPORT_AGAIN,
                    )  # fmt: skip
                    return

    def _first_outside(self) -> Iterator[Finding]:
        if not self.outside:
            last = self.model.config.n_layer - 1
            yield Finding(
                "first-outside", "logits", "likely",
                f"at step {self.first} the logits are outside the gates and every state keeps them: the fault is in "
                f"{self._stretch('logits', None)}",
                f"compare layer {last}'s D, norm, out_proj and MLP, the final norms and modulation, and the head",
            )  # fmt: skip
            return
        state = self.outside[0]
        own = "in_proj, norm and modulation" if state.kind == "conv" else "conv1d, dt_bias, A_log, and B and C"
        before = state.kind == "conv" and state.layer
        yield Finding(
            "first-outside", state.name, "likely", _words(state, self._stretch(state.name, state.layer)),
            f"compare layer {state.layer}'s {own}"
            + (f", and layer {state.layer - 1}'s D, norm, out_proj and MLP" if before else ""),
        )  # fmt: skip

    def _stretch(self, name: str, layer: int | None) -> str:
        """What lies between a state, or the logits, and the state before it."""
        if layer is None:
            return f"what comes between layer {self.model.config.n_layer - 1}'s ssm_state and the logits"
        if name.startswith("ssm"):
            return f"layer {layer}, between its conv_state and its ssm_state"
        return f"layer {layer}'s first half, or " + (f"the end of layer {layer - 1}" if layer else "the embedding")


def _words(state: StateParity, stretch: str) -> str:
    return (
        f"layer {state.layer}: at step {state.step} {state.name} is the first outside the gates (cosine "
        f"{state.cosine:.6g}, norm ratio {state.norm_ratio:.6g}, max |diff| {state.max_abs:.3g}); the fault is in "
        f"{stretch}"
    )


def _shifted(offset: int) -> str:
    return ("of t - 1", "of t", "of t + 1")[offset]


def _at_offset(model: AimModel, offset: int) -> AimModel:
    """The same model with another offset; the configuration itself would refuse 2."""
    changed, config = copy.copy(model), copy.copy(model.config)
    object.__setattr__(config, "decode_position_offset", offset)
    changed.config = config
    return changed


def _swapped(model: AimModel, a: int, b: int, *, whole: bool) -> AimModel:
    """The same model with layers a and b in each other's place; `whole`: their modulation goes with them."""
    changed, backbone = copy.copy(model), copy.copy(model.backbone)
    changed._modules, backbone._modules = dict(model._modules), dict(model.backbone._modules)
    layers = list(model.backbone.layers)
    layers[a], layers[b] = layers[b], layers[a]
    backbone.layers = nn.ModuleList(layers)
    changed.backbone = backbone
    if not whole:
        changed.condition = model.condition  # type: ignore[method-assign]
    return changed
