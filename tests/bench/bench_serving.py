"""Samples/s of `aigc serve` against FastAPI + onnxruntime and against bare session.run.

    python -m tests.bench.bench_serving --rounds 5

One replica and one thread each, the same client (wrk), the same requests, the same bytes out,
measured in turn within each round. Medians and ratios go into docs/benchmarks.md.
"""

import json
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro

from aigc.artifact import Artifact
from tests.bench.report import header, write_section
from tests.ports import free_port

SIZES = (1, 16, 64)
CONNECTIONS = (1, 16)

WRK = """
local seed = 0
function request()
  seed = seed + 1
  local body = string.format(
    '{"model": "digits", "n": %d, "seed": %%d, "format": "npy"}', seed)
  return wrk.format("POST", "/v1/samples", {["content-type"] = "application/json"}, body)
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %%d, "us": %%d, "bad": %%d, "p50_us": %%d, "p99_us": %%d}\\n',
    summary.requests, summary.duration, e.status + e.connect + e.read + e.write + e.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""

BARE = """
import sys, time
from aigc.artifact import Artifact
from tests.bench.report import header, write_section
artifact = Artifact.open(sys.argv[1], verify=False)
n, seconds = int(sys.argv[2]), float(sys.argv[3])
session = artifact._sessions[artifact.signature("sample").graph]
feeds = artifact.draw("sample", 0, range(n))
for _ in range(10):
    session.run(None, feeds)
started, runs = time.perf_counter(), 0
while time.perf_counter() - started < seconds:
    session.run(None, feeds)
    runs += 1
print(n * runs / (time.perf_counter() - started))
"""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement."""

    samples_per_s: float
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    bad: int = 0


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Samples/s of serving, against FastAPI and bare onnxruntime."""

    artifact: str = ""
    """A class-conditional artifact called digits; by default an untrained dcgan:digits."""
    rounds: int = 5
    seconds: float = 4.0
    """Of each measurement."""
    out: Path = Path("docs/benchmarks.md")


def main() -> None:
    config = tyro.cli(BenchConfig)
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("this benchmark needs wrk: apt-get install wrk")
    uri = Artifact.open(config.artifact or untrained(), verify=False).uri
    points: dict[tuple[str, int, int], list[Point]] = defaultdict(list)
    with serving(uri) as ours, fastapi(uri) as peer:
        check_same_bytes(ours, peer)
        for n in SIZES:
            for url in (ours, peer):
                load(wrk, url, n, 16, 1.0)
        for number in range(config.rounds):
            for n in SIZES:
                for connections in CONNECTIONS:
                    for name, url in (("ours", ours), ("fastapi", peer)):
                        point = load(wrk, url, n, connections, config.seconds)
                        points[name, n, connections].append(point)
                points["bare", n, 1].append(bare(uri, n, config.seconds))
            print(f"round {number + 1} of {config.rounds}", file=sys.stderr)
    write_section(config.out, "serving", report(points, config))
    print(config.out)


@contextmanager
def serving(artifact: str) -> Iterator[str]:
    command = [sys.executable, "-m", "aigc.cli", "serve", artifact, "--metrics-port", "0"]
    command += ["--port", str(free_port())]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.send_signal(signal.SIGTERM)


@contextmanager
def fastapi(artifact: str) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "tests.bench.peers.fastapi_server", artifact, str(port)]
    with subprocess.Popen(command) as process:
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def check_same_bytes(*urls: str) -> None:
    for n in SIZES:
        body = json.dumps({"model": "digits", "n": n, "seed": 7, "format": "npy"}).encode()
        answers = set()
        for url in urls:
            headers = {"content-type": "application/json"}
            request = urllib.request.Request(f"{url}/v1/samples", body, headers)
            with urllib.request.urlopen(request) as answer:
                answers.add(answer.read())
        assert len(answers) == 1, f"the servers differ at n = {n}"


def load(wrk: str, url: str, n: int, connections: int, seconds: float) -> Point:
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK % n)
        script.flush()
        command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s"]
        done = subprocess.run(
            [*command, script.name, url], capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Point(
        samples_per_s=n * (found["requests"] - found["bad"]) / found["us"] * 1e6,
        p50_ms=found["p50_us"] / 1e3,
        p99_ms=found["p99_us"] / 1e3,
        bad=found["bad"],
    )


def bare(artifact: str, n: int, seconds: float) -> Point:
    command = [sys.executable, "-c", BARE, artifact, str(n), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return Point(samples_per_s=float(done.stdout))


def report(points: dict[tuple[str, int, int], list[Point]], config: BenchConfig) -> str:
    """A table of medians; ratios are medians of the ratios within each round."""

    def median(name: str, n: int, connections: int, field: str = "samples_per_s") -> float:
        return statistics.median(getattr(p, field) for p in points[name, n, connections])

    def ratio(n: int, connections: int, other: str, of: int) -> float:
        pairs = zip(points["ours", n, connections], points[other, n, of], strict=True)
        return statistics.median(a.samples_per_s / b.samples_per_s for a, b in pairs)

    lines = [
        "| n | connections | ours, samples/s | FastAPI | bare `session.run` | ours / FastAPI |"
        " ours / bare | ours p50, p99 ms | FastAPI p50, p99 ms |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for connections in CONNECTIONS:
        for n in SIZES:
            times = [
                f"{median(name, n, connections, 'p50_ms'):.1f},"
                f" {median(name, n, connections, 'p99_ms'):.1f}"
                for name in ("ours", "fastapi")
            ]
            lines.append(
                f"| {n} | {connections} | {median('ours', n, connections):,.0f}"
                f" | {median('fastapi', n, connections):,.0f} | {median('bare', n, 1):,.0f}"
                f" | {ratio(n, connections, 'fastapi', connections):.2f}"
                f" | {ratio(n, connections, 'bare', 1):.2f} | {' | '.join(times)} |"
            )
    bad = sum(point.bad for measured in points.values() for point in measured)
    return "\n".join(
        [
            "## Serving",
            "",
            header("ray", "onnxruntime", "fastapi", "uvicorn"),
            "",
            "`dcgan:digits`, one replica and one onnxruntime thread"
            " each, wrk as the client, the same requests and bytes. The client and HAProxy run on"
            " the same cores.",
            "",
            *lines,
            "",
            f"Medians of {config.rounds} interleaved rounds of {config.seconds:g} s; answers other"
            f" than 2xx: {bad}.",
        ]
    )


def untrained() -> str:
    """A sealed `digits` with the networks of dcgan:digits; speed does not ask for training."""
    storage = tempfile.mkdtemp()
    command = [sys.executable, "-m", "aigc.cli"]
    train = ["train", "dcgan:digits", "--samples", "64", "--storage", storage, "--name", "run"]
    export = ["export", f"{storage}/run", "--name", "digits", "--out", f"{storage}/store"]
    for arguments in (train, export):
        subprocess.run([*command, *arguments], check=True, capture_output=True)
    return f"{storage}/store/digits"


if __name__ == "__main__":
    main()
