"""Values of this process's metrics, in memory and in files that the exporter merges.

    process = register_process(Path("/run/aigc/metrics"))   # before the first metric is created
    process.tend()                                          # every few seconds
    process.close()

prometheus_client maps files whose pages are not allocated yet: on a full disk, the first write to
such a page raises SIGBUS and ends the process. Here pages are reserved before they are mapped. A
value that does not fit is kept in memory and written later.
"""

import contextlib
import errno
import fcntl
import logging
import mmap
import os
import threading
import time
from functools import partial
from pathlib import Path
from typing import IO, Any

from prometheus_client import values
from prometheus_client.mmap_dict import MmapedDict, mmap_key

LOST = "aigc_metrics_lost"
"""Gauge of every process that writes metrics, and of the exporter."""
LOST_HELP = "1 while the folder of metrics takes no new values, so that some are missing."

STEP_BYTES = 1 << 16
"""Bytes by which files grow."""
RETRY_S = 5.0
"""Time between two attempts to write values that did not fit."""
LOCK_S = 5.0
"""Longest that a process waits for another one's lock."""

log = logging.getLogger(__name__)


def reserve(file: int, stop: int) -> None:
    """Allocate the first `stop` bytes of a file. Raises OSError if the disk is full."""
    size = os.fstat(file).st_size
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file, 0, stop)
        elif stop > size:
            os.pwrite(file, bytes(stop - size), size)
    except OSError:
        os.ftruncate(file, size)
        raise


def lock(file: IO[str], until_s: float) -> None:
    """Lock a file exclusively. Raises TimeoutError if another process holds it until `until_s`."""
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > until_s:
                raise TimeoutError(
                    errno.ETIMEDOUT, "another process keeps its lock", file.name
                ) from None
        time.sleep(0.01)


