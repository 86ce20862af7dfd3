"""A light client of POST /v1/samples that knows which request took how long; wrk does not.

    asks = asyncio.run(closed(url, mix({1: 0.9, 16: 0.09, 256: 0.01}), connections=64, seconds=8))
    asks = asyncio.run(opened(url, arrivals, seconds=30))

Bare sockets: a request costs it a tenth of what it costs the server.
"""

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One request and its answer."""

    n: int
    begun_s: float
    """By the monotonic clock; when it was due, where it could not be sent in time."""
    seconds: float
    status: int
    """0 where there was no answer."""
    headers: Mapping[bytes, bytes] = field(default_factory=dict)


class Connection:
    """One connection that is kept alive."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._host, self._port = where.hostname or "", where.port or 80
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def samples(self, n: int, seed: int) -> tuple[int, dict[bytes, bytes]]:
        """Status and headers of an answer, once its body was read. Raises OSError, EOFError."""
        if self._reader is None or self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, self._port)
        body = b'{"model":"digits","n":%d,"seed":%d,"format":"npy"}' % (n, seed)
        self._writer.write(
            b"POST /v1/samples HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
            b"content-length: %d\r\n\r\n%s" % (len(body), body)
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        first, *lines = head.split(b"\r\n")
        pairs = (line.partition(b":") for line in lines if line)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        await self._reader.readexactly(int(headers[b"content-length"]))
        if headers.get(b"connection") == b"close":
            self.close()
        return int(first.split()[1]), headers

    def close(self) -> None:
        """The next request opens another."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def ask(connection: Connection, n: int, seed: int, begun_s: float) -> Ask:
    """One request; what goes wrong with it is status 0."""
    status, headers = 0, {}
    try:
        status, headers = await connection.samples(n, seed)
    except (OSError, EOFError):
        connection.close()
    seconds = time.monotonic() - begun_s
    return Ask(n=n, begun_s=begun_s, seconds=seconds, status=status, headers=headers)


def mix(shares: Mapping[int, float], seed: int = 0) -> Callable[[], int]:
    """Draws n by its share."""
    draw, sizes, weights = random.Random(seed), [*shares], [*shares.values()]
    return lambda: draw.choices(sizes, weights)[0]


async def closed(
    url: str, size: Callable[[], int], *, connections: int, seconds: float
) -> list[Ask]:
    """Every connection asks again as soon as it was answered."""
    end_s = time.monotonic() + seconds
    asks: list[Ask] = []

    async def one(number: int) -> None:
        connection = Connection(url)
        while (now_s := time.monotonic()) < end_s:
            asks.append(await ask(connection, size(), number * 10**6 + len(asks), now_s))
        connection.close()

    await asyncio.gather(*map(one, range(connections)))
    return asks


async def opened(url: str, arrivals: Sequence[tuple[float, int]]) -> list[Ask]:
    """Asks for n when it is time to, (seconds, n), however slow the answers are."""
    idle: list[Connection] = []
    asks: list[Ask] = []
    started_s = time.monotonic()

    async def one(due_s: float, n: int, number: int) -> None:
        connection = idle.pop() if idle else Connection(url)
        asks.append(await ask(connection, n, number, started_s + due_s))
        idle.append(connection)

    tasks = []
    for number, (due_s, n) in enumerate(arrivals):
        await asyncio.sleep(max(0.0, started_s + due_s - time.monotonic()))
        tasks.append(asyncio.create_task(one(due_s, n, number)))
    await asyncio.gather(*tasks)
    for connection in idle:
        with suppress(OSError):
            connection.close()
    return asks


def p(quantile: float, asks: Sequence[Ask]) -> float:
    """Seconds, of those answered with 200."""
    waits = sorted(each.seconds for each in asks if each.status == 200)
    return waits[int(quantile * len(waits))] if waits else float("nan")
