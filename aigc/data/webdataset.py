"""Tar shards in a folder or an object store: `key.jpg` or `key.png` with `key.cls` or `key.json`.

The files of a sample stand together and share their name up to the first dot; `cls` holds a whole
number, `json` one under label, class or cls. A tar is indexed once by its headers, and the index is
kept in $XDG_CACHE_HOME/aigc for as long as size and time (or ETag) stay. Splits as with parquet.
"""

import json
import logging
import mmap
import re
import tarfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import IO, Any

import fsspec
import numpy as np

from aigc.config import DataConfig
from aigc.data import CorruptRow, Split
from aigc.data._files import File, cached, fetch, listing
from aigc.data._pictures import SUFFIXES, classes_of
from aigc.data._shards import OPEN_SHARDS, Shard, ShardedPictures, covered, of_split, pick

log = logging.getLogger(__name__)

Entry = tuple[str, int, int, int | None]
"""Key, offset and size of the picture (-1 if there is none), and label."""


@dataclass(frozen=True, kw_only=True)
class WebDataset(ShardedPictures):
    """A shard is a tar; an open one is mapped, or held in memory if it is not on this machine."""

    def record(self, shard: Shard, row: int) -> tuple[bytes, Any, str]:
        """See ShardedPictures.record."""
        key, offset, size, label = shard.index[row]
        where = f"{key} in {shard.file.uri}"
        if size < 0:
            raise CorruptRow(f"{where} has no picture beside it")
        try:
            content = _content(shard.file)
        except (OSError, ValueError) as error:
            raise CorruptRow(f"{where} cannot be read: {error}") from error
        return bytes(content[offset : offset + size]), label, where


def load(config: DataConfig, shape: tuple[int, ...], split: Split) -> WebDataset:
    """The tars below `config.path`. sha256 covers names, sizes, keys and labels, not pixels."""
    files = listing(config.path, (".tar",), "webdataset")
    chosen, named = of_split(files, split)
    with ThreadPoolExecutor(8) as pool:
        indices = dict(zip(files, pool.map(_index, files), strict=True))
    labels = [e[3] for index in indices.values() for e in index if e[3] is not None]
    shards = [
        Shard(file=file, rows=pick(file, len(indices[file]), split, named), index=indices[file])
        for file in chosen
    ]
    return WebDataset(
        name=PurePosixPath(config.path.rstrip("/")).stem,
        classes=classes_of(np.array(labels, np.int64)),
        shape=shape,
        sha256=covered([(file, indices[file]) for file in chosen]),
        shards=tuple(shard for shard in shards if len(shard.rows)),
    )


def _index(file: File) -> list[Entry]:
    """An entry for every key, in the order of the tar."""
    return [tuple(entry) for entry in cached("webdataset", file.facts(), lambda: _scan(file))]


def _scan(file: File) -> list[Entry]:
    """Walk through the headers; pictures are passed over, labels are read.

    A tar that is cut off keeps the samples before the cut, the last of which may be half."""
    entries: dict[str, Entry] = {}
    with fsspec.open(file.uri, "rb") as content:
        try:
            with tarfile.open(fileobj=content, mode="r:") as tar:
                for member in tar:
                    if member.isfile():
                        _add(entries, member, tar)
                # A whole tar ends with two empty headers; tarfile stops without a word if not.
                cut_off = file.size - tar.offset < tarfile.BLOCKSIZE
        except (tarfile.ReadError, EOFError) as error:
            if not entries:
                raise ValueError(f"{file.uri} is no plain tar file: {error}") from error
            cut_off = True
    if cut_off:
        log.warning("%s is cut off after %d samples", file.uri, len(entries))
    if not entries:
        raise ValueError(f"{file.uri} holds no picture with a label beside it")
    return list(entries.values())


def _add(entries: dict[str, Entry], member: tarfile.TarInfo, tar: tarfile.TarFile) -> None:
    found = re.fullmatch(r"((?:.*/)?[^./][^./]*)\.([^/]+)", member.name)
    if found is None:
        return
    key, suffix = found[1], found[2].lower()
    _, offset, size, label = entries.get(key, (key, 0, -1, None))
    if f".{suffix}".endswith(SUFFIXES):
        offset, size = member.offset_data, member.size
    elif suffix in ("cls", "json"):
        label = _label(tar.extractfile(member), suffix)
    else:
        return
    entries[key] = key, offset, size, label


def _label(file: IO[bytes] | None, suffix: str) -> int | None:
    """None for what is no whole number: its row has no label, and is corrupt if others have one."""
    try:
        content = json.loads(file.read() if file else b"")
    except ValueError:
        return None
    if suffix == "json" and isinstance(content, dict):
        content = next((content[k] for k in ("label", "class", "cls") if k in content), None)
    fits = isinstance(content, int) and not isinstance(content, bool) and abs(content) < 2**62
    return content if fits else None


@lru_cache(maxsize=OPEN_SHARDS)
def _content(file: File) -> bytes | mmap.mmap:
    """The tar's bytes. Without a position, so threads and forked processes may share them."""
    if not file.uri.startswith(("file://", "/")):
        return fetch(file)
    with fsspec.open(file.uri, "rb") as opened:
        return mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
