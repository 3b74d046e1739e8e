"""Engines that `aim-edge build` made, run by the runtime's `tensorrt` backend on a GPU.

engines_proof.sh starts it:

    python-trt engines_proof.py PART BUNDLE [REFERENCE]

Parts, each a run of its own process:
    tokens   64 images against TOKENS.npz of ONNX Runtime (make_tokens.py): the same tokens, alone and together
    forced   256 forced steps, and the scan, against make_reference.py's PyTorch
    steps    what a step's CUDA graph holds: kernels, no copy to or from the host, no allocation
    long     10,000 images: no growth of device or host memory
    memory   out of device memory at a session and at a build: told with numbers, and the next smaller one works
    vq       the tokenizer's images against PyTorch's, and batch by batch against bfloat16 eager

Needs Python 3.10 with numpy, pillow and tensorrt, and a GPU. Prints PASS and FAIL lines; exits 1 on a FAIL.
"""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from trt86_decode import Decoded
from trt86_gates import judge

from aim_edge.export.engines import build_engines
from aim_edge.export.engines_common import EngineBuildError
from aim_edge.export.engines_trt_options import TrtOptions
from aim_edge.runtime import Generator
from aim_edge.runtime.cuda import Device, DeviceMemoryError

Row = tuple[bool, str]
LONG, LONG_BATCH = 10_000, 64
HOST_GROWTH = 8 << 20  # of a Python process that has drawn 9,000 images more: its allocator's own breathing


def open_generator(bundle: str) -> Generator:
    return Generator.open(bundle, backend="tensorrt")


def tokens(bundle: str, reference: str) -> Iterator[Row]:
    wanted = np.load(reference)
    with open_generator(bundle) as generator:
        index = np.arange(len(wanted["ids"]))
        images, found = generator.generate(wanted["ids"], seed=int(wanted["seed"]), image_index=index)
        same = (found == wanted["tokens"]).all(axis=1)
        text = f"{same.sum()} of {len(same)} images have ONNX Runtime's tokens"
        yield bool(same.all()), f"{text}; {generator.backend.describe()}"
        alone = generator.generate(wanted["ids"][5:6], seed=int(wanted["seed"]), image_index=[5])
        yield bool((alone[1][0] == found[5]).all() and (alone[0][0] == images[5]).all()), "an image alone is the same"
    side = int(np.sqrt(len(images)))
    height, width = images.shape[1:3]
    grid = images[: side * side].reshape(side, side, height, width, -1).swapaxes(1, 2)
    Image.fromarray(grid.reshape(side * height, side * width, -1)).save(Path(os.environ["OUT"]) / "grid.png")


def forced(bundle: str, reference: str) -> Iterator[Row]:
    wanted = dict(np.load(reference))
    labels, codes = wanted["labels"].reshape(-1), wanted["tokens"]
    given = np.pad(codes[:, :-1], ((0, 0), (1, 0)))
    with open_generator(bundle) as generator:
        precision = generator.bundle.manifest.precision
        session = generator.session(len(labels))
        session.set_condition(labels)
        recorded: Any = generator.backend
        for way in ("step", "scan") if "scan" in recorded.record.graphs else ("step",):
            session.reset()
            if way == "step":
                logits = np.stack([session.step(given[:, t], t).copy() for t in range(given.shape[1])])
            else:
                logits = session.scan(given, 0).swapaxes(0, 1)
            told = judge(Decoded(logits, session.snapshot()), wanted, precision)
            failures = told.pop("failures")
            yield not failures, f"{way}: {told} {failures[:3] if failures else ''}"


