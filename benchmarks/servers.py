"""Servers that answer POST /v1/samples with the same bytes: ours, and the peers'."""

import json
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from urllib.error import URLError

import psutil

from benchmarks import venv
from tests.ports import free_port

START_S = 120.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """One that runs."""

    name: str
    url: str
    process: psutil.Process
    worker: str
    """Beginning or part of the command line of the processes that answer requests."""
    said: str = ""
    """Lines that `aigc serve` wrote on its stderr before it was ready."""

    def workers(self) -> list[psutil.Process]:
        """The processes that answer requests, without proxies and controllers."""
        every = [self.process, *self.process.children(recursive=True)]
        return [process for process in every if self.worker in " ".join(process.cmdline())]

    def cpu_s(self) -> float:
        """CPU seconds that they took so far."""
        times = [process.cpu_times() for process in self.workers()]
        return sum(t.user + t.system for t in times)

    def grpc(self) -> str:
        """host:port of the Open Inference Protocol over gRPC."""
        return self.said.partition("gRPC")[2].split()[0]

    def metrics(self) -> str:
        """URL of the merged metrics."""
        return self.said.partition("metrics  ")[2].split()[0]


@contextmanager
def ours(artifact: str, *options: str) -> Iterator[Server]:
    """`aigc serve ARTIFACT` with these options."""
    command = [sys.executable, "-m", "aigc.cli", "serve", artifact, "--metrics-port", "0"]
    command += ["--port", str(free_port()), *options]
    with (
        tempfile.TemporaryFile("w+") as stderr,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            stderr.seek(0)
            said = stderr.read()
            if not url:
                raise RuntimeError(f"aigc serve did not start:\n{said}")
            yield Server(
                name="ours",
                url=url,
                process=psutil.Process(process.pid),
                worker="ray::ServeReplica",
                said=said,
            )
        finally:
            process.send_signal(signal.SIGTERM)


def ask_one(url: str) -> None:
    """One sample."""
    ask(url, 1)


@contextmanager
def peer(
    name: str,
    module: str,
    artifact: str,
    *options: str,
    worker: str = "",
    python: str = "",
    first: Callable[[str], None] = ask_one,
) -> Iterator[Server]:
    """`python -m benchmarks.peers.MODULE ARTIFACT PORT OPTIONS`, once it answers what is first."""
    port = free_port()
    command = [python or sys.executable, "-m", f"benchmarks.peers.{module}", artifact, str(port)]
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen([*command, *options], stdout=output, stderr=output) as process,
    ):
        server = Server(
            name=name,
            url=f"http://127.0.0.1:{port}",
            process=psutil.Process(process.pid),
            worker=worker or module,
        )
        try:
            if not _answers(server.url, process, first):
                output.seek(0)
                raise RuntimeError(f"{name} did not start:\n{output.read()[-3000:]}")
            yield server
        finally:
            # Some leave their workers behind, who would take their share of what is measured next.
            family = [server.process, *server.process.children(recursive=True)]
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
            for member in family:
                with suppress(psutil.NoSuchProcess):
                    member.kill()


def fastapi(
    artifact: str, how: str = "executor", workers: int = 1
) -> AbstractContextManager[Server]:
    """FastAPI and uvicorn."""
    return peer(f"FastAPI, {how}", "fastapi_server", artifact, how, str(workers))


def litserve(artifact: str) -> AbstractContextManager[Server]:
    """LitServe, in the environment of the peers."""
    return peer("LitServe", "litserve_server", artifact, python=venv.python())


def ray_batch(artifact: str) -> AbstractContextManager[Server]:
    """Ray Serve behind its own proxy, with @serve.batch."""
    return peer("Ray Serve", "ray_serve_batch", artifact, worker="ray::ServeReplica")


def _answers(url: str, process: "subprocess.Popen[bytes]", first: Callable[[str], None]) -> bool:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            first(url)
            return True
        except (URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    return False


def ask(url: str, n: int) -> bytes:
    """The body of one answer. Raises URLError for anything but 200."""
    body = json.dumps({"model": "digits", "n": n, "seed": 7, "format": "npy"}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/samples", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        found: bytes = answer.read()
        return found


def check_same_bytes(servers: Sequence[Server], sizes: Sequence[int]) -> None:
    """Raise RuntimeError unless all give the same answers."""
    for n in sizes:
        answers = {ask(server.url, n): server.name for server in servers}
        if len(answers) > 1:
            raise RuntimeError(f"these differ at n = {n}: {', '.join(answers.values())}")
