"""One file per kind of source, with `load(config, shape, split)`: the folder is the registry."""

import difflib
import hashlib
import pkgutil
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.latents import integers
from aigc.config import DataConfig, ModelConfig

Split = Literal["train", "test"]


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Labelled samples in memory."""

    name: str
    samples: NDArray[np.float32]
    """(N, *shape), images in [-1, 1]."""
    labels: NDArray[np.int64]
    """(N,) in [0, len(classes))."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.samples)

    def fingerprint(self) -> dict[str, Any]:
        """Name, count, classes and content hash: what a run was trained on."""
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


def rows(seed: int, start: int, stop: int, num_rows: int) -> NDArray[np.int64]:
    """Which rows of the data set are samples start..stop of a run: (stop - start,) int64.

    Each epoch is a permutation of its own, a function of (seed, epoch) alone; a batch may span
    two epochs, and no row is repeated within one.
    """
    epochs = range(start // num_rows, -(-stop // num_rows))
    order = np.concatenate([_permutation(seed, epoch, num_rows) for epoch in epochs])
    offset = epochs.start * num_rows
    return order[start - offset : stop - offset]


_last: dict[tuple[int, int, int], NDArray[np.int64]] = {}


def _permutation(seed: int, epoch: int, num_rows: int) -> NDArray[np.int64]:
    key = (seed, epoch, num_rows)
    if key not in _last:
        while len(_last) > 1:
            _last.pop(next(iter(_last)))
        _last[key] = np.argsort(integers(seed, "order", [epoch], num_rows)[0], kind="stable")
    return _last[key]


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
