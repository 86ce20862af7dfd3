"""Data to train on: sources of labelled rows, their splits, order and reading.

Each kind of source is a file in `sources/`, or a file or module of a user, see aigc/own_code;
the other files here are what several of them share.
"""

import hashlib
import inspect
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from aigc import own_code
from aigc.artifact.latents import integers
from aigc.artifact.store import store_errors
from aigc.config import DataConfig, ModelConfig
from aigc.data.survey import Survey, first_of
from aigc.files import expanded

Split = Literal["train", "test"]
Sample = NDArray[np.float32] | NDArray[np.uint8] | NDArray[np.int64]
Read = tuple[NDArray[Any], NDArray[np.int64], list[str]]
"""Samples (rows, *shape), labels (rows,), and what was said of each row that was skipped."""
Shapes = dict[str, tuple[int, ...]]
"""Shapes of the parts of a row of several modalities, by modality."""
PAIRED = ("digits3", "paired")
"""Sources of rows of several modalities: `load` is given Shapes."""
PATHLESS = ("digits", "numbers", "ring", "spoken_digits", "surnames")
"""Sources that read no files."""
CHOICES = {
    "column": ("hf", "npz", "parquet"),
    "member": ("paired", "webdataset"),
    "pieces": ("audio",),
    "range": ("npz",),
}
"""Sources that heed a choice of DataConfig."""

log = logging.getLogger(__name__)


class CorruptRow(ValueError):
    """A row that cannot be read; the message names it and says why."""


class NoRows(ValueError):
    """A split without rows; the message names it."""


class Source(Protocol):
    """Labelled samples by row number: in memory (`Dataset`), or read when they are due."""

    @property
    def name(self) -> str:
        """Name of the data set."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their labels; empty without labels, which then are 0."""

    def __len__(self) -> int:
        """Number of rows."""

    def read(self, row: int) -> tuple[Sample, int]:
        """One sample and its label: (*shape) float32 in [-1, 1], (C, H, W) uint8 that the feed
        scales to it, or (tokens,) int64; of several modalities a record, a structured array of
        shape () with fields of float32 and int64, which become tensors of their own names. Called
        in worker processes. Raises CorruptRow."""

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The permutation of all rows that is an epoch: (N,), a function of its arguments alone."""

    def fingerprint(self) -> dict[str, Any]:
        """Name, count, classes and content hash: what a run was trained on."""

    @property
    def survey(self) -> Survey:
        """Facts that the rows do not tell."""


@runtime_checkable
class Sharded(Protocol):
    """A Source whose rows lie in shards, and whose order takes one shard after the other."""

    def shard_of(self, row: int) -> int:
        """The shard that a row is in."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A Source in memory."""

    name: str
    samples: NDArray[Any]
    """(N, *shape): float32, images in [-1, 1]; uint8 images; or int64 tokens, 0 from the end on.
    Of several modalities (N,) records."""
    labels: NDArray[np.int64]
    """(N,) in [0, len(classes)); zeros without classes."""
    classes: tuple[str, ...]
    vocabulary: tuple[str, ...] = ()
    """Text of each token, the end of a text first."""
    skipped: tuple[str, ...] = ()
    """Why rows were replaced by the next readable one, a message for each."""
    origin: Source | None = None
    """Source that was read into memory, if any was. Order and fingerprint are its own, so that what
    is held in memory changes no run."""
    sample_rate_hz: int = 0
    """Sample rate of sound; 0 for all else."""
    known: Survey | None = None
    """Facts of its source."""

    @property
    def survey(self) -> Survey:
        """See Source.survey; that of the origin, if there is one."""
        survey = self.known or Survey()
        labels = self.labels if self.classes and survey.labels is None else survey.labels
        return replace(survey, labels=labels)

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, row: int) -> tuple[Sample, int]:
        """See Source.read."""
        return self.samples[row], int(self.labels[row])

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """See Source.order."""
        if self.origin is not None:
            return self.origin.order(seed, epoch)
        return permutation(seed, epoch, len(self))

    def fingerprint(self) -> dict[str, Any]:
        """See Source.fingerprint."""
        if self.origin is not None:
            return self.origin.fingerprint()
        content = hashlib.sha256(self.samples.tobytes())
        content.update(self.labels.tobytes())
        rate = {"sample_rate_hz": self.sample_rate_hz} if self.sample_rate_hz else {}
        return {
            "name": self.name,
            "samples": len(self),
            "classes": list(self.classes),
            "sha256": content.hexdigest(),
            **rate,
        } | ({"vocabulary": list(self.vocabulary)} if self.vocabulary else {})


def names() -> list[str]:
    """Every source in `sources/`."""
    return own_code.DATA.built_in()


