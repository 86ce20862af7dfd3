"""Replicas come and go, and so does the whole server, under load: no request is lost.

One server for all of it, which the last test ends.
"""

import asyncio
import json
import signal
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.serve.servers import Server, left_over, server

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

CONFIG = """
pools:
  default:
    artifacts: [{store}/tiny@1]
    replicas: 1..2
    scaling: {{downscale_delay_s: 2, average_s: 0.5, target_busy: 0.3}}
"""
"""The client needs more of the machine than a replica does: half-busy is enough for another."""


@pytest.fixture(scope="module")
def scaled(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One or two replicas of tiny@1 that come and go sooner than by default."""
    folder = tmp_path_factory.mktemp("scaled")
    file = folder / "serve.yaml"
    file.write_text(CONFIG.format(store=store))
    with server(folder, "--config", str(file)) as running:
        running.wait_until_ready()
        yield running


def body(n: int, form: str = "npy") -> dict[str, Any]:
    return {"model": "tiny", "n": n, "seed": 7, "format": form}


def test_scaling_up_and_down_fails_no_request(scaled: Server) -> None:
    codes: Counter[int] = Counter()
    seen: set[str] = set()
    assert len(scaled.replicas()) == 1

    async def ask(n: int, pause_s: float, stop: asyncio.Event) -> None:
        transport = httpx.AsyncHTTPTransport(retries=0)
        async with httpx.AsyncClient(transport=transport, timeout=60) as client:
            while not stop.is_set():
                answer = await client.post(f"{scaled.url}/v1/samples", json=body(n, "json"))
                codes[answer.status_code] += 1
                seen.add(answer.headers["x-aigc-replica"])
                await asyncio.sleep(pause_s)

    async def until(replicas: int, clients: int, n: int, pause_s: float) -> None:
        """Load, until so many answer and there are no others."""
        stop = asyncio.Event()
        running = [asyncio.create_task(ask(n, pause_s, stop)) for _ in range(clients)]
        deadline = time.monotonic() + 80
        while len(await asyncio.to_thread(scaled.replicas)) != replicas or len(seen) < replicas:
            assert time.monotonic() < deadline, f"there were never {replicas} replicas: {codes}"
            await asyncio.sleep(0.2)
            if replicas < len(seen):
                seen.clear()
        stop.set()
        await asyncio.gather(*running)

    asyncio.run(until(2, clients=32, n=64, pause_s=0.0))
    # Eight that hold their connections while HAProxy and the replica that goes let go of them.
    asyncio.run(until(1, clients=8, n=1, pause_s=0.05))
    assert set(codes) == {200}, codes
    assert sum(codes.values()) > 200


def test_sigterm_answers_every_request_and_leaves_nothing(scaled: Server) -> None:
    folder, tree = scaled.run_folder(), scaled.tree()
    with socket.create_connection(("127.0.0.1", scaled.port)) as half_asked:
        text = json.dumps(body(4)).encode()
        head = f"POST /v1/samples HTTP/1.1\r\nhost: x\r\ncontent-length: {len(text)}\r\n\r\n"
        half_asked.sendall(head.encode() + text[:9])
        lines, codes = asyncio.run(_sigterm_under_load(scaled, Path(folder) / "draining"))
        time.sleep(HELD_S)
        half_asked.sendall(text[9:])
        half_asked.settimeout(10)
        assert half_asked.recv(15) == b"HTTP/1.1 200 OK"
    assert set(codes) == {200, "refused"}, codes
    assert codes["refused"] == CLIENTS
    assert [json.loads(line)["index"] for line in lines] == list(range(1024))
    assert scaled.process.wait(60) == 0
    assert scaled.process.stdout is not None
    assert scaled.process.stdout.read() == ""
    _, alive = psutil.wait_procs(tree, timeout=5)
    assert alive == []
    assert left_over(folder) == []
    assert not Path(folder).exists()
    assert "Traceback" not in scaled.stderr


CLIENTS = 16
HELD_S = 3.0
"""A request is not whole for so long after SIGTERM; without a drain Ray would be gone by then."""


async def _sigterm_under_load(
    scaled: Server, drain_file: Path
) -> tuple[list[str], Counter[int | str]]:
    """The lines of a stream that had begun, and what became of all other requests.

    A client asks until its next connection is refused; nothing was asked over that one. Anything
    else than an answer is raised.
    """
    codes: Counter[int | str] = Counter()
    url = f"{scaled.url}/v1/samples"

    async def ask() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            while True:
                try:
                    answer = await client.post(url, json=body(64))
                except httpx.ConnectError:
                    codes["refused"] += 1
                    return
                codes[answer.status_code] += 1

    async with httpx.AsyncClient(timeout=60) as probe, httpx.AsyncClient(timeout=60) as streaming:
        assert (await probe.get(f"{scaled.url}/readyz")).status_code == 200
        clients = [asyncio.create_task(ask()) for _ in range(CLIENTS)]
        async with streaming.stream("POST", url, json=body(1024, "ndjson")) as stream:
            coming = stream.aiter_lines()
            lines = [await anext(coming)]
            scaled.process.send_signal(signal.SIGTERM)
            while not drain_file.exists():
                await asyncio.sleep(0.01)
            # Over a connection that is open: new ones are no longer taken.
            ready = await probe.get(f"{scaled.url}/readyz")
            assert (ready.status_code, ready.json()["error"]["code"]) == (503, "shutting_down")
            lines += [line async for line in coming]
        await asyncio.gather(*clients)
    return lines, codes
