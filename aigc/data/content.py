"""A file on a disk or in an object store: its version, its content and its hash."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import fsspec

from aigc.artifact.store import store_errors
from aigc.data.cache import cached
from aigc.data.hashing import hashing


class File(NamedTuple):
    """A file as a listing shows it."""

    uri: str
    """URI for fsspec; file:// and an absolute path on this machine."""
    name: str
    """Relative to the folder listed."""
    size: int
    stamp: str
    """ETag, or identity and times of what a link leads to; empty if there are none."""
    settled: bool = True
    """True if another content would have another stamp."""

    @property
    def path(self) -> str | None:
        """On this machine; None elsewhere."""
        return self.uri.removeprefix("file://") if self.uri.startswith("file://") else None

    def facts(self) -> list[Any]:
        """A version of the file, told from every other: by its content unless it is settled."""
        return [self.uri, self.size, self.stamp if self.settled else digest(self)]


def opened(file: File) -> AbstractContextManager[Any]:
    """The content as an open binary file that can be sought in."""
    if file.path is not None:
        return Path(file.path).open("rb")
    return fsspec.open(file.uri, "rb")  # type: ignore[no-any-return]


class OutOfReach(OSError):
    """A store does not give a file that it holds: no fault of the rows, which are not skipped."""


def fetch(file: File) -> bytes:
    """The whole content. Its file system is looked up anew: connections do not survive a fork.

    Raises OutOfReach where a store does not answer or refuses, OSError for a file that is gone or
    cannot be read on this machine.
    """
    if file.path is not None:
        return Path(file.path).read_bytes()
    system, path = fsspec.url_to_fs(file.uri)
    try:
        with store_errors(file.uri):
            return bytes(system.cat_file(path))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OutOfReach(str(error)) from error


def text_of(file: File) -> str:
    """The content as text: UTF-8 with a byte order mark or without, ends of lines as \\n.

    Raises ValueError, naming the file, where it cannot be read or is not UTF-8.
    """
    try:
        content = fetch(file)
    except OSError as error:
        raise ValueError(f"{file.name} cannot be read: {error}") from error
    return decoded(content, file.name)


def decoded(content: bytes, name: str) -> str:
    """See text_of."""
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        wide = content[:2] in (b"\xff\xfe", b"\xfe\xff")
        raise ValueError(
            f"{name} is not UTF-8 text: {error}; convert it, such as by:"
            f" iconv -f {'utf16' if wide else 'latin1'} -t utf8"
        ) from error


def digest(file: File) -> str:
    """sha256 of the content; `unreadable` where it cannot be read, such as a link to nothing."""
    if file.path is None:  # a store that does not answer says nothing of its content
        return hashlib.sha256(fetch(file)).hexdigest()
    try:
        with opened(file) as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError:
        return "unreadable"


def sha256(files: Sequence[File]) -> str:
    """Hash of relative names and contents; read once, then known from the listing.

    "" where hashing is switched off (aigc.data.hashing).
    """
    if not hashing():
        return ""

    def digests() -> str:
        from tqdm import tqdm

        total = hashlib.sha256()
        with (
            ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
            tqdm(total=len(files), desc="hashing files", delay=2, leave=False) as bar,
        ):
            for file, content in zip(files, pool.map(digest, files), strict=True):
                total.update(f"{file.name}\0{content}\n".encode())
                bar.update()
        return total.hexdigest()

    if not all(file.settled for file in files):
        return digests()
    return str(cached("sha256", ([file.name, *file.facts()] for file in files), digests))
