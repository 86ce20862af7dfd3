"""Ray during one training run: started on this machine, or a running cluster."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from aigc import private, ray_options, watchdog
from aigc.prometheus import exporter

ENVIRONMENT = ray_options.ENVIRONMENT | {
    # Ray Train's controller polls its workers this often: the end of a run waits for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A drained node may be gone within half a minute.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    # A group planned on a node that died meanwhile is planned again after this time. It does not
    # bound the wait for new nodes.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
}

ONE_MACHINE = {
    # A Ray that ends with its driver has no node that could be drained.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}

SHUTDOWN_S = 3.0
"""Seconds that Ray's processes get to end by themselves."""


@contextmanager
def local_ray(workers: int) -> Iterator[Path]:
    """Run Ray on loopback with room for `workers`, and leave no process behind.

    Yields a folder that only this user can look into; it exists as long as Ray runs. Token
    authentication is on with a token of this run alone, unless RAY_AUTH_MODE is set. Raises
    ValueError if Ray does not start, or other users of the machine could look into its folder.
    """
    private.check_working_folder("cluster")
    _set_environment()
    for name, value in (ray_options.LOOPBACK_ENVIRONMENT | ONE_MACHINE).items():
        os.environ.setdefault(name, value)
    os.environ |= ray_options.token()
    import ray

    guard = None
    others = set(psutil.Process().children(recursive=True))
    folder = ray_options.new_folder()
    os.environ[watchdog.RUN_FOLDER] = str(folder)
    try:
        # One logical CPU per worker beside its own, for reading by Ray Data.
        options = ray_options.init_options(folder, num_cpus=2 * workers)
        try:
            with _without_metrics_folder(), _signals_later():
                ray.init(object_store_memory=256 * 2**20, **options)
        except Exception as error:  # a start of Ray fails with many types
            raise ValueError(f"Ray does not start: {' '.join(str(error).split())}") from error
        private.check(folder)
        guard = watchdog.Watchdog(folder)
        guard.watch(set(psutil.Process().children(recursive=True)) - others)
        yield folder
    finally:
        spared = {process.pid for process in others} | ({guard.pid} if guard else set())
        started = psutil.Process().children(recursive=True)
        started = [process for process in started if process.pid not in spared]
        ray.shutdown()
        del os.environ[watchdog.RUN_FOLDER]
        with suppress(RuntimeError):  # the watchdog tries again when this process has ended
            watchdog.end_run(folder, started, grace_s=SHUTDOWN_S, spare=spared)
            if guard:
                guard.close()


@contextmanager
def running_ray(address: str) -> Iterator[None]:
    """Connect to a cluster that this machine is a node of, and disconnect at the end.

    Raises ValueError if no cluster answers. RAY_AUTH_MODE is the user's.
    """
    private.check_working_folder("cluster")
    _set_environment()
    import ray

    host, _, port = address.rpartition(":")
    try:
        if port.isdigit():  # Ray itself tries for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        with _without_metrics_folder():
            ray.init(address=address, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"no Ray cluster answers at {address!r}: {reason}") from error
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _signals_later() -> Iterator[None]:
    """Delay Ctrl-C until the end: raised inside Ray's start it would become a crash there.

    Closing a terminal sends SIGHUP to all of its processes. Ray's inherit that they ignore it,
    since they are needed for the checkpoint that this process then asks for.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupts = []
    before = signal.signal(signal.SIGINT, lambda *_: interrupts.append(True))
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGHUP, hangup)
    if interrupts:
        raise KeyboardInterrupt


@contextmanager
def _without_metrics_folder() -> Iterator[None]:
    """Hide the metrics folder from Ray's own processes, which use the same metrics library."""
    hidden = os.environ.pop(exporter.ENVIRONMENT, None)
    try:
        yield
    finally:
        if hidden is not None:
            os.environ[exporter.ENVIRONMENT] = hidden


def _set_environment() -> None:
    """Set ENVIRONMENT where the user has not; before Ray is imported, as it reads some then."""
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
