"""Client of another pool: its models as this replica knows them, and the way to their samples.

    pool = PoolClient("large", transport, limits=limits, max_outstanding=16384)
    runner = pool.hosted(manifest, metrics).runners["sample"]   # a runner like any other
    outputs = await runner.submit(SamplingParams(n=4, seed=7))

Keys, rate limits, checks, encoding and provenance stay with the replica that took the request. A
PoolRequest goes to a replica of the other pool, whose own batcher runs it; a PoolResult or
PoolRefusal comes back. No Ray in here: `serve.app` puts a deployment's handle behind PoolTransport.
"""

import asyncio
import copy
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol, TypeVar

from aigc.artifact import ArtifactError, Manifest
from aigc.artifact.manifest import Level, Reproducibility, Signature
from aigc.artifact.outputs import OutputError
from aigc.artifact.providers import Provider
from aigc.artifact.sampling_inputs import Arrays, ArtifactSpec, is_picture
from serve.batching.jobs import (
    DeadlineError,
    Outcome,
    OverloadedError,
    RunTooLongError,
    UnavailableError,
)
from serve.batching.progress import Progress, ProgressCallback
from serve.hosting.models import HostedModel, KnownProvider
from serve.hosting.runner import SignatureRunner
from serve.metrics import Metrics, RunnerMetrics
from serve.sampling_params import SamplingParams
from serve.settings import Limits

T = TypeVar("T")

logger = logging.getLogger(__name__)

ATTEMPTS = 5
"""Most replicas tried in turn while none was reached, or each closed before it began."""
TAKE_UP_S = 30.0
"""Time that a pool has to load a model assigned to it: its replicas learn of it later."""
WAKE_S = 120.0
"""Time that a pool without replicas has to start one, beside loading its models."""
PAUSE_S = 0.1
LEARN_S = 1.0
"""Time that a replica has to tell its provider; it is asked again."""
LONGEST_S = 3600.0
"""Time limit of requests without a deadline; the proxy's clients get no more either."""


@dataclass(frozen=True, kw_only=True)
class PoolRequest:
    """Samples requested of a pool."""

    digest: str
    """Digest of the artifact: its name may have changed its meaning on the way."""
    signature: str
    params: SamplingParams
    inputs: Arrays | None = None
    """Complete inputs, n rows; None to draw them from the seed."""
    tensors: bool = False
    """True for every output as the graph gives it, beside the pixels."""
    seconds: float | None = None
    """Seconds left until the deadline."""
    request_id: str = ""
    """Request id for the log."""


@dataclass(frozen=True, kw_only=True)
class PoolResult:
    """Samples of a pool."""

    outputs: Arrays
    replica: str
    reproducibility: Reproducibility
    """Reproducibility of the signature as that replica measured it."""
    provider: KnownProvider = "unknown"
    """Execution provider of that replica."""


@dataclass(frozen=True, kw_only=True)
class PoolRefusal:
    """A replica's reason for giving no samples.

    unknown: it hosts no artifact of that digest (yet). closed: it shuts down and had not begun.
    lost: it shuts down and had begun. After unknown and closed another replica may be asked.
    """

    reason: Literal[
        "overloaded", "deadline", "closed", "unknown", "lost", "run_too_long", "model_output"
    ]
    message: str = ""
    retry_after_s: int = 1


class UnreachedError(Exception):
    """No replica was reached, or it had not begun; another one may be asked."""


class ReplicaLostError(Exception):
    """The replica went away after it may have begun. It may have died of this request, so no other
    replica is asked."""


class PoolTransport(Protocol):
    """Carries requests to the replicas of a pool."""

    async def sample(self, request: PoolRequest) -> PoolResult | PoolRefusal:
        """Ask one replica; cancelling this cancels the request there.

        Raises UnreachedError or ReplicaLostError.
        """

    def stream(
        self, request: PoolRequest
    ) -> "AsyncGenerator[Progress | PoolResult | PoolRefusal, None]":
        """sample() with progress; last comes its result, without outputs, or its refusal.

        Closing this cancels the request there.
        """

    async def prove(self, uri: str) -> str:
        """Let one replica open an artifact: the reason for a refusal, or "".

        Raises UnreachedError or ReplicaLostError.
        """

    async def provider(self) -> KnownProvider:
        """Execution provider of one replica. Raises UnreachedError or ReplicaLostError."""


