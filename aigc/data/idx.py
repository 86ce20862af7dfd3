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
from aigc.data import Dataset, Split, resize

_PREFIX: dict[Split, str] = {"train": "train", "test": "t10k"}


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Dataset:
    """`train-*` or `t10k-*` images-idx3-ubyte and labels-idx1-ubyte of the folder `config.path`."""
    folder = Path(config.path)
    if not config.path or not folder.is_dir():
        raise ValueError(
            f"data source idx needs a folder of IDX files, {config.path!r} is none;"
            " set --data.path DIR"
        )
    images = _read(folder, f"{_PREFIX[split]}-images-idx3-ubyte", axes=3)
    labels = _read(folder, f"{_PREFIX[split]}-labels-idx1-ubyte", axes=1).astype(np.int64)
    if len(images) != len(labels):
        raise ValueError(f"{folder} has {len(images)} {split} images but {len(labels)} labels")
    return Dataset(
        name=folder.resolve().name,
        samples=resize(images, shape, high=255, name=folder.name),
        labels=labels,
        classes=tuple(str(i) for i in range(int(labels.max()) + 1)),
    )


def _read(folder: Path, name: str, axes: int) -> NDArray[np.uint8]:
    """An IDX file of unsigned bytes. Raises ValueError for any other content."""
    for path in (folder / name, folder / f"{name}.gz"):
        if path.exists():
            break
    else:
        found = ", ".join(sorted(p.name for p in folder.iterdir())) or "nothing"
        raise ValueError(f"{folder} holds neither {name} nor {name}.gz, it holds: {found}")
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
