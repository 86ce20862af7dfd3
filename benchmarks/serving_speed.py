"""Sections of bench_serving that measure speed; each returns the text of its section.

Contestants take turns of a second, in another order each round, and ratios are taken within a
round: on a machine whose speed changes within half a minute, they are steadier than either side.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from unittest import mock

from benchmarks import light, servers, venv
from benchmarks.artifacts import untrained
from benchmarks.report import header, spread, verdict
from benchmarks.servers import Server
from benchmarks.wrk import Load, Turn, turn

SIZES = (1, 16, 64)
CONNECTIONS = (1, 16, 64)
MIX = {1: 0.9, 16: 0.09, 256: 0.01}
MIX_S = 8.0
"""Duration of a turn with the mix: its p99 wants many requests."""

LARGE_S = 4
"""Duration of a turn with a large model: sixteen requests for 64 take it most of a second."""

BARE = """
import sys, time
from aigc.artifact import Artifact
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

Turns = dict[tuple[str, str], list[Turn]]
"""(contestant, load) -> a turn per round."""
Contest = Callable[[], Turn]


def rounds_of(contests: Sequence[tuple[str, str, Contest]], rounds: int) -> Turns:
    """Every contest of (contestant, load) once per round; those of one load follow each other."""
    turns: Turns = defaultdict(list)
    loads = list(dict.fromkeys(load for _, load, _ in contests))
    for number in range(rounds):
        for load in loads:
            same = [contest for contest in contests if contest[1] == load]
            first = number % len(same)
            for name, _, contest in [*same[first:], *same[:first]]:
                turns[name, load].append(contest())
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    return turns


def under(
    contestants: Iterable[Server], loads: Iterable[Load], seconds: int = 1
) -> list[tuple[str, str, Contest]]:
    """Every server under every load, `seconds` at a time, after a warm-up."""
    contests: list[tuple[str, str, Contest]] = []
    for load in loads:
        for server in contestants:
            turn(server, load, seconds)
            contests.append((server.name, key(load), contest_of(server, load, seconds)))
    return contests


def contest_of(server: Server, load: Load, seconds: int = 1) -> Contest:
    """One server under one load."""
    return lambda: turn(server, load, seconds)


def key(load: Load) -> str:
    """`n x connections`."""
    return f"{load.n} x {load.connections}"


def middle(turns: Sequence[Turn], field: str = "samples_per_s") -> float:
    """Median of a field."""
    return statistics.median(getattr(each, field) for each in turns)


def ratios(
    ours: Sequence[Turn], theirs: Sequence[Turn], field: str = "samples_per_s"
) -> list[float]:
    """ours / theirs, within each round."""
    pairs = zip(ours, theirs, strict=True)
    return [getattr(a, field) / getattr(b, field) for a, b in pairs]


def bars(rows: Iterable[tuple[str, list[float], float | None, str]]) -> list[str]:
    """A table of (what, ratios, bar, "higher" or "lower" is better)."""
    lines = ["| | ratio (min to max) | bar |", "|---|--:|---|"]
    lines += [
        f"| {what} | {spread(found)} | {verdict(found, bar, better)} |"
        for what, found, bar, better in rows
    ]
    return lines


def footer(turns: Mapping[tuple[str, str], Sequence[Turn]], rounds: int) -> str:
    """Notes below every table."""
    bad = sum(each.bad for measured in turns.values() for each in measured)
    return (
        f"Medians of {rounds} rounds; contestants take turns of a second or so, and ratios are"
        f" taken within a round. Answers other than 2xx: {bad}."
    )