class PoolClient:
    """Another pool, seen from a replica of the default one.

    `may_sleep`: it may have no replica, and is not woken only to learn its provider.
    """

    def __init__(
        self,
        name: str,
        transport: PoolTransport,
        *,
        limits: Limits,
        max_outstanding: int,
        provider: Provider = "auto",
        may_sleep: bool = False,
    ) -> None:
        self.name = name
        self.provider: KnownProvider = "unknown" if provider == "auto" else provider
        """Execution provider of its replicas, as the last that answered reported it."""
        self._may_sleep = may_sleep
        self.limits = limits
        self.outstanding = 0
        """Samples requested and not answered, those that wait for a first replica included."""
        self._transport = transport
        self._max_outstanding = max_outstanding

    def hosted(self, manifest: Manifest, metrics: Metrics) -> HostedModel:
        """An artifact of this pool, by its manifest."""
        spec = ArtifactSpec(manifest)

        def runners(tensors: bool) -> Mapping[str, SignatureRunner]:
            return _CopiedOnRead(
                {
                    name: RemoteRunner(self, spec, name, metrics.runner(manifest, name), tensors)
                    for name in manifest.offered
                }
            )

        return HostedModel(
            artifact=spec,
            runners=runners(False),
            tensors=runners(True),
            pool=self.name,
            find_provider=lambda: self.provider,
        )

    async def learn_provider(self) -> None:
        """Ask a replica for its provider if that is not known, and if asking wakes none.

        An error of the other pool is logged: it is asked again.
        """
        if self.provider != "unknown" or self._may_sleep:
            return
        try:
            async with asyncio.timeout(LEARN_S):
                self.provider = await self._transport.provider()
        except (UnreachedError, ReplicaLostError, TimeoutError):
            pass
        except Exception:
            logger.exception("a replica of pool %s did not tell its provider", self.name)

    async def prove(self, uri: str) -> None:
        """Let a replica load a candidate; this wakes a pool without replicas.

        Raises ArtifactError with that replica's reason, or if no replica answers in time.
        """
        seconds = WAKE_S + 2 * self.limits.max_load_seconds  # its own models, and this one
        try:
            async with asyncio.timeout(seconds):
                reason = await self._retry(lambda: self._transport.prove(uri))
        except UnavailableError as error:
            raise ArtifactError(f"pool {self.name} could not try {uri}: {error}") from None
        except TimeoutError:
            raise ArtifactError(
                f"pool {self.name} did not try {uri} within {seconds:.0f} s; its log says why"
            ) from None
        if reason:
            raise ArtifactError(reason)

    async def run(
        self,
        request: PoolRequest,
        deadline_s: float | None,
        on_progress: ProgressCallback | None = None,
    ) -> PoolResult:
        """Have a replica run a request; cancelling this cancels it there.

        With `on_progress` outputs are reported while they come, and the result has none. A request
        that may have begun is never repeated by another replica: if the first one died of it, so
        would they.

        A sample that is reported has begun: once all have, the deadline is met, as in a batcher,
        and the rest may take its time. Without `on_progress` all samples must be done by then.

        Raises OverloadedError, DeadlineError, RunTooLongError and OutputError as a batcher does,
        UnavailableError if no replica has the model or stays alive, and what the graph raised.
        """
        n = request.params.n
        if self.outstanding + n > self._max_outstanding:
            raise OverloadedError(1, f"the queue of pool {self.name} is full")
        seconds = LONGEST_S if deadline_s is None else deadline_s - time.monotonic()
        if seconds <= 0:
            raise DeadlineError(n)
        begun: set[int] = set()

        def left_s() -> float | None:
            if deadline_s is None or len(begun) == n:
                return None
            return max(0.0, deadline_s - time.monotonic())

        self.outstanding += n
        try:
            async with asyncio.timeout(seconds) as limit:

                def progressed(position: int, outcome: Outcome) -> None:
                    assert on_progress is not None
                    if position not in begun:
                        begun.add(position)
                        if len(begun) == n:
                            limit.reschedule(asyncio.get_running_loop().time() + LONGEST_S)
                    on_progress(position, outcome)

                callback = progressed if on_progress is not None else None
                return await self._retry(lambda: self._once(request, left_s, callback))
        except TimeoutError:
            if not limit.expired():
                raise
            raise DeadlineError(n) from None
        finally:
            self.outstanding -= n

    async def _once(
        self,
        request: PoolRequest,
        left_s: Callable[[], float | None],
        on_progress: ProgressCallback | None,
    ) -> PoolResult:
        """Have one replica run it, as soon as it hosts the model."""
        give_up_s = time.monotonic() + TAKE_UP_S
        while True:
            answer = await self._answer(replace(request, seconds=left_s()), on_progress)
            if isinstance(answer, PoolResult):
                if answer.provider != "unknown":
                    self.provider = answer.provider
                return answer
            if answer.reason == "overloaded":
                raise OverloadedError(answer.retry_after_s, answer.message)
            if answer.reason == "deadline":
                raise DeadlineError(request.params.n)
            if answer.reason == "run_too_long":
                raise RunTooLongError(answer.message)
            if answer.reason == "model_output":
                raise OutputError(answer.message)
            if answer.reason == "closed":
                raise UnreachedError
            if answer.reason == "lost":
                raise ReplicaLostError
            if time.monotonic() > give_up_s:
                raise UnavailableError(
                    f"no replica of pool {self.name} has taken this model up; its log says why"
                )
            await asyncio.sleep(PAUSE_S)

    async def _answer(
        self, request: PoolRequest, on_progress: ProgressCallback | None
    ) -> PoolResult | PoolRefusal:
        if on_progress is None:
            return await self._transport.sample(request)
        stream = self._transport.stream(request)
        try:
            async for message in stream:
                if not isinstance(message, list):
                    return message
                for position, outcome in message:
                    on_progress(position, outcome)
        finally:
            await stream.aclose()
        raise ReplicaLostError("the stream ended before the samples did")

    async def _retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """The answer of the first replica that is reached. Raises UnavailableError."""
        for count in range(ATTEMPTS):
            try:
                return await attempt()
            except UnreachedError:
                await asyncio.sleep(PAUSE_S * 2**count)
            except ReplicaLostError:
                raise UnavailableError(
                    f"the replica of pool {self.name} that was asked went away; it may have begun,"
                    " so no other one was asked; try again"
                ) from None
        raise UnavailableError(f"{ATTEMPTS} replicas of pool {self.name} went away; try again")


