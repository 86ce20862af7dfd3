"""One thread for functions that would block the event loop; the keys that use it take turns.

executor = FairExecutor("codec", max_waiting=64)
value = await executor.run("alice", work)          # work() of every key in turn
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from serve.batching.jobs import as_exception

T = TypeVar("T")

_NOT_TAKEN = (StopIteration, GeneratorExit, KeyboardInterrupt, SystemExit, asyncio.CancelledError)
"""Errors that a future rejects, or that would end more than the function that raised them."""


class FullError(Exception):
    """The most functions allowed already wait for a key."""


class FairExecutor:
    """Runs functions in one thread, in turn by key. Lives on one event loop.

    A key gets one function run per turn: however many another key has waiting, a new key waits for
    at most one of each.
    """

    def __init__(self, name: str, max_waiting: int) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._max_waiting = max_waiting
        self._waiting: OrderedDict[str, deque[tuple[asyncio.Future[Any], Callable[[], Any]]]]
        self._waiting = OrderedDict()
        self._busy = False

    def waiting(self, key: str) -> int:
        """Number of functions of a key that wait."""
        return len(self._waiting.get(key, ()))

    async def run(self, key: str, work: Callable[[], T], *, bounded: bool = True) -> T:
        """The result of `work`. If cancelled, it does not run, or its result is dropped.

        Raises what `work` raises, and FullError if it is `bounded` and max_waiting functions of the
        key wait.
        """
        if bounded and self.waiting(key) >= self._max_waiting:
            raise FullError
        done: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        queue = self._waiting.get(key)
        if queue is None:
            queue = self._waiting[key] = deque()
        queue.append((done, work))
        if not self._busy:
            self._next()
        try:
            return await done
        except asyncio.CancelledError:
            self._drop(key, done)
            raise
        finally:
            # An error refers to this frame, and the frame to the error: without this, everything
            # that `work` refers to would stay until the garbage collector runs.
            del done, work

    def _drop(self, key: str, done: asyncio.Future[Any]) -> None:
        """Remove a cancelled function."""
        queue = self._waiting.get(key, deque())
        entry = next((one for one in queue if one[0] is done), None)
        if entry is not None:
            queue.remove(entry)
            if not queue:
                del self._waiting[key]

    def _next(self) -> None:
        """Run the first function of the key whose turn it is; the key then moves to the end."""
        self._busy = bool(self._waiting)
        if not self._busy:
            return
        key, queue = self._waiting.popitem(last=False)
        done, work = queue.popleft()
        if queue:
            self._waiting[key] = queue
        loop = asyncio.get_running_loop()

        def settle(ran: "asyncio.Future[Any]") -> None:
            self._next()
            if done.done():
                ran.exception()  # cancelled: retrieved so that it is not logged
            elif ran.exception() is not None:
                done.set_exception(ran.exception() or RuntimeError)
            else:
                done.set_result(ran.result())

        loop.run_in_executor(self._thread, _run, work).add_done_callback(settle)


def _run(work: Callable[[], T]) -> T:
    """In the thread: an error that a future rejects would leave it unsettled for ever."""
    try:
        return work()
    except _NOT_TAKEN as error:
        raise as_exception(error) from error
    finally:
        del work  # an error refers to this frame
