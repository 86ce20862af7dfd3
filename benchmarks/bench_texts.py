"""Texts streamed token by token: tokens/s, and how soon the first one is there.

    python -m benchmarks.bench_texts --rounds 5

`aigc serve` with one replica, behind its proxy and with seeds, prompts and limits, against a
FastAPI that loops over the same graph for every request; in turn, beside the client.
"""

import asyncio
import json
import re
import statistics
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import tyro

from benchmarks import servers
from benchmarks.artifacts import untrained_texts
from benchmarks.report import header, spread, write_section
from benchmarks.servers import Server

CONNECTIONS = (1, 16)
TEXT = re.compile(rb'"text": ?"([^"]*)"')
"""New text in an event: every token of number words is one character."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure the speed of streamed texts."""

    artifact: str = ""
    """Folder of a text_vae; by default an untrained text_vae:numbers."""
    rounds: int = 5
    """Turns of each server at each number of connections."""
    seconds: float = 5.0
    """Duration of a turn."""
    out: Path = Path("docs/benchmarks.md")
    """Markdown file whose section is replaced."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Figures of one server in one turn."""

    tokens_per_s: float
    first_ms: float
    """Median from a request to its first token."""
    whole_ms: float
    """Median from a request to its last token."""
    tokens_per_event: float
    """Mean number of tokens that the server sends together."""
    cpu_us: float
    """CPU time of the server per token, in microseconds."""


async def texts(
    url: str, connections: int, seconds: float
) -> tuple[list[int], list[tuple[float, float]], float]:
    """Tokens of each event, seconds to the first and the last one of each text, and how long all
    took."""
    where = urlsplit(url)
    began = time.monotonic()
    tokens: list[int] = []
    waits: list[tuple[float, float]] = []

    async def one(number: int) -> None:
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        seed = number * 10**6
        while (asked := time.monotonic()) < began + seconds:
            seed += 1
            body = json.dumps({"model": "words", "seed": seed, "stream": True}).encode()
            writer.write(
                b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%s"
                % (len(body), body)
            )
            await reader.readuntil(b"data: ")
            first_s = time.monotonic() - asked
            rest = await reader.readuntil(b"0\r\n\r\n")
            if not rest.endswith(b"[DONE]\n\n\r\n0\r\n\r\n"):
                raise RuntimeError(f"the stream ended with {rest[-200:]!r}")
            waits.append((first_s, time.monotonic() - asked))
            tokens.extend(map(len, TEXT.findall(rest)))
        writer.close()

    await asyncio.gather(*map(one, range(connections)))
    return tokens, waits, time.monotonic() - began


def turn(server: Server, connections: int, seconds: float) -> Turn:
    """One server under `connections` for `seconds`; each sends its next request at once."""
    before = server.cpu_s()
    tokens, waits, took = asyncio.run(texts(server.url, connections, seconds))
    return Turn(
        tokens_per_s=sum(tokens) / took,
        first_ms=statistics.median(first for first, _ in waits) * 1000,
        whole_ms=statistics.median(whole for _, whole in waits) * 1000,
        tokens_per_event=statistics.mean(filter(None, tokens)),
        cpu_us=(server.cpu_s() - before) / sum(tokens) * 1e6,
    )


def measured(artifact: str, rounds: int, seconds: float) -> dict[tuple[str, int], list[Turn]]:
    """Turns by server and connections."""
    found: dict[tuple[str, int], list[Turn]] = defaultdict(list)

    def ready(url: str) -> None:
        urlopen(f"{url}/healthz", timeout=10).close()

    other = servers.peer("FastAPI", "fastapi_texts", artifact, first=ready)
    with servers.ours(artifact) as ours, other as fastapi:
        for server in (ours, fastapi):
            turn(server, CONNECTIONS[-1], 1)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", file=sys.stderr)
            for connections in CONNECTIONS:
                for server in (ours, fastapi) if number % 2 else (fastapi, ours):
                    found[server.name, connections].append(turn(server, connections, seconds))
    return found


def section(found: dict[tuple[str, int], list[Turn]], rounds: int) -> str:
    """Markdown."""
    lines = [
        "## Texts token by token",
        "",
        header("ray", "onnxruntime", "fastapi", "uvicorn"),
        "",
        "text_vae:numbers, untrained, so that texts end at random, as server-sent events. Ours is"
        " one replica behind HAProxy, which tells of the tokens of a millisecond together; FastAPI"
        " one process that runs the graph for every token of every request by itself, and tells of"
        f" each. Median (range) of {rounds} turns.",
        "",
        "| connections | | tokens/s | first token, ms | whole text, ms | tokens of an event"
        " | CPU of a token, µs |",
        "|---|---|---|---|---|---|---|",
    ]
    for (name, connections), turns in sorted(found.items(), key=lambda item: item[0][1]):
        columns = (
            spread([one.tokens_per_s for one in turns], 0),
            spread([one.first_ms for one in turns], 1),
            spread([one.whole_ms for one in turns], 1),
            spread([one.tokens_per_event for one in turns], 1),
            spread([one.cpu_us for one in turns], 0),
        )
        lines.append(f"| {connections} | {name} | {' | '.join(columns)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and write the section."""
    config = tyro.cli(Bench)
    artifact = config.artifact or untrained_texts()
    found = measured(artifact, config.rounds, config.seconds)
    write_section(config.out, "texts", section(found, config.rounds))
    print(config.out)


if __name__ == "__main__":
    main()
