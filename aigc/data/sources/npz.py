"""numpy arrays: one .npz file, or a folder of .npy files that are memory mapped.

Keys (or names of .npy files) of a split: `{split}_images` and `{split}_labels`, as MedMNIST has
them, or `x_{split}` and `y_{split}`, as Keras has; without those, `images` and `labels` (or `x` and
`y`), of which about a tenth of the rows is the test split. Files or folders named by the split do
as well: `train.npz` and `test.npz`. `samples` may stand for `images`; labels may be missing;
`classes` may name them. uint8 pictures are (N, H, W), (N, H, W, C) or (N, C, H, W) of any size;
floating-point samples are (N, *shape) at the model's shape, pictures in [-1, 1], or in [0, 1] with
`data.range`.
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aigc.config import DataConfig
from aigc.data import CorruptRow, NoRows, Sample, Source, Split, permutation
from aigc.data.content import File, sha256
from aigc.data.files import Listing, left_out, listing
from aigc.data.labels import Column, Labels, classified
from aigc.data.pictures import Pictures
from aigc.data.splits import (
    TEST,
    TRAIN,
    Part,
    Splits,
    divided,
    held_out,
    part_of,
    part_within,
    rows_of,
)
from aigc.data.survey import Survey, first_of

SAMPLES = ("images", "samples", "x")
LABELS = ("labels", "y")
NAMES = "classes"
CHANNELS = {1, 3, 4}
"""Channels of uint8 pictures."""
SCANNED_ROWS = 1024
"""Rows that are looked through at once for values below 0."""

Files = tuple[tuple[str, str], ...]
"""Path and stamp of each file: what an opened archive is remembered by."""
Key = tuple[str, str]
"""Path of the file, and name of the array in it."""
Arrays = dict[Key, NDArray[Any]]
_Meaning = tuple[str, Part | None]
"""Kind of an array, and the split that it is of."""


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Rows of an array, without its values: a loader process opens the files itself."""

    files: Files
    samples: Key
    rows: NDArray[np.int64]

    def take(self, row: int) -> tuple[NDArray[Any], str]:
        """A sample, and where it is from."""
        number = int(self.rows[row])
        path, name = self.samples
        sample = _open(self.files)[self.samples][number]
        return sample, f"row {number} of {name} in {path}"


@dataclass(frozen=True, kw_only=True)
class PictureArrays(Pictures):
    """uint8 pictures."""

    rows: _Rows

    def encoded(self, row: int) -> tuple[Image.Image, str]:
        """See Pictures.encoded."""
        pixels, where = self.rows.take(row)
        return Image.fromarray(_channels_last(pixels)), where


@dataclass(frozen=True, kw_only=True)
class FloatArrays:
    """Floating-point samples at the model's shape."""

    name: str
    sha256: str
    labels: Labels
    survey: Survey
    rows: _Rows
    is_image: bool
    from_zero: bool
    """Pictures are in [0, 1], not in [-1, 1]."""

    @property
    def classes(self) -> tuple[str, ...]:
        """See Source.classes."""
        return self.labels.classes

    def __len__(self) -> int:
        return len(self.rows.rows)

    def read(self, row: int) -> tuple[Sample, int]:
        """See Source.read."""
        sample, where = self.rows.take(row)
        if not np.isfinite(sample).all():
            raise CorruptRow(f"{where} is not finite")
        if self.is_image:
            low = 0 if self.from_zero else -1
            if sample.min() < low or sample.max() > 1:
                raise CorruptRow(
                    f"{where} has pixels outside [{low}, 1]; scale them, or save uint8"
                )
            if self.from_zero:
                sample = sample * 2 - 1
        return np.asarray(sample, np.float32), self.labels.of(row, where)

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


@dataclass(frozen=True, kw_only=True)
class _Part:
    """The arrays of one split, or of all."""

    samples: Key
    labels: Key | None


@dataclass(frozen=True, kw_only=True)
class _Chosen:
    """The arrays of a data set by their meaning."""

    parts: tuple[_Part, ...]
    splits: Splits
    """Splits of the parts."""
    names: Key | None
    """Array of the names of classes."""
    kind: str
    """Kind of the arrays where an earlier version of this source would have read another, which the
    fingerprint then names; else empty."""
    unread: tuple[str, ...]


