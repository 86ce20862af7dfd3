"""Shows the logs of replicas and of the rate ledger on the terminal of `aigc serve`.

Ray writes a worker's stderr to a file of its session. A thread here reads what is appended to those
files, so that no replica ever waits for a terminal.
"""

import os
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

from aigc.display import printable

POLL_S = 0.25
SAME_S = 30.0
"""Least time between two records that differ only in their time stamp."""
WINDOW_S = 10.0
MOST_PER_WINDOW = 200
MAX_RECORD = 8192
"""Most characters of a record that are shown."""
MAX_BEHIND_BYTES = 4 << 20
"""Most unread bytes of a file; older ones are skipped, as nobody reads that fast."""

ACTORS = ("ServeReplica", "Ledger")
"""Ray actors that run this project's code; logs of others are not shown."""

ACTOR = ":actor_name:"
RAYS = (ACTOR, ":job_id:", ":task_name:")
"""Beginnings of lines that Ray writes for its own reader."""

TEXT_START = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} ")
JSON_START = re.compile(r'\{"time": "[^"]*"')


@dataclass(kw_only=True)
class _File:
    read: int = 0
    rest: str = ""
    actor: str = ""


class Limiter:
    """Filter of records: each at most once in SAME_S, MOST_PER_WINDOW of them in WINDOW_S."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._window = (0.0, 0)
        self._dropped = 0

    def filter(self, record: str) -> Iterator[str]:
        """Lines to show for a record: none, itself, or a count of suppressed ones and itself."""
        now = self._clock()
        key = TEXT_START.sub("", JSON_START.sub("", record))
        shown, again = self._seen.pop(key, (-SAME_S, 0))
        if now - shown < SAME_S:
            self._seen[key] = (shown, again + 1)
            return
        begun, count = self._window
        if now - begun >= WINDOW_S:
            begun, count = now, 0
            if self._dropped:
                yield f"{self._dropped} more records were not shown; Ray's log files have them"
                self._dropped = 0
        self._window = (begun, count + 1)
        if count >= MOST_PER_WINDOW:
            self._dropped += 1
            return
        self._seen[key] = (now, 0)
        while len(self._seen) > 256:
            self._seen.popitem(last=False)
        if again:
            yield f"{again} more like the next one since it was last shown"
        yield record


class Follower(threading.Thread):
    """Shows what is appended to the logs below Ray's `folder`, until `close`."""

    def __init__(self, folder: Path, descriptor: int = 2) -> None:
        super().__init__(name="follows-logs", daemon=True)
        self._folder = folder
        self._descriptor = descriptor
        self._files: dict[Path, _File] = {}
        self._limiter = Limiter()
        self._notes: SimpleQueue[str] = SimpleQueue()
        self._closing = threading.Event()

    def run(self) -> None:
        while True:
            last = self._closing.wait(POLL_S)
            try:
                while not self._notes.empty():
                    self._show(self._notes.get())
                for path in self._folder.glob("session_*/logs/worker-*.err"):
                    if not path.parent.parent.is_symlink():  # session_latest
                        with suppress(FileNotFoundError):  # Ray has moved it meanwhile
                            self._follow(path)
            except OSError:
                return  # the terminal is gone, or the run is being removed
            if last:
                return

    def close(self) -> None:
        """Show what was written until now, unless the terminal blocks."""
        self._closing.set()
        if self.ident is not None:
            self.join(1.0)

    def add(self, note: str) -> None:
        """Show a line that is in no log, soon."""
        self._notes.put(note)

    def _show(self, record: str) -> None:
        for text in self._limiter.filter(record):
            data = f"{_cut(text)}\n".encode(errors="backslashreplace")
            while data:
                data = data[os.write(self._descriptor, data) :]

    def _follow(self, path: Path) -> None:
        file = self._files.setdefault(path, _File())
        size = path.stat().st_size
        if size < file.read:
            file.read = 0  # rotated
        if size == file.read:
            return
        skipped = size - file.read - MAX_BEHIND_BYTES
        if skipped > 0:
            file.read += skipped
            file.rest = ""
            self._show(f"{skipped} bytes of {path.name} were not shown")
        with path.open("rb") as opened:
            opened.seek(file.read)
            data = opened.read(MAX_BEHIND_BYTES)
        file.read += len(data)
        *lines, file.rest = (file.rest + data.decode(errors="replace")).split("\n")
        file.rest = file.rest[-MAX_RECORD:]
        for record in _records(line for line in lines if not self._is_rays(file, line)):
            if file.actor.startswith(ACTORS):
                self._show(record)

    @staticmethod
    def _is_rays(file: _File, line: str) -> bool:
        if line.startswith(ACTOR):
            file.actor = line.removeprefix(ACTOR)
        return line.startswith(RAYS)


def _records(lines: Iterator[str]) -> Iterator[str]:
    """Records of lines: a traceback belongs to the line above it."""
    record = ""
    for line in lines:
        if TEXT_START.match(line) or JSON_START.match(line):
            if record:
                yield record
            record = line
        else:
            record = f"{record}\n{line}" if record else line
    if record:
        yield record


def _cut(text: str) -> str:
    """A record for a terminal: printable, at most about MAX_RECORD characters."""
    text = printable(text, keep="\n\t")
    if len(text) <= MAX_RECORD:
        return text
    half = MAX_RECORD // 2  # the end of a traceback has the error
    return f"{text[:half]}\n[...]\n{text[-half:]}"
