"""Answers to a client, and their time, while a part of the server is missing.

The rows of the table in docs/serving-reference.md; parts are killed and frozen for real.
"""

import asyncio
import json
import signal
import socket
import stat
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from tests.serve.servers import Server, wait_until

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]

BOUND_S = 5.0
SLACK_S = 3.0
"""For a machine that does much else."""


@contextmanager
def frozen(*processes: psutil.Process) -> Iterator[None]:
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.resume()


def haproxies(pair: Server) -> list[psutil.Process]:
    return [p for p in pair.tree() if p.name() == "haproxy"]


def supervisors(pair: Server) -> list[psutil.Process]:
    found = []
    for process in pair.tree():
        with suppress(psutil.Error):  # one that ended, and was not waited for yet
            if "serve.local.haproxy_supervisor" in process.cmdline():
                found.append(process)
    return found


def ask(
    pair: Server, path: str = "/v1/samples", headers: dict[str, str] | None = None, **fields: Any
) -> tuple[httpx.Response, float]:
    """An answer, and how long it took."""
    body = {"model": "tiny", "seed": 7, "format": "npy", **fields}
    began_s = time.monotonic()
    answer = httpx.post(f"{pair.url}{path}", json=body, headers=headers, timeout=60)
    return answer, time.monotonic() - began_s


def both_answer(pair: Server) -> bool:
    answers = [ask(pair)[0] for _ in range(8)]
    good = {answer.headers["x-aigc-replica"] for answer in answers if answer.status_code == 200}
    return len(good) == 2


def error(answer: httpx.Response) -> tuple[int, str]:
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    if answer.status_code == 503:
        assert int(answer.headers["retry-after"]) >= 1
    return answer.status_code, answer.json()["error"]["code"]


def test_a_killed_replica_costs_its_requests_and_no_count(pair: Server) -> None:
    """Its requests are told so, and retries succeed. Clients keep their connections or do not, and
    send bodies that fit no buffer. Nobody else asks for the model whose counters are compared."""

    def counted() -> tuple[float, ...]:
        other, shown = ("model=other", "version=1", "signature=sample"), pair.metrics()
        return (
            pair.total("aigc_requests_total", "code=200", *other, among=shown),
            pair.total("aigc_samples_total", *other, among=shown),
            pair.total("aigc_request_duration_seconds_count", *other, among=shown),
            pair.total("aigc_batch_samples_sum", *other, among=shown),
            pair.total("aigc_queue_wait_seconds_count", *other, among=shown),
        )

    def count_twenty(before: tuple[float, ...]) -> tuple[float, ...]:
        answers = [ask(pair, model="other", n=3, seed=seed)[0] for seed in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.headers["x-aigc-replica"] for answer in answers}) == 2
        expected = tuple(a + b for a, b in zip(before, (20, 60, 20, 60, 20), strict=True))
        assert counted() == expected
        return expected

    before = count_twenty(counted())
    assert pair.total("aigc_ready") == 2
    assert pair.total("aigc_model_info", "model=other", "version=1") == 1
    expected = ask(pair, n=64)[0].content
    over = False
    found: Counter[tuple[int, str]] = Counter()

    async def client(number: int) -> None:
        kept = httpx.Limits(max_keepalive_connections=number % 2)
        headers = {"x-padding": "x" * 100}
        async with httpx.AsyncClient(base_url=pair.url, limits=kept, timeout=30) as http:
            while not over:
                body = json.dumps({"model": "tiny", "n": 64, "seed": 7, "format": "npy"})
                if number % 3 == 0:
                    body += " " * 50_000
                answer = await http.post("/v1/samples", content=body, headers=headers)
                if answer.status_code == 200:
                    assert answer.content == expected
                    found[200, ""] += 1
                else:
                    found[error(answer)] += 1

    async def crowd() -> None:
        nonlocal over
        clients = [asyncio.create_task(client(number)) for number in range(24)]
        await asyncio.sleep(1)
        await asyncio.to_thread(victim.kill)
        await asyncio.sleep(2)
        over = True
        await asyncio.gather(*clients)

    victim = pair.replicas()[0]
    retrying = openai.OpenAI(base_url=f"{pair.url}/v1", api_key="any")

    def images() -> set[str | None]:
        seen = set()
        while not over:
            answer = retrying.images.generate(model="tiny", prompt="", extra_body={"seed": 7})
            seen.add((answer.data or [])[0].b64_json)
        return seen

    with retrying, ThreadPoolExecutor() as pool:
        seen = pool.submit(images)
        asyncio.run(crowd())
        assert len(seen.result(30)) == 1
    assert set(found) <= {(200, ""), (503, "replica_lost")}, found
    assert found[200, ""] > 100
    victim.wait(10)
    pair.wait_until_replaced()
    wait_until(lambda: both_answer(pair))
    assert counted() == before
    count_twenty(before)
    assert "aigc_requests_total" in httpx.get(f"{pair.url}/metrics").text


