"""Tar shards in a folder or an object store: `key.jpg` or `key.png` with `key.cls` or `key.json`.

The files of a sample share their name up to the first dot; `cls` holds a number or a name, `json`
one under label, class or cls. Of several pictures of a sample `data.member` names the one to take.
A tar is indexed once by its headers, and the index is kept in $XDG_CACHE_HOME/aigc for as long as
identity, size and times (or ETag) stay. Splits as with parquet.
"""

import logging
import mmap
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any

from aigc.config import DataConfig
from aigc.data import CorruptRow, Split
from aigc.data.content import File, OutOfReach, fetch, opened
from aigc.data.files import FIRST, listing
from aigc.data.index import Index, indices
from aigc.data.labels import Column
from aigc.data.shards import OPEN_SHARDS, Shard, ShardedPictures, choose, covered
from aigc.data.splits import of_files
from aigc.data.survey import LeftOut, first_of

log = logging.getLogger(__name__)

Entry = tuple[str, int, int, Any]
"""Key, offset and size of the picture (-1 if there is none), and label."""


@dataclass(frozen=True, kw_only=True)
class WebDataset(ShardedPictures):
    """A shard is a tar; an open one is mapped, or held in memory if it is not on this machine."""

    def record(self, shard: Shard, row: int) -> tuple[bytes, str]:
        """See ShardedPictures.record."""
        key, offset, size, _ = shard.index[row]
        where = f"{key} in {shard.file.uri}"
        if size < 0:
            raise CorruptRow(f"{where} has no picture beside it")
        try:
            content = _content(shard.file)
        except OutOfReach:
            raise
        except (OSError, ValueError) as error:
            raise CorruptRow(f"{where} cannot be read: {error}") from error
        return bytes(content[offset : offset + size]), where


def load(
    config: DataConfig, shape: tuple[int, ...], split: Split, *, conditional: bool = True
) -> WebDataset:
    """The tars below `config.path`. sha256 covers names, sizes, keys and labels, not pixels."""
    found = listing(config.path, (".tar",), "webdataset").readable(config.on_error)
    splits = of_files(found.names)
    files = [file for index, file in enumerate(found.files) if splits.used(index)]
    name = PurePosixPath(config.path.rstrip("/")).stem
    indexed = indices(files, name)
    member = config.member.lower().lstrip(".")
    _check_member(member, indexed.values(), config.path)
    entries = {file: _entries(indexed[file], member, file) for file in files}
    ends = [
        f"{f.uri} is cut off after {len(e)} samples"
        for f, e in entries.items()
        if indexed[f]["end"]
    ]
    ends += [
        f"{f.uri} goes on behind its end, of which nothing is read: tars that were joined by cat"
        f" are read to the end of the first, here {len(e)} samples; give each a file of its own"
        for f, e in entries.items()
        if indexed[f]["joined"]
    ]
    for end in ends:
        log.warning("%s", end)
    chosen = choose(
        found,
        splits,
        {file: len(entries[file]) for file in files},
        {file: _labels(indexed[file], file) for file in files},
        split,
        conditional=conditional,
        indices=entries,
        left_out=_left_out(list(indexed.values()), member),
        notes=ends,
    )
    return WebDataset(
        name=name,
        shape=shape,
        sha256=covered([(file, entries[file]) for file in chosen.files]),
        labels=chosen.labels,
        survey=chosen.survey,
        shards=chosen.shards,
    )


def _labels(index: Index, file: File) -> Column:
    told = f"{index['conflict']}, in {file.uri}, of which one has to go"
    return replace(Column.of(index["labels"]), unusable=told if index["conflict"] else "")


def _check_member(member: str, indexed: Iterable[Index], path: str) -> None:
    """Raise ValueError for a member that no sample has."""
    suffixes = sorted(set().union(*(index["pictures"] for index in indexed)))
    if member and member not in suffixes:
        raise ValueError(
            f"no sample of {path} has a picture {member!r}; set --data.member to one of:"
            f" {first_of(suffixes, 8)}"
        )


def _entries(index: Index, member: str, file: File) -> list[Entry]:
    """A row for every key, in the order of the tar. Raises ValueError for one of two pictures."""
    keys, labels = index["keys"], index["labels"]
    places = [(0, -1)] * len(keys)
    for suffix, (rows, offsets, sizes) in index["pictures"].items():
        if member in ("", suffix):
            for row, offset, size in zip(rows, offsets, sizes, strict=True):
                if places[row][1] >= 0:
                    several = [s for s, held in index["pictures"].items() if row in set(held[0])]
                    dots = any("." in other for other in several)
                    cure = "; a key ends at the first dot of a name" if dots else ""
                    raise ValueError(
                        f"{keys[row]} in {file.uri} has several pictures"
                        f" ({first_of(several, 8)}){cure}; set --data.member {several[0]}, or"
                        " another of them"
                    )
                places[row] = offset, size
    return [
        (key, offset, size, label)
        for key, (offset, size), label in zip(keys, places, labels, strict=True)
    ]


def _left_out(indexed: Sequence[Index], member: str) -> tuple[LeftOut, ...]:
    """Members that are not read: of other kinds, a system's own, and pictures not chosen."""
    unread: dict[str, list[Any]] = {}
    system: list[str] = []
    strange: list[str] = []
    for index in indexed:
        for suffix, (count, first) in index["unread"].items():
            told = unread.setdefault(suffix, [0, first])
            told[0] += count
        for suffix, (rows, _, _) in index["pictures"].items():
            if member not in ("", suffix):
                told = unread.setdefault(suffix, [0, f"{index['keys'][rows[0]]}.{suffix}"])
                told[0] += len(rows)
        system += index["system"][1]
        strange += index["strange"][1]
    count = sum(told for told, _ in unread.values())
    parts = []
    if count:
        kinds = first_of([f".{suffix}" for suffix in sorted(unread)], FIRST)
        firsts = tuple(first for _, first in unread.values())[:FIRST]
        reason = f"members with a suffix that is not read ({kinds})"
        parts.append(LeftOut(reason=reason, count=count, first=firsts))
    if system:
        number = sum(index["system"][0] for index in indexed)
        reason = "members that a system keeps for itself, or hidden ones"
        parts.append(LeftOut(reason=reason, count=number, first=tuple(system[:FIRST])))
    if strange:
        number = sum(index["strange"][0] for index in indexed)
        reason = "members that are no files: links, but hard ones to an earlier member, and devices"
        parts.append(LeftOut(reason=reason, count=number, first=tuple(strange[:FIRST])))
    return tuple(parts)


@lru_cache(maxsize=OPEN_SHARDS)
def _content(file: File) -> bytes | mmap.mmap:
    """The tar's bytes. Without a position, so threads and forked processes may share them."""
    if file.path is None:
        return fetch(file)
    with opened(file) as content:
        return mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_READ)
