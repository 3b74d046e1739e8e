"""The model's weights as ONNX initialisers: named as in the checkpoint, converted only when written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from .builder import CONSTANT, Array, GraphBuilder
from .quantize import Quantised

EXTERNAL_ABOVE = 1 << 30  # bytes of weights from which on a graph's weights live in a file beside it
_PAGE = 4096  # large tensors start on a page, so that a runtime can map them


class Weights:
    """Gives a module's parameters to a graph under construction.

    Args:
        module: holds the parameters.
        builder: the graph they go to.
        quantised: those that are stored as codes, by name.
    """

    def __init__(
        self, module: nn.Module, builder: GraphBuilder, quantised: Mapping[str, Quantised] | None = None
    ) -> None:
        self.quantised = quantised or {}
        self._tensors = module.state_dict()
        self._builder = builder

    def has(self, name: str) -> bool:
        return name in self._tensors

    def full(self, name: str, shape: Iterable[int] | None = None) -> ir.Value:
        """A float32 parameter (norms, biases of the scan, tables that stay exact), reshaped if asked."""
        tensor = self._tensors[name]
        size = tuple(shape) if shape is not None else tuple(tensor.shape)
        suffix = "" if size == tuple(tensor.shape) else ".as_" + "x".join(map(str, size))
        return self._builder.weight(
            name + suffix, lambda: _array(tensor).reshape(size), tensor.reshape(size).shape, "float32"
        )

    def stored(self, name: str) -> ir.Value:
        """A parameter in the graph's precision."""
        tensor = self._tensors[name]
        return self._builder.weight(name, lambda: _array(tensor), tuple(tensor.shape), self._builder.precision)

    def stacked(self, layers: int, name: str, dtype: str, shape: tuple[int, ...], decay: bool = False) -> ir.Value:
        """(layers, *shape): the parameters `backbone.layers.{i}.{name}`, zeros where the model has none.

        Args:
            layers: how many.
            name: of the parameter in its layer.
            dtype: of the stack.
            shape: of one layer's part.
            decay: -exp of it.
        """
        names = [f"backbone.layers.{i}.{name}" for i in range(layers)]

        def stack() -> Array:
            parts = [_array(self._tensors[n]).reshape(shape) if self.has(n) else np.zeros(shape) for n in names]
            whole: Array = np.stack(parts).astype(np.float32)
            return -np.exp(whole) if decay else whole

        return self._builder.weight(f"backbone.layers.{name}.stacked", stack, (layers, *shape), dtype)

    def codes(self, name: str) -> tuple[ir.Value, ir.Value]:
        """A quantised matrix: words (out, in * bits / 32) int32 and scales (out, groups) float32."""
        held, builder = self.quantised[name], self._builder
        words = (held.codes.shape[0], held.codes.shape[1] * held.bits // 32)
        return (
            builder.weight(f"{name}.int{held.bits}", held.words, words, "int32"),
            builder.weight(f"{name}.scale", lambda: held.scale, held.scale.shape, "float32"),
        )

    def stacked_codes(self, layers: int, name: str) -> tuple[ir.Value, ir.Value]:
        """int8 matrices `backbone.layers.{i}.{name}`: words (layers, out, in / 4) int32, scales (layers, out)."""
        held, builder = [self.quantised[f"backbone.layers.{i}.{name}"] for i in range(layers)], self._builder
        if bits := {one.bits for one in held} - {8}:
            raise ValueError(f"{name} has {bits} bits; a stack has 8")
        outputs, inputs = held[0].codes.shape

        def words() -> Array:
            return np.stack([one.words() for one in held])

        def scales() -> Array:
            return np.stack([one.scale[:, 0] for one in held])

        prefix = f"backbone.layers.{name}.stacked"
        return (
            builder.weight(f"{prefix}.int8", words, (layers, outputs, inputs // 4), "int32"),
            builder.weight(f"{prefix}.scale", scales, (layers, outputs), "float32"),
        )

    def matrix(self, name: str) -> ir.Value:
        """A linear layer's weight as (inputs, outputs), which MatMul wants, in the graph's precision."""
        tensor = self._tensors[name]
        shape = (tensor.shape[1], tensor.shape[0])
        return self._builder.weight(f"{name}.T", lambda: _array(tensor).T, shape, self._builder.precision)

    def upsampling(self, name: str) -> ir.Value:
        """A 3x3 kernel after nearest-neighbour upsampling as a transposed convolution's: (inputs, outputs, 4, 4).

        Its taps are [w2, w1 + w2, w0 + w1, w0] in either direction, summed in float64.
        """
        tensor = self._tensors[name]
        outputs, inputs = tensor.shape[:2]

        def kernel() -> Array:
            taps = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], np.float64)
            summed: Array = np.einsum("oiyx,ay,bx->ioab", _array(tensor).astype(np.float64), taps, taps, optimize=True)
            return summed

        return self._builder.weight(f"{name}.upsampling", kernel, (inputs, outputs, 4, 4), self._builder.precision)

    def packed(self, name: str, block: int) -> ir.Value:
        """A 3x3 kernel as norm_conv takes it: (blocks, inputs / 64, 9, 8, block, 8), zeros past the outputs."""
        tensor = self._tensors[name]
        outputs, inputs = tensor.shape[:2]
        blocks = -(-outputs // block)

        def kernel() -> Array:
            taps: Array = _array(tensor).reshape(outputs, inputs, 9)
            return _packed(np.pad(taps, ((0, blocks * block - outputs), (0, 0), (0, 0))), block)

        shape = (blocks, inputs // 64, 9, 8, block, 8)
        return self._builder.weight(f"{name}.packed", kernel, shape, self._builder.precision)

    def packed_upsampling(self, name: str, block: int) -> ir.Value:
        """A 3x3 kernel after nearest-neighbour upsampling: four kernels of 2x2, as norm_conv takes them.

        (4 * blocks, inputs / 64, 4, 8, block, 8). The pixels of even rows (and columns) see the sums [w0, w1 + w2],
        those of odd ones [w0 + w1, w2]; they are summed in float64.
        """
        tensor = self._tensors[name]
        outputs, inputs = tensor.shape[:2]
        seen = np.array([[[1, 0, 0], [0, 1, 1]], [[1, 1, 0], [0, 0, 1]]], np.float64)  # (parity, tap of 2, tap of 3)

        def kernel() -> Array:
            taps = _array(tensor).astype(np.float64)
            summed = np.einsum("oiyx,ray,cbx->rcoiab", taps, seen, seen, optimize=True)
            return np.concatenate([_packed(phase, block) for phase in summed.reshape(4, outputs, inputs, 4)])

        shape = (4 * (outputs // block), inputs // 64, 4, 8, block, 8)
        return self._builder.weight(f"{name}.packed", kernel, shape, self._builder.precision)

    def decay(self, name: str) -> ir.Value:
        """-exp(A_log), always float32: half precision would lose it or overflow."""
        tensor = self._tensors[name]
        shape = tuple(tensor.shape)
        return self._builder.weight(
            name.replace("A_log", "A"), lambda: -np.exp(_array(tensor).astype(np.float32)), shape, "float32"
        )

    def ones(self, name: str, size: int) -> ir.Value:
        """float32 ones in place of a parameter that the model does not have."""
        return self._builder.weight(name, lambda: np.ones(size, np.float32), (size,), "float32")

    def zeros(self, name: str, size: int) -> ir.Value:
        """float32 zeros in place of a parameter that the model does not have."""
        return self._builder.weight(name, lambda: np.zeros(size, np.float32), (size,), "float32")

    def linear(self, x: ir.Value, prefix: str) -> ir.Value:
        """x @ W^T (+ bias), in the graph's precision."""
        y = self._builder.op("MatMul", x, self.matrix(f"{prefix}.weight"))
        if self.has(f"{prefix}.bias"):
            y = self._builder.op("Add", y, self.stored(f"{prefix}.bias"))
        return y


def _array(tensor: Tensor) -> Array:
    tensor = tensor.detach()
    result: Array = (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).cpu().numpy()
    return result


def _packed(kernel: Array, block: int) -> Array:
    """(outputs, inputs, taps) as (outputs / block, inputs / 64, taps, 8, block, 8)."""
    outputs, inputs, taps = kernel.shape
    parts = kernel.reshape(outputs // block, block, inputs // 64, 8, 8, taps)
    ordered: Array = parts.transpose(0, 2, 5, 3, 1, 4)
    return ordered


def weight_bytes(model: ir.Model) -> int:
    """Bytes of all initialisers."""
    return sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)


class SharedData:
    """One file of weights for several graphs: a weight of the same name is written once.

    Constants (`GraphBuilder.const`) are numbered within their graph, so they stay in it: one name is not one array.

    Args:
        folder: where the graphs lie.
        name: file name of the data.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder, self._name = folder, name
        self._written: dict[str, ir.ExternalTensor] = {}
        self._end = 0

    def move(self, model: ir.Model) -> None:
        """Writes the model's large weights to the file and makes its initialisers point there."""
        with (self._folder / self._name).open("ab") as file:
            for value in model.graph.initializers.values():
                tensor = value.const_value
                if tensor is None or tensor.nbytes < 1024 or value.name is None or value.name.startswith(CONSTANT):
                    continue
                if value.name not in self._written:
                    data = tensor.tobytes()
                    align = _PAGE if len(data) >= 1 << 20 else 64
                    start = -(-self._end // align) * align
                    file.write(b"\0" * (start - self._end))
                    file.write(data)
                    self._end = start + len(data)
                    self._written[value.name] = ir.ExternalTensor(
                        self._name,
                        start,
                        len(data),
                        tensor.dtype,
                        shape=ir.Shape(tensor.shape),
                        name=value.name,
                        base_dir=self._folder,
                    )
                value.const_value = self._written[value.name]
