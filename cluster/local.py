"""Ray on this machine for the time of one training run."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers run at nice 15 otherwise, and lose every race against the rest of the machine.
    "RAY_worker_niceness": "0",
    # Ray Train's controller polls its workers this often: the end of a run waits for it.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}


@contextmanager
def local_ray(workers: int) -> Iterator[None]:
    """Start Ray on loopback with room for `workers`, and leave no process behind.

    Token authentication is on with a token of this run alone, unless RAY_AUTH_MODE is set.
    """
    os.environ.update({k: v for k, v in ENVIRONMENT.items() if k not in os.environ})
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    import ray

    folder = tempfile.mkdtemp(prefix="aigc-")
    try:
        ray.init(
            address="local",
            num_cpus=max(workers, os.cpu_count() or 1),
            object_store_memory=100 * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        yield
    finally:
        started = psutil.Process().children(recursive=True)
        ray.shutdown()
        _end(started)
        shutil.rmtree(folder, ignore_errors=True)


def _end(processes: list[psutil.Process]) -> None:
    """Kill what is left: after an interrupted start Ray's agents live on for more than a minute."""
    _, left = psutil.wait_procs(processes, timeout=3)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=5)
