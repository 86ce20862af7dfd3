"""Environment and options of a Ray that runs on this machine alone; imports no Ray."""

import os
import secrets
from pathlib import Path
from typing import Any

from aigc import private

LOOPBACK = "127.0.0.1"

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Workers run at nice 15 otherwise, and lose every race against the rest of the machine.
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
"""Variables for every process that uses Ray, set before Ray is imported."""

LOOPBACK_ENVIRONMENT = {
    # Without this Ray looks for an address that other machines can reach.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
}
"""Further variables where all of Ray stays on loopback."""

SOCKET_PATH = 78
"""Bytes of the longest paths of Unix sockets below the folder of a run: Ray's below
r/session_<time>_<pid>/sockets, and HAProxy's below a node's id."""


def new_folder() -> Path:
    """A temporary folder for one run. Raises ValueError if other users could look into it."""
    return private.make(socket_path=SOCKET_PATH)


def token() -> dict[str, str]:
    """Variables that turn on token authentication; none where the user set RAY_AUTH_MODE."""
    if "RAY_AUTH_MODE" in os.environ:
        return {}
    return {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


def session_folder(folder: Path) -> Path:
    """Folder of Ray's sessions, which Ray opens to every user: only `folder` keeps them out."""
    return folder / "r"


def init_options(folder: Path, num_cpus: int) -> dict[str, Any]:
    """Arguments of ray.init() for a Ray in `folder` with at least `num_cpus` logical CPUs."""
    return {
        "address": "local",
        "num_cpus": max(num_cpus, os.cpu_count() or 1),
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": "ERROR",
        "_node_ip_address": LOOPBACK,
        "_temp_dir": str(session_folder(folder)),
    }
