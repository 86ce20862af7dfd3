"""A few pictures written in every format that a source reads."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from aigc.config import DataConfig

KINDS = ("folder", "npz", "hf", "parquet", "webdataset")
SHAPE = (3, 8, 6)
CLASSES = ("cat", "dog", "eel")
TRAIN, TEST = 13, 6

Row = tuple[bytes, int | None]


def picture(number: int) -> NDArray[np.uint8]:
    """(8, 6, 3): noise of the whole range, another one for each number."""
    pixels = np.random.default_rng(number).integers(0, 256, (8, 6, 3), np.uint8)
    pixels[0, 0], pixels[0, 1] = 0, 255
    return pixels


def png(pixels: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "png")
    return buffer.getvalue()


def pictures(split: str) -> list[Row]:
    numbers = range(TRAIN) if split == "train" else range(100, 100 + TEST)
    return [(png(picture(number)), number % 3) for number in numbers]


def write(kind: str, folder: Path, splits: dict[str, list[Row]] | None = None) -> DataConfig:
    """Write what a source of that kind reads into `folder`, in several shards where it has them."""
    splits = splits or {"train": pictures("train"), "test": pictures("test")}
    for split, rows in splits.items():
        if kind == "folder":
            _folder(folder / split, rows)
        elif kind == "parquet":
            for number, part in enumerate(_parts(rows)):
                parquet(folder / f"{split}-{number:05}.parquet", part)
        elif kind == "webdataset":
            for number, part in enumerate(_parts(rows)):
                tar(folder / f"{split}-{number:05}.tar", part)
    if kind == "npz":
        return DataConfig(source="npz", path=str(_npz(folder / "pets.npz", splits)), memory_mb=0)
    if kind == "hf":
        _saved(folder / "pets", splits)
        return DataConfig(source="hf", path=str(folder / "pets"), memory_mb=0)
    return DataConfig(source=kind, path=str(folder), memory_mb=0)


def _parts(rows: list[Row]) -> list[list[Row]]:
    """Shards of different lengths."""
    return [part for part in (rows[:5], rows[5:9], rows[9:]) if part]


def _folder(folder: Path, rows: list[Row]) -> None:
    for number, (content, label) in enumerate(rows):
        path = folder / CLASSES[label or 0] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _npz(path: Path, splits: dict[str, list[Row]]) -> Path:
    arrays = {}
    for split, rows in splits.items():
        opened = [np.asarray(Image.open(io.BytesIO(content))) for content, _ in rows]
        arrays[f"{split}_images"] = np.stack(opened)
        arrays[f"{split}_labels"] = np.array([[label] for _, label in rows])
    np.savez(path, allow_pickle=False, **arrays, classes=np.array(CLASSES))
    return path


def _saved(path: Path, splits: dict[str, list[Row]]) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))}
    )
    parts = {}
    for split, rows in splits.items():
        table = pa.table(
            {
                "image": pa.array([{"bytes": c, "path": None} for c, _ in rows], _STRUCT),
                "label": pa.array([label for _, label in rows], pa.int64()),
            }
        ).replace_schema_metadata(features.arrow_schema.metadata)
        parts[split] = datasets.Dataset(table)
    datasets.DatasetDict(parts).save_to_disk(str(path))


_STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def parquet(path: Path, rows: list[Row]) -> None:
    """A file as Hugging Face writes it, without class names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {
        "image": pa.array([{"bytes": c, "path": None} for c, _ in rows], _STRUCT),
        "label": pa.array([label for _, label in rows], pa.int64()),
    }
    pq.write_table(pa.table(columns), path, row_group_size=3)


def tar(path: Path, rows: list[Row]) -> None:
    """A label every other time as cls, else as json; `None` leaves it out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as file:
        for number, (content, label) in enumerate(rows):
            members = {"png": content}
            if label is not None:
                text = str(label) if number % 2 else json.dumps({"label": label})
                members["cls" if number % 2 else "json"] = text.encode()
            for suffix, body in members.items():
                member = tarfile.TarInfo(f"{path.stem}/{number:04}.{suffix}")
                member.size = len(body)
                file.addfile(member, io.BytesIO(body))
