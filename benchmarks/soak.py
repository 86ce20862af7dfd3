"""`aigc serve` under a steady load while things break: every request is answered, and in time.

    python -m benchmarks.soak                         # 10 minutes, a replica killed every 60 s
    python -m benchmarks.soak --minutes 3 --kill-every 30

Replicas are killed (-9) all the time. HAProxy is killed once, a replica frozen (SIGSTOP) once, and
the disk below the server filled once, where this user may mount a small one.

A request is answered if it gets the right bytes, or a 503 in the shape of our errors, with
Retry-After, within the stated time; a client then asks again, as any does. Wrong bytes, another
status, an answer that is late and a connection that is lost are failures, but for connections lost
to a killed HAProxy, until it is back. A stream that broke is asked for again from its next index.
Exits with 1 if there is a failure.
"""

import asyncio
import hashlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import tyro

from aigc.artifact import Artifact
from benchmarks import servers
from benchmarks.artifacts import untrained
from benchmarks.report import header, write_section
from benchmarks.servers import Server

REQUESTS: Sequence[dict[str, Any]] = (
    *({"n": 1, "format": "npy", "seed": seed} for seed in range(8)),
    *({"n": 1, "format": "png", "seed": seed, "label": seed} for seed in range(4)),
    *({"n": 16, "format": "json", "seed": seed} for seed in range(3)),
    {"n": 64, "format": "grid", "seed": 5},
    {"n": 256, "format": "npy", "seed": 6},
    *({"n": 512, "format": "ndjson", "seed": seed} for seed in range(2)),
)
"""Requests, sent in random order: so few that each answer is seen many times, of many replicas."""

CLIENTS = 8
"""Half of them keep their connections, half open one for each request."""
PAUSE_S = 0.02
"""Pause of a client after each answer: a steady load, of which one replica alone can do most."""

STATED_S = 5.0
"""A 503 is there within this time of its request (docs/serving-reference.md)."""
SLACK_S = 1.0
"""For a busy machine and its clients."""
PROXY_S = 5.0
"""A killed HAProxy is back within this time; until then connections may be refused."""
GIVE_UP_S = 60.0
"""Seconds of refusals after which a request counts as failed."""

FULL_S = 20.0
"""Time for which the disk stays full."""
DISK_BYTES = 1 << 30
"""Size of the disk that is filled."""


@dataclass(frozen=True, kw_only=True)
class SoakConfig:
    """A long run with faults."""

    artifact: str = ""
    """An artifact called digits; by default an untrained dcgan:digits."""
    minutes: float = 10.0
    kill_every: float = 60.0
    """Seconds."""
    out: Path = Path("docs/benchmarks.md")


@dataclass(kw_only=True)
class Seen:
    """Counts, times and faults of the run."""

    requests: int = 0
    attempts: int = 0
    """HTTP requests sent: more than `requests` by what was refused and by streams resumed."""
    resumed: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """Answers of 503 as stated, by code, and connections lost to a killed proxy."""
    slowest_refusal_s: float = 0.0
    failures: Counter[str] = field(default_factory=Counter)
    kills: int = 0
    faults: list[str] = field(default_factory=list)
    proxy_killed_s: float = -1e9
    """When HAProxy was, by the monotonic clock."""
    proxy_back_s: float = 0.0
    """Time until an answer came."""
    digests: dict[str, str] = field(default_factory=dict)
    """Digest of the first answer to each request."""
    slowest_s: float = 0.0
    rss: list[int] = field(default_factory=list)
    """Bytes of all processes of the server, every second."""


class RefusedError(Exception):
    """A 503 as stated; `retry_after_s` is when to come again."""

    def __init__(self, code: str, retry_after_s: float) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after_s = retry_after_s


def main() -> int:
    config = tyro.cli(SoakConfig)
    uri = Artifact.open(config.artifact or untrained(), verify=False).uri
    seen = Seen()
    with small_disk() as disk, servers.ours(uri, "--replicas", "2") as server:
        asyncio.run(soak(server, config, seen, disk))
    text = report(seen, config)
    write_section(config.out, "soak", text)
    print(text, file=sys.stderr)
    print(config.out)
    return 1 if seen.failures else 0


@contextmanager
def small_disk() -> Iterator[Path | None]:
    """A disk that is TMPDIR of what is started meanwhile; None if none can be mounted here."""
    folder = tempfile.mkdtemp(prefix="s-", dir="/tmp")
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", folder]
    if subprocess.run(mount, capture_output=True).returncode != 0:
        yield None
        return
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = folder
    try:
        yield Path(folder)
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
        subprocess.run(["umount", "-l", folder], check=False)
        Path(folder).rmdir()