def steps(bundle: str, batch: str = "2") -> Iterator[Row]:
    with open_generator(bundle) as generator:
        session: Any = generator.session(int(batch))
        nodes = session.graph_nodes()
        inside = bool(nodes) and all(set(graph) <= {"kernel", "memset"} for graph in nodes)
        yield inside, f"a step's two CUDA graphs hold {nodes}"
        session.set_condition(np.zeros(int(batch), np.int64))
        session.reset()
        session.launch_steps(16)
        session.synchronize()
        free = generator.backend.device.memory()[0]
        session.launch_steps(200)
        session.synchronize()
        after = generator.backend.device.memory()[0]
        yield free == after, f"200 steps took {free - after} bytes of device memory"


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def long(bundle: str) -> Iterator[Row]:
    with open_generator(bundle) as generator:
        ids = np.arange(LONG_BATCH) % generator.dims.num_classes
        begin, samples = time.perf_counter(), []
        for first in range(0, LONG, LONG_BATCH):
            count = min(LONG_BATCH, LONG - first)
            index = np.arange(first, first + LONG_BATCH)  # the last batch is whole too
            generator.generate(ids, seed=1, image_index=index)
            samples.append((first + count, generator.backend.device.memory()[0], resident()))
        seconds = time.perf_counter() - begin
        tenth = samples[len(samples) // 10]
        device, host = tenth[1] - samples[-1][1], samples[-1][2] - tenth[2]
        text = f"{samples[-1][0]} images in {seconds:.1f} s; after the first {tenth[0]} memory grew"
        yield device <= 0 and host <= HOST_GROWTH, f"{text} {device} bytes on the device, {host} on the host"


def memory(bundle: str, scratch: str) -> Iterator[Row]:
    with open_generator(bundle) as generator:
        device = generator.backend.device
        generator.session(1).close()  # engines are loaded
        before = device.memory()[0]
        large = generator.session(LONG_BATCH)
        needed = before - device.memory()[0]
        large.close()
        hog = device.alloc(device.memory()[0] - needed // 2, "what takes the memory")
        yield refusal(DeviceMemoryError, lambda: generator.session(LONG_BATCH), "session of batch 64")
        small = generator.session(1)
        small.set_condition([0])
        small.reset()
        yield bool(np.isfinite(small.step([0], 0)).all()), "batch 1 works in what is left"
        small.close()
        hog.close()
        yield True, f"and batch 64 again: {generator.session(LONG_BATCH).batch}"
        yield refusal(ValueError, lambda: generator.session(65), "batch outside the profiles")
    device = Device()
    hog = device.alloc(device.memory()[0] - (96 << 20), "what takes the memory")
    options = TrtOptions(level=0, plugins=Path(os.environ["PLUGINS"]))
    build = lambda: build_engines(scratch, ["tensorrt"], graphs=["condition"], options=options)  # noqa: E731
    yield refusal(EngineBuildError, build, "build")
    hog.close()
    yield bool(build()), "the build works when there is memory"


def refusal(kind: type[Exception], call: Callable[[], object], what: str) -> Row:
    try:
        call()
    except kind as error:
        return True, f"{what}: {type(error).__name__}: {error}"
    except Exception as error:
        return False, f"{what}: {type(error).__name__} instead of {kind.__name__}: {error}"
    return False, f"{what}: was not refused"


def vq(bundle: str, reference: str) -> Iterator[Row]:
    wanted = np.load(reference)
    with open_generator(bundle) as generator:
        images = generator.backend.vq_decode(wanted["codes"][:8])
        error = float(np.mean((images.astype(np.float64) - wanted["images"]) ** 2))
        decibels = 10 * np.log10(4 / max(error, 1e-12))
        yield decibels >= 40, f"8 images: {decibels:.1f} dB against PyTorch in float32 (at least 40)"
        for batch in (1, 8, 64):
            times = []
            for _ in range(9):
                begin = time.perf_counter()
                generator.backend.decode_images(wanted["codes"][:batch])
                times.append(1e3 * (time.perf_counter() - begin))
            took, eager = statistics.median(times[2:]), float(wanted[f"bfloat16_ms_{batch}"])
            text = f"batch {batch}: {took:.1f} ms to uint8 on the host; bfloat16 eager in this run {eager:.1f} ms"
            yield True, f"{text}: {eager / took:.2f} times as fast, {1e3 * batch / took:.0f} images/s"


PARTS: dict[str, Callable[..., Iterator[Row]]] = {
    "tokens": tokens, "forced": forced, "steps": steps, "long": long, "memory": memory, "vq": vq,
}  # fmt: skip


def main() -> int:
    part, *arguments = sys.argv[1:]
    failed = count = 0
    for good, text in PARTS[part](*arguments):
        count, failed = count + 1, failed + (not good)
        sys.stdout.write(f"{'PASS' if good else 'FAIL'}  {part} {Path(arguments[0]).name}: {text}\n")
        sys.stdout.flush()
    return 1 if failed or not count else 0


if __name__ == "__main__":
    sys.exit(main())