def speed(artifact: str, rounds: int) -> str:
    """One replica against one worker of every peer."""
    loads = [Load(n=n, connections=c) for n in SIZES for c in CONNECTIONS]
    with ExitStack() as stack:
        every = [
            stack.enter_context(server)
            for server in (
                servers.ours(artifact),
                servers.fastapi(artifact),
                servers.fastapi(artifact, "inline"),
                servers.litserve(artifact),
                servers.ray_batch(artifact),
            )
        ]
        servers.check_same_bytes(every, SIZES)
        contests = under(every, loads)
        contests += [("bare", f"{n} x bare", _bare(artifact, n)) for n in SIZES]
        # A contest's load groups it with those that it is compared with.
        turns = rounds_of(contests, rounds)
    peers = [server.name for server in every[1:]]
    lines = [
        f"| n | connections | ours, samples/s | {' | '.join(f'/ {peer}' for peer in peers)}"
        " | / bare `session.run` | CPU of a request, ours / FastAPI's | p50, p99 ms |",
        "|--:" * (len(peers) + 6) + "|",
    ]
    for load in loads:
        mine = turns["ours", key(load)]
        against = [spread(ratios(mine, turns[peer, key(load)])) for peer in peers]
        limit = spread(ratios(mine, turns["bare", f"{load.n} x bare"]))
        cpu = spread(ratios(mine, turns[peers[0], key(load)], "cpu_us"))
        times = f"{middle(mine, 'p50_ms'):.1f}, {middle(mine, 'p99_ms'):.1f}"
        lines.append(
            f"| {load.n} | {load.connections} | {middle(mine):,.0f} | {' | '.join(against)}"
            f" | {limit} | {cpu} | {times} |"
        )

    def of(n: int, connections: int, peer: str, field: str = "samples_per_s") -> list[float]:
        at = f"{n} x {connections}" if peer != "bare" else f"{n} x bare"
        return ratios(turns["ours", f"{n} x {connections}"], turns[peer, at], field)

    fastapi, lit = "FastAPI, executor", "LitServe"
    cpu_us = middle(turns["ours", "1 x 16"], "cpu_us"), middle(turns[fastapi, "1 x 16"], "cpu_us")
    met = bars(
        [
            ("n = 1, 16 connections / FastAPI", of(1, 16, fastapi), 0.9, "higher"),
            ("n = 1, 64 connections / FastAPI", of(1, 64, fastapi), 1.0, "higher"),
            ("n = 1, 1 connection / FastAPI", of(1, 1, fastapi), 0.8, "higher"),
            ("n = 1, 16 connections / LitServe", of(1, 16, lit), 1.3, "higher"),
            ("CPU of a request for 1 / FastAPI's", of(1, 16, fastapi, "cpu_us"), 1.0, "lower"),
            ("n = 16 / FastAPI", of(16, 16, fastapi), 1.0, "higher"),
            ("n = 64 / FastAPI", of(64, 16, fastapi), 0.97, "higher"),
        ]
    )
    packages = ("ray", "onnxruntime", "fastapi", "uvicorn")
    others = {"litserve": venv.versions().get("litserve", "missing")}
    return "\n".join(
        [
            "## Serving",
            "",
            header(*packages, **others),
            "",
            "`dcgan:digits`, one replica or worker and one onnxruntime thread each; every peer"
            " checks a JSON body, draws seeded latents, answers the same uint8 bytes and counts"
            " requests and their duration. wrk is the client; it, HAProxy and the other servers,"
            " idle, run on the same cores.",
            "",
            *lines,
            "",
            *met,
            "",
            f"A request for one sample at 16 connections takes {cpu_us[0]:.0f} µs of CPU in our"
            f" replica, {cpu_us[1]:.0f} in FastAPI's worker. {footer(turns, rounds)}",
        ]
    )


