"""A data set of Hugging Face's `datasets`, as `save_to_disk` leaves it (extra `hf`).

The picture column is the one of type Image, or of several the one called image, or the one that
`data.column` names; the labels are of type ClassLabel, or else in a column called label. Splits are
those that the data set has, by any of their names: train, and test or validation; a single one has
about a tenth of its rows for its test split.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.config import DataConfig
from aigc.data import CorruptRow, NoRows, Split
from aigc.data.columns import column_of, labels_among, other_labels, picture_among
from aigc.data.content import sha256
from aigc.data.files import left_out, listing
from aigc.data.labels import Column, classified
from aigc.data.pictures import Pictures
from aigc.data.splits import TEST, TRAIN, Splits, held_out, of_names, rows_of
from aigc.data.survey import LeftOut, Survey

_BESIDE = ("dataset_info.json", "state.json", "dataset_dict.json")


@dataclass(frozen=True, kw_only=True)
class Saved(Pictures):
    """Rows of a data set on disk, memory mapped by `datasets`."""

    path: str
    part: str
    """Its split's name; empty if it has none."""
    image: str
    rows: NDArray[np.int64]

    def encoded(self, row: int) -> tuple[bytes, str]:
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
        return content, where


def load(
    config: DataConfig, shape: tuple[int, ...], split: Split, *, conditional: bool = True
) -> Saved:
    """The data set in the folder `config.path`. sha256 covers its Arrow files."""
    try:
        import datasets
    except ImportError:
        raise ValueError("data source hf needs datasets; pip install 'aigc[hf]'") from None
    files = listing(config.path, (".arrow",), "hf", beside=_BESIDE)
    folder = Path(config.path).expanduser().resolve()
    try:
        saved = datasets.load_from_disk(str(folder))
    except Exception as error:  # whatever Arrow, JSON or the library itself make of damage
        raise ValueError(f"{folder} is no data set that save_to_disk wrote: {error}") from error
    names = list(saved) if isinstance(saved, datasets.DatasetDict) else []
    splits = of_names(names, str(folder)) if names else of_names(["train"], str(folder))
    used = [name for name, part in zip(names, splits.parts, strict=False) if part]
    tables = [saved[name] for name in used] if used else [saved]
    image, as_before, label = _columns(folder, tables[0], config.column, conditional)
    codes = _codes(tables, [names.index(name) for name in used] or [0], splits)
    found = classified(
        _labels(tables, label),
        codes,
        splits,
        where=str(folder),
        conditional=conditional,
        declared=_declared(tables[0], label),
    )
    if not len(rows := rows_of(found.codes, split)):
        raise NoRows(f"{folder} has no row in its {split} split; add more rows")
    part = splits.name_of(TEST if splits.named and split == "test" else TRAIN) if names else ""
    first = sum(len(t) for t in tables[: used.index(part)]) if part else 0
    content = sha256([f for f in files.files if not part or f.name.startswith(f"{part}/")])
    labels = found.labels.taken(rows)
    return Saved(
        name=folder.name,
        shape=shape,
        sha256=f"{content}/{split}{'' if as_before else f'/{image}'}",
        labels=labels,
        survey=Survey(
            splits=splits.counts(found.codes),
            labels=labels.surveyed(),
            left_out=(*files.left_out, *_unused(names, splits)),
            notes=(*files.notes, *other_labels(label, tables[0].column_names), *found.notes),
        ),
        path=str(folder),
        part=part,
        image=image,
        rows=rows - first,
    )


def _columns(
    folder: Path, saved: Any, wanted: str, conditional: bool
) -> tuple[str, bool, str | None]:
    """The picture column, whether it is that of a run of before, and the label column."""
    import datasets

    kinds = {name: type(feature) for name, feature in saved.features.items()}
    images = [name for name, kind in kinds.items() if kind is datasets.Image]
    if not images:
        raise ValueError(f"{folder} has no column of type Image, it has: {', '.join(kinds)}")
    image, _ = picture_among(images, wanted, str(folder))
    typed = [name for name, kind in kinds.items() if kind is datasets.ClassLabel]
    # Before columns could be chosen, the first was taken, whatever its name.
    return image, image == images[0], labels_among(typed, list(kinds), str(folder), conditional)


def _codes(tables: list[Any], numbers: list[int], splits: Splits) -> NDArray[np.int8]:
    """TRAIN, TEST or UNUSED of every row of the tables, which are splits by their numbers."""
    codes = []
    for table, number in zip(tables, numbers, strict=True):
        code = splits.code(number)
        drawn = np.where(held_out("rows", len(table)), np.int8(TEST), np.int8(TRAIN))
        codes.append(drawn if code is None else np.full(len(table), code, np.int8))
    return np.concatenate(codes)


def _labels(tables: list[Any], label: str | None) -> Column | None:
    if label is None:
        return None
    columns = []
    for table in tables:
        if label in table.column_names:
            values = table.select_columns(label).with_format("arrow")[:][label]
            columns.append(column_of(values, label))
        else:
            columns.append(Column.of([None] * len(table)))
    return Column.joined(columns)


def _declared(table: Any, label: str | None) -> tuple[str, ...]:
    return tuple(getattr(table.features[label], "names", None) or ()) if label else ()


def _unused(names: list[str], splits: Splits) -> tuple[LeftOut, ...]:
    gone = [name for name, part in zip(names, splits.parts, strict=False) if part is None]
    return (
        (left_out("splits that are neither of train, test nor validation", gone),) if gone else ()
    )


@lru_cache(maxsize=4)
def _open(path: str, part: str, image: str) -> Any:
    """The data set with its pictures left encoded; opened once in each process."""
    import datasets

    saved = datasets.load_from_disk(path)
    return (saved[part] if part else saved).cast_column(image, datasets.Image(decode=False))
