"""`make demo`: the commands of the README, run one after the other, and what came of them.

The first ```bash block of README.md that trains is the script, so that what the README shows is
what runs. Ctrl-C ends the command under way and whatever serves beside it. AIGC_DEMO_SAMPLES in the
environment shortens the training.
"""

import http.client
import json
import os
import re
import secrets
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from tests.ports import free_port

ROOT = Path(__file__).parent.parent
RUN, ARTIFACT, SAMPLES = Path("runs/dcgan-digits"), Path("artifacts/digits"), Path("samples")
PORT = "8000"
METRICS_PORT = 9464


def main() -> int:
    """Run the road of the README. Exit status as walk() has it."""
    commands = road()
    if samples := os.environ.get("AIGC_DEMO_SAMPLES"):
        commands[0] += f" --samples {samples}"
    return walk(commands, summary)


def walk(commands: list[str], summary: Callable[[int, float], str]) -> int:
    """Run commands, then print what summary(port, seconds) says.

    Exit status 0, that of the command that failed, or 130 after Ctrl-C.
    """
    if not _free(int(PORT)):
        commands = [c.replace(PORT, str(free_port())) for c in commands]
    if not _free(METRICS_PORT):
        commands = [re.sub(r"(--port \d+)", r"\1 --metrics-port 0", c) for c in commands]
    if shutil.which("curl") is None:
        print("demo: needs curl; on Debian: apt-get install curl", file=sys.stderr)
        return 1
    if "RAY_AUTH_MODE" not in os.environ:
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    children: list[subprocess.Popen[bytes]] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    SAMPLES.mkdir(exist_ok=True)
    begun, status = time.monotonic(), 0
    try:
        for command in commands:
            print(f"\n\033[1m$ {command}\033[0m", flush=True)
            status = _run(command, children)
            if status:
                print(f"demo: the command above failed with status {status}", file=sys.stderr)
                break
        else:
            print(summary(_port(commands), time.monotonic() - begun), flush=True)
    except KeyboardInterrupt:
        status = 130
    finally:
        stop(children)
    return status


def road(readme: Path = ROOT / "README.md") -> list[str]:
    """The commands of the README's first block that trains, one per line."""
    blocks = re.findall(r"```bash\n(.*?)```", readme.read_text(), re.DOTALL)
    block = next(b for b in blocks if "aigc train" in b)
    lines = block.replace("\\\n", " ").splitlines()
    return [line.partition("  #")[0].strip() for line in lines if line.strip()]


def _run(command: str, children: list[subprocess.Popen[bytes]]) -> int:
    """Run to the end, or until it prints its URL for a command that ends in &."""
    # A session of its own: Ctrl-C reaches this process alone, which passes it on once.
    if command.endswith("&"):
        child = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {command[:-1]}"],
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        children.append(child)
        assert child.stdout is not None
        line = child.stdout.readline().decode().strip()
        print(line, flush=True)
        return 0 if line else child.wait() or 1
    child = subprocess.Popen(["/bin/bash", "-c", command], start_new_session=True)
    children.append(child)
    status = child.wait()
    children.remove(child)
    return status


def stop(children: list[subprocess.Popen[bytes]]) -> None:
    """Ask each child to end as Ctrl-C does, and wait for it."""
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for child in children:
        if child.poll() is None:
            child.send_signal(signal.SIGINT)
    for child in children:
        try:
            child.wait(60)
        except subprocess.TimeoutExpired:
            child.kill()


def summary(port: int, took: float) -> str:
    """Where everything is and how good and fast it is."""
    newest = max(p for p in (RUN / "checkpoints").iterdir() if p.name.isdigit())
    trainer = json.loads((newest / "trainer.json").read_text())
    version = max((p for p in ARTIFACT.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))
    manifest = json.loads((version / "manifest.json").read_text())
    speed = trainer["samples"] / trainer["wall_seconds"]
    metrics, latency = manifest["metrics"], _latency(port)
    grid = max(SAMPLES.glob("*..*.png"), key=lambda p: p.stat().st_mtime)
    lines = [
        "",
        f"run          {RUN}  ({trainer['samples']:,} samples, {trainer['workers']} workers,"
        f" {speed:,.0f} samples/s)",
        f"artifact     {version}  ({manifest['reproducibility']['sample']['level']}-reproducible,"
        f" max |torch - onnx| {manifest['parity']['sample']['max_abs']:.0e})",
        f"pictures     {grid}, {RUN}/grids/",
        *(
            f"{name:<24} {metrics[name]:.4g}  (real data scores {metrics[f'{name}/real']:.4g})"
            for name in metrics
            if f"{name}/real" in metrics
        ),
        f"latency      {latency * 1000:.1f} ms per sample over HTTP (median of 100, one at a time)",
        "metrics",
        *(f"  {line}" for line in _metrics(port)),
        f"took         {took:.0f} s",
        "",
    ]
    return "\n".join(lines)


def _latency(port: int, requests: int = 100) -> float:
    """Median seconds of a request for one PNG on a connection that stays open."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    times = []
    for index in range(requests):
        body = json.dumps({"model": "digits", "seed": 1, "first_index": index})
        begun = time.perf_counter()
        connection.request("POST", "/v1/samples", body)
        response = connection.getresponse()
        response.read()
        times.append(time.perf_counter() - begun)
        assert response.status == 200, response.status
    connection.close()
    return statistics.median(times)


def _metrics(port: int) -> list[str]:
    """A few lines of what Prometheus would scrape."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    wanted = ("aigc_requests_total", "aigc_samples_total", "aigc_batch_size_samples_count")
    return [line for line in lines if line.startswith(wanted)]


def _port(commands: list[str]) -> int:
    found = re.search(r"--port (\d+)", " ".join(commands))
    assert found is not None
    return int(found[1])


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
