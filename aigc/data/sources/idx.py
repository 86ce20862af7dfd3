"""A folder of IDX files, gzipped or not, as MNIST and its relatives come.

Format: http://yann.lecun.com/exdb/mnist/ (magic 0x08 = unsigned byte, number of axes, sizes).
"""

import gzip
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aigc.config import DataConfig
from aigc.data import Dataset, NoRows, Split, resize
from aigc.data.labels import Column, classified
from aigc.data.splits import TEST, TRAIN, Splits, rows_of
from aigc.data.survey import Survey

_PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}


def load(
    config: DataConfig, shape: tuple[int, ...], split: Split, *, conditional: bool = True
) -> Dataset:
    """`train-*` or `t10k-*` images-idx3-ubyte and labels-idx1-ubyte of the folder `config.path`."""
    folder = Path(config.path).expanduser()
    if not config.path or not folder.is_dir():
        raise ValueError(
            f"data source idx needs a folder of IDX files, {config.path!r} is none;"
            " set --data.path DIR"
        )
    images = _read(folder, f"{_PREFIX[split]}-images-idx3-ubyte", axes=3)
    labels = {
        part: _read(folder, _labels(part), axes=1)
        for part in _PREFIX
        if part in (split, "train") or _found(folder, _labels(part))
    }
    if len(images) != len(labels[split]):
        raise ValueError(
            f"{folder} has {len(images)} {split} images but {len(labels[split])} labels"
        )
    codes = [np.full(len(labels[p]), TRAIN if p == "train" else TEST, np.int8) for p in labels]
    splits = Splits(
        parts=tuple(labels), rests=tuple(labels), spelled={part: part for part in labels}
    )
    found = classified(
        Column.of(np.concatenate([*labels.values()])),
        np.concatenate(codes),
        splits,
        where=str(folder),
        conditional=conditional,
    )
    indices = found.labels.indices[rows_of(found.codes, split)]
    return Dataset(
        name=folder.resolve().name,
        samples=resize(images, shape, high=255, name=folder.name),
        labels=indices,
        classes=found.labels.classes,
        known=Survey(splits=splits.counts(found.codes), labels=indices, notes=found.notes),
    )


def _labels(split: Split) -> str:
    return f"{_PREFIX[split]}-labels-idx1-ubyte"


def _found(folder: Path, name: str) -> Path | None:
    """A file of that name, gzipped or not."""
    return next((p for p in (folder / name, folder / f"{name}.gz") if p.exists()), None)


def _read(folder: Path, name: str, axes: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes. Raises ValueError for any other content."""
    path = _found(folder, name)
    if path is None:
        names = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        lacks = NoRows if name.startswith(_PREFIX["test"]) else ValueError
        other = any(folder.glob("*images-idx3-ubyte*"))
        cure = f"; rename what is meant by it to {name}, or {name}.gz" if other else ""
        raise lacks(f"{folder} holds neither {name} nor {name}.gz, it holds: {names}{cure}")
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{path} is no whole gzip file: {error}") from error
    if len(data) < 4 + 4 * axes or data[:3] != b"\0\0\x08" or data[3] != axes:
        raise ValueError(f"{path} is no IDX file of unsigned bytes with {axes} axes")
    sizes = struct.unpack(f">{axes}I", data[4 : 4 + 4 * axes])
    body = np.frombuffer(data, np.uint8, offset=4 + 4 * axes)
    if body.size != np.prod(sizes, dtype=np.int64) or body.size == 0:
        raise ValueError(f"{path} says {sizes} but holds {body.size} bytes; it is cut off or empty")
    return body.reshape(sizes)
