"""Replicas by work against Ray Serve's request count: simulated, and `aigc serve` for real.

    python -m tests.bench.bench_autoscaling
    python -m tests.bench.bench_autoscaling --rounds 2 --no-real       # a minute

Simulated is the pool, never the policy: both are called by Ray's own autoscaling state. The real
part draws docs/autoscaling.svg and runs both policies on the same traffic, one after the other.
"""

import json
import math
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import tyro

from aigc.artifact import Artifact
from serve.autoscaling import Scaling
from tests.bench.bench_serving import untrained
from tests.bench.chart import Curve, Panel, write_chart
from tests.bench.open_loop import Watch, watch
from tests.bench.report import header, write_section
from tests.ports import free_port
from tests.serve.queueing import Machine, Policy, Pool, Traffic
from tests.serve.ray_state import by_requests, through_ray

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from serve.app import autoscaling

TARGETS = (0.5, 1, 2, 4, 8, 16, 32, 64)
REAL_TARGETS = (1, 2, 4, 16)
LOOK_BACKS_S = (5.0, 30.0)
"""Of the request count: as ours, and Ray's default."""
BUSY = (0.5, 0.6, 0.7, 0.8, 0.9)
HIGH = 8
DAY = (
    Traffic(seconds=90, per_s={1: 30}),
    Traffic(seconds=150, per_s={1: 150, 256: 3}),
    Traffic(seconds=150, per_s={1: 30, 256: 9}),
    Traffic(seconds=150, per_s={1: 450}),
    Traffic(seconds=60, per_s={1: 200, 256: 1}),
    Traffic(seconds=20, per_s={1: 100, 256: 15}),
    Traffic(seconds=180, per_s={1: 30, 256: 0.5}),
)
"""What a simulated pool goes through: the mix changes as much as the rate."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Autoscaling by work, against Ray Serve's request count."""

    artifact: str = ""
    """An artifact called digits; by default an untrained dcgan:digits."""
    rounds: int = 5
    """Of the simulation, each with other arrivals."""
    real: bool = True
    """Run servers too: about 20 minutes."""
    real_rounds: int = 1
    seconds: float = 60.0
    """Of each high and each low of the real traffic's comparison."""
    out: Path = Path("docs/benchmarks.md")
    picture: Path = Path("docs/autoscaling.svg")


@dataclass(frozen=True, kw_only=True)
class Point:
    """What a policy cost and gave; means over the rounds."""

    name: str
    replica_seconds: float
    p95_s: float
    p95_large_s: float
    """Of requests for 256 samples."""
    failed: float
    changes: float
    """Changes of the number of replicas."""


def main() -> None:
    config = tyro.cli(BenchConfig)
    requests, work = simulated(config)
    lines = [
        "## Autoscaling",
        "",
        header("ray", "onnxruntime"),
        "",
        *simulated_report(requests, work, config),
    ]
    if config.real:
        uri = Artifact.open(config.artifact or untrained(), verify=False).uri
        lines += ["", *real_report(uri, config)]
    write_section(config.out, "autoscaling", "\n".join(lines))
    print(config.out)


# Simulation.


def simulated(config: BenchConfig) -> tuple[list[Point], list[Point]]:
    """(request count over its grid, work over its own parameter, the default first)."""
    requests = []
    for look_back_s in LOOK_BACKS_S:
        for target in TARGETS:
            name = f"{target:g} requests, look-back {look_back_s:g} s"

            def count(target: float = target, look_back_s: float = look_back_s) -> Policy:
                return by_requests(
                    target,
                    high=HIGH,
                    look_back_s=look_back_s,
                    upscale_delay_s=Scaling().upscale_delay_s,
                    downscale_delay_s=Scaling().downscale_delay_s,
                )

            requests.append(play(name, count, config))
    work = []
    for busy in sorted(BUSY, key=lambda busy: busy != Scaling().target_busy):

        def by_work(busy: float = busy) -> Policy:
            return through_ray(autoscaling(Scaling(target_busy=busy), 1, HIGH))

        work.append(play(f"work, target_busy {busy:g}", by_work, config))
    return requests, work


def play(name: str, policy: Callable[[], Policy], config: BenchConfig) -> Point:
    print(name, file=sys.stderr)
    pools = [Pool(policy(), high=HIGH, seed=seed).run(DAY) for seed in range(config.rounds)]
    mean = statistics.fmean
    return Point(
        name=name,
        replica_seconds=mean(pool.replica_seconds for pool in pools),
        p95_s=mean(pool.p(0.95) for pool in pools),
        p95_large_s=mean(pool.p(0.95, 256) for pool in pools),
        failed=mean(len(pool.refused) for pool in pools),
        changes=mean(len(pool.changes()) for pool in pools),
    )


