"""Ray on this machine for the time of one training run."""

import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

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
        ray.shutdown()
        shutil.rmtree(folder, ignore_errors=True)