def _bare(artifact: str, n: int, seconds: int = 1) -> Contest:
    def contest() -> Turn:
        command = [sys.executable, "-c", BARE, artifact, str(n), str(seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return Turn(samples_per_s=float(done.stdout), cpu_us=0.0)

    return contest


def large(artifact: str, rounds: int) -> str:
    """A model of ten times the size, where the samples cost more than the requests."""
    artifact = untrained("--model.generator-widths", "352", "192")
    loads = [Load(n=n, connections=16) for n in SIZES]
    with ExitStack() as stack:
        mine = stack.enter_context(servers.ours(artifact))
        peer = stack.enter_context(servers.fastapi(artifact))
        servers.check_same_bytes([mine, peer], SIZES)
        contests = under([mine, peer], loads, LARGE_S)
        contests += [("bare", key(load), _bare(artifact, load.n, LARGE_S)) for load in loads]
        turns = rounds_of(contests, rounds)
    rows = []
    limits = {1: (0.9, None), 16: (1.0, 0.88), 64: (0.97, 0.93)}
    for load in loads:
        ours = turns[mine.name, key(load)]
        for name, bar in zip((peer.name, "bare"), limits[load.n], strict=True):
            theirs = turns[name, key(load)]
            what = f"n = {load.n}: {middle(ours):,.0f} samples/s / {name}'s {middle(theirs):,.0f}"
            rows.append((what, ratios(ours, theirs), bar, "higher"))
    return "\n".join(
        [
            "## Serving a larger model",
            "",
            header("ray", "onnxruntime", "fastapi", "uvicorn"),
            "",
            "`dcgan:digits` with a generator of 1.8 million parameters in place of 0.17, 16"
            " connections, one replica or worker. Bare is `session.run` in a loop, alone on the"
            " machine: it shares the two cores with no client and no proxy.",
            "",
            *bars(rows),
            "",
            footer(turns, rounds),
        ]
    )


def mix(artifact: str, rounds: int) -> str:
    """Requests of three sizes at once, against Ray Serve's own batching of requests."""

    def contest(server: Server) -> Contest:
        def run() -> Turn:
            size = light.mix(MIX, seed=0)
            asks = asyncio.run(light.closed(server.url, size, connections=16, seconds=MIX_S))
            good = [ask for ask in asks if ask.status == 200]
            small = [ask for ask in good if ask.n == 1]
            return Turn(
                samples_per_s=sum(ask.n for ask in good) / MIX_S,
                cpu_us=0.0,
                bad=len(asks) - len(good),
                p50_ms=1e3 * light.p(0.5, small),
                p99_ms=1e3 * light.p(0.99, small),
            )

        return run

    with ExitStack() as stack:
        every = [
            stack.enter_context(server)
            for server in (
                servers.ours(artifact),
                servers.ray_batch(artifact),
                servers.fastapi(artifact),
            )
        ]
        servers.check_same_bytes(every, SIZES)
        turns = rounds_of([(server.name, "mix", contest(server)) for server in every], rounds)
    names = [server.name for server in every]
    mine = turns["ours", "mix"]
    rows = [
        f"| {name} | {middle(turns[name, 'mix']):,.0f} | {middle(turns[name, 'mix'], 'p50_ms'):.1f}"
        f" | {middle(turns[name, 'mix'], 'p99_ms'):.1f} |"
        for name in names
    ]
    theirs, fastapi = turns["Ray Serve", "mix"], turns["FastAPI, executor", "mix"]
    return "\n".join(
        [
            "## Serving requests of many sizes",
            "",
            header("ray", "onnxruntime", "fastapi", "uvicorn"),
            "",
            "16 connections, each again and again: 90 % of the requests are for 1 sample, 9 % for"
            f" 16, 1 % for 256; turns of {MIX_S:g} s. Ray Serve is plain: its own proxy and"
            " `@serve.batch`.",
            "",
            "| | samples/s | p50 of n = 1, ms | p99 of n = 1, ms |",
            "|---|--:|--:|--:|",
            *rows,
            "",
            *bars(
                [
                    ("p99 of n = 1 / Ray Serve's", ratios(mine, theirs, "p99_ms"), 0.5, "lower"),
                    ("samples/s / Ray Serve's", ratios(mine, theirs), 1.0, "higher"),
                    ("p99 of n = 1 / FastAPI's", ratios(mine, fastapi, "p99_ms"), None, "lower"),
                    ("samples/s / FastAPI's", ratios(mine, fastapi), None, "higher"),
                ]
            ),
            "",
            footer(turns, rounds),
        ]
    )


def two(artifact: str, rounds: int) -> str:
    """Two replicas against uvicorn with two workers."""
    loads = [Load(n=n, connections=16) for n in SIZES] + [Load(n=1, connections=64)]
    with tempfile.TemporaryDirectory() as metrics, ExitStack() as stack:
        mine = stack.enter_context(servers.ours(artifact, "--replicas", "2"))
        # As whoever has two workers must: a scrape reaches one of them, and shows both.
        with mock.patch.dict(os.environ, PROMETHEUS_MULTIPROC_DIR=metrics):
            peer = stack.enter_context(servers.fastapi(artifact, workers=2))
        servers.check_same_bytes([mine, peer], SIZES)
        turns = rounds_of(under([mine, peer], loads), rounds)
    rows = []
    for load in loads:
        ours, theirs = turns[mine.name, key(load)], turns[peer.name, key(load)]
        what = f"n = {load.n}, {load.connections} connections: {middle(ours):,.0f} samples/s"
        rows.append((f"{what} / {middle(theirs):,.0f}", ratios(ours, theirs), 0.9, "higher"))
    return "\n".join(
        [
            "## Serving with two replicas",
            "",
            header("ray", "onnxruntime", "fastapi", "uvicorn"),
            "",
            "Two replicas against uvicorn with two workers, FastAPI with an executor thread.",
            "",
            *bars(rows),
            "",
            footer(turns, rounds),
        ]
    )
