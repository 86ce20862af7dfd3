"""Ray on this machine for the time of one `aigc serve`: its environment, its start, its end.

Everything of a run lives in one temporary folder and carries its name in the environment, so that
several runs stand side by side and none leaves a process behind.
"""

import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from serve import haproxy

RUN = "AIGC_SERVE_RUN"
"""Environment variable that names the run which a process belongs to."""

MAX_GRPC_MESSAGE_BYTES = (1 << 28) + (1 << 20)
"""Holds the largest answer that `Limits` allows."""

MAX_SOCKET_PATH = 107
"""Longest path of a Unix socket on Linux."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One `aigc serve`: its folder, and what was found to run it with."""

    folder: Path
    haproxy: str | None
    """Path of the HAProxy that runs; None for Ray's own, slower proxy."""

    @property
    def metrics_dir(self) -> Path:
        return self.folder / "metrics"

    @property
    def drain_file(self) -> Path:
        return self.folder / "draining"

    @property
    def wrapper(self) -> Path:
        return self.folder / "haproxy"


def new_run() -> Run:
    """A folder for a run. Raises ValueError if TMPDIR is too deep for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="aigc-"))
    # The longest are Ray's below session_<time>_<pid>/sockets and HAProxy's below a node id.
    if len(str(folder)) + 78 > MAX_SOCKET_PATH:
        folder.rmdir()
        raise ValueError(f"{folder} is too long a path for Unix sockets; set TMPDIR to a short one")
    run = Run(folder=folder, haproxy=haproxy.find())
    run.metrics_dir.mkdir()
    return run


def check_free(host: str, port: int, option: str) -> None:
    """Raise ValueError, naming the option that helps, unless `port` can be listened on."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise ValueError(
            f"cannot listen on {host}:{port}: {error.strerror}; take another with {option}"
        ) from None


def free_range(n: int) -> tuple[int, int]:
    """First and last of `n` neighbouring free ports, below those that the kernel hands out.

    Of the kernel's own, any may be the near end of some connection by the time it is listened on.
    """
    for _ in range(100):
        first = random.randrange(20_000, 32_000 - n)
        with suppress(ValueError):
            for port in range(first, first + n):
                check_free("127.0.0.1", port, "")
            return first, first + n - 1
    raise ValueError(f"found no {n} neighbouring free ports between 20000 and 32000")


def set_environment(run: Run, *, most_replicas: int) -> None:
    """Put into this process's environment what Ray's processes must find in theirs.

    Before ray is imported: it reads most of this at import.
    """
    # Ports of replaced replicas rest for a while: leave room for many replacements.
    room = 2 * most_replicas + 64
    first, end_port = free_range(2 * room + 4)
    last = end_port - 4
    stats_port, metrics_port, fallback_port, fallback_grpc_port = range(last + 1, end_port + 1)
    files = run.folder / "h"
    environment = {
        RUN: str(run.folder),
        # Loopback is good enough for all of Ray; without this it looks for an outward address.
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_worker_niceness": "0",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
        "RAY_SERVE_ENABLE_HA_PROXY": "1" if run.haproxy else "0",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(run.wrapper) if run.haproxy else "",
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_STATS_PORT": str(stats_port),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(metrics_port),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(files / "c"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(files / "s"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(files),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(files / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(files / "m"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc_port),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(haproxy.CLIENT_S),
        "RAY_SERVE_HAPROXY_NBTHREAD": str(min(4, os.cpu_count() or 1)),
        # Samples are a function of the request: one that got no byte of answer may be repeated.
        "RAY_SERVE_HAPROXY_RETRY_ON": "conn-failure empty-response",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + room - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + room),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(last),
        # Ray takes and gives messages of 2 GiB; what is too much for a replica it says itself.
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_GRPC_MESSAGE_BYTES),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    }
    if "RAY_AUTH_MODE" not in os.environ:
        environment |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    os.environ.update(environment)
    os.environ.pop("RAY_ADDRESS", None)
    if run.haproxy:
        haproxy.write(run.wrapper, run.haproxy, (stats_port, metrics_port))


def start_ray(run: Run, *, num_cpus: int) -> None:
    """Start Ray for this run alone, on loopback, in its own folder."""
    import ray

    ray.init(
        address="local",
        num_cpus=max(num_cpus, os.cpu_count() or 1),
        num_gpus=None,
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
        _temp_dir=str(run.folder),
    )


def start_exporter(run: Run, host: str, port: int) -> "subprocess.Popen[str]":
    """The process that shows the merged metrics of this run on one port."""
    command = [*haproxy.dies_with_parent(), sys.executable, "-m", "aigc.exporter"]
    options = ["--dir", str(run.metrics_dir), "--host", host, "--port", str(port)]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True)


def stop_proxies(run: Run) -> list[psutil.Process]:
    """Ask HAProxy to take no more connections and to leave when the last request is answered."""
    proxies = [p for p in processes(run) if _is_haproxy(p, run)]
    for process in proxies:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGUSR1)
    return proxies


def _is_haproxy(process: psutil.Process, run: Run) -> bool:
    with suppress(psutil.Error):
        return str(run.folder / "h") in " ".join(process.cmdline()) and process.name() == "haproxy"
    return False


def processes(run: Run) -> list[psutil.Process]:
    """All processes of a run but this one: our descendants, and those that lost their parent."""
    me = psutil.Process()
    found = {process.pid: process for process in me.children(recursive=True)}
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            if process.pid != me.pid and process.environ().get(RUN) == str(run.folder):
                found[process.pid] = process
    return list(found.values())


def start_guard(run: Run) -> "subprocess.Popen[str]":
    """The process that ends this run if this process is killed. Tell it by `guard_now`."""
    command = [sys.executable, "-m", "serve.reaper", str(run.folder)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True)


def guard_now(run: Run, guard: "subprocess.Popen[str]") -> None:
    """Tell the guard which processes there are: later they may have lost all sign of the run."""
    assert guard.stdin is not None
    for process in processes(run):
        with suppress(psutil.Error):
            if process.pid != guard.pid:
                guard.stdin.write(f"{process.pid} {process.create_time()!r}\n")
    guard.stdin.flush()


def stop_ray(run: Run) -> None:
    """End Ray and every process of this run, and remove its folder."""
    remaining = processes(run)
    ray: Any = sys.modules.get("ray")
    if ray is not None:
        with suppress(Exception):  # whatever it says, its processes end below
            ray.shutdown()
    end(run, remaining)


def end(run: Run, remaining: list[psutil.Process]) -> None:
    """Kill these processes and all others of a run, then remove its folder."""
    deadline = time.monotonic() + 10
    while remaining := [p for p in {*remaining, *processes(run)} if p.is_running()]:
        for process in remaining:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(remaining, timeout=1)
        if time.monotonic() > deadline:
            pids = ", ".join(str(p.pid) for p in remaining)
            raise RuntimeError(f"processes {pids} of this run do not end")
    shutil.rmtree(run.folder, ignore_errors=True)
