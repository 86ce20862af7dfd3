"""One driver per run, also across machines: lease.json in the run's folder, local or on S3.

    with Lease("s3://bucket/runs/digits", lost=lambda reason: stop.set()) as lease:
        ...
        mirror.publish(checkpoint, check=lease.check)

A lease ends unless its holder renews it, which a thread does three times per length; an ended one
may be taken over. Whoever changes lease.json says what it replaces, and the change happens only if
that is still there (S3: conditional put; locally: under a file lock), so that of several drivers
exactly one gets it. A driver that was merely slow finds another's name in it and stops: `lost` is
called, and `check` raises.

Clocks: a live lease has two thirds of its length left by its holder's clock, 20 s by default. A
driver whose clock is ahead by less than that never takes a living holder's lease; one behind
waits that much longer. A holder that cannot reach the store goes on, since nobody else can be told
either; it finds out with its next checkpoint whether the run is still its own.
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

from aigc.artifact import codecs
from aigc.storage import filesystem, is_remote, store_errors

LEASE = "lease.json"
LENGTH_S = 30.0
LOCK_TIMEOUT_S = 10.0
READS = 5
CHANGED = ("PreconditionFailed", "ConditionalRequestConflict", "NoSuchKey", "412", "409", "404")
"""What S3 answers to a conditional put whose condition does not hold."""

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
"""Goes on while the machine sleeps, where there is one that does."""

log = logging.getLogger(__name__)


class LeaseLost(RuntimeError):
    """Another driver holds the run now; nothing may be written to it any more."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Contents of lease.json."""

    id: str
    """Random, one per Lease."""
    host: str
    machine: str
    """Boot and process namespace: where the pid means something."""
    pid: int
    started: float
    """When the process began, in seconds since 1970, since pids are used again."""
    length_s: float
    ends: float
    """Seconds since 1970 by the holder's clock."""
    released: bool = False

    @property
    def name(self) -> str:
        """For messages."""
        return f"process {self.pid} on {self.host}"

    def gone(self) -> bool:
        """Whether the process lived where we do and does no more."""
        if self.machine != _machine():
            return False
        try:
            process = psutil.Process(self.pid)
            # The boot time that psutil counts from is rounded to seconds.
            same = abs(process.create_time() - self.started) < 2
            return not same or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True


class Place(Protocol):
    """Where lease.json is."""

    def read(self) -> tuple[bytes, Any] | None:
        """Contents and their tag; None if there is none. Raises OSError."""

    def swap(self, tag: Any, data: bytes) -> None:
        """Replace the contents with that tag, or make the file if None; nothing if it changed."""


class Folder:
    """lease.json in a local or shared folder. The file lock is held for single changes only."""

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
        """See Place. Raises OSError if the lock is held for long, by a stopped process."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.lock:
                found = self.read()
                if (found and found[1]) == tag:
                    codecs.write(self.path, data)
        except Timeout as error:
            raise OSError(f"{error}; a stopped process may hold it") from None


class Bucket:
    """lease.json on S3 or what speaks its protocol, conditional puts included."""

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
                    if error.errno != errno.EBUSY:  # it was renewed between ETag and contents
                        raise
        raise OSError(f"{self.uri}/{LEASE} changed at each of {READS} reads")

    def swap(self, tag: Any, data: bytes) -> None:
        """See Place."""
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
    """A lease as the workers of its holder see it, who may be on other machines. Can be pickled."""

    where: str
    id: str
    """Of the Holder."""

    def check(self) -> None:
        """Raise LeaseLost if another driver took the run over; OSError if that cannot be known."""
        found = _place(self.where).read()
        with suppress(ValueError):
            if found and _parse(found[0], self.where).id == self.id:
                return
        raise LeaseLost(f"{self.where} was taken over by {_taken_by(found, self.where)}")


def holder(where: Path | str) -> Holder | None:
    """Who trains a run now, as far as its lease tells; None if nobody does. Raises OSError."""
    found = _place(str(where)).read()
    with suppress(ValueError):
        held = found and _parse(found[0], str(where))
        if held and not held.released and held.ends > time.time() and not held.gone():
            return held
    return None


class Lease:
    """The right to train a run, for as long as the `with` block lasts.

    `lost` is called once, in the renewing thread, with the reason in a sentence; training is to
    stop without another checkpoint. Entering raises ValueError, naming the holder and when its
    lease ends, if the run is being trained; OSError if the store does not answer.
    """

    def __init__(
        self,
        folder_or_uri: Path | str,
        lost: Callable[[str], None],
        *,
        length_s: float = LENGTH_S,
    ) -> None:
        self.where = str(folder_or_uri).rstrip("/")
        self._place = _place(self.where)
        self._lost, self._reason = lost, ""
        self._me = _this_process(length_s)
        self._tag: Any = None
        self._renewed = 0.0
        self._one_at_a_time = threading.RLock()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        found = self._place.read()
        if found is not None:
            self._tag = found[1]
            self._take_over(_parse(found[0], self.where))
        try:
            won = self._write(self._me)
        except FileNotFoundError as error:
            raise ValueError(f"{self.where} has no such bucket; create it first") from error
        if not won:
            found = self._place.read()
            raise ValueError(_refusal(self.where, found and _parse(found[0], self.where)))
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

    def check(self) -> None:
        """Raise LeaseLost if another driver took the run over; OSError if that cannot be known.

        Asks the store only if the last renewal is older than it should be: after the process was
        stopped for a while, or the store out of reach.
        """
        with self._one_at_a_time:
            late = time.clock_gettime(_CLOCK) - self._renewed > self._me.length_s / 2
            if late and not self._reason:
                self._renew()
            if self._reason:
                raise LeaseLost(self._reason)

    @property
    def claim(self) -> Claim:
        """For the workers."""
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

    def _keep(self) -> None:
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
        by = _taken_by(self._place.read(), self.where)
        silent = time.clock_gettime(_CLOCK) - self._renewed
        self._reason = (
            f"{self.where} was taken over by {by}, {silent:.0f} s after this driver last renewed"
            " its lease"
        )
        self._lost(self._reason)

    def _write(self, holder: Holder) -> bool:
        """Replace what we know with `holder`; False if it is not there any more."""
        before = time.clock_gettime(_CLOCK)
        data = json.dumps(asdict(replace(holder, ends=time.time() + holder.length_s))).encode()
        self._place.swap(self._tag, data)
        found = self._place.read()
        # Not what swap() says: a put whose answer got lost is repeated, and then refused because of
        # itself; and a store without conditional puts would tell two drivers that both have it.
        if found is None or found[0] != data:
            return False
        self._tag, self._renewed = found[1], before
        return True


def _place(where: str) -> Place:
    return Bucket(where) if is_remote(where) else Folder(Path(where))


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
    """Where pids are comparable: containers of one machine may share a host name, but not these."""
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
            f"{where}/{LEASE} is no lease ({error}); delete it if nobody trains this run"
        ) from None


def _taken_by(found: tuple[bytes, Any] | None, where: str) -> str:
    """Whose a lease is that was ours, for messages."""
    try:
        return _parse(found[0], where).name if found else "whoever deleted its lease"
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
