"""Work on a data set that guessing its source and opening each of its splits have in common."""

import gc
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_results: ContextVar[dict[Hashable, Any] | None] = ContextVar("results", default=None)


@contextmanager
def once() -> Iterator[None]:
    """Within it remembered() computes each value once: the data must not change meanwhile."""
    token = _results.set({} if _results.get() is None else _results.get())
    try:
        yield
    finally:
        _results.reset(token)
        gc.unfreeze()


def remembered(key: Hashable, compute: Callable[[], Any]) -> Any:
    """The value of `compute`; within once() that of the first call with this key."""
    results = _results.get()
    if results is None:
        return compute()
    if key not in results:
        results[key] = compute()
    return results[key]


@contextmanager
def uncollected() -> Iterator[None]:
    """Make a million objects that live without the cyclic garbage collector, which would go through
    all of them again and again: a third of the time. Within once() it passes over them later, too.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled and _results.get() is not None:
            gc.freeze()
        if enabled:
            gc.enable()
