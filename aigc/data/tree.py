"""Rows that are files in folders: a folder per split, a folder per class, or neither."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from aigc.data import NoRows, Split
from aigc.data.files import FIRST, Listing
from aigc.data.labels import Classified, Column, Labels, classified
from aigc.data.once import remembered, uncollected
from aigc.data.splits import Splits, codes_of, rows_of
from aigc.data.survey import LeftOut, Survey, first_of


@dataclass(frozen=True, kw_only=True)
class Tree:
    """The rows of one split."""

    rows: NDArray[np.int64]
    """Indices of the names, ascending; each as often as it gives rows."""
    labels: Labels
    survey: Survey


def tree(
    names: Sequence[str],
    splits: Splits,
    listing: Listing,
    split: Split,
    *,
    what: str,
    each: str,
    conditional: bool,
    beside: Sequence[LeftOut] = (),
    repeats: NDArray[np.int64] | None = None,
) -> Tree:
    """Rows by their names: the first folder is the class, behind that of the split.

    `what` and `each` name the rows in messages; `beside` is what else was left out; `repeats` is
    the number of rows that each name gives, one without it. Raises ValueError where some rows lie
    in folders of classes and some do not, where training lacks a class, and for a split without
    rows.
    """
    key = ("tree", listing.where, what, conditional)
    used, classes, found = remembered(
        key, lambda: _classified(names, splits, listing, what, each, conditional)
    )
    rows = rows_of(found.codes, split)
    if not len(rows):
        raise NoRows(
            f"{listing.where} has no {what.removesuffix('s')} in its {split} split; add more {what}"
        )
    codes = found.codes
    if repeats is not None:
        numbers = repeats[np.array(used, np.int64)]
        rows, codes = np.repeat(rows, numbers[rows]), np.repeat(codes, numbers)
    labels = found.labels.taken(rows)
    return Tree(
        rows=np.array(used, np.int64)[rows],
        labels=labels,
        survey=Survey(
            splits=splits.counts(codes),
            labels=labels.surveyed(),
            left_out=(*listing.left_out, *beside, *splits.beside(names)),
            notes=(*listing.notes, *splits.notes, *_lost(splits, listing, classes), *found.notes),
        ),
    )


@uncollected()
def _classified(
    names: Sequence[str],
    splits: Splits,
    listing: Listing,
    what: str,
    each: str,
    conditional: bool,
) -> tuple[list[int], list[str | None], Classified]:
    """Indices of the names that are in any split, and the class and the split of each."""
    everything = range(len(names))
    used = [i for i in everything if splits.used(i)] if splits.spelled else [*everything]
    classes = [_class(splits.rests[index]) for index in used]
    loose = [index for index, name in zip(used, classes, strict=True) if name is None]
    # A whole split without classes, as of competitions, is no obstacle where none are asked for.
    mixed = {splits.code(index) for index in loose} & {
        splits.code(index) for index, name in zip(used, classes, strict=True) if name is not None
    }
    if any(classes) and loose and (conditional or mixed):
        raise ValueError(
            f"{listing.where} holds {what} in sub-folders and beside them, such as"
            f" {names[loose[0]]}; put {each} into the folder of its class, or all into one folder"
        )
    found = classified(
        Column.of(classes) if any(classes) else None,
        codes_of(splits, names)[used],
        splits,
        where=listing.where,
        conditional=conditional,
    )
    return used, classes, found


def _class(rest: str) -> str | None:
    folder, _, inner = rest.partition("/")
    return folder if inner else None


def _lost(splits: Splits, listing: Listing, classes: Sequence[str | None]) -> tuple[str, ...]:
    """Notes on folders that would be classes, had they a file that is read."""
    read = set(classes)
    if read == {None}:
        return ()
    kinds: dict[str, list[str]] = {}
    for name in listing.unread:
        folder = _class(splits.rest_of(name))
        if folder is not None and folder not in read:
            kinds.setdefault(folder, []).append(PurePosixPath(name).suffix.lower())
    return tuple(
        f"folder {folder} is no class: none of its {len(found)} files is of a kind that is read"
        f" ({first_of(sorted(set(found)))})"
        for folder, found in sorted(kinds.items())[:FIRST]
    )
