"""Open data sets without hashing the contents of files, which of a million takes most of the
time."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_hashing = ContextVar("hashing", default=True)


def hashing() -> bool:
    """False within unhashed()."""
    return _hashing.get()


@contextmanager
def unhashed() -> Iterator[None]:
    """Fingerprints of sources that are opened here say nothing of contents."""
    token = _hashing.set(False)
    try:
        yield
    finally:
        _hashing.reset(token)
