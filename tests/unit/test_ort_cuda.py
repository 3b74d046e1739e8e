"""The CUDA provider: the same logits and tokens as on the CPU, with state kept on the device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from toy_bundle import DIMS, make_bundle

from aim_edge.runtime import Generator

pytestmark = pytest.mark.gpu
ort = pytest.importorskip("onnxruntime")
if "CUDAExecutionProvider" not in ort.get_available_providers():
    pytest.skip("no CUDAExecutionProvider: the CUDA backend is NOT tested here", allow_module_level=True)


@pytest.mark.parametrize("layout", [("float32", False), ("float32", True), ("float16", False)])
def test_cuda_gives_what_the_cpu_gives(tmp_path: Path, layout: tuple[str, bool]) -> None:
    folder = make_bundle(tmp_path / "toy", *layout)
    tokens = np.random.default_rng(0).integers(0, DIMS.vocab_size, (3, DIMS.num_tokens))
    with Generator.open(folder) as cpu, Generator.open(folder, "ort-cuda") as cuda:
        for via in ("step", "scan"):
            wanted = cpu.decode_logits([0, 1, 2], tokens, via=via)
            for _ in range(2):  # the second time the session is reused after a reset
                found = cuda.decode_logits([0, 1, 2], tokens, via=via)
                np.testing.assert_allclose(found, wanted, atol=2e-2 if "float16" in layout else 1e-4)
        images, drawn = cpu.generate([3, 1], seed=4)
        found_images, found_drawn = cuda.generate([3, 1], seed=4)
        np.testing.assert_array_equal(found_drawn, drawn)
        np.testing.assert_array_equal(found_images, images)


def test_snapshots_cross_between_cpu_and_cuda(tmp_path: Path) -> None:
    folders = make_bundle(tmp_path / "plain"), make_bundle(tmp_path / "turned", transposed=True)
    with Generator.open(folders[0]) as cpu, Generator.open(folders[1], "ort-cuda") as cuda:
        host, device = cpu.session(2), cuda.session(2)
        for session in (host, device):
            session.set_condition([0, 3])
        for t in range(3):
            host.step([t, t + 1], t)
        device.restore(host.snapshot())
        for t in range(3, 6):
            np.testing.assert_allclose(device.step([t, t], t), host.step([t, t], t), atol=1e-4)
        for name, array in host.snapshot().items():
            np.testing.assert_allclose(device.snapshot()[name], array, atol=1e-4)
        host.restore(device.snapshot())
        np.testing.assert_allclose(device.step([1, 1], 6), host.step([1, 1], 6), atol=1e-4)
