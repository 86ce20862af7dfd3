"""A replica of this process behind a real socket, for clients that know only HTTP."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import SimpleNamespace
from typing import Any

import grpc
import uvicorn

from serve.access.rate_ledger import Take
from serve.hosting.runner import AutoregressiveRunner
from serve.ingress import IngressReplica
from serve.ingress_servers import replace_http
from serve.protocols.oip.grpc import GrpcApi
from serve.protocols.oip.protobuf import METHODS, add_to_server
from serve.settings import Settings
from tests.serve.probe import Probe


@dataclass(kw_only=True)
class Listening:
    """A replica that is served, by a thread of its own."""

    url: str
    replica: IngressReplica
    loop: asyncio.AbstractEventLoop
    grpc_servers: list[Any] = field(default_factory=list)

    def run(self, coroutine: Any) -> Any:
        """The result of a coroutine on the replica's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    @cached_property
    def probe(self) -> Probe:
        return Probe(self.replica)

    @cached_property
    def grpc_address(self) -> str:
        """HOST:PORT of the same replica over gRPC, which is served from the first use on."""

        async def start() -> str:
            server = grpc.aio.server()
            add_to_server(servicer(self.replica.grpc), server, self.replica.grpc.reception)
            address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
            await server.start()
            self.grpc_servers.append(server)
            return address

        return str(self.run(start()))

    def requests(self, **labels: str) -> float:
        """Number of requests that were counted under these labels."""
        return self.probe.count("aigc_requests_total", **labels)


@contextmanager
def listening(
    settings: Settings, *references: str, take_budget: Take | None = None
) -> Iterator[Listening]:
    """A replica that hosts these artifacts, or none yet, and listens on a free port."""
    started = threading.Event()
    made: list[Any] = []

    async def main() -> None:
        replica = IngressReplica(settings, "replica-7", None, take_budget)
        if references:
            await replica.configure({"artifacts": references})
        replace_http()
        config = uvicorn.Config(
            replica.application, port=0, ws="none", lifespan="off", log_level="warning"
        )
        http = uvicorn.Server(config)
        serving = asyncio.create_task(http.serve())
        while not http.started:
            await asyncio.sleep(0.01)
        port = http.servers[0].sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        made.append(Listening(url=f"http://127.0.0.1:{port}", replica=replica, loop=loop))
        made.append(http)
        started.set()
        await serving
        for server in made[0].grpc_servers:
            await server.stop(1)
        replica.close()

    thread = threading.Thread(target=lambda: asyncio.run(main()), daemon=True)
    thread.start()
    assert started.wait(30), "the server did not start"
    try:
        yield made[0]
    finally:
        made[1].should_exit = True
        thread.join(30)


class Gate:
    """Stands before a graph: lets so many runs through and holds the rest, slows or fails them.

    A run is a batch, or a step of the texts of a batch.
    """

    def __init__(
        self, probe: Probe, model: str = "", *, free: int = 10**9, tensors: bool = False
    ) -> None:
        probe.batcher.inline_s = 0.0  # what is held must hold the thread, not the event loop
        self.runs = 0
        self.free = free
        self.fails_at = 10**9
        self.slow_s = 0.0
        self.open = threading.Event()
        runner = probe.runner(model, tensors=tensors)
        target: Any = runner.decoder if isinstance(runner, AutoregressiveRunner) else runner
        self._run = target.run
        target.run = self.run

    def run(self, inputs: Mapping[str, Any]) -> Any:
        self.runs += 1
        time.sleep(self.slow_s)
        if self.runs > self.free:
            assert self.open.wait(30)
        if self.runs >= self.fails_at:
            raise RuntimeError("the graph fell over")
        return self._run(inputs)


def settled(predicate: Callable[[], bool]) -> None:
    for _ in range(3000):
        if predicate():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to pass")


def servicer(api: GrpcApi) -> Any:
    """A servicer with the methods that serve.app.IngressDeployment has for Serve."""
    return SimpleNamespace(**{method: partial(api.answer, method) for method in METHODS})