def simulated_report(
    requests: Sequence[Point], work: Sequence[Point], config: BenchConfig
) -> list[str]:
    machine = Machine()
    return [
        f"Simulated pool of 1 to {HIGH} replicas ({1e3 * machine.request_s:g} ms per request,"
        f" {1e3 * machine.batch_s:g} ms per batch, {1e3 * machine.sample_s:g} ms per sample, at"
        f" most {machine.max_batch} per batch, {machine.startup_s:g} s to start),"
        f" {sum(part.seconds for part in DAY):g} s of Poisson arrivals of requests for 1 and for"
        " 256 samples whose mix changes as much as their rate."
        " Both policies run in Ray's own autoscaling state, with reports every second and the same"
        f" delays ({Scaling().upscale_delay_s:g} s up, {Scaling().downscale_delay_s:g} s down)."
        f" Means of {config.rounds} rounds; a refused request counts as an endless wait.",
        "",
        *table([*work, *requests]),
        "",
        verdict(work[0], requests),
    ]


def table(points: Sequence[Point]) -> list[str]:
    return [
        "| policy | replica-seconds | p95, s | p95 of n = 256, s | not answered | changes |",
        "|---|--:|--:|--:|--:|--:|",
        *(
            f"| {point.name} | {point.replica_seconds:,.0f} | {_seconds(point.p95_s)}"
            f" | {_seconds(point.p95_large_s)} | {point.failed:,.0f} | {point.changes:.1f} |"
            for point in points
        ),
    ]


