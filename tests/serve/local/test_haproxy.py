"""Ray's configuration of HAProxy is bounded and closed, and HAProxy is kept running on it."""

import csv
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, ClassVar

import httpx
import psutil
import pytest

from serve.local import haproxy
from serve.local.haproxy_config import HALF_CLOSED_S, allowed_connections, edit, servers, with_last
from tests.disks import fill, remount, small_disk
from tests.ports import free_port

CONFIG = """\
global
    log 127.0.0.1:514 local0 info
    stats socket {folder}/s mode 666 level admin expose-fd listeners
    stats timeout 30s
    maxconn 4096
    server-state-file /tmp/state
defaults
    mode http
    timeout connect 5s
    timeout client 60s
    log global
    option httplog
    option abortonclose
    option redispatch 1
    retry-on conn-failure empty-response
    errorfile 503 /tmp/ray/500.http
    balance leastconn
frontend prometheus
    bind :{metrics}
frontend http_frontend
    bind 127.0.0.1:{port}
    acl healthcheck path -i /-/healthz
    http-request return status 503 content-type text/plain string "No" if healthcheck
    acl is_http-aigc path_beg /
    use_backend http-aigc if is_http-aigc
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "none"
backend http-aigc
    log global
    http-reuse always
    option httpchk GET /-/healthz
    http-check expect status 200
    default-server fastinter 250ms downinter 250ms fall 2 rise 2 inter 5s check
    server one 127.0.0.1:{replica} check observe layer4 error-limit 3 on-error mark-down
    server SERVE_PROXY 127.0.0.1:1 check backup
listen stats
  bind *:{stats}
  stats enable
"""


def edited(config: str, max_connections: int = 10_000) -> str:
    return edit(
        config,
        admin_socket="./admin",
        lost_socket="./lost",
        binds={9101: "127.0.0.1", 8404: "127.0.0.1", 8443: "::1"},
        max_connections=max_connections,
    )


@pytest.fixture
def ours() -> str:
    ports = {"port": 8000, "metrics": 9101, "stats": 8404, "replica": 30000}
    return edited(CONFIG.format(folder="/tmp", **ports))


def section(config: str, name: str) -> str:
    _, _, rest = config.partition(f"{name}\n")
    lines = rest.splitlines()
    ends = (i for i, line in enumerate(lines) if line[:1].strip())
    return "\n".join(lines[: next(ends, None)])


def test_config_keeps_statistics_and_admin_socket_private(ours: str) -> None:
    assert "bind 127.0.0.1:9101\n" in ours
    assert "bind 127.0.0.1:8404\n" in ours
    assert "bind 127.0.0.1:8000\n" in ours
    assert "stats socket unix@./admin mode 600 level admin" in ours
    assert "mode 666" not in ours


def test_config_logs_nothing_and_needs_no_error_files(ours: str) -> None:
    assert not any(line.split()[:1] in (["log"], ["errorfile"]) for line in ours.splitlines())
    assert "httplog" not in ours


def test_config_bounds_every_wait(ours: str) -> None:
    defaults = section(ours, "defaults")
    for name in ("connect", "client", "server", "queue", "check", "http-request"):
        assert defaults.count(f"timeout {name} ") == 1, name
    assert "SERVE_PROXY" not in ours
    assert "http-keep-alive" in defaults
    assert "status 404" not in ours


def test_config_never_repeats_a_request_that_may_have_begun(ours: str) -> None:
    assert "retry-on conn-failure\n" in section(ours, "defaults") + "\n"
    again = section(ours, "backend http-aigc-kept")
    servers = [line for line in again.splitlines() if line.split()[0] == "server"]
    assert [line.split()[1] for line in servers if "backup" not in line] == ["lost"]
    assert "option http-server-close" in section(ours, "backend http-aigc")
    assert "abortonclose" not in ours


def test_connections_follow_the_limit_of_open_files() -> None:
    assert "maxconn 1560\n" in edited("global\n    maxconn 4096\n", 1560)
    assert "maxconn 4096\n" in edited("global\n    maxconn 4096\n", 10_000)
    assert allowed_connections() >= 1
    lines = "from serve.local import haproxy; print(haproxy.few_connections())"
    limited = ["prlimit", "--nofile=1024", sys.executable, "-c", lines]
    done = subprocess.run(limited, capture_output=True, text=True, check=True)
    assert "leaves 369 connections at a time; 1024 need a limit of 2660" in done.stdout
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard >= 2660:
        assert haproxy.few_connections() is None


def test_check_refuses_an_unusable_haproxy_in_one_sentence() -> None:
    found = haproxy.find()
    assert found is not None
    haproxy.check(found)
    with pytest.raises(ValueError, match="it ended with status 1"):
        haproxy.check("/bin/false")


