"""Indexes of files and hashes of their contents, kept in the user's cache between runs."""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aigc import cache


def cached(kind: str, facts: Iterable[Any], compute: Callable[[], Any]) -> Any:
    """The value of `compute`, kept as JSON in $XDG_CACHE_HOME/aigc under the hash of `facts`.

    A cache that cannot be read or written costs time only.
    """
    known = list(facts)
    value = looked_up(kind, known)
    if value is None:
        value = compute()
        keep(kind, known, value)
    return value


def looked_up(kind: str, facts: Sequence[Any]) -> Any:
    """The value kept under `facts`; None if there is none."""
    with suppress(OSError, ValueError):
        return json.loads(cache.read(_kept_at(kind, facts)))


def keep(kind: str, facts: Sequence[Any], value: Any) -> None:
    """Write a value for looked_up; in silence, not where that fails."""
    with suppress(OSError):
        cache.keep(_kept_at(kind, facts), json.dumps(value).encode())


def _kept_at(kind: str, facts: Sequence[Any]) -> Path:
    """Raises OSError for a user without a home."""
    key = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
    return cache.folder() / f"{kind}-{key}.json"
