"""Sections of bench_serving about its ends: how it starts, and what it does with too much load."""

import asyncio
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import psutil
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import light, servers
from benchmarks.report import header, spread, verdict
from benchmarks.servers import Server
from benchmarks.wrk import Load, turn
from serve.settings import Limits

OVERLOAD_S = 30.0
OFFERED = 10.0
"""Times the capacity."""
LARGE = 1024
"""Samples per request: so large, ten times the capacity is a hundred requests a second, and the
client leaves the cores to the server."""

RISE_S = 3.0
"""From the first request until answers come as fast as they will."""

STEPS = """
import json, sys, time
steps = [time.time()]
import ray.serve; steps.append(time.time())
import serve.app, serve.ingress; steps.append(time.time())
from aigc.artifact import Artifact
artifact = Artifact.open(sys.argv[1], verify=False); steps.append(time.time())
artifact.verify(); steps.append(time.time())
print(json.dumps(steps))
"""


@dataclass(frozen=True, kw_only=True)
class Overload:
    """Outcome of more requests than could be run."""

    capacity: float
    """Samples/s, measured just before."""
    goodput: float
    """Samples/s answered with 200, from RISE_S after the beginning of the load to its end."""
    p99_s: float
    """Latency of those that were admitted."""
    bound_s: float
    """Time that two full queues and the request itself take at the capacity: those in progress
    share every batch, so that half of an average one is done and no longer in the queue."""
    statuses: Counter[int]
    """Requests by status; 0: no answer."""
    silent: int
    """Refusals that do not say when to come again."""
    rss: int
    """Bytes of the replica before."""
    most_rss: int
    """And its most during the load."""


def overload_of(server: Server, seconds: float = OVERLOAD_S) -> Overload:
    """Measure the capacity, then offer ten times as much, open loop."""
    largest = asyncio.run(
        light.closed(server.url, lambda: LARGE, connections=4, seconds=max(3.0, seconds / 4))
    )
    first_s = min(ask.begun_s for ask in largest)
    last_s = max(ask.begun_s + ask.seconds for ask in largest)
    capacity = sum(ask.n for ask in largest if ask.status == 200) / (last_s - first_s)
    draw, due_s, arrivals = random.Random(0), 0.0, []
    while (due_s := due_s + draw.expovariate(OFFERED * capacity / LARGE)) < seconds:
        arrivals.append((due_s, LARGE))
    (replica,) = server.workers()
    seen = [replica.memory_info().rss]
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.2):
            seen.append(replica.memory_info().rss)

    looking = threading.Thread(target=look)
    looking.start()
    started_s = time.monotonic()
    try:
        asks = asyncio.run(light.opened(server.url, arrivals))
    finally:
        over.set()
        looking.join()
    in_time = [
        ask.n
        for ask in asks
        if ask.status == 200
        and started_s + RISE_S < ask.begun_s + ask.seconds < started_s + seconds
    ]
    refused = [ask for ask in asks if ask.status not in (0, 200)]
    return Overload(
        capacity=capacity,
        goodput=sum(in_time) / (seconds - RISE_S),
        p99_s=light.p(0.99, asks),
        bound_s=(2 * Limits().max_queue + LARGE) / capacity,
        statuses=Counter(ask.status for ask in asks),
        silent=sum(b"retry-after" not in ask.headers for ask in refused),
        rss=seen[0],
        most_rss=max(seen),
    )


