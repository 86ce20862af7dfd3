"""A replica without an ingress: it hosts a pool's artifacts and runs requests of other replicas.

No Ray in here. `serve.ingress.IngressReplica` takes HTTP requests as well.
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

from aigc.artifact import ArtifactError, gpu, providers, signing
from aigc.artifact.outputs import OutputError
from aigc.prometheus import exporter
from aigc.prometheus.values import register_process
from serve.autoscaling import LoadReporter
from serve.batching.batcher import Batcher
from serve.batching.jobs import ClosedError, DeadlineError, OverloadedError, RunTooLongError
from serve.batching.progress import Progress, ProgressCallback, stream_progress
from serve.hosting.desired_models import DesiredModels, parse_desired, read_candidate, resolve_store
from serve.hosting.memory_budget import MemoryBudget, gpu_share
from serve.hosting.models import HostedModel, HostedModels, KnownProvider, ModelLoader
from serve.hosting.pool_client import PoolRefusal, PoolRequest, PoolResult
from serve.metrics import Metrics
from serve.settings import DEFAULT, Settings

INLINE_S = 0.001
"""Longest that batches on the event loop may delay it in a row, and health checks with it."""

TEND_S = 2.0
"""Interval of periodic work: cost, metrics, keys."""

LEAVING_S = 10.0
"""Time for which a model that is no longer hosted serves requests already on their way."""

logger = logging.getLogger(__name__)


class ModelReplica:
    """The artifacts, batcher and load of one serving process.

    `name`: the replica's name in answers. `apart`: try artifacts in a process of their own first,
    and hold this one to its memory (serve.hosting.models.ModelLoader).
    """

    def __init__(self, settings: Settings, name: str, *, apart: bool = False) -> None:
        providers.check(settings.provider)
        trust = signing.wanted(settings.trust)
        self._settings = settings
        self._name = name
        self._models: HostedModels | None = None
        self._leaving: list[HostedModel] = []
        self._proven: list[HostedModel] = []
        metrics_dir = settings.metrics_dir or os.environ.get(exporter.ENVIRONMENT)
        if not metrics_dir:
            raise ValueError(f"name metrics_dir, or set {exporter.ENVIRONMENT} for Ray's workers")
        self._metrics_dir = Path(metrics_dir)
        self._alive = register_process(self._metrics_dir)
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
        self._load = LoadReporter(self._batcher)
        provider = _provider_options(settings)
        on_gpu = bool(settings.num_gpus) or providers.resolve(settings.provider) != "cpu"
        self._memory = MemoryBudget(
            limit_bytes=settings.memory_of(DEFAULT),
            gpu_limit_bytes=provider.gpu_memory if on_gpu else None,
            enforced=apart and not on_gpu,
        )
        self._loader = ModelLoader(
            threads=settings.num_threads,
            max_batch=settings.limits.max_batch,
            provider=provider,
            max_batch_seconds=settings.limits.max_batch_seconds,
            memory=self._memory,
            metrics=self._metrics,
            batcher=self._batcher,
            seconds=settings.limits.max_load_seconds,
            trust=trust,
            apart=apart,
        )
        self._wanted: Mapping[str, Any] | None = None
        """The next user_config to load."""
        self._loading: asyncio.Task[None] | None = None
        self._tending: asyncio.Task[None] | None = None

    async def configure(self, user_config: Mapping[str, Any]) -> None:
        """Host the artifacts of a user_config (serve.hosting.desired_models) and no others.

        The first call returns when their references are replayed, and raises ArtifactError if they
        are not reproduced or do not fit into memory. Later calls return at once and load in the
        background: the old artifacts stay until the new ones are proven, and for good if that
        fails.
        """
        if self._models is None:
            await self._begin(resolve_store(parse_desired(user_config)))
            self._tending = asyncio.create_task(self._tend_forever())
            return
        self._wanted = user_config
        if self._loading is None or self._loading.done():
            self._loading = asyncio.create_task(self._load_later())

    async def _begin(self, target: DesiredModels) -> None:
        self._switch(await asyncio.to_thread(self._open, target))

    async def _load_later(self) -> None:
        """Load the wanted artifacts, and again if they changed meanwhile.

        One load at a time, so that each artifact is opened once however fast the wish changes.
        """
        while self._wanted is not None:
            wanted, self._wanted = self._wanted, None
            try:
                target = resolve_store(parse_desired(wanted))
                await self._prepare(target)
                self._switch(await asyncio.to_thread(self._open, target))
            except Exception:
                self._metrics.refused_loads.inc()
                logger.exception("new artifacts were refused; the old ones stay")
            else:
                continue
            self._free()  # what was opened before the one that was refused

    async def _prepare(self, target: DesiredModels) -> None:
        """Prepare for new artifacts; raises to refuse them."""

    def _open(self, target: DesiredModels) -> HostedModels:
        """Open the artifacts that are not hosted or proven already. Blocks."""
        known = [*self._models.all, *self._proven, *self._leaving] if self._models else []
        return HostedModels.open(target.artifacts, self._loader, pinned=target.pinned, known=known)

    async def prove(self, reference: str) -> HostedModel:
        """Open a candidate and replay its references; it is kept until it is hosted.

        Raises ArtifactError.
        """
        uri, manifest = await asyncio.to_thread(read_candidate, reference)
        digest = manifest.digest
        hosted = self._find(digest)
        if hosted is None and self._loading is not None:  # it may be among those being loaded
            await asyncio.wait({self._loading})
            hosted = self._find(digest)
        if hosted is None:
            hosted = await asyncio.to_thread(self._loader.open, uri)
            self._proven = [hosted]
            self._free_if_idle()  # the candidate before it
        return hosted

    async def refusal(self, uri: str) -> str:
        """The reason for which a candidate cannot be hosted here; "" if it can, and is kept."""
        try:
            await self.prove(uri)
        except (ArtifactError, OSError, ValueError) as error:
            return f"{error}"
        return ""

    def _find(self, digest: str, pool: str | None = None) -> HostedModel | None:
        """A model by digest: hosted, recently hosted or proven; with `pool`, that pool's."""
        wanted = (digest, pool)
        every = [*(self._models.all if self._models else ()), *self._proven, *self._leaving]
        return next((one for one in every if (one.digest, one.pool) == wanted), None)

    def _switch(self, models: HostedModels) -> None:
        """Serve new requests with `models`; those in progress keep theirs."""
        before = self._models.all if self._models else ()
        self._models = models
        self._proven = [one for one in self._proven if one not in models.all]
        self._let_go([one for one in before if one not in models.all])
        self._metrics.hosted(one.artifact.manifest for one in models.all)
        self._metrics.providers(
            (one.artifact.manifest, one.provider) for one in models.all if one.pool is None
        )
        self._metrics.ready.set(1)

    def _let_go(self, gone: list[HostedModel]) -> None:
        """Drop artifacts after a while: requests for them may be on their way."""
        self._leaving += gone

        def free() -> None:
            self._leaving = [one for one in self._leaving if one not in gone]
            self._free_if_idle()

        asyncio.get_running_loop().call_later(LEAVING_S, free)
        self._free()

    def _free_if_idle(self) -> None:
        """_free() unless artifacts are being loaded, which are not known yet; their end frees."""
        if self._loading is None or self._loading.done():
            self._free()

    def _free(self) -> None:
        """Collect garbage now: Serve freezes the collector, and graphs are large."""
        gc.collect()
        present = [*(self._models.all if self._models else ()), *self._proven, *self._leaving]
        self._memory.keep_only({one.id for one in present})

    async def sample(
        self, request: PoolRequest, on_progress: ProgressCallback | None = None
    ) -> PoolResult | PoolRefusal:
        """Run a request of another pool's replica; cancelling this drops it from the queue."""
        hosted = self._find(request.digest)
        if hosted is None:
            return PoolRefusal(reason="unknown")
        runner = (hosted.tensors if request.tensors else hosted.runners)[request.signature]
        try:
            outputs = await runner.submit(
                request.params,
                inputs=None if request.inputs is None else runner.complete(request.inputs),
                deadline_s=None if request.seconds is None else time.monotonic() + request.seconds,
                request_id=request.request_id,
                on_progress=on_progress,
            )
        except OverloadedError as error:
            return PoolRefusal(
                reason="overloaded", message=error.reason, retry_after_s=error.retry_after_s
            )
        except DeadlineError:
            return PoolRefusal(reason="deadline")
        except ClosedError as error:  # a request that has not begun may run elsewhere
            return PoolRefusal(reason="lost" if error.begun else "closed")
        except RunTooLongError as error:
            return PoolRefusal(reason="run_too_long", message=f"{error}")
        except OutputError as error:
            return PoolRefusal(reason="model_output", message=f"{error}")
        except Exception:
            logger.exception(
                "samples of %s, signature %s, failed",
                hosted.id,
                runner.name,
                extra={"request_id": request.request_id},
            )
            raise
        level = hosted.artifact.reproducibility[request.signature]
        return PoolResult(
            outputs=outputs,
            replica=self._name,
            reproducibility=level,
            provider=hosted.provider,
        )

    @property
    def provider(self) -> KnownProvider:
        """Execution provider of the hosted artifacts, which all have the same."""
        own = [one for one in (self._models.all if self._models else ()) if one.pool is None]
        return own[0].provider if own else "unknown"

    async def stream(
        self, request: PoolRequest
    ) -> AsyncGenerator[Progress | PoolResult | PoolRefusal, None]:
        """sample() with progress; last comes its result without outputs, or its refusal."""
        answers: list[PoolResult | PoolRefusal] = []

        async def run(on_progress: ProgressCallback) -> None:
            answers.append(await self.sample(request, on_progress))

        updates = stream_progress(run)
        try:
            async for progress in updates:
                yield progress
        finally:
            await updates.aclose()
        (answer,) = answers
        yield replace(answer, outputs={}) if isinstance(answer, PoolResult) else answer

    async def _tend_forever(self) -> None:
        while True:
            await asyncio.sleep(TEND_S)
            try:
                await self.tend()
            except Exception:
                logger.exception("periodic work failed; it is tried again")

    async def tend(self) -> None:
        """Periodic work: count the cost, retry metrics that could not be written."""
        self._count_cost()
        self._metrics.lost.set(await asyncio.to_thread(self._alive.tend))

    def _count_cost(self) -> None:
        now_s = time.monotonic()
        hours = (now_s - self._counted_until_s) / 3600
        self._metrics.cost.inc(hours * self._settings.price_per_replica_hour)
        self._counted_until_s = now_s

    def check_health(self) -> None:
        """Raise RuntimeError once the inference thread is stuck."""
        if self._batcher.is_stuck:
            raise RuntimeError("a run of a graph did not end within limits.max_batch_seconds")

    def autoscaling_stats(self) -> dict[str, float]:
        """Load since the last call, for serve.autoscaling. On the event loop, for one caller."""
        return self._load.report()

    def close(self) -> None:
        """Fail waiting requests and refuse new ones."""
        self._batcher.close()
        if self._tending is not None:
            self._tending.cancel()
        self._count_cost()
        self._metrics.ready.set(0)
        self._metrics.replicas.set(0)
        self._metrics.max_queued.set(0)
        self._alive.close()


def _provider_options(settings: Settings) -> providers.ProviderOptions:
    """The provider of a replica's graphs. Raises ProviderError for a GPU that is not there."""
    memory = settings.gpu_memory
    wanted = providers.resolve(settings.provider)
    if memory is None and wanted != "cpu":
        try:
            memory = gpu_share(settings.num_gpus, gpu.first_gpu().total_bytes)
        except providers.ProviderError:
            if settings.provider != "auto":
                raise
    return providers.ProviderOptions(
        provider=settings.provider,
        gpu_memory=memory,
        engine_cache=settings.engine_cache,
        max_batch=settings.limits.max_batch,
    )