async def soak(server: Server, config: SoakConfig, seen: Seen, disk: Path | None) -> None:
    """Run the clients and the faults until the time is over."""
    seconds = 60 * config.minutes
    end_s = time.monotonic() + seconds
    breaking = [
        asyncio.create_task(kill(server, config.kill_every, seen)),
        asyncio.create_task(weigh(server, seen)),
        asyncio.create_task(later(seconds * 0.25, lambda: kill_proxy(server, seen))),
        asyncio.create_task(later(seconds * 0.45, lambda: freeze(server, seen))),
        asyncio.create_task(later(seconds * 0.7, lambda: fill(disk, seen))),
    ]
    await asyncio.gather(*(client(server.url, number, end_s, seen) for number in range(CLIENTS)))
    for task in breaking:
        if task.done() and not task.cancelled() and (error := task.exception()):
            seen.failures[f"a fault could not be made: {error!r}"[:200]] += 1
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
                answer = await answered(http, body, seen)
            except Exception as error:
                why = f"{type(error).__name__}: {error}"[:200]
                seen.failures[f"{why} ({'kept' if kept else 'new'} connection)"] += 1
                took_s = time.monotonic() - started_s
                print(f"{time.strftime('%X')} {body}: {why} ({took_s:.1f} s)", file=sys.stderr)
            else:
                digest = hashlib.sha256(answer).hexdigest()
                if seen.digests.setdefault(str(body), digest) != digest:
                    seen.failures["other bytes than before"] += 1
            seen.slowest_s = max(seen.slowest_s, time.monotonic() - started_s)
            await asyncio.sleep(PAUSE_S)


async def answered(http: httpx.AsyncClient, body: dict[str, Any], seen: Seen) -> bytes:
    """The answer, asked for again as long as it is refused as stated. Raises for a failure."""
    until_s = time.monotonic() + GIVE_UP_S
    lines: list[str] = []
    while time.monotonic() < until_s:
        started_s = time.monotonic()
        try:
            return await ask(http, body, lines, seen)
        except RefusedError as refusal:
            took_s = time.monotonic() - started_s
            seen.refused[refusal.code] += 1
            seen.slowest_refusal_s = max(seen.slowest_refusal_s, took_s)
            if took_s > STATED_S + SLACK_S:
                raise RuntimeError(f"{refusal.code} came after {took_s:.1f} s") from None
            await asyncio.sleep(refusal.retry_after_s)
        except httpx.TransportError as error:
            since_s = time.monotonic() - seen.proxy_killed_s
            if isinstance(error, httpx.TimeoutException) or since_s > PROXY_S + SLACK_S:
                raise
            seen.refused["(connection lost to the killed HAProxy)"] += 1
            await asyncio.sleep(0.2)
    raise RuntimeError(f"refused for {GIVE_UP_S:g} s")


async def ask(http: httpx.AsyncClient, body: dict[str, Any], lines: list[str], seen: Seen) -> bytes:
    """One attempt, or for streams what is still missing. Raises RefusedError, RuntimeError."""
    if body["format"] != "ndjson":
        seen.attempts += 1
        answer = await http.post("/v1/samples", json=body)
        check(answer)
        return answer.content
    while len(lines) < body["n"]:
        rest = body | {"first_index": len(lines), "n": body["n"] - len(lines)}
        seen.attempts += 1
        before = len(lines)
        try:
            async with http.stream("POST", "/v1/samples", json=rest) as stream:
                if stream.status_code != 200:
                    await stream.aread()
                check(stream)
                async for line in stream.aiter_lines():
                    if line.startswith('{"error"'):
                        break  # why the stream ends; the rest is asked for again
                    lines.append(line)
        except (httpx.RemoteProtocolError, httpx.ReadError):
            if len(lines) == before:
                raise  # not a stream that broke, but no answer at all
            seen.resumed += 1
    return "\n".join(lines).encode()


def check(answer: httpx.Response) -> None:
    """Raise RefusedError for a 503 as stated, RuntimeError for what is neither that nor 200."""
    if answer.status_code == 200:
        return
    try:
        code = json.loads(answer.content)["error"]["code"]
        retry_after_s = float(answer.headers["retry-after"])
    except (ValueError, KeyError, TypeError) as error:
        shown = answer.content[:120]
        raise RuntimeError(f"{answer.status_code} in no shape of ours: {shown!r}") from error
    if answer.status_code != 503:
        raise RuntimeError(f"{answer.status_code} {code}")
    raise RefusedError(code, retry_after_s)


