"""Rows in shards: every position of an epoch is a (shard, row), read shard by shard.

How many rows a shard has is known before training begins. An epoch permutes the shards, and the
rows within each, as a function of seed and epoch alone: any number of workers sees the same order,
each row once, and reads one shard after the other. A process keeps the last two shards open, so a
run that resumes is exact to the sample and reads at most the shard again that it stands in, once
per process. Rows of different shards mix only through the order of shards: write shuffled shards of
some ten to some hundred MB.
"""

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.latents import integers
from aigc.data import NoRows, Split
from aigc.data.content import File
from aigc.data.files import Listing
from aigc.data.labels import Column, Labels, classified
from aigc.data.pictures import Pictures
from aigc.data.splits import TEST, TRAIN, Splits, held_out, rows_of
from aigc.data.survey import LeftOut, Survey

OPEN_SHARDS = 2
"""A batch lies in two shards at most, unless shards are smaller than batches."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of rows, and which of them are in the split."""

    file: File
    rows: NDArray[np.int64]
    """(n,) row numbers in the file, ascending."""
    index: Any = None
    """Further facts of the file that its source needs."""


@dataclass(frozen=True, kw_only=True)
class ShardedPictures(Pictures):
    """Pictures in shards."""

    shards: tuple[Shard, ...]

    @abstractmethod
    def record(self, shard: Shard, row: int) -> tuple[bytes, str]:
        """See Pictures.encoded, for a row of a shard's file."""

    def encoded(self, row: int) -> tuple[bytes, str]:
        """See Pictures.encoded."""
        number = self.shard_of(row)
        shard = self.shards[number]
        return self.record(shard, int(shard.rows[row - self._starts[number]]))

    def shard_of(self, row: int) -> int:
        """See aigc.data.Sharded."""
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def order(self, seed: int, epoch: int) -> NDArray[np.int64]:
        """See Source.order."""
        return shard_order(seed, epoch, tuple(np.diff(self._starts).tolist()))

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *(len(shard.rows) for shard in self.shards)])


@lru_cache(maxsize=2)
def shard_order(seed: int, epoch: int, counts: tuple[int, ...]) -> NDArray[np.int64]:
    """A permutation of sum(counts) rows that takes shards in a random order, and the rows of each
    in a random order: (N,), not to be written to."""
    turn = np.argsort(np.argsort(integers(seed, "shards", [epoch], len(counts))[0], kind="stable"))
    keys = integers(seed, "order", [epoch], sum(counts))[0]
    order = np.lexsort((keys, np.repeat(turn, counts)))
    order.setflags(write=False)
    return order


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The rows of one split, in shards."""

    shards: tuple[Shard, ...]
    files: tuple[File, ...]
    """Files that may hold rows of the split."""
    labels: Labels
    survey: Survey


def choose(
    listing: Listing,
    splits: Splits,
    counts: Mapping[File, int],
    columns: Mapping[File, Column],
    split: Split,
    *,
    conditional: bool,
    declared: Sequence[str] = (),
    indices: Mapping[File, Any] | None = None,
    left_out: Sequence[LeftOut] = (),
    notes: Sequence[str] = (),
) -> Chosen:
    """Rows of the files that `counts` has, by the names of files or about a tenth of each file.

    `columns` holds their labels, or nothing; `indices` what Shard.index is. Raises ValueError as
    classified() does, and for a split without rows.
    """
    number = {file: index for index, file in enumerate(listing.files)}
    files = list(counts)
    of_file = [_codes(file, counts[file], splits.code(number[file])) for file in files]
    found = classified(
        Column.joined([columns[file] for file in files]) if columns else None,
        np.concatenate(of_file),
        splits,
        where=listing.where,
        conditional=conditional,
        declared=declared,
    )
    if not len(rows := rows_of(found.codes, split)):
        raise NoRows(f"{listing.where} has no row in its {split} split; add more rows")
    starts = np.cumsum([0, *counts.values()])
    shards = [
        Shard(
            file=file,
            rows=rows_of(found.codes[start : start + counts[file]], split),
            index=indices[file] if indices else None,
        )
        for file, start in zip(files, starts[:-1].tolist(), strict=True)
    ]
    wanted = TRAIN if split == "train" else TEST
    labels = found.labels.taken(rows)
    return Chosen(
        shards=tuple(shard for shard in shards if len(shard.rows)),
        files=tuple(file for file in files if splits.code(number[file]) in (wanted, None)),
        labels=labels,
        survey=Survey(
            splits=splits.counts(found.codes),
            labels=labels.surveyed(),
            left_out=(*listing.left_out, *splits.beside(listing.names), *left_out),
            notes=(*listing.notes, *splits.notes, *notes, *found.notes),
        ),
    )


def _codes(file: File, num_rows: int, code: int | None) -> NDArray[np.int8]:
    if code is not None:
        return np.full(num_rows, code, np.int8)
    return np.where(held_out(file.name, num_rows), np.int8(TEST), np.int8(TRAIN))


def covered(shards: Sequence[tuple[File, Any]]) -> str:
    """sha256 over names, sizes and a summary of each shard."""
    content = hashlib.sha256()
    for file, summary in shards:
        content.update(f"{file.name}\0{file.size}\0{summary}\n".encode())
    return content.hexdigest()
