"""Listing of a folder or an object store: files that a source reads, and those left out.

Links are followed. One rule holds for every source: names that systems make for themselves are left
out, as are files of a kind that the source does not read; both are counted.
"""

import errno
import os
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from pathlib import PurePosixPath
from typing import Any, Literal

import fsspec

from aigc.artifact.store import store_errors
from aigc.data import stopping
from aigc.data.content import File
from aigc.data.once import remembered, uncollected
from aigc.data.survey import LeftOut
from aigc.data.waiting import waiting
from aigc.files import expanded

SYSTEM = frozenset(
    (
        *("__macosx", "__pycache__", "lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini"),
        *("@eadir", "@tmp", "@recycle", "@recently-snapshot", "@snapshot", "#recycle", "#snapshot"),
        *("@synoeastream", "@synoresource", "@quarantine", "@sharebin", "~snapshot"),
        *("$recycle.bin", "recycler", "recycled", "system volume information"),
        *("network trash folder", "temporary items"),
        *(f"found.{number:03}" for number in range(100)),  # of chkdsk
    )
)
"""Names of files and folders that systems and network storage make for themselves, in lower case;
beside these, all that begin with a dot."""
_CACHES = ("simplecache::", "filecache::", "blockcache::")
"""Prefixes of chained URIs that are read: their files keep the names at the end of the chain."""
NOTHING = ("there is nothing", os.strerror(errno.ENOENT).lower())
"""Why a path has no files, where that is simply so."""
_ARCHIVES = ("zip://", "tar://", "libarchive://")
FIRST = 5
"""Number of left-out names in messages."""
SETTLED_S = 2
"""Age in seconds below which a file may change again without another time: clocks of file systems
tick up to two seconds apart."""


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Files that a source reads, and what lies beside them."""

    where: str
    files: tuple[File, ...]
    """Sorted by name."""
    unread: tuple[str, ...]
    """Names of files of a kind that is not read."""
    left_out: tuple[LeftOut, ...]
    """Unread files among them."""
    notes: tuple[str, ...]
    broken: frozenset[str] = frozenset()
    """Names of files that are links to nothing."""

    def readable(self, on_error: Literal["stop", "skip"]) -> "Listing":
        """The listing without broken links, for files of more than one row. Raises CorruptRow under
        `stop`."""
        gone = [file for file in self.files if file.name in self.broken]
        if gone and on_error == "stop":
            raise stopping(f"{gone[0].uri} is a link that leads nowhere")
        if len(gone) == len(self.files):
            raise ValueError(f"every file of {self.where} is a link that leads nowhere")
        dangling = (
            (left_out("links that lead nowhere", [file.name for file in gone]),) if gone else ()
        )
        files = tuple(file for file in self.files if file.name not in self.broken)
        return replace(self, files=files, left_out=(*self.left_out, *dangling))

    @property
    def names(self) -> list[str]:
        """Names of the files that are read."""
        return [file.name for file in self.files]


def listing(path: str, suffixes: Sequence[str], source: str, beside: Sequence[str] = ()) -> Listing:
    """All files below a folder or URI with one of the suffixes, or the one file.

    Names in `beside` are the source's own lists, which are neither read as data nor left out.
    Raises ValueError if there is no file, a name is not UTF-8, or no path was given.
    """
    if not path:
        raise ValueError(f"data source {source} needs a folder or URI; set --data.path PATH")
    key = ("listing", path, tuple(suffixes), tuple(beside))
    return remembered(key, lambda: _listing(path, suffixes, beside))  # type: ignore[no-any-return]


@uncollected()
def _listing(path: str, suffixes: Sequence[str], beside: Sequence[str]) -> Listing:
    found = _Found(walked(path), tuple(suffixes), frozenset(beside))
    if not found.files:
        raise ValueError(
            f"{path!r} holds no {' or '.join(suffixes)} file{found.instead()};"
            " set --data.path to where they are"
        )
    return Listing(
        where=path,
        files=tuple(sorted(found.files, key=attrgetter("name"))),
        unread=tuple(sorted(found.unread)),
        left_out=found.left_out(),
        notes=found.notes(),
        broken=frozenset(found.links),
    )


@dataclass(kw_only=True)
class Walk:
    """Everything below a path, of whatever kind."""

    files: list[File] = field(default_factory=list)
    system: list[str] = field(default_factory=list)
    """Names of hidden files and of those that a system keeps for itself."""
    broken: list[File] = field(default_factory=list)
    """Links to nothing."""
    missing: str = ""
    """Why there is nothing to list."""
    cycles: list[str] = field(default_factory=list)
    shut: list[str] = field(default_factory=list)
    """Folders that may not be opened."""
    strange: list[str] = field(default_factory=list)
    """Names that are neither a file nor a folder."""


def walked(path: str) -> Walk:
    """All below a folder or URI, or the one file.

    Raises OSError or ValueError, with the path, for a store that does not answer or refuses.
    """
    remote = "://" in path and not path.startswith("file://")
    walk = (lambda: _walk_store(path)) if remote else lambda: _walk_disk(path)
    return remembered(("walk", path), walk)  # type: ignore[no-any-return]


class _Found:
    """Names of a walk, sorted by what becomes of them."""

    def __init__(self, walk: Walk, suffixes: tuple[str, ...], beside: frozenset[str]) -> None:
        self._walk = walk
        self.files: list[File] = []
        self.unread: list[str] = []
        self.links: list[str] = []
        """Names of files that are links to nothing: rows that cannot be read."""
        for file in walk.files:
            if file.name.lower().endswith(suffixes):
                _check_utf8(file.uri)
                self.files.append(file)
            elif not beside or file.name.rpartition("/")[2].lower() not in beside:
                self.unread.append(file.name)
        self._lost: list[str] = []
        for file in walk.broken:
            if file.name.lower().endswith(suffixes):
                _check_utf8(file.uri)
                self.files.append(file)
                self.links.append(file.name)
            else:
                self._lost.append(file.name)

    def instead(self) -> str:
        """Tell the contents of a place without a file that is read."""
        if self._walk.missing:
            return f": {self._walk.missing}"
        kept = self.left_out()
        held = "; ".join(f"{part.count} {part.reason}" for part in kept)
        return f"; it holds {held}" if held else ""

    def left_out(self) -> tuple[LeftOut, ...]:
        kinds = sorted({PurePosixPath(name).suffix.lower() or "none" for name in self.unread})
        told = f"{', '.join(kinds[:FIRST])}{', ...' if len(kinds) > FIRST else ''}"
        return tuple(
            left_out(reason, names)
            for reason, names in (
                (f"files with a suffix that is not read ({told})", self.unread),
                ("files that a system keeps for itself, or hidden ones", self._walk.system),
                ("links that lead nowhere", self._lost),
                ("folders that may not be opened", self._walk.shut),
                ("names that are neither a file nor a folder", self._walk.strange),
            )
            if names
        )

    def notes(self) -> tuple[str, ...]:
        notes = [
            f"{shown(n)} leads back to a folder above it and is not followed"
            for n in self._walk.cycles[:FIRST]
        ]
        names = (file.name for file in self.files if "__" in file.name)
        told = sorted({part for name in names for part in name.split("/") if part.startswith("__")})
        if told:
            notes.append(
                f"names that begin with __ are read as any other: {', '.join(told[:FIRST])}"
            )
        return tuple(notes)


def left_out(reason: str, names: Sequence[str]) -> LeftOut:
    """Names that are left out, counted, and the first of them."""
    first = tuple(shown(name) for name in sorted(names)[:FIRST])
    return LeftOut(reason=reason, count=len(names), first=first)


def shown(name: str) -> str:
    """A file's name for messages: bytes that are no UTF-8 as \\x.."""
    return os.fsencode(name).decode(errors="backslashreplace")


