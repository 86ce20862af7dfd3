"""The process that drives a run: its signals, and the right to write to the run's folder."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from aigc.training import run_folder
from aigc.training.lease import Lease
from aigc.training.object_store import RunStore
from aigc.training.run import Run


@contextmanager
def signals() -> Iterator[threading.Event]:
    """Set the event on SIGINT, SIGTERM and SIGHUP: the run stops after its batch with a checkpoint.

    A second SIGINT or SIGTERM interrupts at once. An ignored SIGHUP, as under nohup, stays ignored.
    Enter this after ray.init(), which replaces the handlers. Only the main thread has signals: in
    another one nothing sets the event.
    """
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    terminals = [number for number in (1, 2) if os.isatty(number)]

    def handle(number: int, frame: object) -> None:
        if number == signal.SIGHUP:  # when a terminal closes, kernel and shell send one each
            _redirect_to_null(terminals)
        elif stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        with suppress(OSError):
            print("stopping after this batch; once more to stop at once", file=sys.stderr)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = [signal.signal(number, handle) for number in numbers]
    try:
        yield stop
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _redirect_to_null(terminals: list[int]) -> None:
    """Redirect the descriptors of a closed terminal, where every write would fail."""
    null = os.open(os.devnull, os.O_WRONLY)
    for number in terminals:
        os.dup2(null, number)
    os.close(null)


@contextmanager
def one_driver(run: Run, store: RunStore) -> Iterator[Lease]:
    """Keep a second driver out of a run, whichever machine it is on.

    The lock is for this machine and `aigc runs`, the lease for other machines. A refused start
    leaves neither of them, nor the folders that were created for them.
    """
    begun = run.exists
    created = [folder for folder in (run.folder, *run.folder.parents) if not folder.exists()]
    run.folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(run.folder / ".lock", timeout=1)  # `aigc runs` holds it for a moment
    try:
        lock.acquire()
    except Timeout:
        raise ValueError(f"{run.folder} is being trained by another process") from None
    try:
        lease = Lease(store.uri, _give_up)
        try:
            with lease:
                yield lease
        finally:
            if not begun and not run.exists:
                lease.leave_nothing()
                _leave_nothing(run.folder, created)
    finally:
        lock.release()


def _leave_nothing(folder: Path, created: list[Path]) -> None:
    """Remove the locks of a run that was never begun, and the folders created for it."""
    if (folder / run_folder.LEASE).exists():  # another driver's
        return
    with suppress(OSError):
        for name in (".pull.lock", ".lock"):
            (folder / name).unlink(missing_ok=True)
        for each in created:
            each.rmdir()


def _give_up(reason: str) -> None:
    """End this process at once: another driver writes the run now."""
    print(f"aigc train: {reason}; this driver ends at once", file=sys.stderr, flush=True)
    os._exit(1)
