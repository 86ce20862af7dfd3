"""An event loop whose clock jumps to the next thing that happens: seconds cost nothing."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any


class _Jump(selectors.DefaultSelector):
    """Where another selector would sleep, time passes at once."""

    sleep: Callable[[float], None]

    def select(self, timeout: float | None = None) -> Any:
        found = super().select(0)
        if not found:
            if timeout is None:
                raise RuntimeError("everything waits, and nothing will ever happen")
            self.sleep(timeout)
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """time() starts at 1000 s and passes only while every task waits."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        selector = _Jump()
        selector.sleep = self._sleep
        super().__init__(selector)

    def _sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def time(self) -> float:
        return self.now_s


def run(main: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    """Run a coroutine function to its end on a loop of its own."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())
