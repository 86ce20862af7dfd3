"""One file per kind of source, with `load(config, shape, split)`: the folder is the registry."""

import difflib
import hashlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.latents import integers
from aigc.config import DataConfig, ModelConfig

Split = Literal["train", "test"]
Sample = NDArray[np.float32] | NDArray[np.uint8]


class CorruptRow(ValueError):
    """A row that cannot be read; the message names it and says why."""


class Source(Protocol):
    """Labelled samples by row number: in memory (`Dataset`), or read when they are due."""

    @property
    def name(self) -> str:
        """Of the data set."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names in the order of their labels; empty without labels."""

    def __len__(self) -> int:
        """Number of rows."""

    def read(self, row: int) -> tuple[Sample, int]:
        """One sample and its label: (*shape) float32 in [-1, 1], or (C, H, W) uint8 that the feed
        scales to it. Called in worker processes. Raises CorruptRow."""

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """The permutation of all rows that is an epoch: (N,), a function of its arguments alone."""

    def fingerprint(self) -> dict[str, Any]:
        """Name, count, classes and content hash: what a run was trained on."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """A Source in memory."""

    name: str
    samples: NDArray[Any]
    """(N, *shape): float32, images in [-1, 1]; or uint8 images."""
    labels: NDArray[np.int64]
    """(N,) in [0, len(classes))."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def read(self, row: int) -> tuple[Sample, int]:
        """See Source.read."""
        return self.samples[row], int(self.labels[row])

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """See Source.order."""
        return permutation(seed, epoch, len(self))

    def fingerprint(self) -> dict[str, Any]:
        """See Source.fingerprint."""
        content = hashlib.sha256(self.samples.tobytes())
        content.update(self.labels.tobytes())
        return {
            "name": self.name,
            "samples": len(self),
            "classes": list(self.classes),
            "sha256": content.hexdigest(),
        }


def names() -> list[str]:
    """Every source there is."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def load(config: DataConfig, model: ModelConfig, split: Split = "train") -> Dataset:
    """Load a split at the shape that a model wants.

    Raises ValueError for an unknown source, another shape than the model's, or other classes.
    """
    if config.source not in names():
        near = difflib.get_close_matches(config.source, names(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(names())}"
        raise ValueError(f"unknown data source {config.source!r}; {hint}")
    dataset: Dataset = import_module(f"{__name__}.{config.source}").load(config, model.shape, split)
    if model.num_classes not in (0, len(dataset.classes)):
        raise ValueError(
            f"num_classes is {model.num_classes}, data {dataset.name!r} has"
            f" {len(dataset.classes)} classes; set --model.num-classes {len(dataset.classes)} or 0"
        )
    return dataset


def rows(
    seed: int,
    start: int,
    stop: int,
    num_rows: int,
    order: Callable[[int, int], NDArray[np.int64]] | None = None,
) -> NDArray[np.int64]:
    """Which rows of the data set are samples start..stop of a run: (stop - start,) int64.

    Each epoch is a permutation of its own, `order(seed, epoch)`; a batch may span two epochs, and
    no row is repeated within one.
    """
    order = order or (lambda seed, epoch: permutation(seed, epoch, num_rows))
    parts = []
    for epoch in range(start // num_rows, -(-stop // num_rows)):
        first = epoch * num_rows
        parts.append(order(seed, epoch)[max(start - first, 0) : stop - first])
    return np.concatenate(parts)


def read(source: Source, row: int, on_error: str) -> tuple[Sample, int, str | None]:
    """A sample, its label, and what is wrong if another row took its place.

    With on_error "skip" that is the next row that can be read: batches keep their size, and what
    is at a position stays a function of the position. Raises CorruptRow with "stop".
    """
    said = None
    for step in range(len(source)):
        try:
            sample, label = source.read((row + step) % len(source))
        except CorruptRow as error:
            if on_error == "stop":
                raise
            said = said or str(error)
        else:
            return sample, label, said
    raise CorruptRow(f"no row of {source.name} can be read: {said}")


def permutation(seed: int, epoch: int, num_rows: int) -> NDArray[np.int64]:
    """A uniform permutation of `num_rows` rows: (num_rows,)."""
    key = (seed, epoch, num_rows)
    if key not in _last:
        while len(_last) > 1:
            _last.pop(next(iter(_last)))
        _last[key] = np.argsort(integers(seed, "order", [epoch], num_rows)[0], kind="stable")
    return _last[key]


_last: dict[tuple[int, int, int], NDArray[np.int64]] = {}


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
