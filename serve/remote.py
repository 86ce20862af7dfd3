"""Models of other pools: what is known of them here, and how their samples are asked for.

    pool = RemotePool("large", connection, limits=limits, max_outstanding=16384)
    lane = pool.hosted(manifest, metrics).lanes["sample"]   # a lane as any other, to the dialects
    outputs = await lane.sample(seed=7, first_index=0, n=4, label=None, deadline_s=None)

Keys, budgets, checks, encoding and provenance stay with the replica that was asked; a Work goes to
one of the other pool, whose own batcher runs it, and Done or Refused comes back. No Ray in it:
`serve.app` puts a deployment's handle behind the Connection.
"""

import asyncio
import copy
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import ArtifactError, Manifest
from aigc.artifact.contract import Arrays, Contract
from aigc.artifact.manifest import Level, Reproducibility
from serve.batching import DeadlineError, OverloadedError
from serve.fair import Outcome, Until
from serve.hosting import Hosted
from serve.lane import Choices, SignatureLane
from serve.metrics import LaneMetrics, Metrics
from serve.settings import Limits
from serve.telling import Came, Hear

T = TypeVar("T")

ATTEMPTS = 5
"""Replicas that are asked in turn when one dies with the work: samples are the same again."""
TAKE_UP_S = 30.0
"""How long a pool may go without a model that it is to host: its replicas learn of it later."""
PAUSE_S = 0.1
LONGEST_S = 3600.0
"""For work without a deadline; the proxy's clients get no more either."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Samples that a pool is asked for."""

    digest: str
    """Of the artifact: a name may have come to mean another one on the way."""
    signature: str
    n: int
    tensors: bool = False
    """Every output as the graph gives it, beside the pixels."""
    seconds: float | None = None
    """Left of the deadline."""
    seed: int = 0
    first_index: int = 0
    label: int | list[int] | None = None
    settings: Choices = field(default_factory=dict)
    prefix: NDArray[np.int64] | None = None
    until: Until | None = None
    """What ends samples early that go by steps; it travels by pickle."""
    inputs: Mapping[str, NDArray[Any]] | None = None
    """To be run as they are; without them they are drawn from the seed."""


@dataclass(frozen=True, kw_only=True)
class Done:
    """What came of it."""

    outputs: Arrays
    replica: str
    reproducibility: Reproducibility
    """Of the signature, as that replica measured it."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Why nothing did. unknown: the replica hosts no artifact of that digest (yet)."""

    reason: Literal["overloaded", "deadline", "closed", "unknown"]
    message: str = ""
    retry_after_s: int = 1


class LostError(Exception):
    """The replica that was asked is gone, or was not reached; another one may be asked."""


class UnavailableError(Exception):
    """No replica of the pool gave an answer. One sentence."""


class Connection(Protocol):
    """The way to a pool."""

    async def sample(self, work: Work) -> Done | Refused:
        """Ask one replica; cancelling this cancels the work there. Raises LostError."""

    def stream(self, work: Work) -> "AsyncGenerator[Came | Done | Refused, None]":
        """The same, told of while it goes on; at last comes what sample() gives, without outputs.

        Closing this cancels the work there.
        """

    async def prove(self, uri: str) -> str:
        """Let one replica open an artifact: why it refuses, or "". Raises LostError."""


