"""Starts of `aigc serve` that are stopped, or cannot succeed: how they end and what they leave."""

import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import httpx
import psutil
import pytest

from serve.local import exposure
from tests.ports import free_port
from tests.serve.servers import WITHOUT_TRAINING

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


@pytest.fixture
def tmpdir() -> Iterator[Path]:
    """A TMPDIR of its own, short enough for Unix sockets."""
    folder = Path(tempfile.mkdtemp(prefix="s-", dir="/tmp"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def start(store: Path, tmpdir: Path, *arguments: str, **popen: Any) -> "subprocess.Popen[str]":
    """`aigc serve` in a session of its own, as a shell in a terminal has it."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(WITHOUT_TRAINING),
        "TMPDIR": str(tmpdir),
        "ORT_DISABLE_TELEMETRY": "1",
    }
    environment.pop("RAY_AUTH_MODE", None)
    program = popen.pop("program", ["-m", "aigc.cli", "serve"])
    command = [sys.executable, *program, f"{store}/tiny@1", "--metrics-port", "0", *arguments]
    return subprocess.Popen(
        command,
        env=environment | popen.pop("environment", {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
        **popen,
    )


def left_behind(tmpdir: Path, tree: list[psutil.Process]) -> list[str]:
    """Files below TMPDIR, processes of `tree` that live, and others that use TMPDIR."""
    found = [str(path) for path in tmpdir.iterdir()]
    _, alive = psutil.wait_procs(tree, timeout=5)
    found += [f"{process.pid} {process.cmdline()}" for process in alive]
    for process in psutil.process_iter():
        with suppress(psutil.Error, OSError):
            files = " ".join(str(fd.readlink()) for fd in Path(f"/proc/{process.pid}/fd").iterdir())
            if str(tmpdir) in files + " ".join(process.cmdline()):
                found.append(f"{process.pid} {process.cmdline()}")
    return found


def stop_at(moment: Callable[[Path], bool], number: int, store: Path, tmpdir: Path) -> None:
    """Send a signal to all of the terminal's group at a moment, and look at what is left."""
    process = start(store, tmpdir, "--port", str(port := free_port()))
    until(moment, tmpdir, process)
    tree = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, number)
    out, err = process.communicate(timeout=30)
    assert "Traceback" not in err, err
    assert "rror" not in err, err
    assert out == ""
    assert process.returncode == 128 + number, err
    assert left_behind(tmpdir, tree) == []
    with socket.socket() as again:
        again.bind(("127.0.0.1", port))


def after(seconds: float) -> Callable[[Path], bool]:
    begun = time.monotonic()
    return lambda _: time.monotonic() - begun > seconds


def exists(pattern: str) -> Callable[[Path], bool]:
    return lambda tmpdir: any(tmpdir.glob(pattern))


EARLY = [
    pytest.param("aigc-*/metrics", signal.SIGINT, id="its folder"),
    pytest.param("aigc-*/r/session_*/sockets/raylet", signal.SIGTERM, id="Ray's node"),
    pytest.param("aigc-*/h/*/c", signal.SIGINT, id="HAProxy"),
]


@pytest.mark.parametrize(("pattern", "number"), EARLY)
def test_signals_stop_a_start_at_once_and_leave_nothing(
    pattern: str, number: int, store: Path, tmpdir: Path
) -> None:
    stop_at(exists(pattern), number, store, tmpdir)


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(20))
def test_signals_stop_a_start_at_any_moment(moment: int, store: Path, tmpdir: Path) -> None:
    stop_at(after(0.3 + 0.4 * moment), signal.SIGINT, store, tmpdir)


def test_signals_that_end_haproxy_too_are_the_reported_cause(store: Path, tmpdir: Path) -> None:
    """A process just started is in the terminal's group still, and may die of the same signal."""
    dies = tmpdir / "haproxy"
    dies.write_text('#!/bin/sh\n[ "$1" = -v ] || { kill -INT $PPID; kill -INT $$; }\n')
    dies.chmod(0o755)
    environment = {"RAY_SERVE_HAPROXY_BINARY_PATH": str(dies)}
    process = start(store, tmpdir, "--port", str(free_port()), environment=environment)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "does not take" not in err
    dies.unlink()
    assert left_behind(tmpdir, []) == []


def ended(process: "subprocess.Popen[str]", within_s: float = 30) -> str:
    """The one sentence of a start that failed."""
    out, err = process.communicate(timeout=within_s)
    assert process.returncode == 1, err
    assert out == ""
    assert "Traceback" not in err
    *warnings, sentence = err.strip().splitlines()
    assert all(line.startswith("warning: ") for line in warnings), err
    assert sentence.startswith("aigc serve: ")
    return sentence


