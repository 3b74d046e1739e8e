"""The least that a decoding step can cost on a GPU: the bytes that must move, over the speed at which it moves bytes.

Weights that every step multiplies by are read once, whatever the batch; every ssm_state is read and written once. Of a
Transformer's caches, the keys and values of all positions before are read and one position's are written: its floor is
the mean over the positions, about half a full cache.
Left out, as a step can do without or they are small: the adaLN projections (fixed for a whole image), conv_state (a
ring of which a column is written; below 3% of ssm_state in the published sizes), norms, biases, embeddings' rows,
activations and the draw of the codes. So no implementation that keeps its state in memory is faster than this.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from statistics import median

from .contract import Contract
from .cuda import Device
from .manifest import QuantisationRecord

_SIZES = {"float32": 4, "float16": 2}
# Larger than any GPU's cache, several times over.
_COPY_BYTES = 256 << 20
_COPIES = 50
_RUNS = 10


@dataclass(frozen=True)
class StepBytes:
    """What one step moves.

    Attributes:
        weights: bytes of in_proj, out_proj and lm_head, read once a step; of a Transformer, those of attention, MLP and
            head.
        state_per_row: bytes of one row's ssm_state, of all layers, read and written: twice its size; of a Transformer's
            caches the mean over the positions.
    """

    weights: int
    state_per_row: int

    def total(self, batch: int) -> int:
        """Bytes of a step of `batch` images, which have two rows each."""
        return self.weights + 2 * batch * self.state_per_row


def state_bytes(contract: Contract) -> int:
    """Bytes of the states of one image, two rows, of all layers: what a decoding image holds, moved or not."""
    return 2 * sum(math.prod(state.shape) * _SIZES[state.dtype] for state in contract.states)


def step_bytes(contract: Contract, precision: str, quantisation: QuantisationRecord | None = None) -> StepBytes:
    """What a step of this model must move.

    Args:
        contract: of an AiM model with Mamba-2, or of a Transformer.
        precision: "float32" or "float16", of the weights as the engine has them; the states' is in the contract.
        quantisation: where the matrices are integers: these count with their scales.

    Raises:
        ValueError: a Mamba-1 model, whose state need not leave the chip in the same way; an unknown precision.
    """
    dims = contract.dims
    if precision not in _SIZES:
        raise ValueError(f"precision is {precision!r}; allowed: {', '.join(_SIZES)}")
    if contract.family == "gpt":
        return _transformer_bytes(contract, precision)
    if dims.headdim == 1:
        raise ValueError("the model is Mamba-1 (headdim is 1), whose floor is not modelled; Mamba-2 is")
    d_inner = dims.nheads * dims.headdim
    in_proj_rows = d_inner + dims.conv_dim + dims.nheads  # z; x, B and C; dt
    matrices = {  # (outputs, inputs): how many
        (in_proj_rows, dims.d_model): dims.n_layer,
        (dims.d_model, d_inner): dims.n_layer,
        (dims.vocab_size, dims.d_model): 1,
    }
    weights = 0
    for (outputs, inputs), count in matrices.items():
        if quantisation is None:
            size = inputs * _SIZES[precision]
        else:
            groups = math.ceil(inputs / (quantisation.group_size or inputs))
            size = inputs * quantisation.bits // 8 + 4 * groups
        weights += count * outputs * size
    ssm = [state for state in contract.states if state.input.startswith("ssm_state")]
    state = sum(math.prod(state.shape) * _SIZES[state.dtype] for state in ssm)
    return StepBytes(weights, 2 * state)


def _transformer_bytes(contract: Contract, precision: str) -> StepBytes:
    dims = contract.dims
    # As published: two thirds of 4 * d_model, rounded up to 256; the sizes of a contract do not have it.
    hidden = -(-(8 * dims.d_model // 3) // 256) * 256
    layer = (4 * dims.d_model + 3 * hidden) * dims.d_model
    weights = dims.n_layer * layer + dims.vocab_size * dims.d_model
    caches = sum(math.prod(state.shape) * _SIZES[state.dtype] for state in contract.states)
    # Position p reads p lines and writes one: (T - 1) / 2 + 1 in the mean.
    moved = caches // dims.num_tokens * (dims.num_tokens + 1) // 2
    return StepBytes(weights * _SIZES[precision], moved)


@dataclass(frozen=True)
class Floor:
    """The floor of one batch: seconds of a step and of all steps of a batch, images a second."""

    batch: int
    step_bytes: int
    step_seconds: float
    batch_seconds: float
    images_per_second: float


def floor(bytes_moved: StepBytes, bandwidth: float, batch: int, steps: int) -> Floor:
    """The floor.

    Args:
        bytes_moved: see `step_bytes`.
        bandwidth: bytes a second, read and written ones together.
        batch: images.
        steps: codes of an image.
    """
    size = bytes_moved.total(batch)
    seconds = size / bandwidth
    return Floor(batch, size, seconds, steps * seconds, batch / (steps * seconds))


@dataclass(frozen=True)
class Bandwidth:
    """What copies within the device reached.

    Attributes:
        copy_bytes: of one copy; each is read once and written once.
        copies: in a run.
        samples: bytes a second of each run, read and written ones together.
    """

    copy_bytes: int
    copies: int
    samples: tuple[float, ...]

    @property
    def bytes_per_second(self) -> float:
        """The runs' median."""
        return median(self.samples)


def measure_bandwidth(device: Device) -> Bandwidth:
    """Times copies of 256 MiB within the device by its driver; takes 512 MiB of its memory meanwhile.

    Raises:
        DeviceMemoryError: there is not so much.
        EngineError: a copy failed.
    """
    size = _COPY_BYTES
    source = device.alloc(size, "the copy that measures memory bandwidth")
    target = stream = None
    samples = []
    try:
        target = device.alloc(size, "the copy that measures memory bandwidth")
        stream = device.stream()
        stream.zero(source.handle, size)
        for _ in range(_RUNS + 1):
            stream.synchronize()
            begin = time.perf_counter()
            for _ in range(_COPIES):
                stream.copy(target.handle, source.handle, size)
            stream.synchronize()
            samples.append(2 * size * _COPIES / (time.perf_counter() - begin))
    finally:
        for item in (stream, target, source):
            if item is not None:
                item.close()
    return Bandwidth(size, _COPIES, tuple(samples[1:]))  # the first warms up
