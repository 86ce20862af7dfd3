"""`aigc serve` under a steady load while its replicas are killed: nobody may notice.

    python -m tests.bench.soak                         # 10 minutes, a replica killed every 60 s
    python -m tests.bench.soak --minutes 3 --kill-every 30

The client retries nothing. A stream that broke is asked for again from the next index, as any
client of the API may do; an answer that is wrong or missing is a failure. Exits with 1 if there is
one.
"""

import asyncio
import hashlib
import random
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import tyro

from aigc.artifact import Artifact
from tests.bench import servers
from tests.bench.artifacts import untrained
from tests.bench.report import header, write_section
from tests.bench.servers import Server

REQUESTS: Sequence[dict[str, Any]] = (
    *({"n": 1, "format": "npy", "seed": seed} for seed in range(8)),
    *({"n": 1, "format": "png", "seed": seed, "label": seed} for seed in range(4)),
    *({"n": 16, "format": "json", "seed": seed} for seed in range(3)),
    {"n": 64, "format": "grid", "seed": 5},
    {"n": 256, "format": "npy", "seed": 6},
    *({"n": 512, "format": "ndjson", "seed": seed} for seed in range(2)),
)
"""What is asked, in random order: so few that each answer is seen many times, of many replicas."""

CLIENTS = 8
"""Half of them keep their connections, half open one for each request."""
PAUSE_S = 0.02
"""Of a client after each answer: a steady load, of which one replica alone can do most."""


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """A long run with kills."""

    artifact: str = ""
    """An artifact called digits; by default an untrained dcgan:digits."""
    minutes: float = 10.0
    kill_every: float = 60.0
    """Seconds."""
    out: Path = Path("docs/benchmarks.md")


@dataclass(kw_only=True)
class Seen:
    """What happened."""

    requests: int = 0
    attempts: int = 0
    """HTTP requests sent: more than `requests` by the streams that were resumed."""
    resumed: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    digests: dict[str, str] = field(default_factory=dict)
    """Of the first answer to each request."""
    slowest_s: float = 0.0
    rss: list[int] = field(default_factory=list)
    """Bytes of all processes of the server, every second."""


def main() -> int:
    config = tyro.cli(SoakConfig)
    uri = Artifact.open(config.artifact or untrained(), verify=False).uri
    seen = Seen()
    with servers.ours(uri, "--replicas", "2") as server:
        asyncio.run(soak(server, config, seen))
    text = report(seen, config)
    write_section(config.out, "soak", text)
    print(text, file=sys.stderr)
    print(config.out)
    return 1 if seen.failures else 0


async def soak(server: Server, config: SoakConfig, seen: Seen) -> None:
    """Run the clients and the killer until the time is over."""
    end_s = time.monotonic() + 60 * config.minutes
    watching = [asyncio.create_task(kill(server, config.kill_every, seen))]
    watching.append(asyncio.create_task(weigh(server, seen)))
    await asyncio.gather(*(client(server.url, number, end_s, seen) for number in range(CLIENTS)))
    for task in watching:
        task.cancel()


async def client(url: str, number: int, end_s: float, seen: Seen) -> None:
    """Ask, check, pause, again."""
    draw = random.Random(number)
    kept = number % 2 == 0
    limits = httpx.Limits(max_keepalive_connections=1 if kept else 0)
    async with httpx.AsyncClient(base_url=url, timeout=30, limits=limits) as http:
        while time.monotonic() < end_s:
            body = {"model": "digits", **draw.choice(REQUESTS)}
            started_s = time.monotonic()
            seen.requests += 1
            try:
                answer = await ask(http, body, seen)
            except Exception as error:
                why = f"{type(error).__name__}: {error}"[:100]
                seen.failures[f"{why} ({'kept' if kept else 'new'} connection)"] += 1
                print(f"{time.strftime('%X')} {body}: {why}", file=sys.stderr)
            else:
                digest = hashlib.sha256(answer).hexdigest()
                if seen.digests.setdefault(str(body), digest) != digest:
                    seen.failures["other bytes than before"] += 1
            seen.slowest_s = max(seen.slowest_s, time.monotonic() - started_s)
            await asyncio.sleep(PAUSE_S)


async def ask(http: httpx.AsyncClient, body: dict[str, Any], seen: Seen) -> bytes:
    """The whole answer. Raises HTTPError for any but a good one; streams are resumed."""
    if body["format"] != "ndjson":
        seen.attempts += 1
        answer = await http.post("/v1/samples", json=body)
        return answer.raise_for_status().content
    lines: list[str] = []
    while len(lines) < body["n"]:
        rest = body | {"first_index": len(lines), "n": body["n"] - len(lines)}
        seen.attempts += 1
        before = len(lines)
        try:
            async with http.stream("POST", "/v1/samples", json=rest) as stream:
                stream.raise_for_status()
                async for line in stream.aiter_lines():
                    lines.append(line)
        except (httpx.RemoteProtocolError, httpx.ReadError):
            if len(lines) == before:
                raise  # not a stream that broke, but no answer at all
            seen.resumed += 1
    return "\n".join(lines).encode()


async def kill(server: Server, every_s: float, seen: Seen) -> None:
    """kill -9 one replica, whichever, again and again."""
    draw = random.Random(0)
    while True:
        await asyncio.sleep(every_s)
        replicas = await asyncio.to_thread(server.workers)
        victim = draw.choice(replicas)
        print(f"{time.strftime('%X')} kill {victim.pid} of {len(replicas)}", file=sys.stderr)
        victim.kill()
        seen.kills += 1


async def weigh(server: Server, seen: Seen) -> None:
    """Sum the memory of all processes, shared pages once for each."""
    while True:
        seen.rss.append(await asyncio.to_thread(_rss, server.process))
        await asyncio.sleep(1)


def _rss(process: psutil.Process) -> int:
    total = 0
    for one in process.children(recursive=True):
        try:
            total += one.memory_info().rss
        except psutil.Error:
            continue
    return total


def report(seen: Seen, config: SoakConfig) -> str:
    """The section."""
    third = max(1, len(seen.rss) // 3)
    parts = [seen.rss[i * third : (i + 1) * third] for i in range(3)]
    thirds = [statistics.median(part) / 2**20 for part in parts]
    failures = [f"- {count} x {why}" for why, count in seen.failures.most_common()]
    return "\n".join(
        [
            "## Soak",
            "",
            header("ray", "onnxruntime"),
            "",
            f"`aigc serve --replicas 2`, {CLIENTS} clients that retry nothing, requests for 1 to"
            f" 512 samples in five formats, {config.minutes:g} minutes, a replica killed (-9) every"
            f" {config.kill_every:g} s. A stream that broke is asked for again from its next"
            " index.",
            "",
            f"Failed: {sum(seen.failures.values())} of {seen.requests:,} requests;"
            f" {seen.kills} kills; {seen.attempts:,} attempts, {seen.resumed} of them to resume a"
            f" stream. Every answer had the bytes of the first one to its request. Slowest answer"
            f" {seen.slowest_s:.1f} s. Memory of all processes, medians of the thirds of the run:"
            f" {', '.join(f'{mib:,.0f}' for mib in thirds)} MiB.",
            *failures,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
