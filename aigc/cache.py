"""The user's cache: files that are computed again where they are missing.

    path = cache.folder() / "index.json"
    cache.keep(path, data)
    data = cache.read(path)

A cache that cannot be read or written only costs time: every error here is an OSError. Beyond
LARGEST bytes, features and networks that were used longest ago are deleted.
"""

import os
from contextlib import suppress
from pathlib import Path

from aigc.files import write

LARGEST = 4 << 30
"""Bytes of the files in folder(), those of its folders apart."""
LARGE = 1 << 20
"""Bytes from which a file that is kept has others make way; to look through all files for each of
thousands of small ones would take longer than they save."""


def folder() -> Path:
    """$XDG_CACHE_HOME/aigc, by default ~/.cache/aigc; it need not exist.

    A relative or empty XDG_CACHE_HOME is ignored (XDG Base Directory Specification 0.8). Raises
    OSError for a user without a home.
    """
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "aigc"
    with suppress(RuntimeError):  # no HOME, and no entry of the user in the system's list
        if (home := Path.home()).is_absolute():
            return home / ".cache" / "aigc"
    raise OSError("this user has no home for a cache; set HOME or XDG_CACHE_HOME to a folder")


def read(path: Path) -> bytes:
    """Contents of a file below the cache, which counts as used now. Raises OSError."""
    data = path.read_bytes()
    with suppress(OSError):  # of another user
        os.utime(path)
    return data


def keep(path: Path, data: bytes) -> None:
    """Write a file below the cache atomically. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, data)
    if len(data) < LARGE:
        return
    with suppress(OSError):
        if path.parent == folder():
            _prune(path)


def _prune(kept: Path) -> None:
    """Delete what was used longest ago, but not `kept`, until LARGEST bytes are left."""
    with os.scandir(kept.parent) as entries:
        others = [
            (status.st_mtime_ns, status.st_size, entry.name)
            for entry in entries
            if entry.name != kept.name and entry.is_file(follow_symlinks=False)
            for status in (entry.stat(follow_symlinks=False),)
        ]
    left = kept.stat().st_size + sum(size for _, size, _ in others)
    for _, size, name in sorted(others):
        if left <= LARGEST:
            return
        (kept.parent / name).unlink(missing_ok=True)  # another process prunes too
        left -= size
