"""One replica: HTTP ingress, validation, batcher, onnxruntime and encoder in one process.

No Ray in it: `serve.app` makes it in a Serve deployment, a test may make it in its own process.
"""

import asyncio
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from starlette.middleware.cors import CORSMiddleware

from aigc import exporter
from aigc.artifact import ArtifactError
from serve.access.allowance import Take
from serve.access.gate import open_gate
from serve.access.keys import KeyFile, load
from serve.dialects.admin import AdminApi
from serve.dialects.completions import CompletionsApi
from serve.dialects.grpc import GrpcApi
from serve.dialects.interpolate import InterpolationApi
from serve.dialects.native import NativeApi
from serve.dialects.oip import OipApi, error_response
from serve.dialects.openai import OpenAIApi
from serve.dialects.openapi import document
from serve.dialects.speech import SpeechApi
from serve.dialects.verify import VerificationApi
from serve.hosting import Hosted, Models
from serve.http import ASGI, NO_STORE, Application, HTTPError, Receive, Response, Scope
from serve.playground import docs_routes, page_routes
from serve.remote import Connection, RemotePool
from serve.sampling import Sampler
from serve.settings import DEFAULT, Settings
from serve.slow import Patience
from serve.switching import Config, Target
from serve.worker import Worker

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

logger = logging.getLogger(__name__)

