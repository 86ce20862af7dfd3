"""Ray on this machine for the time of one `aigc serve`: its environment and its processes.

All files of a run are in one temporary folder, whose path is in the environment of all its
processes (aigc.watchdog), so that several runs stand side by side and none leaves a process behind.
"""

import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from aigc import private, ray_options
from aigc.display import printable
from aigc.watchdog import RUN_FOLDER, run_processes
from serve.local import haproxy, loopback, ports

MAX_GRPC_MESSAGE_BYTES = (1 << 28) + (1 << 20)
"""Room for the largest answer that `Limits` allows."""

MIN_FILES = 256
WANTED_FILES = 65536

SETUP_HOOK = "__RAY_WORKER_PROCESS_SETUP_HOOK_ENV_VAR"
"""Environment variable of a function that every worker of Ray calls as it starts. A runtime_env of
the driver does the same, but does not reach replicas, which have their own."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """One `aigc serve`: its folder and its HAProxy."""

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
    def ray(self) -> Path:
        return ray_options.session_folder(self.folder)

    @property
    def driver_log(self) -> Path:
        return self.folder / "driver.err"

    @property
    def wrapper(self) -> Path:
        return self.folder / "haproxy"


def new_run() -> Run:
    """A run in a new folder that only this user can look into.

    Raises ValueError if there cannot be one, or if other users could replace HAProxy.
    """
    folder = ray_options.new_folder()
    try:
        run = Run(folder=folder, haproxy=haproxy.find())
        if run.haproxy:
            private.check_path(Path(run.haproxy))
    except ValueError:
        folder.rmdir()
        raise
    run.metrics_dir.mkdir()
    return run


def set_environment(
    run: Run,
    *,
    most_replicas: int,
    public: Mapping[int, str] | None = None,
    grpc: str = "",
) -> None:
    """Set the variables that Ray's processes inherit, before Ray is imported and reads them.

    `public`: address that HAProxy listens on, by port. `grpc`: ADDRESS:PORT of Serve's own proxy,
    where there is no HAProxy. All other ports stay on loopback.
    """
    # Ports of replaced replicas rest for a while: leave room for many replacements.
    room = 2 * most_replicas + 64
    first, end_port = ports.free_range(2 * room + 4)
    last = end_port - 4
    stats_port, metrics_port, fallback_port, fallback_grpc_port = range(last + 1, end_port + 1)
    files = run.folder / "h"
    environment = {
        **ray_options.ENVIRONMENT,
        **ray_options.LOOPBACK_ENVIRONMENT,
        **ray_options.token(),
        RUN_FOLDER: str(run.folder),
        loopback.PUBLIC: grpc,
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
        # A manager of HAProxy that died is replaced after three failed checks.
        "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "0.5",
        # On a busy machine one starts slowly; after three times this it is killed.
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "20",
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + room - 1),
        "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": str(first + room),
        "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": str(last),
        # Ray's own limit is 2 GiB; replicas refuse what is too large for them.
        "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(MAX_GRPC_MESSAGE_BYTES),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "5",
    }
    os.environ.update(environment)
    os.environ.pop("RAY_ADDRESS", None)
    os.environ[SETUP_HOOK] = "serve.local.loopback.keep"
    if run.haproxy:
        haproxy.write(run.wrapper, run.haproxy, (stats_port, metrics_port), public or {})


def last_words(run: Run, driver: "subprocess.Popen[bytes]") -> str:
    """Error message for a driver that ended without an event that says why."""
    driver.wait(10)
    lines = run.driver_log.read_text(errors="replace")[-10_000:].split("\n")
    last = next((printable(line.strip())[:300] for line in reversed(lines) if line.strip()), "")
    status = driver.returncode
    how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
    return f"serving ended, as the process that runs Ray {how}{f': {last}' if last else ''}"


def start_ray(run: Run, *, num_cpus: int) -> None:
    """Start Ray for this run alone, on loopback, in the run's folder.

    Raises ValueError if other users could look into the folder afterwards.
    """
    import ray

    options = ray_options.init_options(run.folder, num_cpus)
    ray.init(num_gpus=None, object_store_memory=100 * 2**20, **options)
    private.check(run.folder)


def start_exporter(run: Run, host: str, port: int) -> "subprocess.Popen[bytes]":
    """Start the process that serves the merged metrics of this run on one port."""
    command = [*haproxy.dies_with_parent(), sys.executable, "-m", "aigc.prometheus.exporter"]
    options = ["--dir", str(run.metrics_dir), "--host", host, "--port", str(port)]
    # In a session of its own, so that Ctrl-C in a terminal leaves it to this process.
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, start_new_session=True)


def start_driver(run: Run, module: Sequence[str], *arguments: object) -> "subprocess.Popen[bytes]":
    """Start the process that starts Ray and Serve (serve.local.driver); `arguments` go to stdin."""
    command = [*haproxy.dies_with_parent(), sys.executable, "-m", *module]
    with run.driver_log.open("wb") as log:
        driver = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    assert driver.stdin is not None
    with suppress(BrokenPipeError):  # the reader of its stdout notices its death
        pickle.dump(arguments, driver.stdin)
        driver.stdin.flush()
    return driver


def stop_proxies(run: Run) -> list[psutil.Process]:
    """Ask HAProxy to take no more connections and to end after its last request.

    The supervisor is told, which passes it on: HAProxy ends once the supervisor has closed its
    connection to it. Without a supervisor HAProxy is told itself.
    """
    supervisors, proxies = [], []
    for process in run_processes(run.folder):
        with suppress(psutil.Error):
            command = process.cmdline()
            if not any(str(run.folder / "h") in word for word in command):
                continue
            if haproxy.SUPERVISOR in command:
                supervisors.append(process)
            elif process.name() == "haproxy":
                proxies.append(process)
    for process in supervisors or proxies:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(signal.SIGUSR1)
    return supervisors + proxies


def raise_file_limit() -> None:
    """Let this process and its children open as many files as they may.

    Raises ValueError below MIN_FILES, with which Ray does not come up.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = WANTED_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft = most
    if soft != resource.RLIM_INFINITY and soft < MIN_FILES:
        raise ValueError(
            f"a process may open {soft} files here, at least {MIN_FILES} are needed; raise the hard"
            " limit (ulimit -Hn)"
        )
