"""A replica in this process and its clients: no Ray, no socket."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from serve.ingress import IngressReplica
from serve.settings import Limits, Settings
from tests.serve.probe import Probe


class Client:
    """httpx against a replica's ASGI application, on an event loop of its own."""

    def __init__(self, replica: IngressReplica, runner: asyncio.Runner) -> None:
        self.replica = replica
        self.probe = Probe(replica)
        self.run = runner.run
        transport = httpx.ASGITransport(replica.application, raise_app_exceptions=False)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost")

    async def close(self) -> None:
        await self.http.aclose()
        self.replica.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        return self.run(self.http.request(method, path, **options))

    def get(self, path: str) -> httpx.Response:
        return self.request("GET", path)

    def samples(self, **fields: Any) -> httpx.Response:
        return self.request("POST", "/v1/samples", json={"model": "tiny@1", **fields})


def serving(settings: Settings, *references: str) -> AbstractContextManager[Client]:
    """A replica that hosts these artifacts, or none yet."""
    return running(lambda: IngressReplica(settings, "replica-7"), *references)


@contextmanager
def running(make: Callable[[], IngressReplica], *references: str) -> Iterator[Client]:
    """A replica made on its event loop that hosts these artifacts, or none yet."""
    with asyncio.Runner() as runner:
        replica = make()
        if references:
            runner.run(replica.configure({"artifacts": references}))
        client = Client(replica, runner)
        try:
            yield client
        finally:
            runner.run(client.close())


def limited(metrics_dir: Path, **limits: int) -> Settings:
    return Settings(metrics_dir=str(metrics_dir), limits=Limits(**limits))


def error(answer: httpx.Response) -> tuple[int, str, str]:
    body = answer.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"code", "message", "type", "param"}
    kind = "server_error" if answer.status_code >= 500 else "invalid_request_error"
    assert body["error"]["type"] == kind
    return answer.status_code, body["error"]["code"], body["error"]["message"]


def code_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and code of an error."""
    return answer.status_code, answer.json()["error"]["code"]