class RemoteRunner(SignatureRunner):
    """One signature of another pool's artifact, for one request: it keeps who answered."""

    def __init__(
        self,
        pool: PoolClient,
        artifact: ArtifactSpec,
        name: str,
        metrics: RunnerMetrics,
        tensors: bool,
    ) -> None:
        self._tensors = tensors
        super().__init__(artifact, name, pool.limits.max_batch, metrics)
        self.limits = pool.limits
        self._pool = pool
        self._level: Level | None = None

    def _values(self, spec: Signature) -> int:
        image = next(filter(is_picture, spec.outputs), None)
        return super()._values(spec) + (image.num_values if image and self._tensors else 0)

    @property
    def level(self) -> Level:
        """Level measured by the replica that answered; before that, the last one known."""
        return self._level or super().level

    async def submit(
        self,
        params: SamplingParams,
        *,
        inputs: Arrays | None = None,
        deadline_s: float | None = None,
        request_id: str = "",
        on_progress: ProgressCallback | None = None,
    ) -> Arrays:
        """See SignatureRunner.submit(). With `on_progress` nothing is returned."""
        request = PoolRequest(
            digest=self.artifact.manifest.digest,
            signature=self.name,
            params=params,
            inputs=inputs,
            tensors=self._tensors,
            request_id=request_id,
        )
        result = await self._pool.run(request, deadline_s, on_progress)
        self.artifact.reproducibility[self.name] = result.reproducibility
        if self.replica is None:  # of an answer in parts, the first replica signs for all
            self.replica, self._level = result.replica, result.reproducibility.level
        return result.outputs


class _CopiedOnRead(Mapping[str, SignatureRunner]):
    """Runners by signature, a copy on each read: concurrent requests may get different replicas."""

    def __init__(self, runners: Mapping[str, RemoteRunner]) -> None:
        self._runners = runners

    def __getitem__(self, name: str) -> SignatureRunner:
        return copy.copy(self._runners[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._runners)

    def __len__(self) -> int:
        return len(self._runners)