def test_a_broken_artifact_is_named_in_one_sentence(store: Path, tmpdir: Path) -> None:
    broken = tmpdir / "store"
    shutil.copytree(store / "tiny" / "1", broken / "tiny" / "1")
    graph = broken / "tiny" / "1" / "sample.onnx"
    graph.write_bytes(graph.read_bytes()[:-1] + b"!")
    said = ended(start(broken, tmpdir, "--port", str(free_port())), 100)
    assert "'sample.onnx' was altered" in said
    shutil.rmtree(broken)
    assert left_behind(tmpdir, []) == []


def test_a_port_that_is_taken_while_ray_starts_is_named(store: Path, tmpdir: Path) -> None:
    process = start(store, tmpdir, "--port", str(port := free_port()))
    until(exists("aigc-*/r/session_*"), tmpdir, process)
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", port))
        thief.listen()
        assert f"cannot listen on 127.0.0.1:{port}: " in ended(process, 60)
    assert left_behind(tmpdir, []) == []


def test_unusable_folders_are_refused(store: Path, tmpdir: Path) -> None:
    open_to_all = tmpdir / "o"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    deleted = tmpdir / "d"
    deleted.mkdir()
    inside = {
        "other users can replace": {"environment": {"TMPDIR": str(open_to_all)}},
        "is no folder": {"environment": {"TMPDIR": str(tmpdir / "none")}},
        "was deleted": {"cwd": deleted, "preexec_fn": deleted.rmdir},
    }
    for message, how in inside.items():
        assert message in ended(start(store, tmpdir, **how)), message
    assert sorted(path.name for path in tmpdir.iterdir()) == ["o"]
    assert list(open_to_all.iterdir()) == []


def test_too_few_file_descriptors_are_refused(store: Path, tmpdir: Path) -> None:
    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (200, 200))

    sentence = ended(start(store, tmpdir, preexec_fn=few))
    assert "a process may open 200 files here, at least 256 are needed" in sentence
    assert left_behind(tmpdir, []) == []


def until(moment: Callable[[Path], bool], tmpdir: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 60
    while not moment(tmpdir):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_ipv6_is_served_and_kill_9_leaves_no_process(
    store: Path, tmpdir: Path, tmp_path: Path
) -> None:
    port, grpc_port = free_port(), free_port()
    given = ["--host", "::1", "--port", str(port), "--grpc-port", str(grpc_port)]
    process = start(store, tmpdir, *given)
    assert process.stdout is not None
    assert process.stderr is not None
    url = process.stdout.readline().strip()
    assert url == f"http://[::1]:{port}", process.communicate(timeout=30)
    client = [sys.executable, "-m", "aigc.cli", "sample", url, "-n", "2", "--format", "npy"]
    done = subprocess.run(
        [*client, "--out", str(tmp_path / "out")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    with grpc.insecure_channel(f"[::1]:{grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        assert call(b"", timeout=10) == b"\x08\x01"
    # Behind HAProxy everything is on loopback, and on 127.0.0.1 nobody answers for [::1].
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    tree = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    _, err = process.communicate(timeout=30)
    metrics = re.search(r"metrics  (http://\[::1\]:\d+/metrics)", err)
    assert metrics, err
    assert f"gRPC     [::1]:{grpc_port}" in err
    # A folder that is left is the price of kill -9; processes are not.
    _, alive = psutil.wait_procs(tree, timeout=20)
    assert [one.cmdline() for one in alive] == []
    for folder in tmpdir.iterdir():
        shutil.rmtree(folder)
    assert left_behind(tmpdir, []) == []


WITHOUT_HAPROXY = """
import sys
from serve import cli
from serve.local import haproxy
haproxy.find = lambda: None
sys.exit(cli.command(sys.argv[1:]))
"""


def test_serves_without_haproxy_on_loopback_alone(store: Path, tmpdir: Path) -> None:
    port, grpc_port = free_port(), free_port()
    given = ["--port", str(port), "--grpc-port", str(grpc_port)]
    given += ["--grace", "250"]  # which nobody waits for when nothing runs
    process = start(store, tmpdir, *given, program=["-c", WITHOUT_HAPROXY])
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url == f"http://127.0.0.1:{port}", process.communicate(timeout=30)
    answer = httpx.post(f"{url}/v1/samples", json={"model": "tiny", "seed": 7}, timeout=30)
    assert answer.status_code == 200, answer.text
    with grpc.insecure_channel(f"127.0.0.1:{grpc_port}") as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        assert call(b"", metadata=[("application", "aigc")], timeout=10) == b"\x08\x01"
    tree = psutil.Process(process.pid).children(recursive=True)
    assert exposure.listeners(tree) == []
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 0, err
    assert "warning: HAProxy does not run here" in err
    assert left_behind(tmpdir, tree) == []
