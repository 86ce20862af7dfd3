"""Plain ASGI: routes, bounded bodies, responses, and the one shape of an error.

A framework costs more per request than sampling a small model does, so the hot route has none.
"""

import asyncio
import logging
import re
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
    MutableMapping,
)
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import msgspec
import orjson

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

T = TypeVar("T")

logger = logging.getLogger(__name__)


class ErrorDetail(msgspec.Struct, frozen=True, kw_only=True):
    """What was found, what is allowed, what to do."""

    code: str
    """Stable, for programs."""
    message: str
    """One sentence, for people."""
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    """Whose fault it is, in OpenAI's words: by the status, 429 is rate_limit_error."""
    param: str | None = None
    """The field of the request that is at fault, if it is one."""


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The body of every answer that is no success, in all dialects that let us choose."""

    error: ErrorDetail


class HTTPError(Exception):
    """An answer that is no success. `code` is stable, `message` one sentence for people.

    `param` is the field of the request that is at fault, None if it is not one.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        headers: Headers | None = None,
        *,
        param: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers or []
        self.param = param

    def body(self) -> bytes:
        """ErrorBody as JSON."""
        detail = ErrorDetail(
            code=self.code,
            message=self.message,
            type=(
                "server_error"
                if self.status >= 500
                else "rate_limit_error"
                if self.status == 429
                else "invalid_request_error"
            ),
            param=self.param,
        )
        return msgspec.json.encode(ErrorBody(error=detail))

    def response(self) -> "Response":
        headers = [*self.headers, NO_STORE]
        return Response(self.body(), JSON, status=self.status, headers=headers)


@dataclass(frozen=True)
class Response:
    """A whole answer: body, media type, status, and headers beyond those two."""

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
    """An answer that is sent while it is made, line by line; `body` is what there is already.

    When the client hangs up, `chunks` is closed. An error in it ends the answer, whose status is
    long gone, with what `failure` makes of it: a line that holds an ErrorBody.
    """

    chunks: AsyncGenerator[bytes, None]
    """What comes after `body`. May raise HTTPError."""
    failure: Callable[[HTTPError], bytes] | None = lambda error: error.body() + b"\n"
    """Last words after an error. None breaks the connection off: a sound has no place for words,
    and must not pass for whole."""
    ended: Callable[[int, int], None] = lambda code, num_bytes: None
    """Told once how it ended (its status, that of the error, or HUNG_UP), and what was sent."""
    request_id: str = ""
    """For the log."""

    async def send(self, send: Send, receive: Receive, *, with_body: bool = True) -> None:
        code = HUNG_UP
        num_bytes = 0

        async def counted(message: Message) -> None:
            nonlocal num_bytes
            await send(message)
            num_bytes += len(message.get("body", b""))

        watch = Watch(receive, 0)
        try:
            code = await self._send_all(counted)
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


HUNG_UP = 499
"""What is counted when the client hangs up."""


class Watch:
    """Cancels the task that made it when the client hangs up, from `after_s` seconds on.

    watch = Watch(receive, 0.05)
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
        self._hung_up = False
        self._task: asyncio.Task[None] | None = None
        self._timer = asyncio.get_running_loop().call_later(after_s, self._start)

    def has_cancelled(self) -> bool:
        """Whether a cancellation that arrived is this one's, and no other's as well."""
        return self._hung_up and self._watched is not None and self._watched.uncancel() == 0

    def stop(self) -> None:
        """Watch no more."""
        self._timer.cancel()
        if self._task is not None:
            self._task.cancel()

    def _start(self) -> None:
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        await _until_disconnect(self._receive)
        self._hung_up = True
        if self._watched is not None:
            self._watched.cancel()


async def _until_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def internal_error() -> HTTPError:
    """The server's own fault, of which only its log tells."""
    return HTTPError(500, "internal", "the server failed on this request; its log says why")


def json_response(value: Any, headers: Headers | None = None) -> Response:
    """Any JSON value, numpy arrays included."""
    body = orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, JSON, headers=[*(headers or []), NO_STORE])


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The request's body. Raises HTTPError 413 as soon as it is known to be too large."""
    too_large = HTTPError(
        413, "body_too_large", f"the body must be at most {max_bytes} bytes", [CLOSE]
    )
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > max_bytes):
            raise too_large
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > max_bytes:
            raise too_large
        return body
    chunks, size = [], 0
    while message["type"] == "http.request":
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise too_large
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
    raise HTTPError(400, "malformed_body", "the client hung up before its body was whole")


def decode(decoder: msgspec.json.Decoder[T], body: bytes, path: str) -> T:
    """The request that a route takes. Raises HTTPError 400, naming the field at fault."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        message = f"the body is not what {path} takes: {error}"
        field = _FIELD.search(message)
        param = field[1] if field else None
        raise HTTPError(400, "malformed_body", message, param=param) from None


_FIELD = re.compile(r"(?:field `|at `\$\.)(\w+)")
"""How msgspec names a field that is missing, unknown or of the wrong type."""

Endpoint = Callable[[Scope, Receive], Awaitable[Response]]
Endpoints = Mapping[str, Endpoint]
"""Method -> endpoint."""
ErrorShape = Callable[[HTTPError], Response]
"""How a dialect puts an error."""


class Application:
    """An ASGI application: exact paths first, then prefixes that end in a slash.

    `errors` says which paths, and all below them, put errors in another shape.
    """

    def __init__(
        self,
        exact: Mapping[str, Endpoints],
        prefixes: Mapping[str, Endpoints],
        errors: Mapping[str, ErrorShape] | None = None,
    ) -> None:
        self._exact = dict(exact)
        self._prefixes = dict(prefixes)
        self._errors = dict(errors or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        if scope["type"] != "http":
            return  # a WebSocket: closing without an answer refuses it
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

    def _shape(self, path: str) -> ErrorShape:
        below = (shape for top, shape in self._errors.items() if f"{path}/".startswith(f"{top}/"))
        return next(below, HTTPError.response)

    def _find(self, method: str, scope: Scope) -> Endpoint:
        path = scope["path"]
        endpoints = self._exact.get(path)
        if endpoints is None:
            endpoints = next((e for p, e in self._prefixes.items() if path.startswith(p)), None)
        if endpoints is None:
            raise HTTPError(404, "unknown_route", f"no route {path!r}; /docs lists those there are")
        endpoint = endpoints.get("GET" if method == "HEAD" else method)
        if endpoint is not None:
            return endpoint
        allowed = [*endpoints, *(("HEAD",) if "GET" in endpoints else ()), "OPTIONS"]
        allow = (b"allow", ", ".join(allowed).encode())
        if method == "OPTIONS":
            return _options(allow)
        message = f"{path} takes {', '.join(allowed)}, not {method}"
        raise HTTPError(405, "method_not_allowed", message, [allow])


def request_id(headers: Iterable[tuple[bytes, bytes]]) -> str:
    """What the client or the proxy called this request; answers carry it too."""
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