def test_command_writes_the_wrapper_of_an_image(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "serve.local.haproxy"]
    subprocess.run([*command, str(tmp_path / "haproxy")], check=True)
    mode = (tmp_path / "haproxy").stat().st_mode
    assert mode & 0o111 == 0o111
    assert mode & 0o022 == 0
    assert subprocess.run(command, capture_output=True).returncode == 2


class Replica(BaseHTTPRequestHandler):
    """Answers at once, but /slow after two seconds, and /never."""

    left: ClassVar[list[float]] = []
    """When those that waited for /never were let go."""
    slow_checks: ClassVar[bool] = False
    """Health checks pass after two seconds, which is less than HAProxy allows."""

    def do_GET(self) -> None:
        if self.path == "/never":
            self.connection.settimeout(60)
            self.connection.recv(1)
            self.left.append(time.monotonic())
            self.close_connection = True
            return
        if self.path == "/slow" or (self.path == "/-/healthz" and self.slow_checks):
            time.sleep(2)
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, format: str, *args: object) -> None:
        pass


class Supervised:
    """The wrapper, started as Ray does it, in front of one replica."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.replica = ThreadingHTTPServer(("127.0.0.1", 0), Replica)
        threading.Thread(target=self.replica.serve_forever, daemon=True).start()
        private = (free_port(), free_port())
        found = haproxy.find()
        assert found is not None
        haproxy.write(folder / "haproxy", found, private)
        ports = {"port": self.port, "metrics": private[0], "stats": private[1]}
        config = CONFIG.format(folder=folder, replica=self.replica.server_port, **ports)
        (folder / "c").write_text(config.replace("    server-state-file /tmp/state\n", ""))
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, log: IO[bytes] | int = subprocess.DEVNULL) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(self.command(), stderr=log)
        self.processes.append(process)
        deadline_s = time.monotonic() + 20
        while f"\nPid: {process.pid}\n" not in self.say("show info"):
            assert process.poll() is None
            assert time.monotonic() < deadline_s
            time.sleep(0.05)
        return process

    def command(self) -> list[str]:
        """Start the first one, or replace the last."""
        command = [str(self.folder / "haproxy"), "-db", "-f", str(self.folder / "c"), "-dR"]
        if self.processes:
            command += ["-sf", str(self.processes[-1].pid), "-x", str(self.folder / "s")]
        return command

    def say(self, command: str) -> str:
        """HAProxy's answer to Ray."""
        with suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(5)
            connection.connect(str(self.folder / "s"))
            connection.sendall(command.encode() + b"\n")
            return b"".join(iter(lambda: connection.recv(65536), b"")).decode()
        return ""

    def haproxy(self) -> psutil.Process:
        (child,) = psutil.Process(self.processes[-1].pid).children()
        return child

    def replace_haproxy(self) -> None:
        """Kill it, and wait for the next one to answer."""
        dead = self.haproxy()
        dead.kill()
        until(lambda: self.status() == 200 and not dead.is_running())

    def status(self) -> int:
        """0 if nobody answers."""
        with suppress(httpx.HTTPError):
            return httpx.get(f"http://127.0.0.1:{self.port}/", timeout=5).status_code
        return 0

    def close(self) -> None:
        self.replica.shutdown()
        self.replica.server_close()
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    supervised = Supervised(tmp_path_factory.mktemp("h"))
    yield supervised
    supervised.close()


@pytest.mark.process
def test_supervisor_restarts_haproxy_and_hands_over_on_reload(supervised: Supervised) -> None:
    first = supervised.start()
    until(lambda: supervised.status() == 200)
    supervised.replace_haproxy()
    assert first.poll() is None
    assert "http-aigc" in supervised.say("show stat")
    assert "not permitted" in supervised.say("disable frontend http_frontend")
    second = supervised.start()
    assert supervised.status() == 200
    assert first.wait(20) == 0
    last = supervised.haproxy()
    second.kill()
    psutil.wait_procs([last], timeout=10)
    assert not last.is_running()


@pytest.mark.process
def test_supervisor_restarts_an_haproxy_that_dies_at_its_start(supervised: Supervised) -> None:
    first = supervised.start()
    until(lambda: supervised.status() == 200)
    dead = {supervised.haproxy().pid}
    supervised.haproxy().kill()
    while len(dead) < 4:  # each as soon as it is there
        for child in psutil.Process(first.pid).children():
            if child.pid not in dead:
                dead.add(child.pid)
                child.kill()
    until(lambda: supervised.status() == 200)
    assert supervised.haproxy().pid not in dead
    assert first.poll() is None


TOLD_EARLY = """
import signal, sys
from serve.local.haproxy_supervisor import Supervisor

supervisor = Supervisor([sys.argv[1]], {}, ["-db", "-f", sys.argv[2]])
supervisor.forward(signal.SIGTERM)
sys.exit(supervisor.run())
"""