def load(config: DataConfig, model: ModelConfig, split: Split = "train") -> Source:
    """Open a split at the shape that a model wants; in memory if it fits `memory_mb`, decoded.

    Raises ValueError for an unknown source, another shape than the model's, or other classes, and
    CorruptRow while it reads into memory.
    """
    config = replace(config, path=expanded(config.path).removeprefix("file://"))
    built_in = own_code.find(own_code.DATA, config.source).built_in
    if config.path and config.source in PATHLESS:
        log.warning("data.path %r has no effect: %s reads no files", config.path, config.source)
    for choice, heeding in CHOICES.items():
        if built_in and getattr(config, choice) and config.source not in heeding:
            log.warning("data.%s has no effect: %s has no such choice", choice, config.source)
    several = len(model.shapes) > 1
    if built_in and several != (config.source in PAIRED):
        cure = f"data {' or '.join(PAIRED)}" if several else "multimodal_vae"
        raise ValueError(
            f"the model wants {' and '.join(model.shapes)} in a row, which is not what data"
            f" {config.source!r} gives; take {cure}"
        )
    asked = model.shapes if several else model.shape
    # Labels that nothing is conditioned on only describe the data, and bad ones are no fault.
    source = open_source(config, asked, split, conditional=model.num_classes > 0)
    if model.num_classes and not source.classes:
        raise ValueError(
            f"num_classes is {model.num_classes}, but data {source.name!r} has no labels;"
            f" set {_without_labels(model)} or take data with labels"
        )
    if model.num_classes not in (0, len(source.classes)):
        without = _without_labels(model)
        other = " or 0" if without.endswith("classes 0") else f", or {without}"
        raise ValueError(
            f"num_classes is {model.num_classes}, data {source.name!r} has"
            f" {len(source.classes)} classes; set --model.num-classes {len(source.classes)}{other}"
            f" (the classes are {first_of(source.classes, 5)})"
        )
    num_tokens = len(getattr(source, "vocabulary", ()))
    if model.num_tokens != num_tokens:
        raise ValueError(
            f"the model wants a vocabulary of {model.num_tokens}, data {source.name!r} has"
            f" {num_tokens} tokens; "
            + (
                f"set --model.vocabulary {num_tokens}"
                if model.num_tokens and num_tokens
                else "one of the two is no text: take another model or other data"
            )
        )
    width = 1 if model.modality == "image" else 4
    size = sum(prod(shape) for shape in model.shapes.values())
    if len(source) * size * width <= config.memory_mb * 2**20:
        with store_errors(config.path):
            return whole(source, config.on_error)
    return source


def open_source(
    config: DataConfig, shape: tuple[int, ...] | Shapes, split: Split, *, conditional: bool
) -> Source:
    """A split as its source gives it. Raises ValueError if it is no Source of such a shape."""
    place = own_code.find(own_code.DATA, config.source)
    read: Callable[..., Any] = place.load().load
    knows = place.built_in or "conditional" in inspect.signature(read).parameters
    options = {"conditional": conditional} if knows and config.source not in PATHLESS else {}
    with store_errors(config.path):
        source: Source = read(config, shape, split, **options)
    if place.built_in:
        return source
    missing = [name for name in _MEMBERS if not hasattr(source, name)]
    if missing:
        raise ValueError(
            f"load() of {place.origin} returned {type(source).__name__}, which has no"
            f" {missing[0]}; return an aigc.data.Dataset or another aigc.data.Source"
        )
    own = source.samples.shape[1:] if isinstance(source, Dataset) else shape
    if own and own != shape:
        raise ValueError(
            f"data {source.name!r} gives samples of shape {own}, the model wants {shape}; set"
            f" --model.shape {' '.join(map(str, own))}"
        )
    return source


_MEMBERS = ("name", "classes", "__len__", "read", "order", "fingerprint")


def _without_labels(model: ModelConfig) -> str:
    """Flags that make a model one that looks at no labels."""
    auxiliary = " --model.auxiliary 0" if getattr(model, "auxiliary", 0) else ""
    return f"--model.num-classes 0{auxiliary}"


def read(
    source: Source, row: int, on_error: Literal["stop", "skip"]
) -> tuple[Sample, int, str | None]:
    """One sample, its label, and why it is another row's, which is None where it is not.

    `skip` gives the place of a row that cannot be read to the next one that can, (row + 1) % N and
    so on, so that batches keep their size and order stays a function of the seed. Raises CorruptRow
    under `stop`, or if no row can be read.
    """
    try:
        return *source.read(row), None
    except CorruptRow as error:
        reason = str(error)
    if on_error == "stop":
        raise stopping(reason)
    for step in range(1, len(source)):
        try:
            return *source.read((row + step) % len(source)), reason
        except CorruptRow:
            continue
    raise CorruptRow(f"no row of data {source.name!r} can be read; of one: {reason}")


