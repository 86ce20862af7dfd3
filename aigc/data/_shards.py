"""Rows in shards: every position of an epoch is a (shard, row), read shard by shard.

How many rows a shard has is known before training begins. An epoch permutes the shards, and the
rows within each, as a function of seed and epoch alone: any number of workers sees the same order,
each row once, and reads one shard after the other. A process keeps the last two shards open, so a
run that resumes is exact to the sample and reads at most the shard again that it stands in, once
per process. Rows of different shards mix only through the order of shards: write shuffled shards of
some ten to some hundred MB.
"""

import hashlib
import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.latents import integers
from aigc.data import Split
from aigc.data._files import File
from aigc.data._pictures import Pictures, held_out

OPEN_SHARDS = 2
"""A batch lies in two shards at most, unless shards are smaller than batches."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """A file of rows, and which of them are in the split."""

    file: File
    rows: NDArray[np.int64]
    """(n,) row numbers in the file, ascending."""
    index: Any = None
    """What else the source knows of the file."""


@dataclass(frozen=True, kw_only=True)
class ShardedPictures(Pictures):
    """Pictures in shards."""

    shards: tuple[Shard, ...]

    def __len__(self) -> int:
        return int(self._starts[-1])

    @abstractmethod
    def record(self, shard: Shard, row: int) -> tuple[bytes, Any, str]:
        """See Pictures.encoded, for a row of a shard's file."""

    def encoded(self, row: int) -> tuple[bytes, Any, str]:
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


def of_split(files: Sequence[File], split: Split) -> tuple[list[File], bool]:
    """The files of a split by their names, and whether their names tell.

    They tell if there are files or folders that begin with train, and such that begin with test,
    or else with val; else every file has rows of both splits.
    """
    named = {
        part: [f for f in files if re.search(rf"(^|/|[-_.]){part}", f.name)]
        for part in ("train", "test", "val")
    }
    test = named["test"] or named["val"]
    if not named["train"] or not test:
        return list(files), False
    return (named["train"] if split == "train" else test), True


def pick(file: File, num_rows: int, split: Split, named: bool) -> NDArray[np.int64]:
    """Rows of a file that are in a split: (n,)."""
    if named:
        return np.arange(num_rows)
    return np.flatnonzero(held_out(file.name, num_rows) == (split == "test"))


def covered(shards: Sequence[tuple[File, Any]]) -> str:
    """sha256 over names, sizes and a summary of each shard."""
    content = hashlib.sha256()
    for file, summary in shards:
        content.update(f"{file.name}\0{file.size}\0{summary}\n".encode())
    return content.hexdigest()
