"""A thin layer over onnx-ir: operators as calls, weights by name, constants once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir import tape

from aim_edge.runtime.contract import GraphSpec, TensorSpec

DTYPE = {
    "float32": ir.DataType.FLOAT,
    "float16": ir.DataType.FLOAT16,
    "int32": ir.DataType.INT32,
    "int64": ir.DataType.INT64,
    "bool": ir.DataType.BOOL,
}
Array = NDArray[Any]
CONSTANT = "const_"  # what names of constants begin with; no weight's does
LARGE = 1024  # bytes from which on a constant is not worth comparing with the earlier ones


class GraphBuilder:
    """Collects the nodes of one graph.

    Args:
        opset: version of the standard operators.
        precision: "float32" or "float16": the dtype of activations and of stored matrices. `core` casts to
            float32, `act` back; both do nothing in float32.
        function: what is built is the body of an ONNX function, which holds constants as nodes.
    """

    def __init__(self, opset: int, precision: str, *, function: bool = False) -> None:
        self.opset = opset
        self.base = self.precision = precision
        self.mixed = False  # whether some of it is `computing` in another precision
        self.like: ir.Value | None = None  # of a body for both: activations are of this input's dtype
        self._function = function
        self.domains: dict[str, int] = {"": opset}
        self._tape = tape.Tape()
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._weights: dict[str, ir.Value] = {}
        self._inputs: list[ir.Value] = []
        self._count = 0

    @contextmanager
    def computing(self, precision: str) -> Iterator[None]:
        """What is added meanwhile has this precision."""
        self.precision = precision
        try:
            yield
        finally:
            self.precision = self.base

    def op(self, kind: str, /, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """One node with one output."""
        return self.ops(kind, *inputs, outputs=1, domain=domain, **attributes)[0]

    def ops(
        self,
        kind: str,
        /,
        *inputs: ir.Value | None,
        outputs: int,
        domain: str = "",
        overload: str = "",
        **attributes: Any,
    ) -> tuple[ir.Value, ...]:
        """One node with several outputs. Attributes that are None are left out.

        `overload` names one of several bodies of the same operator, whose inputs differ.
        """
        if domain:
            self.domains.setdefault(domain, 1)
        given = {k: v for k, v in attributes.items() if v is not None}
        self._count += 1
        name = f"{kind}_{self._count}"
        values = self._tape.op_multi_out(
            kind,
            inputs,
            given,
            num_outputs=outputs,
            domain=domain,
            overload=overload,
            version=self.opset if not domain else 1,
            name=name,
        )
        for i, value in enumerate(values):
            value.name = f"{name}_out" if outputs == 1 else f"{name}_out{i}"
        return tuple(values)

    def const(self, array: Any, dtype: str | None = None) -> ir.Value:
        """A small constant; equal ones are stored once."""
        value = np.ascontiguousarray(np.asarray(array, dtype=dtype))
        value = value.reshape(np.shape(array))  # ascontiguousarray makes scalars one-dimensional
        key = (str(value.dtype), value.shape, value.tobytes() if value.nbytes < LARGE else str(id(value)).encode())
        if key not in self._constants:
            name = f"{CONSTANT}{len(self._constants)}"
            tensor = ir.tensor(value, name=name)
            if self._function:
                self._constants[key] = self.op("Constant", value=tensor)
            else:
                self._constants[key] = self._tape.initializer(tensor, name=name)
        return self._constants[key]

    def ints(self, *values: int) -> ir.Value:
        """An int64 vector: axes, shapes, starts."""
        return self.const(np.array(values, dtype=np.int64))

    def weight(self, name: str, make: Callable[[], Array], shape: Sequence[int], dtype: str) -> ir.Value:
        """A weight, made by `make` only when it is written; the same name is the same weight."""
        if name not in self._weights:

            def tensor() -> ir.Tensor:
                array = np.ascontiguousarray(make(), dtype=dtype)
                return ir.Tensor(array, name=name)

            lazy = ir.LazyTensor(tensor, DTYPE[dtype], shape=ir.Shape(shape), name=name)
            self._weights[name] = self._tape.initializer(lazy, name=name)
        return self._weights[name]

    def inputs(self, specs: Sequence[TensorSpec]) -> dict[str, ir.Value]:
        """Declares the graph's inputs as the contract has them."""
        values = {
            s.name: ir.val(s.name, shape=ir.Shape(list(s.shape)), type=ir.TensorType(DTYPE[s.dtype])) for s in specs
        }
        self._inputs += values.values()
        return values

    def cast(self, x: ir.Value, dtype: str) -> ir.Value:
        return self.op("Cast", x, to=int(DTYPE[dtype]))

    def core(self, x: ir.Value) -> ir.Value:
        """To float32, where sums and exponentials are taken."""
        return x if self.precision == "float32" else self.cast(x, "float32")

    def act(self, x: ir.Value) -> ir.Value:
        """Back to the activations' dtype."""
        if self.like is not None:
            return self.op("CastLike", x, self.like)
        return x if self.precision == "float32" else self.cast(x, self.precision)

    def convert(self, x: ir.Value, source: str, target: str) -> ir.Value:
        return x if source == target else self.cast(x, target)

    def reshape(self, x: ir.Value, *shape: int) -> ir.Value:
        """0 keeps a dimension, -1 is inferred."""
        return self.op("Reshape", x, self.ints(*shape))

    def transpose(self, x: ir.Value, *axes: int) -> ir.Value:
        return self.op("Transpose", x, perm=list(axes))

    def unsqueeze(self, x: ir.Value, *axes: int) -> ir.Value:
        return self.op("Unsqueeze", x, self.ints(*axes))

    def squeeze(self, x: ir.Value, *axes: int) -> ir.Value:
        return self.op("Squeeze", x, self.ints(*axes))

    def split(self, x: ir.Value, sizes: Sequence[int], axis: int = -1) -> tuple[ir.Value, ...]:
        return self.ops("Split", x, self.ints(*sizes), outputs=len(sizes), axis=axis)

    def slice(self, x: ir.Value, start: int, end: int, axis: int) -> ir.Value:
        return self.op("Slice", x, self.ints(start), self.ints(end), self.ints(axis))

    def layer(self, x: ir.Value, index: int, axis: int) -> ir.Value:
        """What lies at an index of an axis, without that axis."""
        return self.op("Gather", x, self.const(index, "int64"), axis=axis)

    def attribute(self, name: str) -> ir.Value:
        """An integer attribute of the function that is being built."""
        return self.op("Constant", value_int=ir.RefAttr("value_int", name, ir.AttributeType.INT))

    def vector(self, x: ir.Value, attribute: str) -> ir.Value:
        """x[:, i], where i is an attribute of the function that is being built."""
        return self.op("Gather", x, self.attribute(attribute), axis=1)

    def silu(self, x: ir.Value) -> ir.Value:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def mean(self, x: ir.Value) -> ir.Value:
        """Over the last axis, which stays."""
        if self.opset < 18:
            return self.op("ReduceMean", x, axes=[-1], keepdims=1)
        return self.op("ReduceMean", x, self.ints(-1), keepdims=1)

    def mean_square(self, x: ir.Value) -> ir.Value:
        return self.mean(self.op("Pow", x, self.const(2.0, "float32")))

    def rms_norm(self, x: ir.Value, weight: ir.Value | None, eps: float) -> ir.Value:
        """x / rms(x) * weight over the last axis; x is float32. The pattern is the one that ONNX Runtime fuses."""
        root = self.op("Sqrt", self.op("Add", self.mean_square(x), self.const(eps, "float32")))
        normed = self.op("Div", x, root)
        return normed if weight is None else self.op("Mul", normed, weight)

    def function(
        self,
        domain: str,
        name: str,
        inputs: Sequence[ir.Value],
        outputs: Sequence[ir.Value],
        attributes: Sequence[str],
        overload: str = "",
    ) -> ir.Function:
        """What was built, as the body of an operator; `attributes` are those that its nodes carry."""
        imports = dict(self.domains)
        graph = ir.Graph(inputs, outputs, nodes=self._tape.nodes, name=name, opset_imports=imports)
        carried = [ir.Attr(attribute, ir.AttributeType.UNDEFINED, None) for attribute in attributes]
        return ir.Function(domain, name, overload, graph=graph, attributes=carried)

    def finish(
        self, name: str, spec: GraphSpec, outputs: dict[str, ir.Value], functions: Sequence[ir.Function] = ()
    ) -> ir.Model:
        """The model, its outputs named and typed as the contract has them."""
        results = []
        for wanted in spec.outputs:
            value = self.op("Identity", outputs[wanted.name])  # a graph output needs a name of its own
            value.name = wanted.name
            value.shape = ir.Shape(list(wanted.shape))
            value.type = ir.TensorType(DTYPE[wanted.dtype])
            results.append(value)
        graph = ir.Graph(
            self._inputs,
            results,
            nodes=self._tape.nodes,
            initializers=list(self._tape.initializers),
            name=name,
            opset_imports=dict(self.domains),
        )
        overloads = any(function.overload for function in functions)
        ir_version = _ir_version(self.opset, overloads=overloads)
        return ir.Model(graph, ir_version=ir_version, producer_name="aim-edge", functions=functions)


def _ir_version(opset: int, *, overloads: bool) -> int:
    """IR 8 is what TensorRT 8.6 knows of; opset 23 and later need a newer one, and so do overloads."""
    least = 8 if opset <= 17 else 10 if opset < 23 else 13
    return max(least, 10) if overloads else least


def drop_bodies(model: ir.Model) -> None:
    """Leaves a model without functions: its operators are then those of a library."""
    for node in model.graph:
        node.overload = ""
    model.ir_version = _ir_version(model.opset_imports[""], overloads=False)
    model.functions.clear()
