"""Cost of the hop to another pool: samples/s forwarded, relative to direct.

    python -m benchmarks.bench_pools --rounds 5

The same networks under two names in one server, `near` in the default pool and `far` in another
one: one replica and one onnxruntime thread each, measured in turn with wrk.
"""

import json
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.artifacts import untrained_store
from benchmarks.report import header, spread, write_section
from tests.ports import free_port

SIZES = (1, 16, 64)
CONNECTIONS = (1, 16)
NAMES = ("near", "far")

CONFIG = """
pools:
  default: {{artifacts: [{store}/near]}}
  other: {{artifacts: [{store}/far]}}
"""

WRK = """
local seed = 0
function request()
  seed = seed + 1
  local body = string.format(
    '{"model": "MODEL", "n": COUNT, "seed": %d, "format": "npy"}', seed)
  return wrk.format("POST", "/v1/samples", {["content-type"] = "application/json"}, body)
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format(
    '\\n{"requests": %d, "us": %d, "bad": %d, "p50_us": %d}\\n', summary.requests,
    summary.duration, e.status + e.connect + e.read + e.write + e.timeout, latency:percentile(50)))
end
"""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure the cost of forwarding between pools."""

    store: str = ""
    """Store with the same artifact as `near` and `far`; by default an untrained dcgan:digits."""
    rounds: int = 5
    """Rounds; ratios are taken within each."""
    seconds: float = 4.0
    """Duration of each measurement."""
    out: Path = Path("docs/benchmarks.md")
    """File whose section is rewritten."""


@dataclass(frozen=True, kw_only=True)
class Point:
    """One measurement."""

    samples_per_s: float
    p50_ms: float
    bad: int


Points = dict[tuple[str, int, int], list[Point]]
"""By name, n and connections."""


def main() -> None:
    """Measure, print and write."""
    bench = tyro.cli(Bench, description=Bench.__doc__)
    wrk = shutil.which("wrk")
    if wrk is None:
        raise SystemExit("this benchmark needs wrk: apt-get install wrk")
    points: Points = defaultdict(list)
    with serving(bench.store or untrained_store(*NAMES)) as url:
        for name in NAMES:
            load(wrk, url, name, 16, 16, 1.0)
        for number in range(bench.rounds):
            for n in SIZES:
                for connections in CONNECTIONS:
                    for name in NAMES:
                        point = load(wrk, url, name, n, connections, bench.seconds)
                        points[name, n, connections].append(point)
            print(f"round {number + 1} of {bench.rounds}", file=sys.stderr)
    section = report(points, bench)
    print(section)
    write_section(bench.out, "pools", section)


@contextmanager
def serving(store: str) -> Iterator[str]:
    """The URL of a server with both pools."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "serve.yaml"
        file.write_text(CONFIG.format(store=store))
        command = [sys.executable, "-m", "aigc.cli", "serve", "--config", str(file)]
        command += ["--metrics-port", "0", "--port", str(free_port())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                yield process.stdout.readline().strip()
            finally:
                process.send_signal(signal.SIGTERM)


def load(wrk: str, url: str, name: str, n: int, connections: int, seconds: float) -> Point:
    """One run of wrk: requests for `n` samples of one model."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(WRK.replace("MODEL", name).replace("COUNT", str(n)))
        script.flush()
        command = [wrk, "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "-s"]
        done = subprocess.run(
            [*command, script.name, url], capture_output=True, text=True, check=True
        )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return Point(
        samples_per_s=n * (found["requests"] - found["bad"]) / found["us"] * 1e6,
        p50_ms=found["p50_us"] / 1e3,
        bad=found["bad"],
    )


def report(points: Points, bench: Bench) -> str:
    """The section: medians, and ratios within each round."""

    def median(name: str, n: int, connections: int, field: str) -> float:
        return statistics.median(getattr(p, field) for p in points[name, n, connections])

    lines = [
        "| n | connections | direct, samples/s | forwarded | forwarded / direct |"
        " direct p50, ms | forwarded p50, ms |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for connections in CONNECTIONS:
        for n in SIZES:
            near, far = (points[name, n, connections] for name in NAMES)
            pairs = zip(far, near, strict=True)
            ratios = [a.samples_per_s / b.samples_per_s for a, b in pairs]
            speeds = [median(name, n, connections, "samples_per_s") for name in NAMES]
            waits = [median(name, n, connections, "p50_ms") for name in NAMES]
            lines.append(
                f"| {n} | {connections} | {speeds[0]:,.0f} | {speeds[1]:,.0f}"
                f" | {spread(ratios)} | {waits[0]:.1f} | {waits[1]:.1f} |"
            )
    bad = sum(point.bad for measured in points.values() for point in measured)
    return "\n".join(
        [
            "## The hop to another pool",
            "",
            header("ray", "onnxruntime"),
            "",
            "The same `dcgan:digits` in the default pool and in another one, one replica and one"
            " onnxruntime thread each, wrk as the client on the same cores.",
            "",
            *lines,
            "",
            f"Medians of {bench.rounds} interleaved rounds of {bench.seconds:g} s; ratios with the"
            f" rounds' spread; answers other than 2xx: {bad}.",
        ]
    )


if __name__ == "__main__":
    main()
