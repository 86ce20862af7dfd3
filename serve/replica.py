"""One replica: HTTP ingress, validation, batcher, onnxruntime and encoder in one process.

No Ray in it: `serve.app` makes it in a Serve deployment, a test may make it in its own process.
"""

import asyncio
import gc
import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from starlette.middleware.cors import CORSMiddleware

from aigc import exporter
from serve.access.allowance import Take
from serve.access.gate import open_gate
from serve.access.keys import load
from serve.batching import Batcher
from serve.dialects.admin import AdminApi
from serve.dialects.grpc import GrpcApi
from serve.dialects.interpolate import InterpolationApi
from serve.dialects.native import NativeApi
from serve.dialects.oip import OipApi, error_response
from serve.dialects.openai import OpenAIApi
from serve.dialects.openapi import document
from serve.dialects.verify import VerificationApi
from serve.hosting import Hosted, Models, open_one
from serve.http import ASGI, NO_STORE, Application, HTTPError, Receive, Response, Scope
from serve.load import Load
from serve.metrics import Metrics
from serve.playground import docs_routes, page_routes
from serve.sampling import Sampler
from serve.settings import Settings
from serve.switching import Config, Target, parse_target

STUCK_S = 120.0
"""A batch that runs longer makes the replica unhealthy: Serve then replaces it."""

INLINE_S = 0.001
"""A batch that takes less may keep the event loop, and with it health checks, waiting."""

CORS_ASKED = ("authorization", "content-type", "x-api-key", "idempotency-key", "x-request-timeout")
CORS_TOLD = (
    *("x-aigc-seed", "x-aigc-first-index", "x-aigc-to-seed", "x-aigc-model", "x-aigc-digest"),
    *("x-aigc-reproducibility", "retry-after", "x-request-id"),
    *("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset"),
)
"""Headers that pages of other origins may send, and read."""

logger = logging.getLogger(__name__)


class Replica:
    """Everything in one serving process.

    `name` is what answers are signed with; with `config`, where the target comes from, it can be
    changed by admin routes.
    """

    def __init__(
        self,
        settings: Settings,
        name: str,
        config: Config | None = None,
        take_budget: Take | None = None,
    ) -> None:
        self._settings = settings
        self._models: Models | None = None
        self._proven: list[Hosted] = []
        metrics_dir = settings.metrics_dir or os.environ.get(exporter.ENVIRONMENT)
        if not metrics_dir:
            raise ValueError(f"name metrics_dir, or set {exporter.ENVIRONMENT} for Ray's workers")
        self._metrics_dir = Path(metrics_dir)
        self._alive = exporter.announce(self._metrics_dir)
        self._metrics = Metrics()
        self._batcher = Batcher(
            max_queue=settings.limits.max_queue,
            max_wait_s=settings.limits.max_wait_s,
            linger_s=settings.linger_ms / 1000,
            inline_s=INLINE_S,
            observe_queue=self._metrics.queued.set,
        )
        self._load = Load(self._batcher)
        self._loading: asyncio.Task[None] | None = None
        self._gate = open_gate(
            load(settings.keys, os.environ), name, settings.replicas[1], take_budget
        )
        sampler = Sampler(
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
        admin = AdminApi(config, self._prove, self.admit_admin).routes() if config else {}
        self.application: ASGI = Application(
            {
                **exact,
                **InterpolationApi(sampler).routes(),
                **VerificationApi(sampler).routes(),
                **OpenAIApi(sampler).routes(),
                **oip_exact,
                **admin,
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

    async def configure(self, user_config: Mapping[str, Any]) -> None:
        """Host the artifacts of a target (serve.switching) and no others.

        The first call returns when their references were replayed, and raises ArtifactError if
        they are not reproduced. Later ones return at once and load in the background: what is
        served stays until its successor is proven, and stays for good if that fails.
        """
        if self._models is None:
            target = parse_target(user_config)
            models, _ = await asyncio.gather(
                asyncio.to_thread(self._open, target), self._gate.open()
            )
            self._switch(models)
            return
        if self._loading is not None:
            self._loading.cancel()
        self._loading = asyncio.create_task(self._load_later(user_config))

    async def _load_later(self, user_config: Mapping[str, Any]) -> None:
        try:
            target = parse_target(user_config)
            self._switch(await asyncio.to_thread(self._open, target))
        except Exception:
            self._metrics.refused_loads.inc()
            logger.exception("new artifacts were refused; the old ones stay")

    def _open(self, target: Target) -> Models:
        known = [*self._models.all, *self._proven] if self._models else []
        return Models.open(
            target.artifacts,
            threads=self._settings.threads,
            max_batch=self._settings.limits.max_batch,
            metrics=self._metrics,
            pinned=target.pinned,
            known=known,
        )

    async def _prove(self, uri: str) -> Hosted:
        """Open a candidate and replay its references; it is kept until it is taken up."""
        hosted = await asyncio.to_thread(
            open_one,
            uri,
            threads=self._settings.threads,
            max_batch=self._settings.limits.max_batch,
            metrics=self._metrics,
        )
        self._proven = [hosted]
        return hosted

    def _switch(self, models: Models) -> None:
        """From here on new requests get `models`; those in progress end on what they began with."""
        self._models = models
        self._proven = []
        # What went is freed at once: Serve freezes the collector, and graphs are large.
        gc.collect()
        self._metrics.hosted(one.artifact.manifest for one in models.all)
        self._metrics.ready.set(1)

    def admit_admin(self, scope: Scope) -> None:
        """Let in who may say what is hosted. Raises HTTPError 401 or 403."""
        if self._gate.keys is None and not self._settings.admin_without_key:
            message = (
                "the admin routes need a key with the scope admin, and this server has no keys;"
                " start it with --keys FILE"
            )
            raise HTTPError(403, "no_keys", message)
        self._gate.admit(scope["headers"], "admin")

    def check_health(self) -> None:
        """Raise RuntimeError when the inference thread no longer comes back."""
        since = self._batcher.running_since_s
        if since is not None and time.monotonic() - since > STUCK_S:
            raise RuntimeError(f"a batch has been running for more than {STUCK_S:.0f} s")

    def autoscaling_stats(self) -> dict[str, float]:
        """This replica's work, for serve.autoscaling. On the event loop, by one caller only."""
        return self._load.report()

    def check_ready(self) -> None:
        """Raise HTTPError 503 before models are served, and once the server is shutting down."""
        drain_file = self._settings.drain_file
        if drain_file and Path(drain_file).exists():
            raise HTTPError(503, "shutting_down", "this server is shutting down")
        if self._models is None:
            raise HTTPError(503, "not_ready", "the models are being loaded; try again")

    def close(self) -> None:
        """Fail what waits, take no more."""
        self._batcher.close()
        self._gate.close()
        self._metrics.ready.set(0)
        self._alive.close()

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
