"""The admin routes: which artifacts are hosted, changed while requests run.

    POST /v1/admin/deploy {"artifact": "s3://models/digits@4"}
    POST /v1/admin/remove {"model": "digits@2"}
    POST /v1/admin/pin    {"model": "digits", "version": "3"}

The replica that receives a request proves a candidate by replaying its references, itself or in a
replica of the pool that will host it, which is started if there is none. Then it changes Serve's
config, which all replicas follow, later ones included. All operations are idempotent. Concurrent
changes are serialised over all replicas: each starts from the result of the one before.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from aigc.artifact import ArtifactError, Manifest
from aigc.artifact.store import check_location
from serve.errors import HTTPError
from serve.hosting.desired_models import (
    VERSIONS_KEPT,
    DesiredModels,
    DesiredModelsStore,
    check_absolute,
    read_candidate,
)
from serve.http import JSON, RETRY_SOON, Receive, Response, Route, Scope, json_response
from serve.operation import ExampleModel, Operation
from serve.request_body import BodyReader, check_encoding, decode

MAX_BODY_BYTES = 1 << 16

CHANGE_TIMEOUT_S = 100.0
"""Time limit of a change for its turn in this replica, and again for Serve's config."""

READ_TIMEOUT_S = 10.0
"""Time limit of reading Serve's config before a change."""

RETRY_PAUSE_S = 0.2
"""Pause before a change is retried after the config was unreachable."""

logger = logging.getLogger(__name__)


class DeployRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Host one more artifact; its name alone refers to it from then on, unless pinned."""

    artifact: Annotated[str, Meta(max_length=2048, description="Folder, STORE/NAME or @VERSION.")]
    keep: Annotated[
        int, Meta(ge=1, le=16, description="Number of versions of its name to keep.")
    ] = VERSIONS_KEPT
    pool: Annotated[
        str | None,
        Meta(description="Pool to host it; by default the one that hosts its name."),
    ] = None
    digest: Annotated[
        str | None,
        Meta(description="Expected digest of the manifest; another one is refused."),
    ] = None


class RemoveRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Stop hosting a model."""

    model: Annotated[
        str, Meta(max_length=256, description="`name@version`, or `name` for all versions.")
    ]


class PinRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pin the version that a name alone refers to."""

    model: Annotated[str, Meta(max_length=256, description="A name.")]
    version: Annotated[str | None, Meta(description="A hosted version; null for the newest.")] = (
        None
    )


class PoolTarget(msgspec.Struct, kw_only=True):
    """Desired models of another pool."""

    artifacts: list[str]
    pinned: dict[str, str]


class Targets(msgspec.Struct, kw_only=True):
    """Desired models of all replicas; each serves them once it has loaded them."""

    artifacts: list[str]
    """Artifacts of the default pool; `pinned` is that pool's, too."""
    pinned: dict[str, str]
    pools: dict[str, PoolTarget] = {}
    """Desired models of the other pools."""
    model: str = ""
    """`name@version` of the deployed artifact."""
    digest: str = ""


def _change(
    request: type[msgspec.Struct],
    summary: str,
    example: Callable[[ExampleModel], Mapping[str, Any]],
) -> Operation:
    return Operation(
        id=request.__name__,
        summary=summary,
        tag="admin",
        request={"application/json": request},
        example=example,
        response={"application/json": Targets},
        description="The desired models.",
        errors=(400, 404, 408, 409, 413, 415, 500, 503),
    )


