"""`make monitor` finds what runs here, keeps to loopback, says what is missing, ends clean."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from k8s import monitor
from k8s.monitor import Target
from tests.ports import free_port

pytestmark = pytest.mark.process

REPLICA = """
import sys, time
from pathlib import Path
from aigc.prometheus.values import register_process
from serve.metrics import Metrics
alive = register_process(Path(sys.argv[1]))
Metrics().replicas.set(3)
print("there", flush=True)
time.sleep(300)
"""


OTHER_PORT = """
import socket
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    while True:
        connection, _ = server.accept()
        connection.recv(1 << 16)
        connection.sendall(bytes.fromhex({answer!r}))
        connection.close()
"""
"""A port of `aigc train` that is none for metrics, as those by which its workers meet."""


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    """HOST:PORT of an exporter of a process that counts."""
    folder = str(tmp_path / "metrics")
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": folder}
    Path(folder).mkdir()
    commands = [
        [sys.executable, "-c", REPLICA, folder],
        [sys.executable, "-m", "aigc.prometheus.exporter", "--dir", folder, "--port", "0"],
    ]
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
        for command in commands
    ]
    said = [process.stdout.readline().strip() for process in processes if process.stdout]
    yield said[1].removeprefix("http://").removesuffix("/metrics")
    for process in processes:
        process.kill()
        process.communicate()


def run(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "k8s.monitor", *arguments],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_finds_the_exporters_of_this_machine(address: str) -> None:
    assert Target(address=address, app="sampling") in monitor.find()


@pytest.mark.parametrize(
    "answer", [b"\x00\x80\xc3\xfe\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nai"]
)
def test_passes_over_ports_that_speak_no_http(address: str, answer: bytes) -> None:
    program = OTHER_PORT.format(answer=answer.hex())
    command = [sys.executable, "-c", program, "aigc.cli", "train"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        port = process.stdout.readline().strip()
        try:
            targets = monitor.find()
        finally:
            process.kill()
    assert Target(address=address, app="sampling") in targets
    assert f"127.0.0.1:{port}" not in {target.address for target in targets}


@pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="no prometheus here; apt-get install prometheus"
)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_listens_on_loopback_until_stopped(
    address: str, number: signal.Signals, tmp_path: Path
) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = run(address, TMPDIR=str(temporary))
    url = process.stdout.readline().strip()
    family = psutil.Process(process.pid).children()
    listening = {c.laddr.ip for p in family for c in p.net_connections() if c.status == "LISTEN"}
    assert listening == {"127.0.0.1"}
    deadline = time.monotonic() + 30
    found: list[dict[str, object]] = []
    while not found and time.monotonic() < deadline:
        time.sleep(0.2)
        answer = httpx.get(f"{url}/api/v1/query", params={"query": "sum(aigc_replicas)"})
        found = answer.json()["data"]["result"]
    (series,) = found
    assert series["value"][1] == "3"  # type: ignore[index]
    groups = httpx.get(f"{url}/api/v1/rules").json()["data"]["groups"]
    assert {group["name"] for group in groups} == {g["name"] for g in monitor.rules()["groups"]}
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert f"watching sampling at {address}" in said
    assert f"{url}/alerts" in said
    assert not any(p.is_running() for p in family)
    assert list(temporary.iterdir()) == []


def test_missing_prometheus_is_reported(address: str) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    for arguments, environment, reason in (
        ([nobody], {}, f"monitor: {nobody} shows no metrics of aigc"),
        ([address], {"PATH": "/nowhere"}, "there is no prometheus here; on Debian: apt-get"),
    ):
        process = run(*arguments, **environment)
        stdout, said = process.communicate(timeout=120)
        assert (process.returncode, stdout) == (1, "")
        assert reason in said


def test_without_targets_it_names_what_to_start(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(monitor, "find", list)  # other tests of this machine may serve just now
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert monitor.main([]) == 1
    finally:
        signal.signal(signal.SIGTERM, before)
    assert "start `make demo`, `aigc serve ARTIFACT`" in capsys.readouterr().err
