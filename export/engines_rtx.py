"""TensorRT-RTX builds an engine of a graph: the only file here that loads its library."""

from __future__ import annotations

import re
from typing import Any

from aim_edge.runtime import BackendMissingError
from aim_edge.runtime.engines import TENSORRT_RTX

from .engines_common import (
    Built,
    EngineBuildError,
    Job,
    Tell,
    add_profiles,
    check_ports,
    make_log,
    make_monitor,
    parse,
    type_names,
)
from .engines_plugins import PluginLibrary

INSTALL = 'pip install "aim-edge[tensorrt-rtx]"'
# What graphs with products in float32 build for; for sm75 TensorRT-RTX has none.
SMS = ("sm80", "sm86", "sm89", "sm120", "sm121")


class RtxBuilder:
    """Builds engines for GPUs that need not be here; see `Maker`.

    Raises:
        BackendMissingError: TensorRT-RTX is not installed, or does not load.
    """

    library: str = TENSORRT_RTX
    plugin: PluginLibrary | None = None

    def __init__(self) -> None:
        self._trt = _load()
        self._log = make_log(self._trt)
        self._builder = self._trt.Builder(self._log)
        self.version = str(self._trt.__version__)
        self.folder = re.sub(r"^(\d+\.\d+).*", r"rtx-\1", self.version)
        self.facts: dict[str, Any] = {}

    def build(self, job: Job, tell: Tell) -> Built:
        """One engine, strongly typed: every layer computes in the type that the graph gives it.

        Args:
            job: its `sm` is of `SMS`.
            tell: called with the share that is done; what it raises ends the build.

        Raises:
            EngineBuildError: the file does not parse or is not the contract's, or no engine comes of it.
        """
        trt, builder, who = self._trt, self._builder, f"{TENSORRT_RTX} {self.version}"
        self._log.clear()
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, self._log)
        parse(trt, parser, job.path, who)
        tensors = [network.get_input(i) for i in range(network.num_inputs)]
        tensors += [network.get_output(i) for i in range(network.num_outputs)]
        types = type_names(trt)
        found = {t.name: (types.get(t.dtype, str(t.dtype)), tuple(t.shape)) for t in tensors}
        check_ports(job.path, found, (*job.spec.inputs, *job.spec.outputs))
        config = builder.create_builder_config()
        config.clear_flag(trt.BuilderFlag.TF32)  # it would round what the graph says is float32
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, job.sm.upper()), 0)
        add_profiles(builder, config, job)
        monitor = make_monitor(trt, tell)
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if monitor.raised is not None:
            raise monitor.raised
        if plan is None:
            raise EngineBuildError(f"{job.path}: {who} builds no engine for {job.sm}: {self._log.why()}")
        return Built(memoryview(plan))  # not a copy: an engine may take gigabytes


def _load() -> Any:
    try:
        import tensorrt_rtx_bindings as trt
    except (ImportError, OSError) as error:  # the bindings without the library raise either
        raise BackendMissingError(f"building engines for rtx needs TensorRT-RTX ({error}); {INSTALL}") from error
    return trt