class RemotePool:
    """Another pool, seen from a replica of the default one."""

    def __init__(
        self, name: str, connection: Connection, *, limits: Limits, max_outstanding: int
    ) -> None:
        self.name = name
        self.limits = limits
        self.outstanding = 0
        """Samples asked for and not answered, those that wait for a first replica too."""
        self._connection = connection
        self._max_outstanding = max_outstanding

    def hosted(self, manifest: Manifest, metrics: Metrics) -> Hosted:
        """An artifact of this pool, by its manifest."""
        contract = Contract(manifest)

        def lanes(tensors: bool) -> Mapping[str, SignatureLane]:
            return _Fresh(
                {
                    name: RemoteLane(self, contract, name, metrics.lane(manifest, name), tensors)
                    for name in manifest.offered
                }
            )

        return Hosted(artifact=contract, lanes=lanes(False), tensors=lanes(True), pool=self.name)

    async def prove(self, uri: str) -> None:
        """Let a replica load a candidate; it wakes the pool if that has none.

        Raises ArtifactError with that replica's reason, or if no replica answers.
        """
        try:
            reason = await self._insist(lambda: self._connection.prove(uri))
        except UnavailableError as error:
            raise ArtifactError(f"pool {self.name} could not try {uri}: {error}") from None
        if reason:
            raise ArtifactError(reason)

    async def run(self, work: Work, deadline_s: float | None, hear: Hear | None = None) -> Done:
        """Work done by one of the pool's replicas; cancelling this cancels it there.

        With `hear` it is told of while it goes on, and again from the start by another replica when
        the first one dies; there are no outputs then.

        What is told of has begun: once each sample has, the deadline was met, as in a batcher, and
        the rest may take its time. Without `hear` nobody knows, and all must be there by then.

        Raises OverloadedError, DeadlineError and ClosedError as a batcher does, UnavailableError if
        no replica has the model or stays alive, and what the work itself raised.
        """
        if self.outstanding + work.n > self._max_outstanding:
            raise OverloadedError(1, f"the queue of pool {self.name} is full")
        seconds = LONGEST_S if deadline_s is None else deadline_s - time.monotonic()
        if seconds <= 0:
            raise DeadlineError(work.n)
        begun: set[int] = set()

        def left_s() -> float | None:
            if deadline_s is None or len(begun) == work.n:
                return None
            return max(0.0, deadline_s - time.monotonic())

        self.outstanding += work.n
        try:
            async with asyncio.timeout(seconds) as limit:

                def heard(position: int, outcome: Outcome) -> None:
                    assert hear is not None
                    if position not in begun:
                        begun.add(position)
                        if len(begun) == work.n:
                            limit.reschedule(asyncio.get_running_loop().time() + LONGEST_S)
                    hear(position, outcome)

                told = heard if hear is not None else None
                return await self._insist(lambda: self._once(work, left_s, told))
        except TimeoutError:
            raise DeadlineError(work.n) from None
        finally:
            self.outstanding -= work.n

    async def _once(
        self, work: Work, left_s: Callable[[], float | None], hear: Hear | None
    ) -> Done:
        """By one replica, as soon as it hosts the model."""
        patience_s = time.monotonic() + TAKE_UP_S
        while True:
            answer = await self._answer(replace(work, seconds=left_s()), hear)
            if isinstance(answer, Done):
                return answer
            if answer.reason == "overloaded":
                raise OverloadedError(answer.retry_after_s, answer.message)
            if answer.reason == "deadline":
                raise DeadlineError(work.n)
            if answer.reason == "closed":
                raise LostError
            if time.monotonic() > patience_s:
                raise UnavailableError(
                    f"no replica of pool {self.name} has taken this model up; its log says why"
                )
            await asyncio.sleep(PAUSE_S)

    async def _answer(self, work: Work, hear: Hear | None) -> Done | Refused:
        if hear is None:
            return await self._connection.sample(work)
        stream = self._connection.stream(work)
        try:
            async for came in stream:
                if not isinstance(came, list):
                    return came
                for position, outcome in came:
                    hear(position, outcome)
        finally:
            await stream.aclose()
        raise LostError("the stream ended before the samples did")

    async def _insist(self, ask: Callable[[], Awaitable[T]]) -> T:
        """The answer of the first replica that lives long enough. Raises UnavailableError."""
        for attempt in range(ATTEMPTS):
            try:
                return await ask()
            except LostError:
                await asyncio.sleep(PAUSE_S * 2**attempt)
        raise UnavailableError(f"{ATTEMPTS} replicas of pool {self.name} went away; try again")


class RemoteLane(SignatureLane):
    """One signature of another pool's artifact. For one request: it keeps who answered."""

    def __init__(
        self, pool: RemotePool, contract: Contract, name: str, metrics: LaneMetrics, tensors: bool
    ) -> None:
        super().__init__(contract, name, pool.limits.max_batch, metrics)
        if tensors and self.image is not None:
            self.values_per_sample += int(np.prod(self.image.shape))
        self.limits = pool.limits
        self._pool = pool
        self._tensors = tensors
        self._level: Level | None = None

    @property
    def level(self) -> Level:
        """As measured by the replica that answered; before that, as last heard."""
        return self._level or super().level

    async def sample(
        self,
        *,
        seed: int,
        first_index: int,
        n: int,
        label: int | list[int] | None,
        deadline_s: float | None,
        settings: Choices | None = None,
        prefix: NDArray[np.int64] | None = None,
        until: Until | None = None,
        hear: Hear | None = None,
    ) -> Arrays:
        """Samples first_index .. first_index + n - 1 of `seed`. Raises what RemotePool.run does."""
        return await self._ask(
            Work(
                digest=self.artifact.manifest.digest,
                signature=self.name,
                tensors=self._tensors,
                n=n,
                seed=seed,
                first_index=first_index,
                label=label,
                settings=settings or {},
                prefix=prefix,
                until=until,
            ),
            deadline_s,
            hear,
        )

    async def infer(
        self,
        inputs: Mapping[str, NDArray[Any]],
        n: int,
        deadline_s: float | None,
        until: Until | None = None,
    ) -> Arrays:
        """The outputs of `n` inputs that are given. Raises what RemotePool.run does."""
        return await self._ask(
            Work(
                digest=self.artifact.manifest.digest,
                signature=self.name,
                tensors=self._tensors,
                n=n,
                until=until,
                inputs=inputs,
            ),
            deadline_s,
        )

    async def _ask(self, work: Work, deadline_s: float | None, hear: Hear | None = None) -> Arrays:
        done = await self._pool.run(work, deadline_s, hear)
        self.artifact.reproducibility[self.name] = done.reproducibility
        if self.replica is None:  # of an answer in parts, the first one's signs for all
            self.replica, self._level = done.replica, done.reproducibility.level
        return done.outputs


class _Fresh(Mapping[str, SignatureLane]):
    """Lanes by signature, another one each time: requests at once may get different replicas."""

    def __init__(self, lanes: Mapping[str, RemoteLane]) -> None:
        self._lanes = lanes

    def __getitem__(self, name: str) -> SignatureLane:
        return copy.copy(self._lanes[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._lanes)

    def __len__(self) -> int:
        return len(self._lanes)
