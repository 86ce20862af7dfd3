"""Replicas by work against Ray Serve's request count: `aigc serve` for real, and simulated.

    python -m benchmarks.bench_autoscaling                              # about 12 minutes
    python -m benchmarks.bench_autoscaling --only simulated --rounds 5

Three parts, each a section of docs/benchmarks.md: a server whose replicas follow the load, drawn as
docs/autoscaling.svg; both policies on the same traffic, each with a server of its own; and both on
a simulated pool of more replicas, where only the pool is simulated, never the policy.
"""

import logging
import math
import statistics
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from aigc.artifact import Artifact, Store
from benchmarks.artifacts import untrained
from benchmarks.chart import Curve, Panel, write_chart
from benchmarks.open_loop import Watch, watch
from benchmarks.report import header, write_section
from benchmarks.scaled_server import Options, started
from serve.autoscaling import Scaling
from tests.serve.artifacts import publish
from tests.serve.batching.queueing import Machine, Policy, Pool, Traffic
from tests.serve.ray_state import by_requests, through_ray

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from serve.app import autoscaling

TARGETS = (0.5, 1, 2, 4, 8, 16, 32, 64)
LOOK_BACKS_S = (5.0, 30.0)
"""Look-backs of the request count: as ours, and Ray's default."""
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
"""Traffic of a simulated pool: the mix changes as much as the rate."""

CURVE_LOAD = 0.6
"""Share of one replica's capacity, which has a core less while the second one starts."""
CURVE_SCALING = {"target_busy": 0.4, "downscale_delay_s": 20.0}

REAL_TARGETS = (0.5, 1, 2, 4)
REAL_HIGH = 4
REAL_SCALING = Scaling(downscale_delay_s=8.0)
PACED = Machine(batch_s=0.004, sample_s=0.004, startup_s=5.0)
"""Replicas of the real comparison; their start takes as long as it takes."""
REAL_DAY = (
    Traffic(seconds=8, per_s={1: 10}),
    Traffic(seconds=30, per_s={1: 10, 256: 1.6}),
    Traffic(seconds=20, per_s={1: 120}),
    Traffic(seconds=22, per_s={1: 10}),
)


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Autoscaling by work, against Ray Serve's request count."""

    only: Literal["all", "curve", "real", "simulated"] = "all"
    """Parts to run; the sections of the others stay as they are."""
    artifact: str = ""
    """For the curve, an artifact called digits; by default an untrained dcgan:digits."""
    rounds: int = 1
    """Rounds of the simulation, each with other arrivals."""
    real_rounds: int = 1
    out: Path = Path("docs/benchmarks.md")
    picture: Path = Path("docs/autoscaling.svg")


@dataclass(frozen=True, kw_only=True)
class Point:
    """Cost and result of a policy; means over the rounds."""

    name: str
    replica_seconds: float
    p95_s: float
    p95_large_s: float
    """The same of requests for 256 samples."""
    failed: float
    changes: float
    """Changes of the number of replicas."""


def main() -> None:
    config = tyro.cli(BenchConfig)
    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # it tells of every policy made
    parts = {"curve": curve_report, "real": real_report, "simulated": simulated_report}
    for name, report in parts.items():
        if config.only in (name, "all"):
            write_section(config.out, f"autoscaling-{name}", "\n".join(report(config)))
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

            requests.append(play(name, count, config.rounds))
    work = []
    for busy in sorted(BUSY, key=lambda busy: busy != Scaling().target_busy):

        def by_work(busy: float = busy) -> Policy:
            return through_ray(autoscaling(Scaling(target_busy=busy), 1, HIGH))

        work.append(play(f"work, target_busy {busy:g}", by_work, config.rounds))
    return requests, work


def play(
    name: str,
    policy: Callable[[], Policy],
    rounds: int,
    day: Sequence[Traffic] = DAY,
    high: int = HIGH,
    machine: Machine | None = None,
) -> Point:
    print(f"simulated: {name}", file=sys.stderr)
    pools = [
        Pool(policy(), high=high, seed=seed, machine=machine or Machine()).run(day)
        for seed in range(rounds)
    ]
    mean = statistics.fmean
    return Point(
        name=name,
        replica_seconds=mean(pool.replica_seconds for pool in pools),
        p95_s=mean(pool.p(0.95) for pool in pools),
        p95_large_s=mean(pool.p(0.95, 256) for pool in pools),
        failed=mean(len(pool.refused) for pool in pools),
        changes=mean(len(pool.changes()) for pool in pools),
    )


