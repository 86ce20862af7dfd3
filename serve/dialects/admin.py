"""The admin routes: which artifacts are hosted, changed while requests run.

    POST /v1/admin/deploy {"artifact": "s3://models/digits@4"}
    POST /v1/admin/remove {"model": "digits@2"}
    POST /v1/admin/pin    {"model": "digits", "version": "3"}

A request reaches one replica. It proves a candidate, references replayed, there or in a replica of
the pool that is to host it, which it wakes if there is none. Then it changes Serve's config, from
which all replicas take it, those too that start later. All are idempotent.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from aigc.artifact import ArtifactError
from serve.http import (
    JSON,
    Endpoints,
    HTTPError,
    Receive,
    Response,
    Scope,
    decode,
    json_response,
)
from serve.slow import Patience
from serve.switching import VERSIONS_KEPT, Config, Target, candidate

MAX_BODY_BYTES = 1 << 16
SCHEMES = ("", "file", "s3", "gs", "az", "abfs")
"""Where an artifact may lie: not on any web server that the network can reach."""


class DeployRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Host one more artifact; its name alone means it from then on, unless pinned."""

    artifact: Annotated[str, Meta(max_length=2048, description="Folder, STORE/NAME or @VERSION.")]
    keep: Annotated[int, Meta(ge=1, le=16, description="Versions of its name that stay.")] = (
        VERSIONS_KEPT
    )
    pool: Annotated[
        str | None,
        Meta(description="Where; if absent, the pool that hosts its name."),
    ] = None


class RemoveRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Host a model no longer."""

    model: Annotated[str, Meta(max_length=256, description="`name@version`, or `name` for all.")]


class PinRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say which version a name alone means."""

    model: Annotated[str, Meta(max_length=256, description="A name.")]
    version: Annotated[str | None, Meta(description="One that is hosted; null: the newest.")] = None


class PoolTarget(msgspec.Struct, kw_only=True):
    """What the replicas of another pool are to host."""

    artifacts: list[str]
    pinned: dict[str, str]


class Targets(msgspec.Struct, kw_only=True):
    """What all replicas are to host; each takes it up as soon as it has loaded it."""

    artifacts: list[str]
    """Of the default pool, as `pinned`."""
    pinned: dict[str, str]
    pools: dict[str, PoolTarget] = {}
    """Of the other pools."""
    model: str = ""
    """`name@version` of what was deployed."""
    digest: str = ""


class AdminApi:
    """The admin endpoints of one replica.

    `prove(pool, uri)` raises ArtifactError, `allowed` HTTPError 401 or 403.
    """

    def __init__(
        self,
        config: Config,
        prove: Callable[[str, str], Awaitable[None]],
        allowed: Callable[[Scope], Any],
        patience: Patience,
    ) -> None:
        self._patience = patience
        self._config = config
        self._prove = prove
        self._allowed = allowed
        # Two changes at once through one replica would each write what the other does not know.
        self._one_at_a_time = asyncio.Lock()

    def routes(self) -> dict[str, Endpoints]:
        """Exact paths, for `serve.http.Application`."""
        return {
            "/v1/admin/target": {"GET": self.target},
            "/v1/admin/deploy": {"POST": self.deploy},
            "/v1/admin/remove": {"POST": self.remove},
            "/v1/admin/pin": {"POST": self.pin},
        }

    async def target(self, scope: Scope, receive: Receive) -> Response:
        self._allowed(scope)
        return _answer(await self._config.read())

    async def deploy(self, scope: Scope, receive: Receive) -> Response:
        request = await self._request(scope, receive, DeployRequest)
        scheme = request.artifact.partition("://")[0] if "://" in request.artifact else ""
        if scheme not in SCHEMES:
            message = f"artifact must be a folder, s3://, gs:// or az://, got {scheme}://"
            raise HTTPError(400, "artifact_scheme", message)
        async with self._one_at_a_time:
            try:
                uri, manifest = await asyncio.to_thread(candidate, request.artifact)
                before = await self._config.read()
                pool = request.pool or await asyncio.to_thread(before.pool_for, manifest)
                # Before it is proven, since that wakes a pool and may take long.
                await asyncio.to_thread(before.with_artifact, uri, request.keep, pool)
                await self._prove(pool, uri)
                before = await self._config.read()
                after = await asyncio.to_thread(before.with_artifact, uri, request.keep, pool)
            except (ArtifactError, OSError, ValueError) as error:
                message = f"{request.artifact} is refused, what is served stays: {error}"
                raise HTTPError(409, "artifact_refused", message) from None
            await self._change(before, after)
            return _answer(after, manifest.id, manifest.digest)

    async def remove(self, scope: Scope, receive: Receive) -> Response:
        request = await self._request(scope, receive, RemoveRequest)

        def change(before: Target) -> Target:
            try:
                return before.without(request.model)
            except KeyError:
                return before  # gone already: asked twice, done once

        return await self._edit(change)

    async def pin(self, scope: Scope, receive: Receive) -> Response:
        request = await self._request(scope, receive, PinRequest)
        return await self._edit(lambda before: before.pin(request.model, request.version))

    async def _edit(self, change: Callable[[Target], Target]) -> Response:
        async with self._one_at_a_time:
            before = await self._config.read()
            try:
                after = await asyncio.to_thread(change, before)
            except (ArtifactError, ValueError) as error:
                raise HTTPError(409, "target_refused", f"{error}") from None
            await self._change(before, after)
            return _answer(after)

    async def _change(self, before: Target, after: Target) -> None:
        if after != before:
            await self._config.write(after)

    async def _request(self, scope: Scope, receive: Receive, kind: type[Any]) -> Any:
        self._allowed(scope)
        # A page of another site can make a browser on this machine post a form here, but not this.
        given = dict(scope["headers"]).get(b"content-type", b"")
        if given.partition(b";")[0].strip().lower() != JSON:
            message = "admin routes take application/json only; say so in Content-Type"
            raise HTTPError(415, "content_type", message)
        body = await self._patience.read(scope, receive, MAX_BODY_BYTES)
        return decode(msgspec.json.Decoder(kind), body, scope["path"])


def _answer(target: Target, model: str = "", digest: str = "") -> Response:
    body = Targets(**target.document(), model=model, digest=digest)
    return json_response(msgspec.to_builtins(body))
