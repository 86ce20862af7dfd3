"""The ingress replica: HTTP, validation, batcher, onnxruntime and encoder in one process.

It does not depend on Ray: `serve.app` creates it in a Serve deployment, tests in their own process.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aigc.artifact import ArtifactError
from aigc.prometheus import exporter, scrape
from serve import playground
from serve.access.access_control import create_access_control
from serve.access.api_keys import KeyFile, load
from serve.access.cors import CrossOrigin
from serve.access.foreign_sender import foreign_sender
from serve.access.rate_ledger import Take
from serve.batching.jobs import StuckError
from serve.errors import HTTPError
from serve.hosting.desired_models import DesiredModels, DesiredModelsStore
from serve.hosting.models import HostedModel, HostedModels
from serve.hosting.pool_client import PoolClient, PoolTransport
from serve.hosting.pool_worker import ModelReplica
from serve.http import ASGI, NO_STORE, RETRY_SOON, Application, Receive, Response, Route, Scope
from serve.operation import TEXT, Operation
from serve.protocols.admin import AdminApi
from serve.protocols.native import routes
from serve.protocols.native.interpolate import InterpolationApi
from serve.protocols.native.routes import NativeApi
from serve.protocols.native.verify import VerificationApi
from serve.protocols.oip import rest
from serve.protocols.oip.grpc import GrpcApi
from serve.protocols.oip.rest import OipApi
from serve.protocols.openai import images
from serve.protocols.openai.completions import CompletionsApi
from serve.protocols.openai.edits import EditsApi
from serve.protocols.openai.images import ImagesApi
from serve.protocols.openai.speech import SpeechApi
from serve.protocols.openapi import document
from serve.request_body import BodyReader
from serve.sampler import Sampler
from serve.settings import DEFAULT, Settings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)


def _text_operation(name: str, summary: str, error: int, *, needs_key: bool) -> Operation:
    return Operation(
        id=name,
        summary=summary,
        tag="operation",
        response={"text/plain": TEXT},
        errors=(error,),
        needs_key=needs_key,
    )


HEALTH = _text_operation("health", "200 while the replica works", 500, needs_key=False)
READY = _text_operation("ready", "200 when the references were replayed", 503, needs_key=False)
METRICS = _text_operation("metrics", "Prometheus metrics of this machine", 500, needs_key=True)


class IngressReplica(ModelReplica):
    """A model replica that serves HTTP and gRPC, for its own models and those of other pools.

    Responses carry `name`. `config` is the store of the desired models; with it there are admin
    routes. `take_budget` reaches the ledger of all replicas, `connections` the other pools of the
    settings. `apart`: see ModelReplica.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        config: DesiredModelsStore | None = None,
        take_budget: Take | None = None,
        connections: Mapping[str, PoolTransport] | None = None,
        *,
        apart: bool = False,
    ) -> None:
        super().__init__(settings, name, apart=apart)
        self._spans: TracerProvider | None = None
        # Created before the keys are read, so that no change is missed.
        self._key_file = KeyFile(settings.keys) if settings.keys else None
        keys = load(settings.keys, os.environ)
        self._gate = create_access_control(keys, name, settings.replicas[1], take_budget)
        self._metrics.name_keys(keys)
        self._metrics.max_replicas.set(settings.most_replicas)
        self._pools = {
            pool: PoolClient(
                pool,
                connection,
                limits=settings.pools[pool].limits,
                max_outstanding=settings.pools[pool].max_outstanding,
                provider=settings.pools[pool].provider,
                may_sleep=settings.pools[pool].replicas[0] == 0,
            )
            for pool, connection in (connections or {}).items()
        }
        sampler = self._create_sampler(
            models=lambda: self._models,
            metrics=self._metrics,
            limits=settings.limits,
            replica=name,
            gate=self._gate,
        )
        self.grpc = GrpcApi(
            sampler,
            check_health=self.check_health,
            check_ready=self.check_ready,
            local_only=settings.local_only,
        )
        body_reader = BodyReader(settings.limits.max_body_seconds)
        admin = AdminApi(config, self.prove_in, self.admit_admin, body_reader) if config else None
        oip = OipApi(sampler, check_health=self.check_health, check_ready=self.check_ready)
        openai_routes = (
            *ImagesApi(sampler).routes(),
            *EditsApi(sampler).routes(),
            *SpeechApi(sampler).routes(),
            *CompletionsApi(sampler).routes(),
        )
        self._routes = (
            *NativeApi(sampler).routes(),
            *InterpolationApi(sampler).routes(),
            *VerificationApi(sampler).routes(),
            *openai_routes,
            *oip.routes(),
            *(admin.routes() if admin else ()),
            *playground.routes(),
            Route("GET", "/healthz", self.healthz, HEALTH),
            Route("GET", "/readyz", self.readyz, READY),
            Route("GET", "/metrics", self.metrics, METRICS),
            Route("GET", "/openapi.json", self.openapi),
        )
        self._apis = (("/v2", rest.API), *((route.path, images.API) for route in openai_routes))
        """Beginning of a path, and the protocol that it belongs to; all others are the native one.
        """
        application = Application(
            self._routes, {"/v2": rest.error_response}, self._count_refused_websocket
        )
        self.application: ASGI = application
        if settings.cors:
            self.application = CrossOrigin(application, settings.cors)

    def _create_sampler(self, **options: Any) -> Sampler:
        """A sampler; one that records spans only if tracing is on, since they cost time."""
        if not self._settings.tracing:
            return Sampler(**options)
        from serve.tracing import TracedSampler, open_provider

        self._spans = open_provider()
        return TracedSampler(self._spans, self._batcher, **options)

    async def _begin(self, target: DesiredModels) -> None:
        try:
            await asyncio.gather(super()._begin(target), self._gate.open())
        except ArtifactError:
            self._metrics.refused_loads.inc()  # the count outlives this process, which ends now
            raise

    async def _prepare(self, target: DesiredModels) -> None:
        """Prove new artifacts of other pools there before their names refer to them here."""
        for pool, uri, manifest in await asyncio.to_thread(target.hosted):
            if pool != DEFAULT and self._find(manifest.digest, pool) is None:
                await self._pool(pool).prove(uri)

    def _open(self, target: DesiredModels) -> HostedModels:
        known = [*self._models.all, *self._proven] if self._models else []
        own = HostedModels.open(target.artifacts, self._loader, known=known)
        others = [
            self._find(manifest.digest, pool)
            # The manifest is read again, with its signature if trust needs one.
            or self._pool(pool).hosted(self._loader.locate(uri).manifest, self._metrics)
            for pool, uri, manifest in target.hosted()
            if pool != DEFAULT
        ]
        return HostedModels([*own.all, *others], target.names_mean)

    def _pool(self, name: str) -> PoolClient:
        """The client of a pool. Raises ArtifactError for an unknown pool."""
        if name not in self._pools:
            known = ", ".join((DEFAULT, *self._pools))
            raise ArtifactError(f"there is no pool {name!r}; there are: {known}")
        return self._pools[name]

    def _let_go(self, gone: list[HostedModel]) -> None:
        """Release removed models at once: no other replica sends work to them."""
        self._free()

    async def prove_in(self, pool: str, uri: str) -> None:
        """Prove a candidate in this replica, or in one of another pool. Raises ArtifactError."""
        if pool == DEFAULT:
            await self.prove(uri)
        else:
            await self._pool(pool).prove(uri)

    async def tend(self) -> None:
        """Periodic work; also reload a keys file that changed."""
        await super().tend()
        await self._reload_keys()
        await asyncio.gather(*(pool.learn_provider() for pool in self._pools.values()))

    async def _reload_keys(self) -> None:
        if self._key_file is None:
            return
        try:
            keys = await asyncio.to_thread(self._key_file.read_if_changed)
        except Exception as error:  # a bad file must not end the watching
            self._metrics.refused_keys.inc()
            logger.error("a changed keys file is refused; the old keys stay: %s", error)
            return
        if keys is not None:
            self._metrics.name_keys(keys)
            self._gate.replace_keys(keys)

    def admit_admin(self, scope: Scope) -> None:
        """Authorise an admin request. Raises HTTPError 401 or 403."""
        if self._gate.keys is None and not self._settings.admin_without_key:
            message = (
                "the admin routes need a key with the scope admin, and this server has no keys;"
                " start it with --keys FILE"
            )
            raise HTTPError(403, "no_keys", message)
        if self._gate.keys is None and (reason := foreign_sender(scope["headers"])) is not None:
            message = f"without keys the admin routes take requests of this machine only: {reason}"
            raise HTTPError(403, "foreign_sender", message)
        self._gate.authorize(scope["headers"], "admin")

    def check_ready(self) -> None:
        """Raise HTTPError 503 until models are served, and once the server is shutting down."""
        drain_file = self._settings.drain_file
        if drain_file and Path(drain_file).exists():
            raise HTTPError(503, "shutting_down", "this server is shutting down")
        if self._batcher.is_stuck:
            raise HTTPError(503, "shutting_down", f"{StuckError()}")
        if self._models is None:
            raise HTTPError(503, "not_ready", "the models are being loaded; try again")

    def close(self) -> None:
        """Fail waiting requests and accept no more."""
        super().close()
        self._gate.close()
        if self._spans is not None:
            self._spans.shutdown()

    def _count_refused_websocket(self, path: str, status: int, seconds: float) -> None:
        """Count a WebSocket that was refused as a request to the protocol of its path."""
        apis = (api for top, api in self._apis if f"{path}/".startswith(f"{top}/"))
        api = next(apis, routes.API)
        self._metrics.unknown.answered(api, status, seconds)

    async def healthz(self, scope: Scope, receive: Receive) -> Response:
        self.check_health()
        return Response(b"ok\n", b"text/plain; charset=utf-8", headers=[NO_STORE])

    async def readyz(self, scope: Scope, receive: Receive) -> Response:
        self.check_ready()
        return Response(b"ready\n", b"text/plain; charset=utf-8", headers=[NO_STORE])

    async def metrics(self, scope: Scope, receive: Receive) -> Response:
        self._gate.authorize(scope["headers"], "metrics")
        accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
        encode, kind = scrape.negotiate(accept.decode("latin-1"))
        try:
            body = await asyncio.to_thread(exporter.render, self._metrics_dir, encode)
        except TimeoutError as error:
            message = f"the metrics cannot be read, {error.strerror}; try again"
            raise HTTPError(503, "unavailable", message, [RETRY_SOON]) from error
        return Response(body, kind.encode(), headers=[NO_STORE, (b"vary", b"accept")])

    async def openapi(self, scope: Scope, receive: Receive) -> Response:
        models = self._models
        # The document is public, so it names no models where they need a key.
        hosted = [one.artifact.manifest for one in models.all] if models else []
        guarded = self._gate.keys is not None
        body = document(
            self._routes, [] if guarded else hosted, self._settings.limits, guarded=guarded
        )
        return Response(body, b"application/json", headers=[NO_STORE])