CORS_ASKED = ("authorization", "content-type", "x-api-key", "idempotency-key", "x-request-timeout")
CORS_TOLD = (
    *("x-aigc-seed", "x-aigc-first-index", "x-aigc-to-seed", "x-aigc-model", "x-aigc-digest"),
    *("x-aigc-reproducibility", "retry-after", "x-request-id"),
    *("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
)
"""Headers that pages of other origins may send, and read."""


class Replica(Worker):
    """A worker that takes requests, for its own models and those of other pools.

    `name` is what answers are signed with; with `config`, where the target comes from, it can be
    changed by admin routes; `connections` are the ways to the other pools of the settings.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        config: Config | None = None,
        take_budget: Take | None = None,
        connections: Mapping[str, Connection] | None = None,
    ) -> None:
        super().__init__(settings, name)
        self._spans: TracerProvider | None = None
        # Before they are read, so that no change is missed.
        self._key_file = KeyFile(settings.keys) if settings.keys else None
        keys = load(settings.keys, os.environ)
        self._gate = open_gate(keys, name, settings.replicas[1], take_budget)
        self._metrics.name_keys(keys)
        self._metrics.max_replicas.set(settings.most_replicas)
        self._pools = {
            pool: RemotePool(
                pool,
                connection,
                limits=settings.pools[pool].limits,
                max_outstanding=settings.pools[pool].max_outstanding,
            )
            for pool, connection in (connections or {}).items()
        }
        sampler = self._sampler(
            models=lambda: self._models,
            batcher=self._batcher,
            metrics=self._metrics,
            limits=settings.limits,
            replica=name,
            gate=self._gate,
        )
        exact, prefixes = NativeApi(sampler).routes()
        oip = OipApi(sampler, check_health=self.check_health, check_ready=self.check_ready)
        oip_exact, oip_prefixes = oip.routes()
        self.grpc = GrpcApi(
            sampler,
            check_health=self.check_health,
            check_ready=self.check_ready,
            local_only=settings.local_only,
        )
        self._admin = config is not None
        patience = Patience(settings.limits.max_body_seconds)
        admin = AdminApi(config, self.prove_in, self.admit_admin, patience) if config else None
        self.application: ASGI = Application(
            {
                **exact,
                **InterpolationApi(sampler).routes(),
                **VerificationApi(sampler).routes(),
                **OpenAIApi(sampler).routes(),
                **SpeechApi(sampler).routes(),
                **CompletionsApi(sampler).routes(),
                **oip_exact,
                **(admin.routes() if admin else {}),
                **page_routes(),
                "/healthz": {"GET": self.healthz},
                "/readyz": {"GET": self.readyz},
                "/metrics": {"GET": self.metrics},
                "/openapi.json": {"GET": self.openapi},
            },
            {**prefixes, **oip_prefixes, **docs_routes()},
            {"/v2": error_response},
        )
        if settings.cors:
            self.application = CORSMiddleware(
                self.application,
                allow_origins=settings.cors,
                allow_methods=("GET", "POST"),
                allow_headers=CORS_ASKED,
                expose_headers=CORS_TOLD,
            )

    def _sampler(self, **parts: Any) -> Sampler:
        """Chosen here, so that a request costs nothing for spans that nobody wants."""
        if not self._settings.tracing:
            return Sampler(**parts)
        from serve.tracing import TracedSampler, open_provider

        self._spans = open_provider()
        return TracedSampler(self._spans, **parts)

    async def _begin(self, target: Target) -> None:
        try:
            await asyncio.gather(super()._begin(target), self._gate.open())
        except ArtifactError:
            self._metrics.refused_loads.inc()  # it outlives this process, which ends now
            raise

    async def _prepare(self, target: Target) -> None:
        """What is new in another pool is proven there before its name means it here."""
        for pool, uri, manifest in await asyncio.to_thread(target.hosted):
            if pool != DEFAULT and self._find(manifest.digest, pool) is None:
                await self._pool(pool).prove(uri)

    def _open(self, target: Target) -> Models:
        known = [*self._models.all, *self._proven] if self._models else []
        own = Models.open(target.artifacts, self._loader, known=known)
        others = [
            self._find(manifest.digest, pool) or self._pool(pool).hosted(manifest, self._metrics)
            for pool, _, manifest in target.hosted()
            if pool != DEFAULT
        ]
        return Models([*own.all, *others], target.names_mean)

    def _pool(self, name: str) -> RemotePool:
        """Raises ArtifactError if there is none."""
        if name not in self._pools:
            known = ", ".join((DEFAULT, *self._pools))
            raise ArtifactError(f"there is no pool {name!r}; there are: {known}")
        return self._pools[name]

    def _let_go(self, gone: list[Hosted]) -> None:
        """At once: nobody sends work here but those who ask this replica itself."""
        self._free()

    async def prove_in(self, pool: str, uri: str) -> None:
        """Let this replica, or one of another pool, try a candidate. Raises ArtifactError."""
        if pool == DEFAULT:
            await self.prove(uri)
        else:
            await self._pool(pool).prove(uri)

    async def tend(self) -> None:
        """What is due every few seconds, and: take up a keys file that changed."""
        await super().tend()
        if self._key_file is None:
            return
        try:
            keys = await asyncio.to_thread(self._key_file.changed)
        except Exception as error:  # whatever is in that file, the next one is looked at
            self._metrics.refused_keys.inc()
            logger.error("a changed keys file is refused; the old keys stay: %s", error)
            return
        if keys is not None:
            self._metrics.name_keys(keys)
            self._gate.renew(keys)

    def admit_admin(self, scope: Scope) -> None:
        """Let in who may say what is hosted. Raises HTTPError 401 or 403."""
        if self._gate.keys is None and not self._settings.admin_without_key:
            message = (
                "the admin routes need a key with the scope admin, and this server has no keys;"
                " start it with --keys FILE"
            )
            raise HTTPError(403, "no_keys", message)
        self._gate.admit(scope["headers"], "admin")

    def check_ready(self) -> None:
        """Raise HTTPError 503 before models are served, and once the server is shutting down."""
        drain_file = self._settings.drain_file
        if drain_file and Path(drain_file).exists():
            raise HTTPError(503, "shutting_down", "this server is shutting down")
        if self._models is None:
            raise HTTPError(503, "not_ready", "the models are being loaded; try again")

    def close(self) -> None:
        """Fail what waits, take no more."""
        super().close()
        self._gate.close()
        if self._spans is not None:
            self._spans.shutdown()

    async def healthz(self, scope: Scope, receive: Receive) -> Response:
        self.check_health()
        return Response(b"ok\n", b"text/plain; charset=utf-8", headers=[NO_STORE])

    async def readyz(self, scope: Scope, receive: Receive) -> Response:
        self.check_ready()
        return Response(b"ready\n", b"text/plain; charset=utf-8", headers=[NO_STORE])

    async def metrics(self, scope: Scope, receive: Receive) -> Response:
        self._gate.admit(scope["headers"], "metrics")
        body = await asyncio.to_thread(exporter.render, self._metrics_dir)
        return Response(body, exporter.CONTENT_TYPE.encode(), headers=[NO_STORE])

    async def openapi(self, scope: Scope, receive: Receive) -> Response:
        models = self._models
        # The document is for everybody, so it names no model where models are for those with keys.
        hosted = [one.artifact.manifest for one in models.all] if models else []
        guarded = self._gate.keys is not None
        body = document(
            [] if guarded else hosted, self._settings.limits, guarded=guarded, admin=self._admin
        )
        return Response(body, b"application/json", headers=[NO_STORE])