def _seconds(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "∞"


def verdict(ours: Point, theirs: Sequence[Point]) -> str:
    """Against the best of the grid at our p95 or better, and at our replica-seconds or fewer."""
    as_fast = [point for point in theirs if point.p95_s <= ours.p95_s * 1.001]
    as_cheap = [point for point in theirs if point.replica_seconds <= ours.replica_seconds]
    said = []
    for label, field_name, points in (
        ("p95 as low", "replica_seconds", as_fast),
        ("as few replica-seconds", "p95_s", as_cheap),
    ):
        if not points:
            said.append(f"no request count gave {label}")
            continue
        best = min(points, key=lambda point: float(getattr(point, field_name)))
        ratio = getattr(ours, field_name) / getattr(best, field_name)
        what = field_name.replace("_seconds", "-seconds").replace("_s", "")
        said.append(f"with {label}, the best request count is {best.name}: {what} x {ratio:.2f}")
    return f"{ours.name}, the default: " + "; ".join(said) + "."


# For real.


def real_report(uri: str, config: BenchConfig) -> list[str]:
    lines = picture_report(uri, config)
    policies: dict[str, Mapping[str, float]] = {
        "work": {"downscale_delay_s": config.seconds / 3},
        **{
            f"{target:g} requests, look-back 5 s": {
                "target_ongoing_requests": target,
                "look_back_period_s": 5.0,
                "upscale_delay_s": Scaling().upscale_delay_s,
                "downscale_delay_s": config.seconds / 3,
            }
            for target in REAL_TARGETS
        },
    }
    seen: dict[str, list[Watch]] = {name: [] for name in policies}
    rate = 0.0
    for number in range(config.real_rounds):
        for name, options in policies.items():
            with scaled_server(uri, options) as (url, metrics_url):
                # Every server is warmed by it; the first one's pace sets the traffic of all.
                measured = pace(url, metrics_url)
                rate = rate or measured
                traffic = mixed(rate, config.seconds)
                print(f"round {number + 1}: {name}", file=sys.stderr)
                seen[name].append(watch(url, metrics_url, "digits", traffic, seed=number))
    points = [real_point(name, runs) for name, runs in seen.items()]
    return [
        *lines,
        "",
        f"Both policies on `aigc serve --replicas 1..2`, open loop: {config.seconds:g} s each of"
        f" 20 requests/s for 1 sample, of those and {0.9 * rate:.1f}/s for 256, of 250/s for 1,"
        f" and of 5/s for 1. Delays 1 s up, {config.seconds / 3:g} s down,"
        f" {config.real_rounds} round(s). The client and HAProxy share the cores with the"
        " replicas, so a second replica adds less than one replica's worth.",
        "",
        *table(points),
        "",
        verdict(points[0], points[1:]),
    ]


def picture_report(uri: str, config: BenchConfig) -> list[str]:
    """Load up, replicas rise, load down, replicas fall; with the defaults."""
    with scaled_server(uri, {}) as (url, metrics_url):
        rate = pace(url, metrics_url)
        traffic = [
            Traffic(seconds=20, per_s={1: 5}),
            Traffic(seconds=60, per_s={1: 20, 256: 0.9 * rate}),
            Traffic(seconds=110, per_s={1: 5}),
        ]
        seen = watch(url, metrics_url, "digits", traffic)
    draw(config.picture, traffic, seen)
    most = max(value for _, value in seen.replicas)
    last = seen.replicas[-1][1]
    return [
        f"![replicas follow the load]({config.picture.name})",
        "",
        f"`aigc serve digits --replicas 1..2`: load up, {most:.0f} replicas; load down, {last:.0f};"
        f" {seen.failed} of {len(seen.answers):,} requests failed. p95 {seen.p(0.95):.3f} s,"
        f" {seen.replica_seconds:.0f} replica-seconds in {seen.seconds:.0f} s.",
    ]


def draw(path: Path, traffic: Sequence[Traffic], seen: Watch) -> None:
    asked, start_s = [], 0.0
    for part in traffic:
        asked.append((start_s, sum(n * per_s for n, per_s in part.per_s.items())))
        start_s += part.seconds
    answered: dict[int, float] = {}
    for answer in seen.answers:
        if answer.status == 200:
            second = int(answer.sent_s + answer.seconds)
            answered[second] = answered.get(second, 0.0) + answer.n
    given = [(float(second), answered.get(second, 0.0)) for second in range(int(seen.seconds))]
    panels = [
        Panel(
            title="samples per second",
            curves=[
                Curve(name="asked for", colour="#d9480f", points=asked),
                Curve(name="answered", colour="#74a5d6", points=given),
            ],
        ),
        Panel(
            title="samples waiting",
            curves=[Curve(name="waiting", colour="#862e9c", points=seen.queued)],
        ),
        Panel(
            title="replicas",
            curves=[Curve(name="replicas", colour="#2b8a3e", points=seen.replicas)],
            whole=True,
        ),
    ]
    title = f"Replicas follow the load: {seen.failed} of {len(seen.answers):,} requests failed"
    write_chart(path, title, panels, seen.seconds)


def mixed(rate: float, seconds: float) -> list[Traffic]:
    parts: Sequence[Mapping[int, float]] = (
        {1: 20},
        {1: 20, 256: 0.9 * rate},
        {1: 250},
        {1: 5},
    )
    return [Traffic(seconds=seconds, per_s=per_s) for per_s in parts]


def pace(url: str, metrics_url: str) -> float:
    """Requests for 256 samples per second that one replica answers, one after another."""
    seen = watch(url, metrics_url, "digits", [Traffic(seconds=4, per_s={256: 4})])
    return 1 / seen.p(0.5)


def real_point(name: str, runs: Sequence[Watch]) -> Point:
    mean = statistics.fmean
    return Point(
        name=name,
        replica_seconds=mean(run.replica_seconds for run in runs),
        p95_s=mean(run.p(0.95) for run in runs),
        p95_large_s=mean(run.p(0.95, 256) for run in runs),
        failed=mean(run.failed for run in runs),
        changes=mean(_num_changes(run) for run in runs),
    )


def _num_changes(run: Watch) -> int:
    return sum(before != after for (_, before), (_, after) in pairwise(run.replicas))


@contextmanager
def scaled_server(artifact: str, options: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """(URL, URL of the metrics) of `aigc serve --replicas 1..2` under a policy."""
    command = [sys.executable, "-m", "tests.bench.scaled_server", json.dumps(options), artifact]
    command += ["--replicas", "1..2", "--metrics-port", "0", "--port", str(free_port())]
    with tempfile.TemporaryFile("w+") as stderr:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
        with process:
            assert process.stdout is not None
            try:
                url = process.stdout.readline().strip()
                stderr.seek(0)
                said = stderr.read()
                found = re.search(r"metrics\s+(http\S+)", said)
                if not url or not found:
                    raise RuntimeError(f"the server did not start:\n{said}")
                yield url, found[1]
            finally:
                process.send_signal(signal.SIGTERM)


if __name__ == "__main__":
    main()
