"""A minimal ASGI layer: routes with path parameters, responses, streams, disconnects.

FastAPI costs more per request than sampling a small model does. Starlette has no byte counts of
streams, no last words on their failure, no error form per prefix, and watches every request for a
disconnect from its beginning.
"""

import asyncio
import logging
import re
import time
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
)
from dataclasses import dataclass, field
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import orjson

from serve.errors import HTTPError, internal_error
from serve.operation import Operation

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
ASGI = Callable[[Scope, Receive, Send], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

JSON = b"application/json"
NOSNIFF = (b"x-content-type-options", b"nosniff")
NO_STORE = (b"cache-control", b"no-store")
CLOSE = (b"connection", b"close")
RETRY_SOON = (b"retry-after", b"1")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Response:
    """A response; `headers` are those besides Content-Type and Content-Length."""

    body: bytes
    media_type: bytes
    status: int = 200
    headers: Headers = field(default_factory=list)

    async def send(self, send: Send, receive: Receive, *, with_body: bool = True) -> None:
        headers = [
            (b"content-type", self.media_type),
            (b"content-length", b"%d" % len(self.body)),
            NOSNIFF,
            *self.headers,
        ]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        body = self.body if with_body else b""
        await send({"type": "http.response.body", "body": body})


@dataclass(frozen=True, kw_only=True)
class Stream(Response):
    """A response that is sent while it is generated; `body` is its beginning.

    When the client disconnects, `chunks` is closed. The status is already sent when an error occurs
    in it, so `failure` renders the error as the end of the body.
    """

    chunks: AsyncGenerator[bytes, None]
    """The rest of the body. May raise HTTPError."""
    failure: Callable[[HTTPError], bytes] | None = lambda error: error.body() + b"\n"
    """Renders an error at the end of the body. None aborts the connection instead, for audio, which
    has no place for a message and must not be taken for complete."""
    ended: Callable[[int, int], None] = lambda code, num_bytes: None
    """Called once at the end with the status, that of the error or 499, and the bytes sent."""
    request_id: str = ""
    """Request ID for the log."""

    async def send(self, send: Send, receive: Receive, *, with_body: bool = True) -> None:
        code = CLIENT_CLOSED_REQUEST
        num_bytes = 0

        async def count_and_send(message: Message) -> None:
            nonlocal num_bytes
            await send(message)
            num_bytes += len(message.get("body", b""))

        watch = DisconnectWatch(receive, 0)
        try:
            code = await self._send_all(count_and_send)
        except asyncio.CancelledError:
            if not watch.has_cancelled():
                raise
        finally:
            watch.stop()
            try:
                await self.chunks.aclose()
            finally:
                self.ended(code, num_bytes)

    async def _send_all(self, send: Send) -> int:
        headers = [(b"content-type", self.media_type), NOSNIFF, *self.headers]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": True})
        code, failed = self.status, None
        try:
            async for chunk in self.chunks:
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        except HTTPError as error:
            code, failed = error.status, error
        except Exception:
            logger.exception("a stream failed", extra={"request_id": self.request_id})
            code, failed = 500, internal_error()
        if failed is None or self.failure is not None:
            last = b"" if failed is None or self.failure is None else self.failure(failed)
            await send({"type": "http.response.body", "body": last})
        return code


CLIENT_CLOSED_REQUEST = 499
"""Status in the metrics of a request whose client disconnected (nginx's code)."""


class DisconnectWatch:
    """Cancels the current task when the client disconnects, watching from `after_s` seconds on.

    watch = DisconnectWatch(receive, 0.05)
    try:
        ...
    except asyncio.CancelledError:
        if not watch.has_cancelled():
            raise
    finally:
        watch.stop()
    """

    def __init__(self, receive: Receive, after_s: float) -> None:
        self._receive = receive
        self._watched = asyncio.current_task()
        self._disconnected = False
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(after_s, self._start)

    def has_cancelled(self) -> bool:
        """True if a cancellation came from this watch and from nothing else."""
        return self._disconnected and self._watched is not None and self._watched.uncancel() == 0

    def stop(self) -> None:
        """Stop watching."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        await _until_disconnect(self._receive)
        self._disconnected = True
        if self._watched is not None:
            self._watched.cancel()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        # A receive() that never suspends would keep the event loop from running anything else.
        await asyncio.sleep(0)


def error_response(error: HTTPError) -> Response:
    """An error as ErrorBody."""
    return Response(error.body(), JSON, status=error.status, headers=[*error.headers, NO_STORE])


def json_response(value: Any, headers: Headers | None = None) -> Response:
    """A JSON response; the value may contain numpy arrays."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, JSON, headers=[*(headers or []), NO_STORE])


Endpoint = Callable[[Scope, Receive], Awaitable[Response]]
Endpoints = Mapping[str, Endpoint]
"""Method -> endpoint."""
ErrorShape = Callable[[HTTPError], Response]
"""Renders an error in a protocol's own form."""


@dataclass(frozen=True)
class Route:
    """One method of one path, and its entry in the OpenAPI document.

    `{name}` in the path is a parameter of one segment, `{name:path}` of all that follows, slashes
    included; the endpoint finds them in scope["path_params"].
    """

    method: str
    path: str
    endpoint: Endpoint
    operation: Operation | None = None
    """None leaves it out of the document."""

    @property
    def documented_path(self) -> str:
        """The path as OpenAPI writes it."""
        return self.path.replace(":path}", "}")

    @property
    def pattern(self) -> re.Pattern[str] | None:
        """Matches the paths of the route; None for a path without parameters."""
        if "{" not in self.path:
            return None
        parts = re.split(r"\{(\w+)(:path)?\}", self.path)
        pattern = re.escape(parts[0])
        for name, rest, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            pattern += f"(?P<{name}>{'.*' if rest else '[^/]+'}){re.escape(literal)}"
        return re.compile(pattern, re.DOTALL)


class Application:
    """An ASGI application of routes.

    `errors` maps a path to the form of the errors on it and below it. `on_refused_websocket` is
    called for each WebSocket request with its path, the status of the answer and the seconds taken.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        errors: Mapping[str, ErrorShape] | None = None,
        on_refused_websocket: Callable[[str, int, float], None] = lambda path, status, seconds: (
            None
        ),
    ) -> None:
        self._exact: dict[str, dict[str, Endpoint]] = {}
        self._patterns: dict[re.Pattern[str], dict[str, Endpoint]] = {}
        for route in routes:
            pattern = route.pattern
            if pattern is None:
                self._exact.setdefault(route.path, {})[route.method] = route.endpoint
            else:
                self._patterns.setdefault(pattern, {})[route.method] = route.endpoint
        self._errors = dict(errors or {})
        self._on_refused_websocket = on_refused_websocket
        self._match = lru_cache(maxsize=256)(self._search)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            await self._refuse(scope, send)
            return
        method = scope["method"]
        try:
            response = await self._find(method, scope)(scope, receive)
        except HTTPError as error:
            response = self._shape(scope["path"])(error)
        except Exception:
            logger.exception(
                "%s %s failed",
                method,
                scope["path"],
                extra={"request_id": request_id(scope["headers"])},
            )
            response = self._shape(scope["path"])(internal_error())
        await response.send(send, receive, with_body=method != "HEAD")

    def methods(self, path: str) -> tuple[str, ...]:
        """Methods of a path, OPTIONS included; empty for an unknown path."""
        endpoints = self._exact.get(path) or self._match(path)[0]
        if endpoints is None:
            return ()
        return (*endpoints, *(("HEAD",) if "GET" in endpoints else ()), "OPTIONS")

    def _shape(self, path: str) -> ErrorShape:
        shapes = (shape for top, shape in self._errors.items() if f"{path}/".startswith(f"{top}/"))
        return next(shapes, error_response)

    def _search(self, path: str) -> tuple[Endpoints | None, Mapping[str, str]]:
        """The endpoints of a path with parameters, and their values."""
        for pattern, endpoints in self._patterns.items():
            found = pattern.fullmatch(path)
            if found is not None:
                return endpoints, MappingProxyType(found.groupdict())
        return None, {}

    def _find(self, method: str, scope: Scope) -> Endpoint:
        path = scope["path"]
        endpoints: Endpoints | None = self._exact.get(path)
        if endpoints is None:
            endpoints, scope["path_params"] = self._match(path)
        if endpoints is None:
            raise HTTPError(404, "unknown_route", f"no route {path!r}; /docs lists those there are")
        endpoint = endpoints.get("GET" if method == "HEAD" else method)
        if endpoint is not None:
            return endpoint
        allowed = ", ".join(self.methods(path))
        allow = (b"allow", allowed.encode())
        if method == "OPTIONS":
            return _options(allow)
        message = f"{path} takes {allowed}, not {method}"
        raise HTTPError(405, "method_not_allowed", message, [allow])

    async def _refuse(self, scope: Scope, send: Send) -> None:
        """Refuse a WebSocket with an HTTP response where the server can send one, else close it."""
        begun = time.perf_counter()
        path = scope["path"]
        message = f"there is no WebSocket at {path!r}: send an HTTP request; /docs lists the routes"
        error = HTTPError(404, "unknown_route", message)
        try:
            if "websocket.http.response" in scope.get("extensions", {}):
                await self._shape(path)(error).send(_denial(send), _nothing)
            else:
                await send({"type": "websocket.close", "code": 1008})
        finally:
            self._on_refused_websocket(path, error.status, time.perf_counter() - begun)


def _denial(send: Send) -> Send:
    """Sends an HTTP response in place of a WebSocket."""

    async def as_websocket(message: Message) -> None:
        await send({**message, "type": f"websocket.{message['type']}"})

    return as_websocket


async def _nothing() -> Message:
    return {"type": "http.disconnect"}


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """X-Request-ID of the client or the proxy; empty if absent."""
    for name, value in headers:
        if name == b"x-request-id":
            return str(value[:200], "latin-1")
    return ""


def _options(allow: tuple[bytes, bytes]) -> Endpoint:
    async def options(scope: Scope, receive: Receive) -> Response:
        return Response(b"", b"text/plain", headers=[allow])

    return options


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            await send({"type": "lifespan.startup.complete"})
        elif message["type"] == "lifespan.shutdown":
            await send({"type": "lifespan.shutdown.complete"})
            return
