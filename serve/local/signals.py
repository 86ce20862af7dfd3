"""SIGINT and SIGTERM as exceptions raised only while waiting.

A signal handler that raises may do so anywhere, even inside a library's C code, where the exception
becomes another error or a crash. The handlers here only record the signal, and `wait` raises it.
"""

import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Self

NUMBERS = (signal.SIGINT, signal.SIGTERM)


class Stopped(Exception):
    """A signal arrived. `status`: exit status of a process that it ended, as in a shell."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.status = 128 + number


class Signals:
    """Signal handlers that end the process until `record` is called; then `wait` raises Stopped."""

    def __init__(self) -> None:
        self._recording = False

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._before = {number: signal.signal(number, self._arrived) for number in NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._read)
        os.close(self._write)

    def record(self) -> None:
        """Record signals from now on instead of exiting: there are processes to end in order."""
        self._recording = True

    @contextmanager
    def prefer_stopped(self) -> Iterator[None]:
        """Raise Stopped instead of an error if a signal arrived before it.

        A terminal signals all processes of its group, and one that has just been started is still
        in the group: its death by the signal is not an error to report.
        """
        try:
            yield
        except Exception:
            self.wait(timeout_s=0)
            raise

    def _arrived(self, number: int, _: FrameType | None) -> None:
        if not self._recording:
            os._exit(128 + number)
        os.write(self._write, bytes([number]))

    def wait(self, *files: int, timeout_s: float | None = None) -> bool:
        """Wait until one of these file descriptors can be read; False after `timeout_s`.

        Raises Stopped for a signal that arrived since the last call, or arrives.
        """
        ready, _, _ = select.select([self._read, *files], [], [], timeout_s)
        if self._read in ready:
            raise Stopped(os.read(self._read, 1)[0])
        return bool(ready)
