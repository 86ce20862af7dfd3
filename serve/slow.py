"""Whoever sends a request's body too slowly is cut off, and holds nothing any more.

patience = Patience(30)
body = await patience.read(scope, receive, max_bytes)   # HTTPError 408 after 30 s
"""

import asyncio
import time

from serve.http import CLOSE, HTTPError, Receive, Scope, read_body


class Patience:
    """Reads bodies on one event loop, each within `limit_s` seconds.

    One timer for all that are being read: most bodies are there at once, and asyncio.timeout()
    would cost each of them more than reading it does.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self._until_s: dict[asyncio.Task[object], float] = {}
        """By the monotonic clock, in the order of their ends: all have the same time."""
        self._timer: asyncio.TimerHandle | None = None

    async def read(self, scope: Scope, receive: Receive, max_bytes: int) -> bytes:
        """The request's body. Raises HTTPError 400, 408 or 413."""
        task = asyncio.current_task()
        assert task is not None
        self._until_s[task] = time.monotonic() + self.limit_s
        if self._timer is None:
            self._wait(self.limit_s)
        try:
            return await read_body(scope, receive, max_bytes)
        except asyncio.CancelledError:
            # Who hung up as well as being late is cancelled twice, and stays so.
            if task in self._until_s or task.uncancel() > 0:
                raise
            message = f"the body must arrive within {self.limit_s:g} s"
            raise HTTPError(408, "body_too_slow", message, [CLOSE]) from None
        finally:
            self._until_s.pop(task, None)

    def _wait(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._cut)

    def _cut(self) -> None:
        """Cancel those whose time is over, and come again when that of the next one is."""
        self._timer = None
        now_s = time.monotonic()
        for task, until_s in list(self._until_s.items()):
            if until_s > now_s:
                self._wait(until_s - now_s)
                return
            del self._until_s[task]
            task.cancel()
