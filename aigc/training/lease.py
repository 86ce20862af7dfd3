"""One driver per run, also across machines: lease.json in the run's folder, local or on S3.

    with Lease("s3://bucket/runs/digits", lost=lambda reason: stop.set()) as lease:
        ...
        store.publish(checkpoint, check=lease.check)

A lease ends unless its holder renews it, which a thread does three times per length; an ended
lease may be taken over. lease.json is changed by compare-and-swap (S3: conditional put; locally:
under a file lock), so exactly one of several drivers gets it. A driver that was merely slow finds
another's name in it and stops: `lost` is called, and `check` raises.

Clocks: a live lease has two thirds of its length left by its holder's clock, 20 s by default. A
driver whose clock is ahead by less than that never takes a living holder's lease; one behind
waits that much longer. A holder that cannot reach the store goes on, since other drivers cannot
reach it either; its next checkpoint finds out if the run is still its own.
"""

import errno
import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import psutil
from filelock import FileLock, Timeout

from aigc.artifact.store import store_errors
from aigc.files import write
from aigc.training.object_store import filesystem, is_remote
from aigc.training.run_folder import LEASE

LENGTH_S = 30.0
LOCK_TIMEOUT_S = 10.0
READS = 5
CHANGED = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404")
"""Error codes of S3 for a conditional put whose condition does not hold."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Clock that goes on while the machine sleeps, if the system has one."""

log = logging.getLogger(__name__)


class LeaseLost(RuntimeError):
    """Another driver holds the run now; nothing may be written to it any more."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Contents of lease.json."""

    id: str
    """Random identity of a Lease."""
    host: str
    machine: str
    """Boot and process namespace, within which the pid is meaningful."""
    pid: int
    started: float
    """Start of the process, Unix time in seconds; pids are reused."""
    length_s: float
    ends: float
    """End of the lease, Unix time in seconds by the holder's clock."""
    released: bool = False

    @property
    def name(self) -> str:
        """Name for messages."""
        return f"process {self.pid} on {self.host}"

    def gone(self) -> bool:
        """True if the process was in our namespace and has ended."""
        if self.machine != _machine():
            return False
        try:
            process = psutil.Process(self.pid)
            # The boot time that psutil counts from is rounded to seconds.
            same = abs(process.create_time() - self.started) < 2
            return not same or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


class LeaseStore(Protocol):
    """Storage of lease.json, with compare-and-swap."""

    def read(self) -> tuple[bytes, Any] | None:
        """Contents and their tag; None without a lease. Raises OSError."""

    def swap(self, tag: Any, data: bytes) -> None:
        """Replace the contents with that tag, or create the file if None; no-op if they changed."""


class FolderLeaseStore:
    """lease.json in a local or shared folder. The file lock is held during a swap only."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEASE
        self.lock = FileLock(folder / f".{LEASE}.lock", timeout=LOCK_TIMEOUT_S)

    def read(self) -> tuple[bytes, Any] | None:
        """The contents are their own tag."""
        try:
            data = self.path.read_bytes()
        except FileNotFoundError:
            return None
        return data, data

    def swap(self, tag: Any, data: bytes) -> None:
        """See LeaseStore. Raises OSError if a stopped process holds the lock."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.lock:
                current = self.read()
                if (current and current[1]) == tag:
                    write(self.path, data)
        except Timeout as error:
            raise OSError(f"{error}; a stopped process may hold it") from None

    def remove(self, tag: Any) -> None:
        """Delete the file with that tag, and the lock beside it; no-op if it has changed."""
        with suppress(OSError, Timeout), self.lock:
            current = self.read()
            if current is None or current[1] == tag:
                self.path.unlink(missing_ok=True)
                Path(self.lock.lock_file).unlink(missing_ok=True)


class S3LeaseStore:
    """lease.json on S3 or a compatible store with conditional puts."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.fs, root = filesystem(uri)
        self.path = f"{root}/{LEASE}"

    def read(self) -> tuple[bytes, Any] | None:
        """The tag is the ETag."""
        with store_errors(self.uri):
            for _ in range(READS):
                try:
                    with self.fs.open(self.path, "rb") as file:
                        return file.read(), file.details["ETag"]
                except FileNotFoundError:
                    return None
                except OSError as error:
                    if error.errno != errno.EBUSY:  # a renewal came between ETag and contents
                        raise
        raise OSError(f"{self.uri}/{LEASE} changed at each of {READS} reads")

    def swap(self, tag: Any, data: bytes) -> None:
        """See LeaseStore."""
        condition = {"mode": "create"} if tag is None else {"IfMatch": tag}
        with store_errors(self.uri):
            try:
                self.fs.pipe_file(self.path, data, **condition)
            except OSError as error:
                code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
                if code not in CHANGED:
                    raise


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A driver's lease, for its workers, which may be on other machines. Can be pickled."""

    where: str
    id: str
    """Identity of the Holder."""

    def check(self) -> None:
        """Raise LeaseLost if another driver took the run over; OSError if that cannot be known."""
        current = _lease_store(self.where).read()
        with suppress(ValueError):
            if current and _parse(current[0], self.where).id == self.id:
                return
        raise LeaseLost(f"{self.where} was taken over by {_taken_by(current, self.where)}")


def holder(where: Path | str) -> Holder | None:
    """Holder of a run's live lease; None if nobody trains the run. Raises OSError."""
    current = _lease_store(str(where)).read()
    with suppress(ValueError):
        held = current and _parse(current[0], str(where))
        if held and not held.released and held.ends > time.time() and not held.gone():
            return held
    return None


