"""What differs between TensorRT 8.5 and 11 in the builder's Python interface, and nothing else."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

from .engines_common import EngineBuildError
from .engines_trt_options import TrtOptions

OLDEST = (8, 5)
# Option -> the first version that has it.
_SINCE = {"level": (8, 6), "version_compatible": (8, 6), "hardware_compatible": (8, 6), "strip_weights": (10, 0)}
# A file is loaded once a process: a second time, its plugins are there already.
_ONE_OF_OURS = "SelectiveScan"
_loaded: set[tuple[int, str]] = set()


class Dialect:
    """TensorRT's module, spoken to as its version wants it.

    Attributes:
        trt: the module.
        version: in full.
        release: major and minor.
        typed: networks are strongly typed (from 10 on); before, types are flags and constraints.
    """

    def __init__(self, trt: Any) -> None:
        self.trt, self.version = trt, str(trt.__version__)
        numbers = re.match(r"(\d+)\.(\d+)", self.version)
        self.release = (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
        if self.release < OLDEST:
            raise EngineBuildError(f"TensorRT {self.version} is here; {'.'.join(map(str, OLDEST))} or later is needed")
        self.typed = self.release >= (10, 0)

    def check(self, options: TrtOptions) -> None:
        """Raises ValueError naming every option that this version does not have."""
        bad = [
            f"{name} needs TensorRT {'.'.join(map(str, since))} or later"
            for name, since in _SINCE.items()
            if name in options.given() and self.release < since
        ]
        if options.prefer_precision and self.typed:
            bad.append("prefer_precision is of TensorRT 8 and 9; networks are strongly typed from 10 on")
        if bad:
            raise ValueError(f"TensorRT {self.version}: " + "; ".join(bad))

    def network(self, builder: Any) -> Any:
        """An empty network: strongly typed, or with an explicit batch where that must be said."""
        flags = self.trt.NetworkDefinitionCreationFlag
        name = "STRONGLY_TYPED" if self.typed else "EXPLICIT_BATCH"
        flag = getattr(flags, name, None)  # gone where there is nothing else
        return builder.create_network(0 if flag is None else 1 << int(flag))

    def parser(self, network: Any, log: Any) -> Any:
        """A parser that takes normalisation for layers, not for plugins of another library that calls cuDNN.

        That of TensorRT 8.6.0 cannot be told so in Python.
        """
        parser = self.trt.OnnxParser(network, log)
        flag = getattr(getattr(self.trt, "OnnxParserFlag", None), "NATIVE_INSTANCENORM", None)
        if flag is not None and hasattr(parser, "set_flag") and not self.typed:  # from 10 on it is so anyway
            parser.set_flag(flag)
        return parser

    def without_sources(self, options: TrtOptions) -> bool:
        """Whether layers are built from TensorRT's own kernels alone; below 10, the others are of cuBLAS and cuDNN."""
        return (options.tactic_sources or ("default" if self.typed else "none")) == "none"

    def configure(self, config: Any, options: TrtOptions) -> None:
        """Sets what the options say, and what every build of ours has."""
        trt, flags = self.trt, self.trt.BuilderFlag
        config.clear_flag(flags.TF32)  # it would round what the graph says is float32
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        if self.without_sources(options):
            config.set_tactic_sources(0)
        sharing = getattr(getattr(trt, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
        if sharing is not None and not self.typed:  # from 10 on it is so anyway; without it a second session crashes
            config.set_preview_feature(sharing, True)
        if options.level is not None:
            config.builder_optimization_level = options.level
        if options.workspace is not None:
            config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace << 20)
        if options.version_compatible:
            config.set_flag(flags.VERSION_COMPATIBLE)
        if options.hardware_compatible:
            config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
        if options.strip_weights:
            config.set_flag(flags.STRIP_PLAN)

    def allow_half(self, config: Any, prefer: bool) -> None:
        """Lets layers compute in float16 where they are asked to; below 10 only."""
        flags = self.trt.BuilderFlag
        config.set_flag(flags.FP16)
        config.set_flag(flags.PREFER_PRECISION_CONSTRAINTS if prefer else flags.OBEY_PRECISION_CONSTRAINTS)

    def workspace(self, config: Any) -> int:
        """Bytes that a layer may take for itself."""
        return int(config.get_memory_pool_limit(self.trt.MemoryPoolType.WORKSPACE))

    def has_monitor(self, config: Any) -> bool:
        """Whether a build tells how far it is; TensorRT 8 does not in Python."""
        return hasattr(self.trt, "IProgressMonitor") and hasattr(config, "progress_monitor")

    def load_plugins(self, path: Path) -> None:
        """Registers a library's plugins. Raises EngineBuildError."""
        key = (id(self.trt), str(path))
        if key in _loaded:
            return
        registry = self.trt.get_plugin_registry()
        find = getattr(registry, "get_creator", None) or registry.get_plugin_creator
        if find(_ONE_OF_OURS, "1", "") is not None:  # whoever ran engines in this process has loaded them
            return
        try:
            if hasattr(registry, "load_library"):
                found = registry.load_library(str(path))
            else:  # 8.5: the library registers them itself
                found = ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
        except (RuntimeError, OSError, ValueError) as error:
            raise EngineBuildError(self._no_plugins(path) + f" ({error})") from error
        if found is None:
            raise EngineBuildError(self._no_plugins(path))
        _loaded.add(key)

    def _no_plugins(self, path: Path) -> str:
        return (
            f"{path}: TensorRT {self.version} does not load it as a plugin library; build it for this version: "
            "aim-edge plugins build --tensorrt-headers FOLDER"
        )

    def device_bytes(self, engine: Any) -> int:
        """Device memory that an execution context takes."""
        for name in ("device_memory_size_v2", "device_memory_size"):
            if hasattr(engine, name):
                return int(getattr(engine, name))
        return 0

    def bare_context(self, engine: Any) -> Any:
        """A context without device memory: for asking, not for running."""
        strategies = getattr(self.trt, "ExecutionContextAllocationStrategy", None)
        if strategies is not None:
            return engine.create_execution_context(strategies.USER_MANAGED)
        return engine.create_execution_context_without_device_memory()

    def plugin_name(self, layer: Any) -> str | None:
        """The operator of a layer that is a plugin; None for other layers."""
        kind = getattr(layer.type, "name", str(layer.type).rpartition(".")[2])
        if not kind.startswith("PLUGIN"):
            return None
        if kind == "PLUGIN_V3":
            layer.__class__ = self.trt.IPluginV3Layer
            return str(layer.plugin.get_capability_interface(self.trt.PluginCapabilityType.CORE).plugin_name)
        layer.__class__ = self.trt.IPluginV2Layer
        return str(layer.plugin.plugin_type)
