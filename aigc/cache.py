"""The user's cache: files that are computed again where they are missing.

    path = cache.folder() / "index.json"
    cache.keep(path, data)

A cache that cannot be read or written only costs time: every error here is an OSError.
"""

import os
from contextlib import suppress
from pathlib import Path

from aigc.files import write


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


def keep(path: Path, data: bytes) -> None:
    """Write a file below the cache atomically. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, data)
