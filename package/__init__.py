"""aim-edge: trained AiM checkpoints to ONNX bundles and TensorRT engines, with proven parity."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("aim-edge")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0.0.0+source"
