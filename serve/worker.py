"""A replica without an ingress: it hosts a pool's artifacts and runs the work that it is handed.

No Ray in it. `serve.replica.Replica` is one that takes requests as well.
"""

import asyncio
import gc
import logging
import os
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from aigc import exporter
from aigc.artifact import ArtifactError
from serve.batching import Arrays, Batcher, ClosedError, DeadlineError, Job, OverloadedError
from serve.hosting import Hosted, Loader, Models
from serve.lane import LocalLane
from serve.load import Load
from serve.memory import Memory
from serve.metrics import Metrics
from serve.remote import Done, Refused, Work
from serve.settings import DEFAULT, Settings
from serve.switching import Target, candidate, located, parse_target
from serve.telling import Came, Hear, told

STUCK_S = 120.0
"""A batch that runs longer makes the replica unhealthy: Serve then replaces it."""

INLINE_S = 0.001
"""Batches that take less may keep the event loop waiting for so long, and health checks with it."""

TEND_S = 2.0
"""Between two looks at what changes seldom: cost, and keys."""

LEAVING_S = 10.0
"""What is no longer hosted still serves those who were sent here before they knew."""

logger = logging.getLogger(__name__)


class Worker:
    """The artifacts, batcher and load of one serving process; `name` is what signs its answers."""

    def __init__(self, settings: Settings, name: str) -> None:
        self._settings = settings
        self._name = name
        self._models: Models | None = None
        self._leaving: list[Hosted] = []
        self._proven: list[Hosted] = []
        metrics_dir = settings.metrics_dir or os.environ.get(exporter.ENVIRONMENT)
        if not metrics_dir:
            raise ValueError(f"name metrics_dir, or set {exporter.ENVIRONMENT} for Ray's workers")
        self._metrics_dir = Path(metrics_dir)
        self._alive = exporter.announce(self._metrics_dir)
        self._metrics = Metrics()
        self._metrics.replicas.set(1)
        self._metrics.max_queued.set(settings.limits.max_queue)
        self._counted_until_s = time.monotonic()
        self._batcher = Batcher(
            max_queue=settings.limits.max_queue,
            max_wait_s=settings.limits.max_wait_s,
            linger_s=settings.linger_ms / 1000,
            inline_s=INLINE_S,
            observe_queue=self._metrics.queued.set,
        )
        self._load = Load(self._batcher)
        self._memory = Memory(limit_bytes=settings.memory_of(DEFAULT))
        self._loader = Loader(
            threads=settings.num_threads,
            max_batch=settings.limits.max_batch,
            memory=self._memory,
            metrics=self._metrics,
        )
        self._loading: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None

    async def configure(self, user_config: Mapping[str, Any]) -> None:
        """Host the artifacts of a target (serve.switching) and no others.

        The first call returns when their references were replayed, and raises ArtifactError if
        they are not reproduced or do not fit into memory. Later ones return at once and load in
        the background: what is served stays until its successor is proven, and stays for good if
        that fails.
        """
        if self._models is None:
            await self._begin(located(parse_target(user_config)))
            self._tending = asyncio.create_task(self._tend_for_ever())
            return
        if self._loading is not None:
            self._loading.cancel()
        self._loading = asyncio.create_task(self._load_later(user_config))

    async def _begin(self, target: Target) -> None:
        self._switch(await asyncio.to_thread(self._open, target))

    async def _load_later(self, user_config: Mapping[str, Any]) -> None:
        try:
            target = located(parse_target(user_config))
            await self._prepare(target)
            self._switch(await asyncio.to_thread(self._open, target))
        except Exception:
            self._metrics.refused_loads.inc()
            logger.exception("new artifacts were refused; the old ones stay")

    async def _prepare(self, target: Target) -> None:
        """What must have happened before a target is taken up; raises to refuse it."""

    def _open(self, target: Target) -> Models:
        """What is to be hosted; what is hosted or proven already is not opened again. Blocks."""
        known = [*self._models.all, *self._proven, *self._leaving] if self._models else []
        return Models.open(target.artifacts, self._loader, pinned=target.pinned, known=known)

    async def prove(self, reference: str) -> Hosted:
        """Open a candidate and replay its references; it is kept until it is taken up.

        Raises ArtifactError.
        """
        uri, manifest = await asyncio.to_thread(candidate, reference)
        digest = manifest.digest
        found = self._find(digest)
        if found is None and self._loading is not None:  # it may be what is being loaded
            await asyncio.wait({self._loading})
            found = self._find(digest)
        if found is None:
            found = await asyncio.to_thread(self._loader.open, uri)
            self._proven = [found]
        return found

    async def refusal(self, uri: str) -> str:
        """Why a candidate cannot be hosted here; "" if it can, and then it is kept for it."""
        try:
            await self.prove(uri)
        except (ArtifactError, OSError, ValueError) as error:
            return f"{error}"
        return ""

    def _find(self, digest: str, pool: str | None = None) -> Hosted | None:
        """What is hosted, or was until just now, or is proven; another pool's in an ingress."""
        wanted = (digest, pool)
        every = [*(self._models.all if self._models else ()), *self._proven, *self._leaving]
        return next((one for one in every if (one.digest, one.pool) == wanted), None)

    def _switch(self, models: Models) -> None:
        """From here on new requests get `models`; those in progress end on what they began with."""
        before = self._models.all if self._models else ()
        self._models = models
        self._proven = []
        self._let_go([one for one in before if one not in models.all])
        self._metrics.hosted(one.artifact.manifest for one in models.all)
        self._metrics.ready.set(1)

    def _let_go(self, gone: list[Hosted]) -> None:
        """Forget artifacts, but not at once: others may have sent work for them just now."""
        self._leaving += gone

        def free() -> None:
            self._leaving = [one for one in self._leaving if one not in gone]
            self._free()

        asyncio.get_running_loop().call_later(LEAVING_S, free)
        self._free()

    def _free(self) -> None:
        """What went is freed at once: Serve freezes the collector, and graphs are large."""
        gc.collect()
        there = [*(self._models.all if self._models else ()), *self._leaving]
        self._memory.keep_only({one.id for one in there})

    async def sample(self, work: Work, hear: Hear | None = None) -> Done | Refused:
        """Run what another pool's replica asks for; cancelling this drops it from the queue."""
        hosted = self._find(work.digest)
        if hosted is None:
            return Refused(reason="unknown")
        lane = (hosted.tensors if work.tensors else hosted.lanes)[work.signature]
        assert isinstance(lane, LocalLane)
        deadline_s = None if work.seconds is None else time.monotonic() + work.seconds
        try:
            job = _job(work, lane, deadline_s)
            job.hear = hear
            outputs = await self._batcher.submit(job)
        except OverloadedError as error:
            return Refused(
                reason="overloaded", message=error.reason, retry_after_s=error.retry_after_s
            )
        except DeadlineError:
            return Refused(reason="deadline")
        except ClosedError:
            return Refused(reason="closed")
        level = hosted.artifact.reproducibility[work.signature]
        return Done(outputs=outputs, replica=self._name, reproducibility=level)

    async def stream(self, work: Work) -> AsyncGenerator[Came | Done | Refused, None]:
        """sample(), told of while it goes on; its answer comes last, without the outputs."""
        answers: list[Done | Refused] = []

        async def run(hear: Hear) -> None:
            answers.append(await self.sample(work, hear))

        parts = told(run)
        try:
            async for came in parts:
                yield came
        finally:
            await parts.aclose()
        (answer,) = answers
        yield replace(answer, outputs={}) if isinstance(answer, Done) else answer

    async def _tend_for_ever(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            await self.tend()

    async def tend(self) -> None:
        """What is due every few seconds: count the cost."""
        self._count_cost()

    def _count_cost(self) -> None:
        now_s = time.monotonic()
        hours = (now_s - self._counted_until_s) / 3600
        self._metrics.cost.inc(hours * self._settings.price_per_replica_hour)
        self._counted_until_s = now_s

    def check_health(self) -> None:
        """Raise RuntimeError when the inference thread no longer comes back."""
        since = self._batcher.running_since_s
        if since is not None and time.monotonic() - since > STUCK_S:
            raise RuntimeError(f"a batch has been running for more than {STUCK_S:.0f} s")

    def autoscaling_stats(self) -> dict[str, float]:
        """This replica's work, for serve.autoscaling. On the event loop, by one caller only."""
        return self._load.report()

    def close(self) -> None:
        """Fail what waits, take no more."""
        self._batcher.close()
        if self._tending is not None:
            self._tending.cancel()
        self._count_cost()
        self._metrics.ready.set(0)
        self._metrics.replicas.set(0)
        self._metrics.max_queued.set(0)
        self._alive.close()


def _job(work: Work, lane: LocalLane, deadline_s: float | None) -> Job:
    inputs = work.inputs
    if inputs is None:
        return lane.job(
            seed=work.seed,
            first_index=work.first_index,
            n=work.n,
            label=work.label,
            settings=work.settings,
            prefix=work.prefix,
            until=work.until,
            deadline_s=deadline_s,
        )

    def draw(start: int, stop: int) -> Arrays:
        return {name: array[start:stop] for name, array in inputs.items()}

    return Job(lane=lane, n=work.n, draw=draw, until=work.until, deadline_s=deadline_s)