def stopping(reason: str) -> CorruptRow:
    """The error that ends a run under `stop`."""
    return CorruptRow(f"{reason}; mend it, or set --data.on-error skip to train without it")


def whole(source: Source, on_error: Literal["stop", "skip"] = "stop") -> Dataset:
    """Read every row into memory, in threads; a bar on stderr after two seconds.

    Raises NoRows for a source without any.
    """
    num_rows = len(source)
    if not num_rows:
        raise NoRows(f"data {source.name!r} has no row in this split; add more rows")
    if isinstance(source, Dataset):
        return source
    from tqdm import tqdm

    first, _, _ = read(source, 0, on_error)
    samples = np.empty((num_rows, *first.shape), first.dtype)
    labels = np.zeros(num_rows, np.int64)

    def part(start: int) -> list[str]:
        reasons = []
        for row in range(start, min(start + 64, num_rows)):
            samples[row], labels[row], reason = read(source, row, on_error)
            reasons += [reason] if reason else []
        return reasons

    skipped: list[str] = []
    threads = min(8, os.cpu_count() or 1)
    with (
        ThreadPoolExecutor(threads) as pool,
        tqdm(total=num_rows, desc=f"reading {source.name}", delay=2, leave=False) as bar,
    ):
        for reasons in pool.map(part, range(0, num_rows, 64)):
            skipped += reasons
            bar.update(min(64, num_rows - bar.n))
    if skipped:
        shown = "; ".join(skipped[:3])
        log.warning("%d rows of %s replaced, of %d: %s", len(skipped), source.name, num_rows, shown)
    return Dataset(
        name=source.name,
        samples=samples,
        labels=labels,
        classes=source.classes,
        vocabulary=getattr(source, "vocabulary", ()),
        skipped=tuple(skipped),
        origin=source,
        known=getattr(source, "survey", None),
        sample_rate_hz=getattr(source, "sample_rate_hz", 0),
    )


def gather(
    source: Source, rows: Sequence[int], on_error: Literal["stop", "skip"]
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Some rows at once, for looking at them: (n, *shape), as scaled() has them, labels (n,)."""
    taken = [read(source, int(row), on_error) for row in rows]
    samples = scaled(np.stack([sample for sample, _, _ in taken]))
    return samples, np.array([label for _, label, _ in taken], np.int64)


def scaled(samples: NDArray[Any]) -> NDArray[Any]:
    """uint8 -> float32 in [-1, 1]; float32, int64 and records stay what they are."""
    if samples.dtype == np.uint8:
        return samples.astype(np.float32) / np.float32(127.5) - np.float32(1)
    kept = samples.dtype == np.int64 or samples.dtype.names
    return samples if kept else np.asarray(samples, np.float32)


def rows(
    seed: int,
    start: int,
    stop: int,
    num_rows: int,
    order: Callable[[int, int], NDArray[np.int64]] | None = None,
) -> NDArray[np.int64]:
    """Rows of the data set that are samples start..stop of a run: (stop - start,) int64.

    Each epoch is a permutation of its own, `order(seed, epoch)`; a batch may span two epochs, and
    no row is repeated within one.
    """
    order = order or (lambda seed, epoch: permutation(seed, epoch, num_rows))
    parts = []
    for epoch in range(start // num_rows, -(-stop // num_rows)):
        first = epoch * num_rows
        parts.append(order(seed, epoch)[max(start - first, 0) : stop - first])
    return np.concatenate(parts)


def share(batch: int, rank: int, world: int) -> tuple[int, int]:
    """First and last + 1 of a worker's rows in a global batch."""
    return batch * rank // world, batch * (rank + 1) // world


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, num_rows: int) -> NDArray[np.int64]:
    """A uniform permutation of `num_rows` rows: (num_rows,), not to be written to."""
    order = np.argsort(integers(seed, "order", [epoch], num_rows)[0], kind="stable")
    order.setflags(write=False)
    return order


def resize(images: NDArray[Any], shape: tuple[int, ...], high: float, name: str) -> Any:
    """(N, H, W) in [0, high] -> (N, 1, H', W') float32 in [-1, 1], bicubic where sizes differ.

    Raises ValueError unless `shape` is that of a grey image.
    """
    from PIL import Image

    if len(shape) != 3 or shape[0] != 1:
        raise ValueError(
            f"data {name!r} gives grey images, the model wants {shape};"
            f" set --model.shape 1 {images.shape[1]} {images.shape[2]}"
        )
    scaled = images.astype(np.float32) / np.float32(high)
    if scaled.shape[1:] != shape[1:]:
        size = (shape[2], shape[1])
        pictures = (Image.fromarray(image) for image in scaled)
        scaled = np.stack([np.asarray(p.resize(size, Image.Resampling.BICUBIC)) for p in pictures])
    return (scaled.clip(0, 1) * 2 - 1)[:, None]