def overload(artifact: str, rounds: int) -> str:
    """Ten times the capacity for half a minute."""
    with servers.ours(artifact) as server:
        turn(server, Load(n=64, connections=16), 1)
        found = [overload_of(server) for _ in range(min(rounds, 3))]
    goodput = [each.goodput / each.capacity for each in found]
    waits = [each.p99_s / each.bound_s for each in found]
    statuses = sum((each.statuses for each in found), Counter[int]())
    said = ", ".join(f"{count:,} x {status}" for status, count in sorted(statuses.items()))
    growth = max(each.most_rss - each.rss for each in found) / 2**20
    return "\n".join(
        [
            "## Overload",
            "",
            header("ray", "onnxruntime"),
            "",
            f"`aigc serve` with its defaults; {OFFERED:g} times its capacity is offered for"
            f" {OVERLOAD_S:g} s, open loop, in requests for {LARGE} samples: smaller ones would"
            " take more of the cores for the client than for the server.",
            "",
            "| | (min to max) | bar |",
            "|---|--:|---|",
            f"| goodput / capacity | {spread(goodput)} | {verdict(goodput, 0.9)} |",
            "| p99 of the admitted / what two full queues take at the capacity |"
            f" {spread(waits)} | {verdict(waits, 1.5, 'lower')} |",
            "",
            f"Capacity {spread([each.capacity for each in found], 0)} samples/s. Answers: {said};"
            f" refusals without Retry-After: {sum(each.silent for each in found)}. The replica's"
            f" memory grew by at most {growth:.0f} MiB.",
        ]
    )


def start(artifact: str, rounds: int) -> str:
    """From nothing to an answer, and from a load step to twice the replicas."""
    parts: list[list[float]] = []
    for _ in range(rounds):
        begun_s = time.time()
        with tempfile.TemporaryDirectory() as metrics:
            done = subprocess.run(
                [sys.executable, "-c", STEPS, artifact],
                capture_output=True,
                text=True,
                check=True,
                env=os.environ | {"PROMETHEUS_MULTIPROC_DIR": metrics},
            )
        steps = [begun_s, *json.loads(done.stdout.splitlines()[-1])]
        parts.append([after - before for before, after in pairwise(steps)])
    names = ("interpreter", "import Ray Serve", "import the replica", "open and hash", "replay")
    commands, decided, ready = [], [], []
    for _ in range(min(rounds, 3)):
        begun_s = time.time()
        with servers.ours(artifact, "--replicas", "1..2") as server:
            commands.append(time.time() - begun_s)
            second_s, ready_s = _step(server)
            decided.append(second_s)
            ready.append(ready_s)
    lines = ["| | seconds (min to max) |", "|---|--:|"]
    columns = zip(names, zip(*parts, strict=True), strict=True)
    lines += [f"| {name} | {spread(values)} |" for name, values in columns]
    lines += [
        f"| a replica's process in all | {spread([sum(one) for one in parts])} |",
        f"| `aigc serve`: from the command to its URL, Ray's start included | {spread(commands)} |",
        f"| from a load step to the start of a second replica | {spread(decided)} |",
        f"| and until that is ready | {spread(ready)} |",
    ]
    return "\n".join(
        [
            "## Start",
            "",
            header("ray", "onnxruntime"),
            "",
            "The parts of a replica's start, in a process by itself; and `aigc serve --replicas"
            " 1..2`, idle, then asked for 64 samples by 64 connections at once. The client and the"
            " first replica share the two cores with the second one's start.",
            "",
            *lines,
            "",
            f"Lower is better. Medians of {rounds} starts, of {len(commands)} for the last three.",
        ]
    )


def _step(server: Server) -> tuple[float, float]:
    """Seconds from a load step until there is a second replica, and until it is ready."""

    def load() -> None:
        with suppress(subprocess.CalledProcessError):  # it is ended as soon as all is seen
            turn(server, Load(n=64, connections=64), 90)

    loading = threading.Thread(target=load)
    (first,) = server.workers()
    begun_s = time.monotonic()
    loading.start()
    second_s = 0.0
    try:
        while time.monotonic() < begun_s + 85:
            with suppress(psutil.Error):
                if not second_s and any(process != first for process in server.workers()):
                    second_s = time.monotonic() - begun_s
            if second_s and _ready(server) >= 2:
                return second_s, time.monotonic() - begun_s
            time.sleep(0.1)
    finally:
        for child in psutil.Process().children():
            if child.name() == "wrk":
                child.terminate()
        loading.join()
    raise RuntimeError("no second replica within 85 s")


def _ready(server: Server) -> float:
    with urllib.request.urlopen(server.metrics(), timeout=10) as answer:
        text = answer.read().decode()
    families = text_string_to_metric_families(text)
    found = [sample.value for f in families if f.name == "aigc_ready" for sample in f.samples]
    return sum(found)