class AdminApi:
    """The admin endpoints of one replica.

    `prove(pool, uri)` raises ArtifactError, `allowed` HTTPError 401 or 403.
    """

    def __init__(
        self,
        config: DesiredModelsStore,
        prove: Callable[[str, str], Awaitable[None]],
        allowed: Callable[[Scope], Any],
        body_reader: BodyReader,
    ) -> None:
        self._body_reader = body_reader
        self._config = config
        self._prove = prove
        self._allowed = allowed
        # Proving costs memory and processor time: one candidate after the other.
        self._lock = asyncio.Lock()

    def routes(self) -> tuple[Route, ...]:
        """Routes for `serve.http.Application`."""
        target = Operation(
            id="getTarget",
            summary="Get the desired models",
            tag="admin",
            response={"application/json": Targets},
            errors=(500,),
        )
        return (
            Route("GET", "/v1/admin/target", self.target, target),
            Route(
                "POST",
                "/v1/admin/deploy",
                self.deploy,
                _change(
                    DeployRequest,
                    "Host one more artifact",
                    lambda model: {"artifact": f"artifacts/{model.id}"},
                ),
            ),
            Route(
                "POST",
                "/v1/admin/remove",
                self.remove,
                _change(RemoveRequest, "Stop hosting a model", lambda model: {"model": model.id}),
            ),
            Route(
                "POST",
                "/v1/admin/pin",
                self.pin,
                _change(
                    PinRequest,
                    "Pin the version of a name",
                    lambda model: {"model": model.name, "version": model.version},
                ),
            ),
        )

    async def target(self, scope: Scope, receive: Receive) -> Response:
        self._allowed(scope)
        return _response(await self._read())

    async def deploy(self, scope: Scope, receive: Receive) -> Response:
        request = await self._request(scope, receive, DeployRequest)
        try:
            check_location(request.artifact)
        except ArtifactError as error:
            raise HTTPError(400, "artifact_scheme", f"{error}") from None
        try:
            check_absolute(request.artifact)
        except ValueError as error:
            raise HTTPError(400, "artifact_relative", f"{error}", param="artifact") from None
        async with self._one_at_a_time():
            try:
                uri, manifest = await asyncio.to_thread(read_candidate, request.artifact)
                _check_digest(request, manifest)
                before = await self._read()
                pool = request.pool or await asyncio.to_thread(before.pool_for, manifest)
                # Before it is proven, since that wakes a pool and may take long.
                await asyncio.to_thread(before.with_artifact, uri, request.keep, pool)
                await self._prove(pool, uri)
            except (ArtifactError, OSError, ValueError) as error:
                raise _refused(request, error) from None
            try:
                after = await self._change(lambda now: now.with_artifact(uri, request.keep, pool))
            except (ArtifactError, OSError, ValueError) as error:
                raise _refused(request, error) from None
            return _response(after, manifest.id, manifest.digest)

    async def remove(self, scope: Scope, receive: Receive) -> Response:
        request = await self._request(scope, receive, RemoveRequest)

        def change(before: DesiredModels) -> DesiredModels:
            try:
                return before.without(request.model)
            except KeyError:
                return before  # already removed: the operation is idempotent

        return await self._edit(change)

    async def pin(self, scope: Scope, receive: Receive) -> Response:
        request = await self._request(scope, receive, PinRequest)
        return await self._edit(lambda before: before.pin(request.model, request.version))

    async def _read(self) -> DesiredModels:
        """The desired models now. Raises HTTPError 503 if Serve's controller does not answer."""
        try:
            async with asyncio.timeout(READ_TIMEOUT_S):
                return (await self._config.read())[0]
        except Exception as error:
            if isinstance(error, ValueError):
                raise
            raise _unavailable("read", error) from None

    async def _edit(self, edit: Callable[[DesiredModels], DesiredModels]) -> Response:
        async with self._one_at_a_time():
            try:
                return _response(await self._change(edit))
            except (ArtifactError, ValueError) as error:
                raise HTTPError(409, "target_refused", f"{error}") from None

    async def _change(self, edit: Callable[[DesiredModels], DesiredModels]) -> DesiredModels:
        """Apply `edit` to the desired models; after a concurrent change, apply it again.

        A failed write may have succeeded: the next read shows it, and the edit changes nothing.
        Raises the exceptions of `edit`, and HTTPError 503 after CHANGE_TIMEOUT_S.
        """
        until_s = time.monotonic() + CHANGE_TIMEOUT_S
        while True:
            try:
                async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                    before, version = await self._config.read()
            except Exception as error:
                if isinstance(error, ValueError):
                    raise
                await _pause(until_s, error)
                continue
            after = await asyncio.to_thread(edit, before)
            if after == before:
                return after
            try:
                async with asyncio.timeout(max(0.0, until_s - time.monotonic())):
                    if await self._config.swap(version, after):
                        return after
            except Exception as error:
                await _pause(until_s, error)

    @asynccontextmanager
    async def _one_at_a_time(self) -> AsyncIterator[None]:
        """Wait for this replica's turn. Raises HTTPError 503 after CHANGE_TIMEOUT_S."""
        try:
            async with asyncio.timeout(CHANGE_TIMEOUT_S):
                await self._lock.acquire()
        except TimeoutError:
            message = (
                f"other changes have kept this replica busy for {CHANGE_TIMEOUT_S:g} s; try again"
            )
            raise HTTPError(503, "admin_busy", message, [RETRY_SOON]) from None
        try:
            yield
        finally:
            self._lock.release()

    async def _request(self, scope: Scope, receive: Receive, kind: type[Any]) -> Any:
        self._allowed(scope)
        # A page of another site can make a browser on this machine post a form, but not JSON.
        content_type = dict(scope["headers"]).get(b"content-type", b"")
        if content_type.partition(b";")[0].strip().lower() != JSON:
            message = "admin routes take application/json only; set Content-Type"
            raise HTTPError(415, "content_type", message)
        check_encoding(scope["headers"])
        body = await self._body_reader.read(scope, receive, MAX_BODY_BYTES)
        return decode(msgspec.json.Decoder(kind), body, scope["path"])


async def _pause(until_s: float, error: Exception) -> None:
    """Pause before the next attempt. Raises HTTPError 503 if no time is left for one."""
    if time.monotonic() + RETRY_PAUSE_S < until_s:
        await asyncio.sleep(RETRY_PAUSE_S)
        return
    raise _unavailable("changed", error) from None


def _unavailable(done: str, error: Exception) -> HTTPError:
    logger.error("Serve's config cannot be %s: %s: %s", done, type(error).__name__, error)
    message = "Serve's config cannot be reached, so the change may not be made; try again"
    if done == "read":
        message = "Serve's config cannot be read, and nothing is changed; try again"
    return HTTPError(503, "config_unavailable", message, [RETRY_SOON])


def _refused(request: DeployRequest, error: Exception) -> HTTPError:
    message = f"{request.artifact} is refused, what is served stays: {error}"
    return HTTPError(409, "artifact_refused", message)


def _check_digest(request: DeployRequest, manifest: Manifest) -> None:
    """Raise HTTPError 409 unless the digest is the expected one."""
    if request.digest is not None and request.digest != manifest.digest:
        message = (
            f"{request.artifact} is another artifact here: its digest is {manifest.digest}, and"
            f" {request.digest} was meant; what is served stays"
        )
        raise HTTPError(409, "artifact_differs", message, param="digest")


def _response(target: DesiredModels, model: str = "", digest: str = "") -> Response:
    body = Targets(**target.document(), model=model, digest=digest)
    return json_response(msgspec.to_builtins(body))