def simulated_report(config: BenchConfig) -> list[str]:
    requests, work = simulated(config)
    machine = Machine()
    return [
        "### The same with more replicas, simulated",
        "",
        header("ray"),
        "",
        f"A simulated pool of 1 to {HIGH} replicas ({1e3 * machine.request_s:g} ms per request,"
        f" {1e3 * machine.batch_s:g} ms per batch, {1e3 * machine.sample_s:g} ms per sample, at"
        f" most {machine.max_batch} per batch, {machine.startup_s:g} s to start),"
        f" {sum(part.seconds for part in DAY):g} s of Poisson arrivals of requests for 1 and for"
        " 256 samples whose mix changes as much as their rate."
        " Both policies run in Ray's own autoscaling state, with reports every second and the same"
        f" delays ({Scaling().upscale_delay_s:g} s up, {Scaling().downscale_delay_s:g} s down)."
        f" Means of {config.rounds} round(s); a refused request counts as an endless wait.",
        "",
        *table([*work, *requests]),
        "",
        verdict(work[0], requests),
    ]


def table(points: Sequence[Point], beside: Sequence[Point] = ()) -> list[str]:
    """A row per policy; `beside`, the same policies as the simulation has them."""
    lines = [
        "| policy | replica-seconds | p95, s | p95 of n = 256, s | not answered | changes |",
        "|---|--:|--:|--:|--:|--:|",
        *(
            f"| {point.name} | {point.replica_seconds:,.0f} | {_seconds(point.p95_s)}"
            f" | {_seconds(point.p95_large_s)} | {point.failed:,.0f} | {point.changes:.1f} |"
            for point in points
        ),
    ]
    if beside:
        more = [
            " simulated replica-seconds | p95, s | p95 of n = 256, s |",
            "--:|--:|--:|",
            *(
                f" {point.replica_seconds:,.0f} | {_seconds(point.p95_s)}"
                f" | {_seconds(point.p95_large_s)} |"
                for point in beside
            ),
        ]
        lines = [line + rest for line, rest in zip(lines, more, strict=True)]
    return lines


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


def curve_report(config: BenchConfig) -> list[str]:
    """Load up, replicas rise, load down, replicas fall."""
    uri = Artifact.open(config.artifact or untrained(), verify=False).uri
    with started(uri, {"scaling": CURVE_SCALING}, high=2) as (url, metrics_url):
        warm_up = [Traffic(seconds=4, per_s={256: 4})]
        rate = 1 / watch(url, metrics_url, "digits", warm_up).p(0.5)
        traffic = [
            Traffic(seconds=20, per_s={1: 20}),
            Traffic(seconds=45, per_s={1: 20, 256: CURVE_LOAD * rate}),
            Traffic(seconds=55, per_s={1: 20}),
        ]
        seen = watch(url, metrics_url, "digits", traffic)
    draw(config.picture, traffic, seen)
    numbers = " → ".join(f"{number:.0f}" for number in seen.numbers)
    return [
        "## Autoscaling",
        "",
        header("ray", "onnxruntime"),
        "",
        f"![replicas follow the load]({config.picture.name})",
        "",
        "`aigc serve digits --replicas 1..2`, dcgan:digits on the real processors, open loop:"
        f" 20 requests/s for 1 sample, and for 45 s of the {seen.seconds:.0f} s"
        f" {CURVE_LOAD * rate:.0f}/s for 256 besides, {CURVE_LOAD:g} of what one replica answers"
        f" one after another; scaling {_options(CURVE_SCALING)}, all else by default."
        f" Replicas {numbers}; {seen.failed} of {len(seen.answers):,} requests failed; p95"
        f" {seen.p(0.95, 1):.3f} s for 1 sample and {seen.p(0.95, 256):.3f} s for 256."
        " Client, HAProxy and replicas share two cores, and so does a replica that starts.",
    ]


def _options(options: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in options.items())


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
            title="replicas",
            curves=[Curve(name="replicas", colour="#2b8a3e", points=seen.replicas)],
            whole=True,
        ),
        Panel(
            title="p95 of the requests for 1 sample sent within 5 s, in ms",
            curves=[Curve(name="p95", colour="#862e9c", points=seen.p_over_time(0.95, 1, 5.0))],
        ),
    ]
    title = f"Replicas follow the load: {seen.failed} of {len(seen.answers):,} requests failed"
    write_chart(path, title, panels, seen.seconds)


