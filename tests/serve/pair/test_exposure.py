"""Sockets and files of a running `aigc serve`, as others on this machine find them."""

import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from serve.local import exposure
from tests import strangers
from tests.serve.servers import Server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]

SOCKETS = {
    # process: (listening sockets, what they are)
    "serve.local.driver": (1, "Ray's driver, for answers of its workers"),
    "aigc.prometheus.exporter": (1, "the merged metrics"),
    "haproxy": (4, "the ports of the command; its own statistics and metrics"),
    "gcs_server": (1, "Ray's directory of the cluster"),
    "raylet": (2, "Ray's node manager and object manager"),
    "monitor.py": (1, "metrics of Ray's autoscaler"),
    "dashboard.py": (1, "metrics of Ray's dashboard, which is off otherwise"),
    "ray::DashboardAgent": (2, "Ray's agent of the node: gRPC and Ray's own metrics"),
    "ray::RuntimeEnvAgent": (1, "gives workers their environment"),
    "ray::ServeController": (1, "Ray's calls between actors, as below"),
    "ray::HAProxyManager": (1, "calls between actors"),
    "ray::ProxyActor": (3, "calls between actors; Serve's fallback proxies of HTTP and gRPC"),
    "ray::ServeReplica": (4, "calls between actors; HTTP and gRPC for HAProxy; handle calls"),
    "ray::TargetWriter": (1, "calls between actors"),
    "ray::IDLE": (1, "calls between actors"),
}
WITHOUT_TOKEN = {
    "aigc.prometheus.exporter": 1,
    "haproxy": 4,
    "monitor.py": 1,
    "dashboard.py": 1,
    "ray::DashboardAgent": 1,  # Ray's own metrics
    "ray::ProxyActor": 2,  # the API, as on the public ports
    "ray::ServeReplica": 2,  # the same
}
"""At most so many sockets of a process answer whoever reaches loopback; the others refuse calls."""


AGENT_PORT = 52365


def kind(process: psutil.Process) -> str:
    line = process.cmdline()
    text = " ".join(line)
    for name in (
        "aigc.prometheus.exporter",
        "serve.local.driver",
        "monitor.py",
        "dashboard.py",
        "gcs_server",
        "haproxy",
    ):
        if name in (process.name(), *(Path(part).name for part in line)) or name in line:
            return name
    if "raylet" in process.name():
        return "raylet"
    # "ray::ServeReplica:aigc:default", or "ray::ServeController.method" while that runs.
    return "ray::" + re.split(r"[:.]", text.split()[0].removeprefix("ray::"))[0]


def counted(listening: set[Any]) -> set[Any]:
    """Without the HTTP of Ray's agent, which only one Ray of a machine has."""
    return {address for address in listening if address.port != AGENT_PORT}


def settled(process: psutil.Process) -> set[Any]:
    """Where a process listens; Ray's agents may still be starting, and get a while for it."""
    end = time.monotonic() + 60
    while True:
        connections = process.net_connections("inet")
        listening = {c.laddr for c in connections if c.status == psutil.CONN_LISTEN}
        expected, _ = SOCKETS.get(kind(process), (0, ""))
        if not listening or len(counted(listening)) >= expected or time.monotonic() > end:
            return listening
        time.sleep(0.2)


def test_every_process_listens_on_loopback_alone(pair: Server) -> None:
    for process in [psutil.Process(pair.process.pid), *pair.tree()]:
        try:
            listening = settled(process)
        except psutil.NoSuchProcess:
            continue  # Ray starts and ends idle workers as it likes
        if not listening:
            continue
        name = kind(process)
        outside = [a for a in listening if a.ip.removeprefix("::ffff:") != "127.0.0.1"]
        assert name in SOCKETS, (name, process.cmdline(), listening)
        expected, _ = SOCKETS[name]
        assert len(counted(listening)) == expected, (name, listening)
        assert outside == [], (name, listening)


def test_other_users_reach_no_file_and_no_unguarded_socket(pair: Server) -> None:
    tree = [psutil.Process(pair.process.pid), *pair.tree()]
    assert strangers.reachable(Path(pair.run_folder()), tree) == []
    ports: dict[psutil.Process, set[int]] = {}
    for process in tree:
        with suppress(psutil.NoSuchProcess):
            ports[process] = {address.port for address in settled(process)}
    answering = strangers.answering(set().union(*ports.values()))
    for process, own in ports.items():
        with suppress(psutil.NoSuchProcess):
            most = WITHOUT_TOKEN.get(kind(process), 0)
            assert len(own & answering) <= most, (kind(process), own & answering)


def test_listeners_finds_sockets_that_other_machines_reach(pair: Server) -> None:
    assert exposure.listeners([psutil.Process(pair.process.pid), *pair.tree()]) == []
    with socket.socket() as listening:
        listening.bind(("0.0.0.0", 0))
        listening.listen()
        port = listening.getsockname()[1]
        (found,) = exposure.listeners([psutil.Process()])
        assert (found.address, found.port) == ("0.0.0.0", port)
        exposure.check_listeners([found], {port})
        threading.Thread(target=lambda: listening.accept()[0].close()).start()
        with pytest.raises(ValueError, match=f"port {port}, .* asks for no token there"):
            exposure.check_listeners([found], set())
