"""Requests that no client may send: a body nested without end, or sent without end."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from aigc.artifact import ArtifactError
from serve.errors import HTTPError
from serve.hosting.desired_models import DesiredModels, DesiredModelsStore
from serve.ingress import IngressReplica
from serve.request_body import BodyReader
from serve.settings import Limits, Settings
from tests.serve.batching.runners import on_a_loop
from tests.serve.client import Client, running
from tests.serve.listening import Listening, listening, settled

DEEP = 10_000


@pytest.fixture
def client(store: Path, metrics_dir: Path) -> Iterator[Client]:
    """A replica that has every route, the admin's too."""
    target = DesiredModels(artifacts=(f"{store}/tiny@1",))

    async def read() -> tuple[DesiredModels, str]:
        return target, ""

    async def swap(version: str, target: DesiredModels) -> bool:
        raise ArtifactError("nothing is to change here")

    settings = Settings(metrics_dir=str(metrics_dir), admin_without_key=True)
    with running(
        lambda: IngressReplica(settings, "replica-7", DesiredModelsStore(read=read, swap=swap)),
        f"{store}/tiny@1",
    ) as client:
        yield client


BODIES: dict[str, tuple[str, ...]] = {
    # In a field that takes anything like it, one that takes nothing like it, one that is not known.
    "/v1/samples": ('{"model": "tiny", "label": %s}', '{"model": %s}', '{"more": %s}', "%s"),
    "/v1/interpolate": ('{"model": "tiny", "from_seed": 1, "to_seed": 2, "label": %s}', "%s"),
    "/v1/images/generations": ('{"model": "tiny", "prompt": "", "label": %s}', '{"x": %s}', "%s"),
    "/v2/models/tiny/infer": (
        '{"inputs": [{"name": "latent", "datatype": "FP32", "shape": [1, 16], "data": %s}]}',
        '{"inputs": [], "parameters": {"seed": %s}}',
        '{"inputs": [], "more": %s}',
        '{"inputs": %s}',
        "%s",
    ),
    "/v2/models/tiny:encode/infer": (
        '{"inputs": [{"name": "image", "datatype": "FP32", "shape": [1, 1, 8, 8], "data": %s}]}',
    ),
    "/v1/verify": ("%s",),
    "/v1/admin/deploy": ('{"artifact": %s}', '{"more": %s}', "%s"),
    "/v1/admin/remove": ('{"model": %s}', "%s"),
    "/v1/admin/pin": ('{"model": "tiny", "version": %s}', "%s"),
}


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize(
    "nest", [lambda n: "[" * n + "]" * n, lambda n: '{"a":' * n + "1" + "}" * n]
)
@pytest.mark.parametrize("closed", [True, False])
def test_a_body_that_is_nested_deeply_is_refused(
    path: str, nest: Callable[[int], str], closed: bool, client: Client
) -> None:
    nested = nest(DEEP) if closed else nest(DEEP)[:DEEP]
    for body in BODIES[path]:
        answer = client.request(
            "POST",
            path,
            content=body.replace("%s", nested),
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 400, (body, answer.text)
        assert len(answer.content) < 1000
    assert client.samples(n=1).status_code == 200


@pytest.fixture
def impatient(store: Path, metrics_dir: Path) -> Iterator[Listening]:
    """A replica that gives a body one second."""
    settings = Settings(metrics_dir=str(metrics_dir), limits=Limits(max_body_seconds=1))
    with listening(settings, f"{store}/tiny@1") as served:
        yield served


PATHS = ("/v1/samples", "/v1/images/generations", "/v2/models/tiny/infer", "/v1/verify")


@pytest.mark.process
@pytest.mark.parametrize("path", PATHS)
def test_a_slow_body_is_408_while_others_are_served(path: str, impatient: Listening) -> None:
    host, port = impatient.url.removeprefix("http://").split(":")
    answer: list[bytes] = []

    def trickle() -> None:
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n"
            connection.sendall(head.encode())
            connection.settimeout(0.3)
            while True:
                try:
                    connection.sendall(b" ")
                    part = connection.recv(4096)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if not part:
                    return
                answer.append(part)

    slow = threading.Thread(target=trickle)
    slow.start()
    others = 0
    while slow.is_alive():
        body = {"model": "tiny", "n": 2}
        assert httpx.post(f"{impatient.url}/v1/samples", json=body).status_code == 200
        others += 1
    assert others > 1
    head = b"".join(answer)
    assert head.startswith(b"HTTP/1.1 408 ")
    assert b"must arrive within 1 s" in head
    settled(lambda: impatient.requests(code="408") == 1)
    assert impatient.probe.count("aigc_requests_in_progress") == 0


def reading(limit_s: float, *waits_s: float) -> tuple[asyncio.Task[bytes], BodyReader]:
    """A body of single bytes, each after a wait."""
    reader = BodyReader(limit_s)
    messages = iter(waits_s)

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(next(messages))
        return {"type": "http.request", "body": b"x", "more_body": True}

    return asyncio.create_task(reader.read({"headers": []}, receive, 100)), reader


@on_a_loop
async def test_body_reader_stays_cancelled_when_the_client_hangs_up() -> None:
    task, reader = reading(10, 10)
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert reader.deadlines_s == {}


@on_a_loop
async def test_body_reader_times_each_body_and_leaves_no_timer() -> None:
    reader = BodyReader(0.2)

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    cut: list[float] = []

    async def late(after_s: float) -> None:
        await asyncio.sleep(after_s)
        with pytest.raises(HTTPError) as refused:
            await reader.read({"headers": []}, never, 100)
        assert refused.value.status == 408
        cut.append(after_s)
        await asyncio.sleep(0)  # nothing is cancelled that comes after

    await asyncio.gather(late(0.1), late(0))  # nobody comes after them and winds the clock
    await late(0.01)
    assert cut == [0, 0.1, 0.01]
    assert reader.deadlines_s == {}
    assert reader.timer is None
