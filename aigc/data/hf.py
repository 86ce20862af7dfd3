"""A data set of Hugging Face's `datasets`, as `save_to_disk` leaves it (extra `hf`).

The picture column is the one of type Image, the labels are of type ClassLabel, or else whole
numbers in a column called label. Splits are those that the data set has: train, and test or
validation; a single one has about a tenth of its rows for its test split.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.config import DataConfig
from aigc.data import CorruptRow, Split
from aigc.data._files import listing, sha256
from aigc.data._pictures import Pictures, classes_of, held_out

LABELS = ("label", "labels", "class", "cls", "target", "fine_label")
"""Names of label columns that say nothing by their type."""


@dataclass(frozen=True, kw_only=True)
class Saved(Pictures):
    """Rows of a data set on disk, memory mapped by `datasets`."""

    path: str
    part: str
    """Its split's name; empty if it has none."""
    image: str
    label: str | None
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def encoded(self, row: int) -> tuple[bytes, Any, str]:
        """See Pictures.encoded."""
        number = int(self.rows[row])
        record = _open(self.path, self.part, self.image)[number]
        picture = record[self.image]
        where = f"row {number} of {Path(self.path) / self.part}"
        if picture is None or (picture["bytes"] is None and picture["path"] is None):
            raise CorruptRow(f"{where} has no picture")
        try:
            content = picture["bytes"] or Path(picture["path"]).read_bytes()
        except OSError as error:
            raise CorruptRow(f"{where} cannot be read: {error}") from error
        return content, record[self.label] if self.label else None, where


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> Saved:
    """The data set in the folder `config.path`. sha256 covers its Arrow files."""
    try:
        import datasets
    except ImportError:
        raise ValueError("data source hf needs datasets; pip install 'aigc[hf]'") from None
    files = listing(config.path, (".arrow",), "hf")
    folder = Path(config.path).resolve()
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever Arrow, JSON or the library itself make of damage
        raise ValueError(f"{folder} is no data set that save_to_disk wrote: {error}") from error
    part, named = "", False
    if isinstance(saved, datasets.DatasetDict):
        test = next((name for name in ("test", "validation") if name in saved), "")
        named = "train" in saved and test != ""
        part = test if named and split == "test" else "train"
        if part not in saved:
            raise ValueError(f"{folder} has no split train, it has: {', '.join(saved)}")
        everything = [saved["train"], saved[test]] if named else [saved[part]]
        saved = saved[part]
    else:
        everything = [saved]
    image, label = _columns(folder, saved)
    rows = np.arange(len(saved))
    if not named:
        rows = np.flatnonzero(held_out("rows", len(saved)) == (split == "test"))
    content = sha256([f for f in files if not part or f.name.startswith(f"{part}/")])
    return Saved(
        name=folder.name,
        classes=_classes(everything, label),
        shape=shape,
        sha256=f"{content}/{split}",
        path=str(folder),
        part=part,
        image=image,
        label=label,
        rows=rows,
    )


def _columns(folder: Path, saved: Any) -> tuple[str, str | None]:
    """Names of the picture and the label column."""
    import datasets

    kinds = {name: type(feature) for name, feature in saved.features.items()}
    image = next((name for name, kind in kinds.items() if kind is datasets.Image), None)
    if image is None:
        raise ValueError(f"{folder} has no column of type Image, it has: {', '.join(kinds)}")
    label = next((name for name, kind in kinds.items() if kind is datasets.ClassLabel), None)
    return image, label or next((name for name in LABELS if name in kinds), None)


def _classes(splits: list[Any], label: str | None) -> tuple[str, ...]:
    if label is None:
        return ()
    names = getattr(splits[0].features[label], "names", None)
    if names:
        return tuple(names)
    values = [value for split in splits for value in split[label][:] if value is not None]
    return classes_of(np.array(values))


@lru_cache(maxsize=4)
def _open(path: str, part: str, image: str) -> Any:
    """The data set with its pictures left encoded; opened once in each process."""
    import datasets

    saved = datasets.load_from_disk(path)
    return (saved[part] if part else saved).cast_column(image, datasets.Image(decode=False))