def load(
    config: DataConfig, shape: tuple[int, ...], split: Split, *, conditional: bool = True
) -> Source:
    """The arrays of `config.path`. sha256 covers the files."""
    found = listing(config.path, (".npz", ".npy"), "npz").readable(config.on_error)
    paths = tuple((_path(file), file.stamp) for file in found.files)
    try:
        arrays = _open(paths)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{config.path} is no whole archive of plain arrays: {error}") from error
    chosen = _choose(found, arrays, config.column, conditional)
    for part in chosen.parts:
        _check_samples(config.path, arrays[part.samples], part.samples[1], shape)
    counts = [len(arrays[part.samples]) for part in chosen.parts]
    classes = classified(
        _column(found.where, arrays, chosen.parts, conditional),
        _codes(chosen.splits, counts),
        chosen.splits,
        where=config.path,
        conditional=conditional,
        declared=[str(name) for name in arrays[chosen.names]] if chosen.names else (),
    )
    if not len(rows := rows_of(classes.codes, split)):
        raise NoRows(f"{config.path} has no row in its {split} split; add more rows")
    starts = np.cumsum([0, *counts])
    number = int(np.searchsorted(starts, rows[0], side="right")) - 1
    samples = chosen.parts[number].samples
    labels = classes.labels.taken(rows)
    is_float = arrays[samples].dtype != np.uint8
    is_image = len(shape) == 3
    if is_float and is_image and not config.range:
        _check_range(config.path, arrays, chosen.parts)
    from_zero = is_float and is_image and config.range == "0..1"
    reading = f"{f'/{chosen.kind}' if chosen.kind else ''}{'/0..1' if from_zero else ''}"
    unread = (left_out("arrays of other names", chosen.unread),) if chosen.unread else ()
    facts: dict[str, Any] = {
        "name": Path(config.path).stem,
        "sha256": f"{sha256(found.files)}/{split}{reading}",
        "labels": labels,
        "survey": Survey(
            splits=chosen.splits.counts(classes.codes),
            labels=labels.surveyed(),
            left_out=(*found.left_out, *unread),
            notes=(*found.notes, *classes.notes, *_axes(arrays, chosen.parts)),
        ),
        "rows": _Rows(files=paths, samples=samples, rows=rows - starts[number]),
    }
    if not is_float:
        return PictureArrays(shape=shape, **facts)
    return FloatArrays(is_image=is_image, from_zero=from_zero, **facts)


def _path(file: File) -> str:
    if file.path is None:
        raise ValueError(f"data source npz reads files of this machine, {file.uri} is none")
    return file.path


def _choose(found: Listing, arrays: Arrays, column: str, conditional: bool) -> _Chosen:
    """Choose the arrays that are meant; labels without `conditional` only where that is clear.

    Raises ValueError where several could be, or none is.
    """
    of_file = {_path(f): _part_of_file(f.name, len(found.files)) for f in found.files}
    meanings = {key: _meaning(key[1], of_file[key[0]]) for key in arrays}
    kinds = {kind for kind, _ in meanings.values()}
    formerly = next((kind for kind in SAMPLES if kind in kinds), None)
    kind = column.lower() or ("images" if "images" in kinds else formerly)
    if kind is None or kind not in kinds:
        wanted = f"{column!r}" if column else "images, samples or x, with train_ or without"
        raise ValueError(
            f"{found.where} has no array {wanted}, it has:"
            f" {', '.join(sorted(name for _, name in arrays))}; set --data.column to the samples"
        )
    if not column and kind != "images" and {"samples", "x"} <= kinds:
        raise ValueError(f"{found.where} has both samples and x; set --data.column samples, or x")
    parts = {part for k, part in meanings.values() if k == kind}
    if "train" in parts:
        parts = parts - {None}
    elif None in parts and len(parts) > 1:  # images beside test_images are those to train on
        meanings = {key: (k, part or "train") for key, (k, part) in meanings.items()}
        parts = {part or "train" for part in parts}
    elif None not in parts:
        raise ValueError(
            f"{found.where} has {kind} of {first_of(sorted(map(str, parts)))}, but none to train"
            " on; name them train"
        )
    ordered = sorted(parts, key=str)
    chosen = tuple(
        _Part(
            samples=_only(found, meanings, (kind, part)),
            labels=_labels_of(found, meanings, part, conditional),
        )
        for part in ordered
    )
    spelled: dict[Part, str] = {part: part for part in ordered if part is not None}
    used = {key for part in chosen for key in (part.samples, part.labels)}
    names = [key for key in meanings if key[1] == NAMES]
    if conditional and len({tuple(map(str, arrays[key])) for key in names}) > 1:
        raise ValueError(
            f"the files of {found.where} name the classes in two ways; name them alike"
        )
    return _Chosen(
        parts=chosen,
        splits=Splits(
            parts=tuple(ordered) if spelled else (None,),
            rests=tuple(str(part) for part in ordered),
            spelled=spelled,
        ),
        names=names[0] if names else None,
        kind="" if kind == formerly else kind,
        unread=tuple(sorted(name for path, name in set(meanings) - used - set(names))),
    )


def _part_of_file(name: str, num_files: int) -> Part | None:
    """The split that the folders and the name of a file tell; None of a lone file."""
    if num_files < 2:
        return None
    path = PurePosixPath(name)
    parts = (*map(part_of, path.parts[:-1]), part_within(path.stem))
    return next((part for part in parts if part is not None), None)


def _meaning(name: str, of_file: Part | None) -> _Meaning:
    """`train_images` -> images of train: what an array is, and of which split."""
    part, rest = divided(name)
    return rest.lower(), part or of_file