async def later(seconds: float, fault: Callable[[], Awaitable[None]]) -> None:
    await asyncio.sleep(seconds)
    await fault()


async def kill(server: Server, every_s: float, seen: Seen) -> None:
    """kill -9 one replica, whichever, again and again."""
    draw = random.Random(0)
    while True:
        await asyncio.sleep(every_s)
        replicas = await asyncio.to_thread(server.workers)
        if not replicas:
            continue
        victim = draw.choice(replicas)
        print(f"{time.strftime('%X')} kill {victim.pid} of {len(replicas)}", file=sys.stderr)
        victim.kill()
        seen.kills += 1


async def kill_proxy(server: Server, seen: Seen) -> None:
    """kill -9 HAProxy, all of its processes, and measure until a request is answered again."""
    every = await asyncio.to_thread(server.process.children, recursive=True)
    proxies = [p for p in every if _name(p) == "haproxy"]
    if not proxies:
        raise RuntimeError("there is no HAProxy")
    print(f"{time.strftime('%X')} kill HAProxy, {[p.pid for p in proxies]}", file=sys.stderr)
    seen.proxy_killed_s = time.monotonic()
    for process in proxies:
        with suppress(psutil.Error):
            process.kill()
    async with httpx.AsyncClient(base_url=server.url, timeout=5) as http:
        while True:
            with suppress(httpx.TransportError):
                answer = await http.get("/readyz")
                if answer.status_code == 404:
                    seen.failures["404 after HAProxy's death"] += 1
                if answer.status_code == 200:
                    break
            await asyncio.sleep(0.05)
    seen.proxy_back_s = time.monotonic() - seen.proxy_killed_s
    seen.faults.append(f"HAProxy killed, an answer after {seen.proxy_back_s:.1f} s")


async def freeze(server: Server, seen: Seen) -> None:
    """SIGSTOP a replica for good: Serve kills it in the end."""
    victim = (await asyncio.to_thread(server.workers))[0]
    print(f"{time.strftime('%X')} freeze {victim.pid}", file=sys.stderr)
    victim.send_signal(signal.SIGSTOP)
    seen.faults.append("a replica frozen")


async def fill(disk: Path | None, seen: Seen) -> None:
    """Fill the disk below the server to the last byte, for FULL_S seconds."""
    if disk is None:
        seen.faults.append("no disk filled: none could be mounted")
        return
    print(f"{time.strftime('%X')} fill {disk}", file=sys.stderr)
    ballast = disk / "ballast"
    try:
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 20))
        with ballast.open("ab", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(1 << 9))
        await asyncio.sleep(FULL_S)
    finally:
        ballast.unlink()
    seen.faults.append(f"the disk full for {FULL_S:g} s")


def _name(process: psutil.Process) -> str:
    try:
        return process.name()
    except psutil.Error:
        return ""


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
    refused = ", ".join(f"{code} {count}" for code, count in seen.refused.most_common()) or "none"
    failures = [f"- {count} x {why}" for why, count in seen.failures.most_common()]
    return "\n".join(
        [
            "## Soak",
            "",
            header("ray", "onnxruntime"),
            "",
            f"`aigc serve --replicas 2`, {CLIENTS} clients, requests for 1 to 512 samples in five"
            f" formats, {config.minutes:g} minutes, a replica killed (-9) every"
            f" {config.kill_every:g} s; {'; '.join(seen.faults) or 'nothing else broken'}. Refused"
            " requests are repeated after Retry-After, streams that broke from their next index.",
            "",
            f"Failed: {sum(seen.failures.values())} of {seen.requests:,} requests; {seen.kills}"
            f" replicas killed. {seen.attempts:,} attempts, {seen.resumed} of them to resume a"
            f" stream. Refused as stated: {refused}; the slowest refusal took"
            f" {seen.slowest_refusal_s:.1f} s (stated: {STATED_S:g}). Every answer had the bytes of"
            f" the first one to its request. Slowest answer, repeats and waits included:"
            f" {seen.slowest_s:.1f} s. Memory of all processes, medians of the thirds of the run:"
            f" {', '.join(f'{mib:,.0f}' for mib in thirds)} MiB.",
            *failures,
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
