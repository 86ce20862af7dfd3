"""Labels as data have them -> classes 0..k-1, by the values that occur in the training split.

A value may be a whole number, a name, a truth value, a decimal, a date, a member of a category: its
class has the name that it is written by. What is no label (None, NaN, an empty name, a number below
0) makes no class: its row cannot be read where labels are asked for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.data import CorruptRow
from aigc.data.splits import TEST, TRAIN, UNUSED, Splits
from aigc.data.survey import first_of

MAX_CLASSES = 65_536
NO_LABEL = -1
LABELS = ("label", "labels", "class", "cls", "target", "fine_label")
"""Names of label columns that say nothing by their type, in the order of their preference."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """Labels as they are in the data."""

    values: tuple[Any, ...]
    """Distinct ones."""
    codes: NDArray[np.int64]
    """(N,) index of each row's value, NO_LABEL without one."""
    unusable: str = ""
    """Why these are no labels at all."""

    @classmethod
    def of(cls, labels: NDArray[Any] | Sequence[Any]) -> "Column":
        """Column of an array (N,), or of N hashable Python values."""
        if isinstance(labels, np.ndarray) and labels.dtype.kind == "c":
            none = np.full(labels.shape, NO_LABEL, np.int64)
            return cls(values=(), codes=none, unusable="labels are complex numbers")
        if isinstance(labels, np.ndarray) and labels.dtype.kind in "iufbSU":
            found, codes = np.unique(labels, return_inverse=True)
            return cls(values=tuple(found), codes=codes.reshape(-1).astype(np.int64))
        index: dict[Any, int] = {None: NO_LABEL}
        codes = np.fromiter(
            (index.setdefault(value, len(index) - 1) for value in labels), np.int64, len(labels)
        )
        return cls(values=tuple(index)[1:], codes=codes)

    @classmethod
    def joined(cls, columns: Sequence["Column"]) -> "Column":
        """The rows of several, in turn."""
        index: dict[Any, int] = {}
        parts = []
        for column in columns:
            own = [index.setdefault(value, len(index)) for value in column.values]
            parts.append(np.array([*own, NO_LABEL], np.int64)[column.codes])
        unusable = next((column.unusable for column in columns if column.unusable), "")
        codes = np.concatenate([*parts, np.empty(0, np.int64)])
        return cls(values=tuple(index), codes=codes, unusable=unusable)


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The class of each row of a split."""

    classes: tuple[str, ...]
    indices: NDArray[np.int64]
    """(N,) in [0, len(classes)); NO_LABEL without a label; NO_LABEL - 1 - i for the i-th of `odd`.
    Zeros without classes."""
    odd: tuple[str, ...] = ()
    """Values that are no class."""

    def of(self, row: int, where: str) -> int:
        """The class of a row. Raises CorruptRow, naming `where`, for one without."""
        index = int(self.indices[row])
        if index >= 0:
            return index
        what = "no label" if index == NO_LABEL else f"label {self.odd[NO_LABEL - 1 - index]}"
        raise CorruptRow(f"{where} has {what}; labels are {_allowed(self.classes)}")

    def taken(self, rows: NDArray[np.int64]) -> "Labels":
        """Labels of some rows."""
        return Labels(classes=self.classes, indices=self.indices[rows], odd=self.odd)

    def surveyed(self) -> NDArray[np.int64] | None:
        """Labels for a Survey: (N,), -1 for rows without; None without classes."""
        return np.maximum(self.indices, NO_LABEL) if self.classes else None


def unlabelled(num_rows: int) -> Labels:
    """Labels of rows without classes."""
    return Labels(classes=(), indices=np.zeros(num_rows, np.int64))


@dataclass(frozen=True, kw_only=True)
class Classified:
    """Labels of all rows, and the split of each."""

    labels: Labels
    codes: NDArray[np.int8]
    """(N,) TRAIN, TEST or UNUSED."""
    notes: tuple[str, ...]


def classified(
    column: Column | None,
    codes: NDArray[np.int8],
    splits: Splits,
    *,
    where: str,
    conditional: bool,
    declared: Sequence[str] = (),
) -> Classified:
    """Classes by what occurs in training rows; `declared` are the names of the numbers 0, 1, ...

    A class whose rows would all be held out by a draw stays in training. Without `conditional` the
    labels only describe the data: bad ones make it data without labels. Raises ValueError, where
    `conditional`, for labels that can be no classes, and for a class of another split that training
    lacks.
    """
    none = Classified(labels=unlabelled(len(codes)), codes=codes, notes=())
    if column is None or not (column.unusable or (column.codes >= 0).any()):
        return none
    if column.unusable:
        if conditional:
            raise ValueError(f"{where}: {column.unusable}; set --model.num-classes 0")
        return replace(none, notes=(f"labels are not used: {column.unusable}",))
    names = _names(column, codes, declared)
    known = _ordered(column, names, declared)
    odd = tuple(_written(v) for name, v in zip(names, column.values, strict=True) if name is None)
    indices = _indices(names, known, odd)[column.codes]
    notes: list[str] = []
    if conditional and not splits.named:
        codes, moved = _kept_in_training(codes, indices)
        if moved:
            told = first_of([known[c] for c in moved])
            notes.append(f"classes of which every row would be held out stay in training: {told}")
    classes = [known[c] for c in _present(indices[codes == TRAIN])]
    bad = int((indices < 0).sum())
    if conditional:
        _check(classes, known, indices, codes, splits, where)
        notes += [f"{bad} rows have no label and cannot be read"] if bad else []
    else:
        classes = [known[c] for c in _present(indices)]
        if bad or len(classes) > MAX_CLASSES:
            why = f"{bad} rows have none" if bad else f"they have {len(classes):,} values"
            return replace(none, notes=(f"labels are not used: {why}",))
    place = {name: index for index, name in enumerate(classes)}
    moved_to = np.array([place.get(name, NO_LABEL) for name in known], np.int64)
    found = np.where(indices >= 0, moved_to[np.maximum(indices, 0)], indices)
    labels = Labels(classes=tuple(classes), indices=found, odd=odd)
    notes += _gaps(classes, declared)
    return Classified(labels=labels, codes=codes, notes=tuple(notes))


def _names(column: Column, codes: NDArray[np.int8], declared: Sequence[str]) -> list[str | None]:
    """The class name of each value; "" for no label, None for a value that is no class."""
    used = np.unique(column.codes[codes == TRAIN])
    numbers = {_plain(column.values[c]) for c in used if c >= 0}
    signs = numbers == {-1, 1}  # two classes as they are written for support vector machines
    names: list[str | None] = []
    for value in map(_plain, column.values):
        number = _is_number(value) and not _missing(value)
        if _missing(value):
            names.append("")
        elif declared and number:
            fits = value == int(value) and 0 <= value < len(declared)
            names.append(declared[int(value)] if fits else None)
        elif declared:
            names.append(value if value in declared else None)
        else:
            names.append(None if number and value < 0 and not signs else _written(value))
    return names


def _ordered(column: Column, names: Sequence[str | None], declared: Sequence[str]) -> list[str]:
    """Distinct names: as declared, numbers by their size, else in_order."""
    values = {name: _plain(v) for name, v in zip(names, column.values, strict=True) if name}
    if declared:
        return [name for name in declared if name in values]
    if all(map(_is_number, values.values())):
        return sorted(values, key=lambda name: values[name])
    return list(in_order(set(values)))


def in_order(names: set[str]) -> tuple[str, ...]:
    """Sorted by number where all are numbers, else by name."""
    numbers = all(name.isdecimal() for name in names)
    return tuple(sorted(names, key=lambda name: (int(name) if numbers else 0, name)))


def _indices(
    names: Sequence[str | None], known: Sequence[str], odd: Sequence[str]
) -> NDArray[np.int64]:
    """Index of each value as in Labels.indices, and last the one for no value."""
    place = {name: index for index, name in enumerate(known)}
    next_odd = iter(range(len(odd)))
    own = [
        NO_LABEL - 1 - next(next_odd) if name is None else place.get(name, NO_LABEL)
        for name in names
    ]
    return np.array([*own, NO_LABEL], np.int64)


def _present(indices: NDArray[np.int64]) -> list[int]:
    """The classes that occur, ascending."""
    return [int(c) for c in np.unique(indices) if c >= 0]


def _kept_in_training(
    codes: NDArray[np.int8], indices: NDArray[np.int64]
) -> tuple[NDArray[np.int8], list[int]]:
    """Rows held out by a draw go back where training has no other of their class."""
    trained = set(_present(indices[codes == TRAIN]))
    moved = [c for c in _present(indices) if c not in trained]
    return (np.where(np.isin(indices, moved), np.int8(TRAIN), codes) if moved else codes), moved


def _check(
    classes: Sequence[str],
    known: Sequence[str],
    indices: NDArray[np.int64],
    codes: NDArray[np.int8],
    splits: Splits,
    where: str,
) -> None:
    """Raise ValueError for more classes than can be, and for those that training lacks."""
    if len(classes) > MAX_CLASSES:
        raise ValueError(
            f"{where} has {len(classes):,} different labels, more than {MAX_CLASSES:,} classes; set"
            " --model.num-classes 0"
        )
    trained = set(classes)
    for code in (TEST, UNUSED):
        lacking = [known[c] for c in _present(indices[codes == code]) if known[c] not in trained]
        if lacking:
            several = "classes" if len(lacking) > 1 else "class"
            raise ValueError(
                f"{where} has {several} {first_of(lacking)} in split {splits.name_of(code)} that"
                f" split {splits.name_of(TRAIN)} lacks ({len(classes)}: {first_of(classes)}); add"
                " rows of it to train on, take it out, or set --model.num-classes 0"
            )


def _gaps(classes: Sequence[str], declared: Sequence[str]) -> list[str]:
    """Notes on labels that are not the numbers of their classes."""
    lost = [name for name in declared if name not in set(classes)]
    if lost:
        return [f"classes without a row to train on are left out: {first_of(lost)}"]
    counted = [str(i) for i in range(len(classes))]
    if not declared and all(name.isdecimal() for name in classes) and list(classes) != counted:
        return [f"labels {first_of(classes)} are classes 0 to {len(classes) - 1}, named by them"]
    return []


def _allowed(classes: Sequence[str]) -> str:
    if list(classes) == [str(i) for i in range(len(classes))]:
        return f"in [0, {len(classes)})"
    return first_of(classes)


def _is_number(value: Any) -> bool:
    return isinstance(value, (Real, Decimal))


def _missing(value: Any) -> bool:
    endless = isinstance(value, (float, Decimal)) and not math.isfinite(value)
    return value is None or value == "" or endless


def _plain(value: Any) -> Any:
    """A value of Python's own; bytes as text; float32 as the shortest decimal that is read so."""
    if isinstance(value, np.floating):
        return float(str(value))
    if isinstance(value, np.generic):
        value = value.item()
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else value


def _written(value: Any) -> str:
    value = _plain(value)
    whole = _is_number(value) and not isinstance(value, bool) and value == int(value)
    return str(int(value)) if whole else str(value)