class Lease:
    """The right to train a run, for as long as the `with` block lasts.

    `lost` is called once, in the renewing thread, with the reason in a sentence; training must
    then stop without another checkpoint. Entering raises ValueError, naming the holder and the end
    of its lease, if the run is being trained; OSError if the store does not answer.
    """

    def __init__(
        self,
        folder_or_uri: Path | str,
        lost: Callable[[str], None],
        *,
        length_s: float = LENGTH_S,
    ) -> None:
        self.where = str(folder_or_uri).rstrip("/")
        self._store = _lease_store(self.where)
        self._lost, self._reason = lost, ""
        self._me = _this_process(length_s)
        self._tag: Any = None
        self._renewed = 0.0
        self._one_at_a_time = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew_periodically, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        current = self._store.read()
        if current is not None:
            self._tag = current[1]
            self._take_over(_parse(current[0], self.where))
        try:
            won = self._write(self._me)
        except FileNotFoundError as error:
            raise ValueError(f"{self.where} has no such bucket; create it first") from error
        if not won:
            current = self._store.read()
            raise ValueError(_refusal(self.where, current and _parse(current[0], self.where)))
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        if self._reason:
            return
        try:
            self._write(replace(self._me, released=True))
        except OSError as error:
            log.warning("the lease of %s was not released, it will run out: %s", self.where, error)

    def leave_nothing(self) -> None:
        """Delete our released lease after a run that was never begun; never another driver's.

        On an object store it stays: there is no conditional delete.
        """
        if isinstance(self._store, FolderLeaseStore) and self._renewed:
            self._store.remove(self._tag)

    def check(self) -> None:
        """Raise LeaseLost if another driver took the run over; OSError if that cannot be known.

        Reads the store only if a renewal is overdue, because the process was stopped for a while
        or the store was out of reach.
        """
        with self._one_at_a_time:
            late = time.clock_gettime(_CLOCK) - self._renewed > self._me.length_s / 2
            if late and not self._reason:
                self._renew()
            if self._reason:
                raise LeaseLost(self._reason)

    @property
    def claim(self) -> Claim:
        """The lease for the workers."""
        return Claim(where=self.where, id=self._me.id)

    def _take_over(self, holder: Holder) -> None:
        """Return if the lease may be taken. Raises ValueError."""
        if holder.released:
            return
        if holder.gone():
            log.warning("%s: %s is gone; its lease is taken over", self.where, holder.name)
        elif holder.ends <= time.time():
            log.warning(
                "%s: the lease of %s ended at %s; it is taken over",
                self.where,
                holder.name,
                _clock(holder.ends),
            )
        else:
            raise ValueError(_refusal(self.where, holder))

    def _renew_periodically(self) -> None:
        while not self._over.wait(self._me.length_s / 3):
            try:
                with self._one_at_a_time:
                    if self._reason:
                        return
                    self._renew()
            except OSError as error:
                log.warning("the lease of %s could not be renewed: %s", self.where, error)

    def _renew(self) -> None:
        if self._write(self._me):
            return
        by = _taken_by(self._store.read(), self.where)
        silent = time.clock_gettime(_CLOCK) - self._renewed
        self._reason = (
            f"{self.where} was taken over by {by}, {silent:.0f} s after this driver last renewed"
            " its lease"
        )
        self._lost(self._reason)

    def _write(self, holder: Holder) -> bool:
        """Replace the contents last seen with `holder`; False if they have changed."""
        before = time.clock_gettime(_CLOCK)
        data = json.dumps(asdict(replace(holder, ends=time.time() + holder.length_s))).encode()
        self._store.swap(self._tag, data)
        current = self._store.read()
        # Read back rather than trust the answer of swap(): a put whose answer got lost is repeated
        # and then refused because of itself, and a store without conditional puts would confirm
        # the lease to two drivers.
        if current is None or current[0] != data:
            return False
        self._tag, self._renewed = current[1], before
        return True


def _lease_store(where: str) -> LeaseStore:
    return S3LeaseStore(where) if is_remote(where) else FolderLeaseStore(Path(where))


def _this_process(length_s: float) -> Holder:
    if length_s <= 0:
        raise ValueError(f"length_s must be > 0, got {length_s}")
    return Holder(
        id=secrets.token_hex(8),
        host=socket.gethostname(),
        machine=_machine(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        length_s=length_s,
        ends=0.0,
    )


def _machine() -> str:
    """Boot and pid namespace: containers of one machine may share a host name, but not these."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return socket.gethostname()


def _parse(data: bytes, where: str) -> Holder:
    try:
        return Holder(**json.loads(data))
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"{where}/{LEASE} is not a lease ({error}); delete it if nobody trains this run"
        ) from None


def _taken_by(current: tuple[bytes, Any] | None, where: str) -> str:
    """Name of the new holder of a lost lease, for messages."""
    try:
        return _parse(current[0], where).name if current else "whoever deleted its lease"
    except ValueError:
        return "whoever overwrote its lease"


def _refusal(where: str, holder: Holder | None) -> str:
    if holder is None:
        return f"{where} is being taken by another process; try again"
    left = max(0.0, holder.ends - time.time())
    return (
        f"{where} is being trained by {holder.name}, whose lease ends at {_clock(holder.ends)}"
        f" (in {left:.0f} s) unless renewed; stop it, wait for that, or give another --name"
    )


def _clock(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
