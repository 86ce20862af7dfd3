"""Time limit for blocking functions that cannot be interrupted: they are abandoned after it."""

import threading
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def within(seconds: float, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The result or error of `work`, or TimeoutError after `seconds`. Blocks.

    After a timeout its daemon thread runs on until `work` returns or the process ends.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work(*args, **kwargs))
        except BaseException as error:  # raised again below
            errors.append(error)

    thread = threading.Thread(target=run, name=f"within-{seconds:.0f}s", daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if results:
        return results[0]
    raise TimeoutError(f"not done within {seconds:.0f} s")
