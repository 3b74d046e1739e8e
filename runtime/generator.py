"""A bundle drawing images: the decode loop, previews, prefixes and forced logits."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .backends import Backend, Session, open_backend
from .bundle import Bundle
from .checks import check_image_index, check_integer, check_integers, check_labels
from .images import Image8, from_uint8
from .policy import POLICY, UsagePolicy
from .sampler import SamplingConfig

# Codes of a prefix scanned at once: bounds the (2 B, L, V) logits, and is the same for every batch.
_PREFIX_CHUNK = 64
_SCAN_LIMIT = 256
_GREY = 128

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Preview:
    """What is known after some steps.

    step: codes an image known so far, T in the last preview.
    tokens: (B, T) int32, -1 where not drawn yet. A copy.
    images: (B, H, W, 3) uint8, grey where not drawn yet; None where previews were asked for without.
    """

    step: int
    tokens: NDArray[np.int32]
    images: Image8 | None


@dataclass(frozen=True)
class _Request:
    labels: NDArray[np.int32]
    seed: int
    image_index: NDArray[np.uint64]
    prefix: NDArray[np.int32]
    config: SamplingConfig


class Generator:
    """Draws images from a bundle. Build it with `Generator.open`; close it, or use it in a `with` statement.

    One generator serves one thread at a time.

    Attributes:
        bundle: what was opened.
        backend: what runs its graphs.
        dims: the model's sizes (`contract.ModelDims`); below, T is num_tokens and V vocab_size.
        policy: the bundle's usage policy, which `generate` and `stream` enforce, or None.
    """

    def __init__(self, bundle: Bundle, backend: Backend) -> None:
        self.bundle = bundle
        self.backend = backend
        self.dims = bundle.manifest.contract.dims
        self.policy = UsagePolicy.of_bundle(bundle)
        names = bundle.manifest.class_names
        self._denied = self.policy.denied_ids(self.dims.num_classes, names) if self.policy else frozenset[int]()
        self._idle: Session | None = None
        self._closed = False

    @classmethod
    def open(
        cls, bundle: str | os.PathLike[str] | Bundle, backend: str = "ort-cpu", *, verify: bool = True, **options: Any
    ) -> Generator:
        """Opens a bundle on a backend.

        Args:
            bundle: its folder, or one that is open.
            backend: a name of `backends.BACKENDS`.
            verify: compare the files' SHA-256 with the manifest's.
            options: the backend's own, such as `backends.ort.OrtOptions`' fields.

        Raises:
            BundleError: the bundle is refused.
            BackendMissingError: the backend cannot run here.
            ValueError: an unknown backend or option.
        """
        opened = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle, verify)
        return cls(opened, open_backend(backend, opened, **options))

    def __enter__(self) -> Generator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees engines and buffers; the generator cannot be used afterwards."""
        self._closed = True
        self.release()
        self.backend.close()

    def release(self) -> None:
        """Frees the memory of the session that is kept for the next images of the same batch."""
        session, self._idle = self._idle, None
        if session is not None:
            session.close()

    def session(self, batch: int) -> Session:
        """A new session to drive by hand: set_condition, step, scan, reset, snapshot, restore.

        Args:
            batch: images; logits and states have 2 * batch rows.
        """
        self._check_open()
        return self.backend.session(batch)

    def generate(
        self, class_ids: ArrayLike, *, seed: int = 0, guidance_scale: float | None = None,
        temperature: float | None = None, top_k: int | None = None, top_p: float | None = None,
        image_index: ArrayLike | None = None, prefix_tokens: ArrayLike | None = None,
        prefix_image: ArrayLike | None = None, prefix_rows: int | None = None, progress: Progress | None = None,
    ) -> tuple[Image8, NDArray[np.int32]]:  # fmt: skip
        """Draws one image a class id.

        Args:
            class_ids: (B) or (B, 1) integers in [0, num_classes).
            seed: in [0, 2^64). With the image's index it decides the image, whatever the batch.
            guidance_scale, temperature, top_k, top_p: see `SamplingConfig`; None takes the bundle's default.
            image_index: (B) integers in [0, 2^64); None: 0..B-1.
            prefix_tokens: (B, K) codes that the images start with, 0 <= K < T.
            prefix_image: (B, H, W, C) uint8, of which the top `prefix_rows` rows of codes are kept.
            prefix_rows: in [0, grid_height); given with `prefix_image` only.
            progress: called with (codes an image known, T): after each step, or where the codes are drawn on a GPU,
                after every 16th.

        Returns:
            images (B, H, W, C) uint8 and tokens (B, T) int32, the prefix among them.

        Raises:
            ValueError, TypeError: a bad argument, named; a class that the bundle's policy denies.
            EngineError: a graph could not be loaded or run.
            NonFiniteError: an engine gave NaN or infinity.
        """
        request = self._prepare(class_ids, seed, image_index, prefix_tokens, prefix_image, prefix_rows,
                                guidance_scale, temperature, top_k, top_p)  # fmt: skip
        tokens = np.empty((len(request.labels), self.dims.num_tokens), np.int32)
        for known in self._decode(request, tokens, None):
            if progress is not None:
                progress(known, self.dims.num_tokens)
        return self.decode_tokens(tokens), tokens

    def stream(
        self, class_ids: ArrayLike, *, every: int = 16, images: bool = True, seed: int = 0,
        guidance_scale: float | None = None, temperature: float | None = None, top_k: int | None = None,
        top_p: float | None = None, image_index: ArrayLike | None = None, prefix_tokens: ArrayLike | None = None,
        prefix_image: ArrayLike | None = None, prefix_rows: int | None = None,
    ) -> Iterator[Preview]:  # fmt: skip
        """Draws as `generate` does, showing the images as they grow.

        Args:
            every: steps between previews; the last preview is the finished one.
            images: decode pictures for the previews before the last one too.
            class_ids and the rest: as `generate`.

        Returns:
            An iterator of previews. Arguments are checked before it is returned.
        """
        request = self._prepare(class_ids, seed, image_index, prefix_tokens, prefix_image, prefix_rows,
                                guidance_scale, temperature, top_k, top_p)  # fmt: skip
        return self._previews(request, check_integer("every", every, 1, self.dims.num_tokens), images)

    def _previews(self, request: _Request, every: int, images: bool) -> Iterator[Preview]:
        tokens = np.full((len(request.labels), self.dims.num_tokens), -1, np.int32)
        for known in self._decode(request, tokens, every):
            if known == self.dims.num_tokens:
                yield Preview(known, tokens.copy(), self.decode_tokens(tokens))
            else:
                yield Preview(known, tokens.copy(), self._decode_partial(tokens, known) if images else None)

    def decode_logits(self, labels: ArrayLike, tokens: ArrayLike, *, via: str = "step") -> NDArray[np.float32]:
        """Logits before guidance while decoding with the given tokens forced.

        Args:
            labels: (B) or (B, 1) integers in [0, num_classes]; num_classes is the null label.
            tokens: (B, T') integers in [0, V), 1 <= T' <= T.
            via: "step" (one call a position, as drawing does) or "scan" (the scan graph).

        Returns:
            float32 (T', 2 B, V): rows 0..B-1 carry the label, B..2B-1 the null label; [t] predicts tokens[:, t].

        Raises:
            ValueError, TypeError: a bad argument, named.
            EngineError: a graph could not be loaded or run.
        """
        class_ids = check_labels("labels", labels, self.dims.num_classes + 1)
        codes = check_integers("tokens", tokens, (len(class_ids), None), self.dims.vocab_size)
        length = codes.shape[1]
        if not 1 <= length <= self.dims.num_tokens:
            raise ValueError(f"tokens has {length} columns; allowed: 1..{self.dims.num_tokens}")
        if via not in ("step", "scan"):
            raise ValueError(f"via is {via!r}; allowed: 'step', 'scan'")
        given = np.pad(codes[:, :-1], ((0, 0), (1, 0)))
        result = np.empty((length, 2 * len(class_ids), self.dims.vocab_size), np.float32)
        with self.borrow_session(class_ids) as session:
            if via == "step":
                for t in range(length):
                    result[t] = session.step(given[:, t], t)
            else:
                for t in range(0, length, _SCAN_LIMIT):
                    result[t : t + _SCAN_LIMIT] = session.scan(given[:, t : t + _SCAN_LIMIT], t).swapaxes(0, 1)
        return result

    def decode_tokens(self, tokens: ArrayLike) -> Image8:
        """Codes (B, T) in [0, V) to images (B, H, W, C) uint8."""
        self._check_open()
        dims = self.dims
        codes = check_integers("tokens", tokens, (None, dims.num_tokens), dims.vocab_size)
        cells = codes.reshape(-1, dims.grid_height, dims.grid_width)
        shape = (len(codes), dims.image_height, dims.image_width, dims.image_channels)
        images = np.empty(shape, np.uint8)
        chunk = self.backend.vq_batch
        for i in range(0, len(codes), chunk):
            images[i : i + chunk] = self.backend.decode_images(cells[i : i + chunk])
        return images

    def encode_images(self, images: ArrayLike) -> NDArray[np.int32]:
        """Images (B, H, W, C) uint8 to codes (B, T)."""
        self._check_open()
        pixels = self._check_images("images", images, None)
        chunk = self.backend.vq_batch
        parts = (pixels[i : i + chunk] for i in range(0, len(pixels), chunk))
        codes = [self.backend.vq_encode(from_uint8(part)) for part in parts]
        return np.concatenate(codes).reshape(len(pixels), self.dims.num_tokens)

    def _prepare(
        self, class_ids: ArrayLike, seed: int, image_index: ArrayLike | None, prefix_tokens: ArrayLike | None,
        prefix_image: ArrayLike | None, prefix_rows: int | None, guidance_scale: float | None,
        temperature: float | None, top_k: int | None, top_p: float | None,
    ) -> _Request:  # fmt: skip
        """Checks every argument before anything runs."""
        self._check_open()
        labels = check_labels("class_ids", class_ids, self.dims.num_classes)
        self._check_policy(labels)
        config = self.bundle.manifest.sampling_defaults.override(
            guidance_scale=guidance_scale, temperature=temperature, top_k=top_k, top_p=top_p
        )
        checked_seed = check_integer("seed", seed, 0, 2**64 - 1)
        index = check_image_index(image_index, len(labels))
        prefix = self._check_prefix(len(labels), prefix_tokens, prefix_image, prefix_rows)
        return _Request(labels, checked_seed, index, prefix, config)

    def _check_policy(self, labels: NDArray[np.int32]) -> None:
        denied = sorted(self._denied & set(labels.tolist()))
        if denied:
            names = self.bundle.manifest.class_names
            said = ", ".join(f"{i} ({names[i]})" if names else str(i) for i in denied)
            notice = f": {self.policy.notice}" if self.policy and self.policy.notice else ""
            raise ValueError(f"class {said} is denied by the usage policy {self.bundle.path / POLICY}{notice}")

    def _check_prefix(
        self, batch: int, tokens: ArrayLike | None, image: ArrayLike | None, rows: int | None
    ) -> NDArray[np.int32]:
        if tokens is not None and image is not None:
            raise ValueError("prefix_tokens and prefix_image are both given; choose one")
        if (image is None) != (rows is None):
            raise ValueError("prefix_image and prefix_rows go together; one of them is missing")
        if image is not None:
            kept = check_integer("prefix_rows", rows, 0, self.dims.grid_height - 1)
            codes = self.encode_images(self._check_images("prefix_image", image, batch))
            return codes[:, : kept * self.dims.grid_width]
        if tokens is None:
            return np.empty((batch, 0), np.int32)
        codes = check_integers("prefix_tokens", tokens, (batch, None), self.dims.vocab_size)
        if codes.shape[1] >= self.dims.num_tokens:
            raise ValueError(f"prefix_tokens has {codes.shape[1]} columns; allowed: 0..{self.dims.num_tokens - 1}")
        return codes

    def _check_images(self, name: str, images: ArrayLike, batch: int | None) -> Image8:
        array = np.asarray(images)
        if array.dtype != np.uint8:
            raise TypeError(f"{name} has dtype {array.dtype}; expected uint8")
        size = (self.dims.image_height, self.dims.image_width, self.dims.image_channels)
        if array.ndim != 4 or array.shape[1:] != size or not len(array) or batch not in (None, len(array)):
            count = "at least one" if batch is None else batch
            raise ValueError(f"{name} has shape {array.shape}; expected ({count}, {', '.join(map(str, size))})")
        return array

    def _decode(self, request: _Request, tokens: NDArray[np.int32], every: int | None) -> Iterator[int]:
        """The decode loop: fills tokens (B, T) column by column and yields how many are known.

        Every `every` codes; None: as often as it costs nothing.
        """
        start = request.prefix.shape[1]
        with self.borrow_session(request.labels) as session:
            tokens[:, :start] = request.prefix
            given = np.pad(request.prefix, ((0, 0), (1, 0)))  # what step t is fed: nothing at 0, then code t - 1
            for t in range(0, start, _PREFIX_CHUNK):
                session.scan(given[:, t : min(t + _PREFIX_CHUNK, start)], t)
            yield from session.decode(
                request.config, request.seed, request.image_index, tokens, start, every or session.stride
            )

    def _decode_partial(self, tokens: NDArray[np.int32], known: int) -> Image8:
        """Images of which `known` codes are drawn. The rest repeats each image's last code, then is greyed."""
        filled = tokens.copy()
        filled[:, known:] = tokens[:, known - 1 : known]
        images = self.decode_tokens(filled)
        height = self.dims.image_height // self.dims.grid_height
        width = self.dims.image_width // self.dims.grid_width
        row, col = divmod(known, self.dims.grid_width)
        images[:, row * height : (row + 1) * height, col * width :] = _GREY
        images[:, (row + 1) * height :] = _GREY
        return images

    @contextmanager
    def borrow_session(self, labels: NDArray[np.int32]) -> Iterator[Session]:
        """A session at its start for these labels: the idle one if its batch fits.

        It is taken away while in use, so that a stream that is waiting keeps its state. Put back at the end; one that
        an error or an abandoned stream left half way is closed, as is an idle one of another batch: on a GPU their
        memory is wanted.
        """
        self._check_open()
        session, self._idle = self._idle, None
        if session is not None and session.batch != len(labels):
            session.close()
            session = None
        session = session or self.backend.session(len(labels))
        whole = False
        try:
            session.set_condition(labels)
            session.reset()
            yield session
            whole = True
        finally:
            if whole and self._idle is None and not self._closed:
                self._idle = session
            else:
                session.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this generator is closed; open the bundle again")