def _labels_of(
    found: Listing, meanings: Mapping[Key, _Meaning], part: Part | None, conditional: bool
) -> Key | None:
    """The labels of a split, if there are any; of several none, unless `conditional`."""
    kind = next((kind for kind in LABELS if (kind, part) in meanings.values()), None)
    if kind is None or (not conditional and [*meanings.values()].count((kind, part)) > 1):
        return None
    return _only(found, meanings, (kind, part))


def _only(found: Listing, meanings: Mapping[Key, _Meaning], wanted: _Meaning) -> Key:
    """The one array of a meaning. Raises ValueError for several."""
    keys = [key for key, meaning in meanings.items() if meaning == wanted]
    if len(keys) > 1:
        places = " and ".join(f"{name} of {path}" for path, name in keys[:2])
        raise ValueError(
            f"{found.where} has {places}, which could both be meant; put them into one array, name"
            " the files by splits (train.npz, test.npz), or set --data.path to one of them"
        )
    return keys[0]


def _codes(splits: Splits, counts: Sequence[int]) -> NDArray[np.int8]:
    """TRAIN, TEST or UNUSED of every row of all parts."""
    codes = []
    for number, count in enumerate(counts):
        code = splits.code(number)
        drawn = np.where(held_out("rows", count), np.int8(TEST), np.int8(TRAIN))
        codes.append(drawn if code is None else np.full(count, code, np.int8))
    return np.concatenate(codes)


def _column(where: str, arrays: Arrays, parts: Sequence[_Part], conditional: bool) -> Column | None:
    """Labels of the rows of all parts; None without any. Raises ValueError, where `conditional`,
    for labels that are not one a row."""
    columns = []
    for part in parts:
        count = len(arrays[part.samples])
        labels = None if part.labels is None else arrays[part.labels]
        if part.labels is None or labels is None:
            columns.append(Column.of([None] * count))
        elif labels.size != count:
            if conditional:
                raise ValueError(
                    f"{where} has {count} {part.samples[1]} but {part.labels[1]} of shape"
                    f" {labels.shape}; give one label a row, or set --model.num-classes 0"
                )
            return None
        else:
            flat = labels.reshape(-1)
            dated = flat.dtype.kind in "Mm"
            columns.append(Column.of(flat.astype(str) if dated else flat))
    return Column.joined(columns)


def _check_samples(path: str, array: NDArray[Any], name: str, shape: tuple[int, ...]) -> None:
    """Raise ValueError for an array that cannot be what it is called."""
    if not array.ndim or not len(array):
        raise ValueError(f"{path} has no {name}")
    if array.dtype == np.uint8:
        if not (array.ndim == 3 or (array.ndim == 4 and CHANNELS & {*array.shape[1::2]})):
            raise ValueError(
                f"{name} of {path} are {array.shape}, uint8 pictures are (N, H, W),"
                " (N, H, W, C) or (N, C, H, W)"
            )
    elif array.dtype.kind != "f" or array.shape[1:] != shape:
        raise ValueError(
            f"{name} of {path} are {array.shape} {array.dtype}; give uint8 pictures of any"
            f" size, or floating-point samples of the model's shape {shape}"
        )


def _axes(arrays: Arrays, parts: Sequence[_Part]) -> list[str]:
    """Notes on pictures whose channels could be the first axis or the last."""
    return [
        f"{name} {shape} are read as (N, H, W, C), though they could be (N, C, H, W) by their"
        " sizes; if they are, save them with channels last"
        for name, shape in dict.fromkeys((p.samples[1], arrays[p.samples].shape) for p in parts)
        if len(shape) == 4 and {shape[1], shape[3]} <= CHANNELS
        if arrays[parts[0].samples].dtype == np.uint8
    ]


def _check_range(path: str, arrays: Arrays, parts: Sequence[_Part]) -> None:
    """Raise ValueError for pictures of which no value tells whether black is 0 or -1."""
    for part in parts:
        array = arrays[part.samples]
        for start in range(0, len(array), SCANNED_ROWS):
            block = array[start : start + SCANNED_ROWS]
            if (block < 0).any() or (block > 1).any():
                return
    raise ValueError(
        f"{path} has floating-point pictures whose values all lie in [0, 1]; set --data.range 0..1"
        " if 0 is black, or --data.range=-1..1 if -1 would be"
    )


def _channels_last(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(H, W), (H, W, C) or (C, H, W) -> what Pillow takes."""
    if pixels.ndim == 3 and pixels.shape[-1] not in CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    return np.ascontiguousarray(pixels[..., 0] if pixels.shape[2:] == (1,) else pixels)


@lru_cache(maxsize=2)
def _open(files: Files) -> Arrays:
    """Arrays by file and key: those of .npz files in memory, .npy files mapped; never unpickled."""
    arrays: Arrays = {}
    for path, _ in files:
        if path.endswith(".npz"):
            with np.load(path, allow_pickle=False) as archive:
                arrays |= {(path, key): archive[key] for key in archive.files}
        else:
            stem = Path(path).stem
            arrays[path, stem] = np.load(path, mmap_mode="r", allow_pickle=False)
    return arrays