def is_system(name: str) -> bool:
    """Tell if a part of a path is hidden or a system's own."""
    if name.startswith((".", "~$")):  # hidden, or an office program's lock
        return name not in (".", "..")
    lower = name.lower()
    return lower in SYSTEM or lower.endswith(("@synoeastream", "@synoresource"))


def _check_utf8(uri: str) -> None:
    try:
        uri.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"the name of {shown(uri.removeprefix('file://'))} is not UTF-8; rename it, all of"
            " Latin-1 at once by: convmv -r -f latin1 -t utf8 --notest FOLDER"
        ) from None


@uncollected()
def _walk_disk(path: str) -> Walk:
    """Below a folder of this machine, links followed; a file is known by what its link leads to."""
    plain = expanded(path.removeprefix("file://"))
    root = os.path.abspath(plain)  # noqa: PTH100 (no .. resolved by links)
    walk, now = Walk(), time.time()
    try:
        info = os.stat(root)  # noqa: PTH116
    except OSError as error:
        walk.missing = (
            "there is no such file, and chains of URIs are not read"
            if "::" in path
            else str(error.strerror).lower()
        )
        return walk
    if not stat.S_ISDIR(info.st_mode):
        if stat.S_ISREG(info.st_mode):
            walk.files.append(_known(root, os.path.basename(root), info, now))  # noqa: PTH119
        else:
            walk.missing = "it is neither a file nor a folder"
        return walk
    from tqdm import tqdm

    pending = [(root, "", frozenset({(info.st_dev, info.st_ino)}), False)]
    bar = tqdm(desc=f"listing {path}", delay=2, leave=False, unit=" files")
    while pending:
        folder, prefix, above, system = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            walk.shut.append(prefix.rstrip("/") or folder)
            continue
        folders = len(pending)
        for entry in entries:
            name, own = prefix + entry.name, system or is_system(entry.name)
            try:
                info = entry.stat()
            except OSError:
                if own:
                    walk.system.append(name)
                else:
                    walk.broken.append(File(f"file://{entry.path}", name, 0, "", settled=False))
                continue
            if stat.S_ISREG(info.st_mode):
                if own:
                    walk.system.append(name)
                else:
                    walk.files.append(_known(entry.path, name, info, now))
            elif not stat.S_ISDIR(info.st_mode):
                walk.strange.append(name)
            elif (place := (info.st_dev, info.st_ino)) in above:
                walk.cycles.append(name)
            else:
                pending.append((entry.path, f"{name}/", above | {place}, own))
        bar.update(len(entries) - max(0, len(pending) - folders))
    bar.close()
    return walk