@pytest.mark.process
def test_supervisor_stops_when_told_before_haproxy_runs(supervised: Supervised) -> None:
    found = haproxy.find()
    assert found is not None
    command = [sys.executable, "-c", TOLD_EARLY, found, str(supervised.folder / "c")]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        supervised.processes.append(process)
        assert process.wait(20) in (0, 143)


@pytest.mark.process
def test_supervisor_restarts_haproxy_on_a_full_disk(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as folder:
        supervised = Supervised(folder)
        try:
            with (folder / "log").open("wb") as log:
                first = supervised.start(log)
            until(lambda: supervised.status() == 200)
            fill(folder)
            with (folder / "log").open("ab", buffering=0) as log, suppress(OSError):
                while True:
                    log.write(b"no room for the supervisor's own words\n")
            for _ in range(11):  # its number gets a digit more
                supervised.replace_haproxy()
            assert first.poll() is None
        finally:
            supervised.close()


@pytest.mark.process
def test_reload_on_a_full_disk_leaves_haproxy_running(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk") as folder:
        supervised = Supervised(folder)
        try:
            supervised.start()
            until(lambda: supervised.status() == 200)
            for free in range(5):
                used = os.statvfs(folder).f_files - os.statvfs(folder).f_ffree
                remount(folder, f"nr_inodes={used + free}")
                reload = subprocess.Popen(supervised.command(), stderr=subprocess.DEVNULL)
                with suppress(subprocess.TimeoutExpired):
                    reload.wait(3)
                supervised.processes.append(reload)
                until(lambda: supervised.status() == 200)
                if reload.poll() is None:
                    break
                supervised.processes.remove(reload)
        finally:
            supervised.close()


@pytest.mark.process
def test_half_closed_clients_are_answered_and_lost_ones_dropped(
    supervised: Supervised,
) -> None:
    supervised.start()
    until(lambda: supervised.status() == 200)
    with socket.create_connection(("127.0.0.1", supervised.port), timeout=20) as connection:
        connection.sendall(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert b" 200 OK" in answer[:15]
    assert answer.endswith(b"ok")
    with socket.create_connection(("127.0.0.1", supervised.port), timeout=20) as connection:
        connection.sendall(b"GET /never HTTP/1.1\r\nhost: x\r\n\r\n")
        time.sleep(1)
    hung_up_s = time.monotonic()
    assert not Replica.left
    until(lambda: bool(Replica.left))
    assert Replica.left[0] - hung_up_s > HALF_CLOSED_S - 1


GRPC = """\
backend grpc-aigc
    option httpchk GET /-/healthz
    default-server fastinter 250ms downinter 250ms fall 2 rise 2 inter 5s check
    server one 127.0.0.1:{port} check
"""


@pytest.mark.process
def test_a_replica_found_frozen_by_either_check_gets_no_more_requests(
    supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    def up(server: str) -> bool:
        rows = csv.DictReader(supervised.say("show stat").removeprefix("# ").splitlines())
        found = [row for row in rows if f"{row['pxname']}/{row['svname']}" == server]
        return bool(found) and found[0]["status"].startswith("UP")

    monkeypatch.setattr(Replica, "slow_checks", True)
    with socket.create_server(("127.0.0.1", 0)) as frozen:  # accepts, and never answers
        config = supervised.folder / "c"
        grpc = GRPC.format(port=frozen.getsockname()[1])
        config.write_text(config.read_text().replace("listen stats", f"{grpc}listen stats"))
        supervised.start()
        until(lambda: up("http-aigc-kept/one") and up("grpc-aigc/one"))
        until(lambda: not up("grpc-aigc/one"))
        # Its own check passes in time throughout, so only the other one's failure marks it down.
        until(lambda: not up("http-aigc-kept/one"))
        assert supervised.status() == 503


def until(predicate: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 15
    while not predicate():
        assert time.monotonic() < deadline_s, "it did not come to pass"
        time.sleep(0.05)


def test_a_backend_keeps_its_last_replica_until_its_check_fails() -> None:
    ports = {"port": 8000, "metrics": 9101, "stats": 8404, "replica": 30000}
    whole = CONFIG.format(folder="/tmp", **ports)
    line = "    server one 127.0.0.1:30000 check observe layer4 error-limit 3 on-error mark-down"
    empty = whole.replace(f"{line}\n", "")
    assert servers(whole) == {"http-aigc": [line]}
    assert servers(empty) == {}
    assert line in section(with_last(empty, servers(whole)), "backend http-aigc")
    other = whole.replace("30000", "30001")
    assert "30000" not in with_last(other, servers(whole)), "others are there"
    assert "server one" not in with_last(empty, {})
