"""A replica and another pool behind it, in one process."""

import pickle
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from serve.hosting.desired_models import (
    DesiredModels,
    DesiredModelsStore,
)
from serve.hosting.models import KnownProvider
from serve.hosting.pool_client import (
    PoolRefusal,
    PoolRequest,
    PoolResult,
    ReplicaLostError,
    UnreachedError,
)
from serve.hosting.pool_worker import ModelReplica
from serve.ingress import IngressReplica


class Beside:
    """A connection to a worker of this process. What travels is pickled, as a handle does it."""

    def __init__(self, worker: ModelReplica) -> None:
        self.worker = worker
        self.works: list[PoolRequest] = []
        self.answers: list[Callable[[PoolRequest], Awaitable[PoolResult | PoolRefusal]]] = []
        """Instead of the worker's, for the next works."""
        self.streamed = 0
        """Parts of the last stream."""
        self.started = True
        self.dies_after: int | None = None
        """Such a part, of the next stream."""

    async def sample(self, work: PoolRequest) -> PoolResult | PoolRefusal:
        self.works.append(work)
        if self.answers:
            return await self.answers.pop(0)(work)
        answer: PoolResult | PoolRefusal = pickle.loads(
            pickle.dumps(await self.worker.sample(pickle.loads(pickle.dumps(work))))
        )
        return answer

    async def stream(self, work: PoolRequest) -> AsyncGenerator[Any, None]:
        self.works.append(work)
        self.streamed = 0
        async for came in self.worker.stream(pickle.loads(pickle.dumps(work))):
            yield pickle.loads(pickle.dumps(came))
            self.streamed += 1
            if self.dies_after == self.streamed:
                self.dies_after = None
                raise ReplicaLostError("the replica died")

    async def prove(self, uri: str) -> str:
        return await self.worker.refusal(uri)

    async def provider(self) -> KnownProvider:
        if not self.started:
            raise UnreachedError
        return self.worker.provider


class Cluster:
    """Serve's config, and the replica that it is handed to."""

    def __init__(self) -> None:
        self.target = DesiredModels(artifacts=("none",))
        self.writes = 0
        self.replica: IngressReplica | None = None
        self.config = DesiredModelsStore(read=self.read, swap=self.swap)

    async def read(self) -> tuple[DesiredModels, str]:
        return self.target, str(self.writes)

    async def swap(self, version: str, target: DesiredModels) -> bool:
        if version != str(self.writes):
            return False
        self.target = target
        self.writes += 1
        assert self.replica is not None
        await self.replica.configure(target.document())
        return True
