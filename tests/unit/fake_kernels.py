"""The kernel library's drawing and pixels in NumPy, behind its C functions and on the fake driver's memory."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
from fake_cuda import FakeCuda

from aim_edge.runtime.backends.trt_kernels import ImageParams, SampleParams, Sampling
from aim_edge.runtime.errors import NonFiniteError
from aim_edge.runtime.images import to_uint8
from aim_edge.runtime.sampler import Sampler, SamplingConfig

BAD_ARGUMENT = 2


def make_library(cuda: FakeCuda, version: int = 200) -> Any:
    """The library, as ctypes would give it."""

    def sample(params: Any, stream: int) -> int:
        p = params[0]
        if p.size != 88 or p.batch < 1 or p.active:
            return BAD_ARGUMENT
        fields = {name: getattr(p, name) for name, _ in SampleParams._fields_}
        cuda.enqueue(stream, "kernel", lambda: draw(SimpleNamespace(**fields)))
        return 0

    def draw(p: Any) -> None:
        logits = cuda.array(p.logits, (2, p.batch, p.vocab_size), np.float32)
        settings = Sampling.from_buffer_copy(cuda.array(p.sampling, (40,), np.uint8))
        config = SamplingConfig(settings.guidance_scale, settings.temperature, settings.top_k, settings.top_p)
        index = cuda.array(p.image_index, (p.batch,), np.uint64)
        token, position, status = (cuda.array(at, (p.batch,), np.int32) for at in (p.token, p.position, p.status))
        tokens = cuda.array(p.tokens, (p.batch, p.num_tokens), np.int32)
        sampler = Sampler(p.vocab_size, 1, config)
        for i in range(p.batch):
            at = int(position[i])
            try:
                token[i] = sampler.draw(np.ascontiguousarray(logits[:, i]), settings.seed, index[i : i + 1], at)[0]
            except NonFiniteError:
                token[i] = 0
                status[i] = status[i] or at + 1
            if 0 <= at < p.num_tokens:
                tokens[i, at] = token[i]
            position[i] = at + 1

    def image_to_uint8(params: Any, stream: int) -> int:
        p = params[0]
        if p.size != 56 or p.batch < 1:
            return BAD_ARGUMENT
        fields = {name: getattr(p, name) for name, _ in ImageParams._fields_}
        cuda.enqueue(stream, "kernel", lambda: convert(SimpleNamespace(**fields)))
        return 0

    def convert(p: Any) -> None:
        image = cuda.array(p.image, (p.batch, p.channels, p.height, p.width), np.float32)
        pixels = cuda.array(p.pixels, (p.batch, p.height, p.width, p.channels), np.uint8)
        status = cuda.array(p.status, (p.batch,), np.int32)
        status[~np.isfinite(image).all(axis=(1, 2, 3))] = 1
        np.copyto(pixels, to_uint8(np.nan_to_num(image, nan=-1, posinf=1, neginf=-1)))

    return SimpleNamespace(
        aim_sample=ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(SampleParams), ctypes.c_void_p)(sample),
        aim_image_to_uint8=ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ImageParams), ctypes.c_void_p)(image_to_uint8),
        aim_version=ctypes.CFUNCTYPE(ctypes.c_int)(lambda: version),
        aim_last_error=ctypes.CFUNCTYPE(ctypes.c_char_p)(lambda: b"a bad argument"),
    )