class MappedValues(MmapedDict):
    """A file of values whose writes raise no SIGBUS. Raises OSError on a full disk."""

    def __init__(self, path: Path) -> None:
        with path.open("a+b") as file:
            size = os.fstat(file.fileno()).st_size
            try:
                reserve(file.fileno(), max(size, STEP_BYTES))
            except OSError:
                if size == 0:
                    path.unlink()
                raise
        super().__init__(str(path))  # type: ignore[no-untyped-call]

    def _init_value(self, key: str) -> None:
        room = self._used + len(key.encode()) + 32  # its length, padding, value and timestamp
        if room > self._capacity:
            capacity = -(-room // STEP_BYTES) * STEP_BYTES
            reserve(self._f.fileno(), capacity)
            self._m = mmap.mmap(self._f.fileno(), capacity)
            self._capacity = capacity
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def __contains__(self, key: str) -> bool:
        return key in self._positions

    @property
    def is_there(self) -> bool:
        """True if the file still has its name in the folder."""
        with contextlib.suppress(OSError):
            return os.path.samestat(Path(self._fname).stat(), os.fstat(self._f.fileno()))
        return False


class _File:
    """Values of one kind of metric."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mapped: Any = None
        self.waiting: dict[str, tuple[float, float]] = {}
        """Values, with their timestamps, that are not in the file yet."""

    def flush(self) -> None:
        """Write waiting values to the file. Raises OSError."""
        if self.mapped is None:
            self.mapped = self._map()
        for key, (value, timestamp) in list(self.waiting.items()):
            self.mapped.write_value(key, value, timestamp)
            del self.waiting[key]

    def _map(self) -> MappedValues:
        try:
            return MappedValues(self.path)
        except OSError:
            raise
        except Exception as error:  # an earlier process with this pid may have left anything
            log.warning("%s is not a file of values and is replaced: %s", self.path, error)
            self.path.unlink()
            return MappedValues(self.path)

    def unmap(self) -> None:
        """Close the file and keep all values waiting."""
        if self.mapped is not None:
            there = {key: (v, timestamp) for key, v, timestamp in self.mapped.read_all_values()}
            self.waiting = there | self.waiting
            self.mapped.close()
            self.mapped = None


class ValueFiles:
    """Files of all values of this process."""

    def __init__(self, directory: Path) -> None:
        self.lock = threading.Lock()
        self.lost = ""
        """Reason why values are waiting; "" if none is."""
        self._directory = directory
        self._files: dict[str, _File] = {}
        self._next_try_s = 0.0
        self._closed = False

    def file(self, kind: str) -> _File:
        """File of a kind of values, such as counter or gauge_livesum. Under the lock."""
        if kind not in self._files:
            self._files[kind] = _File(self._directory / f"{kind}_{os.getpid()}.db")
        return self._files[kind]

    def read(self, file: _File, key: str) -> tuple[float, float]:
        """A value; 0, or that of an earlier process with this pid, if new. Under the lock."""
        if file.mapped is None:
            self._flush()
        if key in file.waiting:
            return file.waiting[key]
        if file.mapped is None or key not in file.mapped:
            self.write(file, key, 0.0, 0.0)
            return 0.0, 0.0
        value, timestamp = file.mapped.read_value(key)
        return value, timestamp

    def write(self, file: _File, key: str, value: float, timestamp: float) -> None:
        """Write a value, to memory if the file has no room. Under the lock."""
        if file.mapped is not None and key in file.mapped:
            file.mapped.write_value(key, value, timestamp)
        else:
            file.waiting[key] = value, timestamp
            self._flush()

    def _flush(self) -> None:
        if self._closed or time.monotonic() < self._next_try_s:
            return
        lost = ""
        for file in self._files.values():
            try:
                file.flush()
            except OSError as error:
                lost = str(error.strerror)
        if lost:
            self._next_try_s = time.monotonic() + RETRY_S
        if lost and not self.lost:
            log.warning(
                "the folder of metrics %s takes no new values (%s): they are kept in memory and"
                " written when it does; nothing else depends on it",
                self._directory,
                lost,
            )
        elif self.lost and not lost:
            log.warning("the folder of metrics %s takes all values again", self._directory)
        self.lost = lost

    def tend(self) -> None:
        """Write waiting values, and all values again if the files were removed."""
        with self.lock:
            if self._closed:
                return
            for file in self._files.values():
                if file.mapped is not None and not file.mapped.is_there:
                    file.unmap()
            self._next_try_s = 0.0
            self._flush()

    def close(self) -> None:
        """Stop writing; values in the files stay."""
        with self.lock:
            self._closed = True
            for file in self._files.values():
                file.unmap()


class Value:
    """Value of a metric, with the interface of prometheus_client's values."""

    _multiprocess = True

    def __init__(
        self,
        files: ValueFiles,
        typ: str,
        metric_name: str,
        name: str,
        labelnames: list[str],
        labelvalues: list[str],
        help_text: str,
        multiprocess_mode: str = "",
        **_: object,
    ) -> None:
        self._files, self._lock = files, files.lock
        self._key: str = mmap_key(metric_name, name, labelnames, labelvalues, help_text)
        with self._lock:
            self._file = files.file(f"{typ}_{multiprocess_mode}" if typ == "gauge" else typ)
            self._value, self._timestamp = files.read(self._file, self._key)

    def inc(self, amount: float) -> None:
        with self._lock:
            self._value += amount
            self._timestamp = 0.0
            self._files.write(self._file, self._key, self._value, 0.0)

    def set(self, value: float, timestamp: float | None = None) -> None:
        with self._lock:
            self._value = value
            self._timestamp = timestamp or 0.0
            self._files.write(self._file, self._key, value, self._timestamp)

    def get(self) -> float:
        with self._lock:
            return self._value

    def set_exemplar(self, exemplar: object) -> None:
        """Ignored: files hold no exemplars."""

    def get_exemplar(self) -> None:
        return None


class LiveProcess:
    """A process that writes metrics to a folder. Loses metrics instead of raising."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._held: IO[str] | None = None
        self._files: ValueFiles | None = None
        if values.ValueClass is not values.MutexValue:  # chosen at import, by the environment
            self._files = ValueFiles(directory)
            values.ValueClass = partial(Value, self._files)
        self._reported = self._closed = False
        self._tending = threading.Lock()
        self.tend()

    def tend(self) -> bool:
        """Write values that did not fit. True if some still do not."""
        with self._tending:
            return not self._closed and self._tend()

    def _tend(self) -> bool:
        failed = ""
        try:
            self._hold()
        except OSError as error:
            failed = str(error.strerror)
        if self._files is not None:
            self._files.tend()
            failed = failed or self._files.lost
        elif failed and not self._reported:
            log.warning("the folder of metrics %s cannot be used: %s", self._directory, failed)
            self._reported = True
        return bool(failed)

    def _hold(self) -> None:
        """Hold the lock that shows that this process is alive. Raises OSError."""
        path = self._directory / f"live_{os.getpid()}.lock"
        if self._held is not None:
            if _is(self._held, path):
                return
            self._held.close()
            self._held = None
        self._directory.mkdir(exist_ok=True)
        until_s = time.monotonic() + LOCK_S
        while True:
            file = path.open("w")
            try:
                lock(file, until_s)
            except OSError:
                file.close()
                raise
            if _is(file, path):
                self._held = file
                return
            file.close()  # an exporter removed the file of an earlier process with this pid

    def close(self) -> None:
        """Release the lock: the exporter drops this process's gauges and keeps its counters."""
        with self._tending:
            self._closed = True
            if self._files is not None:
                self._files.close()
            if self._held is not None:
                self._held.close()
                self._held = None


def register_process(directory: Path) -> LiveProcess:
    """Register this process as a writer of metrics in a folder, until the result is closed."""
    with contextlib.suppress(OSError):
        directory.parent.mkdir(parents=True, exist_ok=True)
    return LiveProcess(directory)


def _is(file: IO[str], path: Path) -> bool:
    with contextlib.suppress(OSError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    return False
