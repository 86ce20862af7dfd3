"""A replica of this process behind a real socket, for clients that know only HTTP."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import uvicorn

from serve.access.rate_ledger import Take
from serve.batching.batcher import Batcher
from serve.hosting.runner import SignatureRunner
from serve.ingress import IngressReplica
from serve.ingress_servers import replace_http
from serve.settings import Settings


@dataclass(frozen=True, kw_only=True)
class Listening:
    """A replica that is served, by a thread of its own."""

    url: str
    replica: IngressReplica
    loop: asyncio.AbstractEventLoop

    def run(self, coroutine: Any) -> Any:
        """The result of a coroutine on the replica's event loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def requests(self, **labels: str) -> float:
        """How many requests were counted under these labels."""
        (family,) = self.replica._metrics.requests.collect()
        return sum(
            sample.value
            for sample in family.samples
            if sample.name == "aigc_requests_total" and labels.items() <= sample.labels.items()
        )


@contextmanager
def listening(
    settings: Settings, *references: str, take_budget: Take | None = None
) -> Iterator[Listening]:
    """A replica that hosts these artifacts and listens on a free port."""
    started = threading.Event()
    made: list[Any] = []

    async def main() -> None:
        replica = IngressReplica(settings, "replica-7", None, take_budget)
        await replica.configure({"artifacts": references})
        replace_http()
        config = uvicorn.Config(
            replica.application, port=0, ws="none", lifespan="off", log_level="warning"
        )
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve())
        while not server.started:
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        loop = asyncio.get_running_loop()
        made.append(Listening(url=f"http://127.0.0.1:{port}", replica=replica, loop=loop))
        made.append(server)
        started.set()
        await serving
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
    """Stands before a lane: lets so many batches through and holds the rest, or fails them."""

    def __init__(self, lane: SignatureRunner, batcher: Batcher) -> None:
        batcher._inline_s = 0.0  # what is held must hold the thread, not the event loop
        self.batches = 0
        self.free = 10**9
        self.fails_at = 10**9
        self.open = threading.Event()
        self._run = lane.run
        lane.run = self.run  # type: ignore[method-assign]

    def run(self, inputs: Mapping[str, Any]) -> Any:
        self.batches += 1
        if self.batches > self.free:
            assert self.open.wait(30)
        if self.batches >= self.fails_at:
            raise RuntimeError("the graph fell over")
        return self._run(inputs)


def settled(predicate: Callable[[], bool]) -> None:
    for _ in range(3000):
        if predicate():
            return
        time.sleep(0.01)
    raise AssertionError("it did not come to pass")
