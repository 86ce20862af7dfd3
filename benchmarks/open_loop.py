"""A client that sends when it is time to, however slow the answers are; and a watch on replicas."""

import asyncio
import math
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.serve.batching.queueing import Traffic


@dataclass(frozen=True, kw_only=True)
class Answer:
    """One request. `status` is 0 where the connection failed."""

    sent_s: float
    n: int
    seconds: float
    status: int


@dataclass(kw_only=True)
class Watch:
    """Observations during the traffic; times in seconds since its start."""

    answers: list[Answer] = field(default_factory=list)
    replicas: list[tuple[float, float]] = field(default_factory=list)
    """(time, replicas that are ready or still drain)."""
    seconds: float = 0.0

    @property
    def failed(self) -> int:
        return sum(answer.status != 200 for answer in self.answers)

    @property
    def replica_seconds(self) -> float:
        ends = [time_s for time_s, _ in self.replicas[1:]] + [self.seconds]
        return sum(
            value * (end_s - start_s)
            for (start_s, value), end_s in zip(self.replicas, ends, strict=True)
        )

    @property
    def numbers(self) -> list[float]:
        """Numbers of replicas over time, each different from the one before."""
        return [number for number, _ in groupby(value for _, value in self.replicas)]

    def p_over_time(self, quantile: float, n: int, window_s: float) -> list[tuple[float, float]]:
        """(start of a window, milliseconds) of the requests for n samples sent within it."""
        windows: dict[int, list[float]] = {}
        for answer in self.answers:
            if answer.n == n and answer.status == 200:
                windows.setdefault(int(answer.sent_s / window_s), []).append(answer.seconds)
        return [
            (number * window_s, 1e3 * sorted(waits)[int(quantile * len(waits))])
            for number, waits in sorted(windows.items())
        ]

    def p(self, quantile: float, n: int | None = None) -> float:
        """Seconds; a failure is an endless wait."""
        waits = sorted(
            answer.seconds if answer.status == 200 else math.inf
            for answer in self.answers
            if n in (None, answer.n)
        )
        return waits[int(quantile * len(waits))] if waits else math.nan


def watch(
    url: str, metrics_url: str, model: str, traffic: Sequence[Traffic], *, seed: int = 0
) -> Watch:
    """Play the traffic and wait for every answer."""
    return asyncio.run(_watch(url, metrics_url, model, traffic, seed))


async def _watch(
    url: str, metrics_url: str, model: str, traffic: Sequence[Traffic], seed: int
) -> Watch:
    seen = Watch(seconds=sum(part.seconds for part in traffic))
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
    async with httpx.AsyncClient(limits=limits, timeout=120) as client:
        started_s = time.monotonic()

        async def send(sent_s: float, n: int, number: int) -> None:
            body = {"model": model, "n": n, "seed": number, "format": "npy"}
            try:
                answer = await client.post(f"{url}/v1/samples", json=body)
                status = answer.status_code
            except httpx.HTTPError:
                status = 0
            # From when it was due: a client that lags must not hide a wait.
            seconds = time.monotonic() - started_s - sent_s
            seen.answers.append(Answer(sent_s=sent_s, n=n, seconds=seconds, status=status))

        async def look() -> None:
            while True:
                number = await _ready(client, metrics_url)
                seen.replicas.append((time.monotonic() - started_s, number))
                await asyncio.sleep(0.5)

        looking = asyncio.create_task(look())
        sent = []
        for number, (due_s, n) in enumerate(arrivals(traffic, seed)):
            await asyncio.sleep(max(0.0, started_s + due_s - time.monotonic()))
            sent.append(asyncio.create_task(send(due_s, n, number)))
        await asyncio.gather(*sent)
        await asyncio.sleep(max(0.0, started_s + seen.seconds - time.monotonic()))
        looking.cancel()
        await asyncio.gather(looking, return_exceptions=True)
    return seen


def arrivals(traffic: Sequence[Traffic], seed: int) -> list[tuple[float, int]]:
    """(time, n) of Poisson arrivals, in order."""
    draw, found, start_s = random.Random(seed), [], 0.0
    for part in traffic:
        for n, per_s in part.per_s.items():
            time_s = start_s
            while per_s and (time_s := time_s + draw.expovariate(per_s)) < start_s + part.seconds:
                found.append((time_s, n))
        start_s += part.seconds
    return sorted(found)


async def _ready(client: httpx.AsyncClient, metrics_url: str) -> float:
    body = (await client.get(metrics_url)).text
    families = text_string_to_metric_families(body)
    ready = next((family for family in families if family.name == "aigc_ready"), None)
    return sum(sample.value for sample in ready.samples) if ready else 0.0