def test_a_frozen_replica_costs_only_its_own_requests(pair: Server) -> None:
    victim, other = pair.replicas()
    with frozen(victim), ThreadPoolExecutor(24) as pool:
        paths = ["/v1/samples"] * 18 + ["/v2/models/tiny/infer"] * 6
        answers = [*pool.map(lambda path: ask(pair, path), paths)]
        assert max(seconds for _, seconds in answers) < BOUND_S + SLACK_S
        lost = [answer for answer, _ in answers if answer.status_code == 503]
        assert lost, "none was led to the frozen one"
        for answer in lost:
            if answer.url.path.startswith("/v2"):
                assert "replica was lost" in answer.json()["error"]
            else:
                assert error(answer) == (503, "replica_lost")
        later = [ask(pair) for _ in range(8)]
        assert {answer.status_code for answer, _ in later} == {200}
        assert max(seconds for _, seconds in later) < SLACK_S
    wait_until(lambda: both_answer(pair))
    assert {p.pid for p in pair.replicas()} == {victim.pid, other.pid}


def test_requests_without_a_replica_are_answered_by_their_deadline(pair: Server) -> None:
    with frozen(*pair.replicas()):
        answer, seconds = ask(pair, headers={"x-request-timeout": "1"})
        assert error(answer) in [(504, "deadline_exceeded"), (503, "replica_lost")]
        assert seconds < 2 + SLACK_S
        answer, seconds = ask(pair)
        assert error(answer) in [(503, "replica_lost"), (503, "unavailable")]
        assert seconds < BOUND_S + SLACK_S
        wait_until(lambda: error(ask(pair)[0]) == (503, "unavailable"))
        for path in ("/readyz", "/-/healthz", "/v1/models"):
            began_s = time.monotonic()
            assert error(httpx.get(f"{pair.url}{path}")) == (503, "unavailable")
            assert time.monotonic() - began_s < SLACK_S
        assert "no replica" in ask(pair, "/v2/models/tiny/infer")[0].json()["error"]
    wait_until(lambda: both_answer(pair))


@pytest.mark.parametrize(
    ("part", "numbers"),
    [
        pytest.param(haproxies, (signal.SIGKILL, signal.SIGSTOP), id="haproxy"),
        pytest.param(supervisors, (signal.SIGKILL,), id="supervisor"),
    ],
)
def test_haproxy_is_replaced_and_says_no_404_meanwhile(
    pair: Server, part: Callable[[Server], list[psutil.Process]], numbers: tuple[signal.Signals]
) -> None:
    for number in numbers:
        before = part(pair)
        assert before
        began_s = time.monotonic()
        for process in before:
            process.send_signal(number)
        wait_until_ready_again(pair, began_s)
        pids = {process.pid for process in before}
        wait_until(lambda gone=pids: not gone & {p.pid for p in part(pair)})
    # Serve goes on to tell it of replicas that come and go.
    victim = pair.replicas()[0]
    victim.kill()
    victim.wait(10)
    pair.wait_until_replaced()
    wait_until(lambda: both_answer(pair))


def wait_until_ready_again(pair: Server, began_s: float) -> None:
    """Until /readyz says 200; it says nothing but 503 before."""
    statuses = set()
    while 200 not in statuses:
        with suppress(httpx.HTTPError):
            statuses.add(httpx.get(f"{pair.url}/readyz", timeout=1).status_code)
        assert time.monotonic() - began_s < BOUND_S + SLACK_S, statuses
        time.sleep(0.02)
    assert statuses <= {200, 503}


def test_half_closed_connections_are_answered(pair: Server) -> None:
    body = json.dumps({"model": "tiny", "n": 500, "seed": 7, "format": "npy"}).encode()
    expected = ask(pair, n=500)[0].content
    head = f"POST /v1/samples HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    for request in (head.encode() + body, b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", pair.port), timeout=30) as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 200 OK"), answer[:200]
        if request.startswith(b"POST"):
            assert answer.endswith(expected)


def test_idle_connections_beyond_maxconn_are_dropped_for_new_ones(pair: Server) -> None:
    ask(pair)
    held: list[socket.socket] = []
    try:
        for number in range(4200):
            connection = socket.create_connection(("127.0.0.1", pair.port), timeout=10)
            held.append(connection)
            if number % 3:  # the others never send anything
                connection.sendall(b"GET /-/routes HTTP/1.1\r\nhost: x\r\n\r\n")
            if number % 500 == 499:
                answer, seconds = ask(pair)
                assert (answer.status_code, seconds < SLACK_S) == (200, True), number
        answers = [ask(pair) for _ in range(20)]
    finally:
        for connection in held:
            connection.close()
    assert {answer.status_code for answer, _ in answers} == {200}
    assert max(seconds for _, seconds in answers) < SLACK_S


def test_haproxy_sockets_are_private_and_refuse_changes(pair: Server) -> None:
    folder = Path(pair.run_folder())
    sockets = [p for p in (folder / "h").rglob("*") if stat.S_ISSOCK(p.lstat().st_mode)]
    assert len(sockets) >= 3
    for path in sockets:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert stat.S_IMODE((folder / "haproxy").stat().st_mode) & 0o022 == 0
    (shown,) = (p for p in sockets if p.name == "s")
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(shown))
        connection.sendall(b"disable frontend http_frontend\n")
        assert b"not permitted" in connection.recv(4096)