def _known(path: str, name: str, info: os.stat_result, now: float) -> File:
    """A file of this machine by its identity and times."""
    before = now - SETTLED_S
    return File(
        f"file://{path}",
        name,
        info.st_size,
        f"{info.st_dev}-{info.st_ino}-{info.st_mtime_ns}-{info.st_ctime_ns}",
        0 < info.st_mtime <= before and info.st_ctime <= before,
    )


def _walk_store(path: str) -> Walk:
    chain = "::" in path and not path.startswith(_CACHES)
    if chain or path.startswith(_ARCHIVES):
        kind = "a chain of URIs" if chain else "an archive"
        raise ValueError(
            f"{path!r} is {kind}, which is not read; unpack it, and set --data.path to where the"
            " files are"
        )
    try:
        with store_errors(path), waiting(f"listing {path}"):
            system, root = fsspec.url_to_fs(path)
            listed = system.find(root, detail=True)
            if not listed:
                _ask(system, root)
    except (ImportError, ValueError, OSError) as error:
        raise ValueError(f"{path!r} cannot be opened: {error}") from error
    root = root.rstrip("/")
    walk = Walk(missing="" if listed else NOTHING[0])
    for key, info in listed.items():
        name = key.removeprefix(root).lstrip("/") or PurePosixPath(key).name
        if any(is_system(part) for part in name.split("/")):
            walk.system.append(name)
            continue
        stamp = next((info[k] for k in ("ETag", "etag", "mtime") if info.get(k)), "")
        uri = system.unstrip_protocol(key)
        walk.files.append(File(uri, name, int(info["size"]), str(stamp), settled=bool(stamp)))
    return walk


def _ask(system: Any, root: str) -> None:
    """Raise why a store listed nothing, unless there is nothing: some list so what they cannot
    reach."""
    try:
        system.info(root)
    except FileNotFoundError as error:
        if isinstance(error.__cause__, Exception) and not hasattr(error.__cause__, "status"):
            raise error.__cause__ from None
