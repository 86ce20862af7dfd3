"""numpy arrays: one .npz file, or a folder of .npy files that are memory mapped.

Keys (or file names) of a split: `{split}_images` and `{split}_labels`, as MedMNIST has them, or
`x_{split}` and `y_{split}`, as Keras has; without those, `images` and `labels` (or `x` and `y`),
of which about a tenth of the rows is the test split. `samples` may stand for `images`; labels may
be missing; `classes` may name them. uint8 pictures are (N, H, W), (N, H, W, C) or (N, C, H, W) of
any size; floating-point samples are (N, *shape) at the model's shape, pictures in [-1, 1].
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aigc.config import DataConfig
from aigc.data import CorruptRow, Sample, Source, Split, permutation
from aigc.data._files import listing, sha256
from aigc.data._pictures import Pictures, classes_of, held_out, index_of

Files = tuple[tuple[str, str], ...]
"""URI-free path and stamp of each file: what an opened archive is remembered by."""


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Which arrays, and which rows of them; a loader process opens the files itself."""

    files: Files
    samples: str
    labels: str | None
    rows: NDArray[np.int64]

    def take(self, row: int) -> tuple[NDArray[Any], Any, str]:
        """A sample, its label and where it is from."""
        number = int(self.rows[row])
        arrays = _open(self.files)
        label = None if self.labels is None else arrays[self.labels].reshape(-1)[number]
        where = f"row {number} of {self.samples} in {self.files[0][0]}"
        return arrays[self.samples][number], label, where


@dataclass(frozen=True, kw_only=True)
class PictureArrays(Pictures):
    """uint8 pictures."""

    rows: _Rows

    def __len__(self) -> int:
        return len(self.rows.rows)

    def encoded(self, row: int) -> tuple[Image.Image, Any, str]:
        """See Pictures.encoded."""
        pixels, label, where = self.rows.take(row)
        return Image.fromarray(_channels_last(pixels)), label, where


@dataclass(frozen=True, kw_only=True)
class FloatArrays:
    """Floating-point samples at the model's shape."""

    name: str
    classes: tuple[str, ...]
    sha256: str
    rows: _Rows
    is_image: bool

    def __len__(self) -> int:
        return len(self.rows.rows)

    def read(self, row: int) -> tuple[Sample, int]:
        """See Source.read."""
        sample, label, where = self.rows.take(row)
        if not np.isfinite(sample).all():
            raise CorruptRow(f"{where} is not finite")
        if self.is_image and np.abs(sample).max() > 1:
            raise CorruptRow(f"{where} has pixels outside [-1, 1]; scale them, or save uint8")
        return np.asarray(sample, np.float32), index_of(label, self.classes, where)

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """See Source.order."""
        return permutation(seed, epoch, len(self))

    def fingerprint(self) -> dict[str, Any]:
        """See Source.fingerprint."""
        return {
            "name": self.name,
            "samples": len(self),
            "classes": list(self.classes),
            "sha256": self.sha256,
        }


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Source:
    """The arrays of `config.path`. sha256 covers the files."""
    files = listing(config.path, (".npz", ".npy"), "npz")
    paths = tuple((file.uri.removeprefix("file://"), file.stamp) for file in files)
    try:
        arrays = _open(paths)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{config.path} is no whole archive of plain arrays: {error}") from error
    names = [*(f"{split}_{k}" for k in ("images", "samples")), f"x_{split}"]
    samples = next((key for key in names if key in arrays), None)
    named = samples is not None
    samples = samples or next((key for key in ("images", "samples", "x") if key in arrays), None)
    if samples is None:
        raise ValueError(
            f"{config.path} has neither {' nor '.join(names)} nor images, it has:"
            f" {', '.join(sorted(arrays))}"
        )
    wanted = (f"{split}_labels", f"y_{split}") if named else ("labels", "y")
    labels = next((key for key in wanted if key in arrays), None)
    _check(config.path, arrays, samples, labels, shape)
    num_rows = len(arrays[samples])
    which = np.arange(num_rows)
    if not named:
        which = np.flatnonzero(held_out("rows", num_rows) == (split == "test"))
    facts: dict[str, Any] = {
        "name": Path(config.path).stem,
        "classes": _classes(arrays, labels),
        "sha256": f"{sha256(files)}/{split}",
        "rows": _Rows(files=paths, samples=samples, labels=labels, rows=which),
    }
    if arrays[samples].dtype == np.uint8:
        return PictureArrays(shape=shape, **facts)
    return FloatArrays(is_image=len(shape) == 3, **facts)


def _classes(arrays: Mapping[str, NDArray[Any]], labels: str | None) -> tuple[str, ...]:
    if labels is None:
        return ()
    if "classes" in arrays:
        return tuple(str(name) for name in arrays["classes"])
    both = [labels.replace(split, other) for split, other in (("train", "test"), ("test", "train"))]
    found = {key: arrays[key].reshape(-1) for key in (labels, *both) if key in arrays}
    return classes_of(np.concatenate([*found.values()]))


def _check(
    path: str,
    arrays: Mapping[str, NDArray[Any]],
    samples: str,
    labels: str | None,
    shape: tuple[int, ...],
) -> None:
    """Raise ValueError for arrays that cannot be what they are called."""
    array = arrays[samples]
    if labels is not None and arrays[labels].size != len(array):
        raise ValueError(f"{path} has {len(array)} {samples} but {arrays[labels].size} {labels}")
    if not len(array):
        raise ValueError(f"{path} has no {samples}")
    if array.dtype == np.uint8:
        if not (array.ndim == 3 or (array.ndim == 4 and {1, 3, 4} & {*array.shape[1::2]})):
            raise ValueError(
                f"{samples} of {path} are {array.shape}, uint8 pictures are (N, H, W),"
                " (N, H, W, C) or (N, C, H, W)"
            )
    elif array.dtype.kind != "f" or array.shape[1:] != shape:
        raise ValueError(
            f"{samples} of {path} are {array.shape} {array.dtype}; give uint8 pictures of any"
            f" size, or floating-point samples of the model's shape {shape}"
        )


def _channels_last(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W), (H, W, C) or (C, H, W) -> what Pillow takes."""
    if pixels.ndim == 3 and pixels.shape[-1] not in (1, 3, 4):
        pixels = pixels.transpose(1, 2, 0)
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


@lru_cache(maxsize=2)
def _open(files: Files) -> dict[str, NDArray[Any]]:
    """Arrays by key: those of .npz files in memory, .npy files mapped; never unpickled."""
    arrays: dict[str, NDArray[Any]] = {}
    for path, _ in files:
        if path.endswith(".npz"):
            with np.load(path, allow_pickle=False) as archive:
                arrays |= {key: archive[key] for key in archive.files}
        else:
            arrays[Path(path).stem] = np.load(path, mmap_mode="r", allow_pickle=False)
    return arrays