@dataclass(frozen=True, kw_only=True)
class Contestant:
    """A policy, for a server and for the simulation."""

    name: str
    options: Options
    policy: Callable[[], Policy]


def contestants() -> Iterator[Contestant]:
    """Work, then the request count over its grid."""
    yield Contestant(
        name="work",
        options={"scaling": {"downscale_delay_s": REAL_SCALING.downscale_delay_s}},
        policy=lambda: through_ray(autoscaling(REAL_SCALING, 1, REAL_HIGH)),
    )
    delays = {
        "upscale_delay_s": REAL_SCALING.upscale_delay_s,
        "downscale_delay_s": REAL_SCALING.downscale_delay_s,
    }
    look_back_s = LOOK_BACKS_S[0]
    for target in REAL_TARGETS:

        def policy(target: float = target) -> Policy:
            return by_requests(target, high=REAL_HIGH, look_back_s=look_back_s, **delays)

        requests = {"target_ongoing_requests": target, "look_back_period_s": look_back_s, **delays}
        yield Contestant(
            name=f"{target:g} requests, look-back {look_back_s:g} s",
            options={"requests": requests},
            policy=policy,
        )


def real_report(config: BenchConfig) -> list[str]:
    pace = {"batch_s": PACED.batch_s, "sample_s": PACED.sample_s}
    points, simulated_points = [], []
    with tempfile.TemporaryDirectory() as folder:
        uri = publish(Store(Path(folder) / "store"), Path(folder) / "build", "tiny", 0)
        for one in contestants():
            runs = []
            for number in range(config.real_rounds):
                print(f"{one.name}, round {number + 1}", file=sys.stderr)
                options = {**one.options, "pace": pace}
                with started(uri, options, high=REAL_HIGH) as (url, metrics_url):
                    runs.append(watch(url, metrics_url, "tiny", REAL_DAY, seed=number))
            points.append(real_point(one.name, runs))
            simulated_points.append(play(one.name, one.policy, 20, REAL_DAY, REAL_HIGH, PACED))
    return [
        "### Against Ray Serve's request count",
        "",
        header("ray", "onnxruntime"),
        "",
        f"Both policies on `aigc serve --replicas 1..{REAL_HIGH}` with Ray, HAProxy and HTTP, one"
        " server after another, the same open-loop arrivals"
        f" ({config.real_rounds} round(s) of {sum(part.seconds for part in REAL_DAY):g} s):"
        f" {_spoken(REAL_DAY)}. **The replicas are paced**: a batch takes"
        f" {1e3 * PACED.batch_s:g} ms and {1e3 * PACED.sample_s:g} ms per sample by sleeping, so"
        " that each stands for one with an accelerator of its own; on the two cores of this"
        " machine more replicas would not be faster. Delays"
        f" {REAL_SCALING.upscale_delay_s:g} s up, {REAL_SCALING.downscale_delay_s:g} s down."
        " Replica-seconds are of those that are ready or drain. Beside it the simulation of the"
        " next section on the same traffic, means of 20 rounds; its replica-seconds count the"
        " start as well.",
        "",
        *table(points, simulated_points),
        "",
        verdict(points[0], points[1:]),
        "",
        f"In the simulation: {verdict(simulated_points[0], simulated_points[1:])}",
    ]


def _spoken(traffic: Sequence[Traffic]) -> str:
    """Description of the traffic."""
    return ", then ".join(
        f"{part.seconds:g} s of "
        + " and ".join(f"{per_s:g}/s for {n}" for n, per_s in part.per_s.items())
        for part in traffic
    )


def real_point(name: str, runs: Sequence[Watch]) -> Point:
    mean = statistics.fmean
    return Point(
        name=name,
        replica_seconds=mean(run.replica_seconds for run in runs),
        p95_s=mean(run.p(0.95) for run in runs),
        p95_large_s=mean(run.p(0.95, 256) for run in runs),
        failed=mean(run.failed for run in runs),
        changes=mean(len(run.numbers) - 1 for run in runs),
    )


if __name__ == "__main__":
    main()
