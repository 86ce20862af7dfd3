"""Ray for the time of one training run: started on this machine, or a running cluster."""

import os
import secrets
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

from aigc import exporter

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers run at nice 15 otherwise, and lose every race against the rest of the machine.
    "RAY_worker_niceness": "0",
    # Ray Train's controller polls its workers this often: the end of a run waits for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A drained node may be gone within half a minute.
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "1",
    # A group planned on a node that died meanwhile is planned anew after this time. Waiting for
    # nodes to come goes on beyond it.
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def local_ray(workers: int) -> Iterator[None]:
    """Start Ray on loopback with room for `workers`, and leave no process behind.

    Token authentication is on with a token of this run alone, unless RAY_AUTH_MODE is set.
    """
    _set_environment()
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    from cluster import guard

    watch = None
    folder = tempfile.mkdtemp(prefix="aigc-")
    try:
        with _without_metrics_folder():
            ray.init(
                address="local",
                # One logical CPU per worker beside its own, for reading by Ray Data.
                num_cpus=max(2 * workers, os.cpu_count() or 1),
                object_store_memory=256 * 2**20,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                _node_ip_address="127.0.0.1",
                _temp_dir=folder,
            )
        watch = guard.start(folder)
        yield
    finally:
        started = psutil.Process().children(recursive=True)
        started = [process for process in started if not watch or process.pid != watch.pid]
        ray.shutdown()
        end(started)
        shutil.rmtree(folder, ignore_errors=True)
        if watch:
            watch.communicate()


@contextmanager
def running_ray(address: str) -> Iterator[None]:
    """Connect to a cluster that this machine is a node of, and leave it as it was.

    Raises ValueError if there is none. RAY_AUTH_MODE is the user's.
    """
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
def _without_metrics_folder() -> Iterator[None]:
    """Ray's own processes must not write their metrics among ours: they import the same library."""
    hidden = os.environ.pop(exporter.ENVIRONMENT, None)
    try:
        yield
    finally:
        if hidden is not None:
            os.environ[exporter.ENVIRONMENT] = hidden


def _set_environment() -> None:
    """Before Ray is imported: it reads some of these then."""
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})


def end(processes: list[psutil.Process]) -> None:
    """Kill what is left: after an interrupted start Ray's agents live on for more than a minute."""
    _, left = psutil.wait_procs(processes, timeout=3)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)
