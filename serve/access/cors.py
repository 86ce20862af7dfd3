"""Cross-origin resource sharing (CORS): pages of listed origins may use the API from a browser.

    application = CrossOrigin(application, ("https://page.example",))

Fetch standard, section 3.2. Browsers and SDKs add headers of their own to requests, so a preflight
allows all that are requested. Credentials, that is cookies, are never allowed: keys are headers. A
preflight is answered for every path, so that a page can read the 404 or 401 after it.
"""

import re
from collections.abc import Sequence

from serve.errors import HTTPError
from serve.http import Application, Headers, Message, Receive, Response, Scope, Send, error_response

EXPOSED = (
    *("x-aigc-seed", "x-aigc-first-index", "x-aigc-to-seed", "x-aigc-model", "x-aigc-digest"),
    *("x-aigc-reproducibility", "x-aigc-replica", "x-request-id", "retry-after", "retry-after-ms"),
    *("x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "www-authenticate"),
    *("allow", "inference-header-content-length"),
)
"""Response headers that a page may read beside the safelisted ones."""

MAX_AGE_S = 600
"""Time for which a browser may cache a preflight; browsers cap it at two hours."""

MAX_REQUESTED_BYTES = 4096
"""Maximum size of Access-Control-Request-Headers."""

_TOKENS = re.compile(rb"[ \t]*(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+[ \t]*(?:,[ \t]*|$))*")
"""Header names joined by commas (RFC 9110, section 5.6.2)."""

REQUEST_HEADERS = b"access-control-request-headers"


class CrossOrigin:
    """An application that pages of these origins may use; "*" for all."""

    def __init__(self, application: Application, origins: Sequence[str]) -> None:
        self._application = application
        self._origins = frozenset(origin.rstrip("/").lower().encode() for origin in origins)
        self._all = "*" in origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        headers = scope["headers"]
        origin = b", ".join(value for name, value in headers if name == b"origin")
        allowed = self._allow(origin)
        if allowed and scope["method"] == "OPTIONS" and _is_preflight(headers):
            response = self._preflight(scope["path"], headers)
            await response.send(_add_headers(send, allowed), receive)
            return
        if allowed:
            allowed.append((b"access-control-expose-headers", ", ".join(EXPOSED).encode()))
        if not self._all:
            allowed.append((b"vary", b"Origin"))  # for other origins, too: caches keep one response
        await self._application(scope, receive, _add_headers(send, allowed))

    def _allow(self, origin: bytes) -> Headers:
        if self._all:
            return [(b"access-control-allow-origin", b"*")]
        if origin.lower() in self._origins:
            return [(b"access-control-allow-origin", origin)]
        return []

    def _preflight(self, path: str, headers: Headers) -> Response:
        """The allowed methods and headers; 400 for a malformed list of headers."""
        requested = b", ".join(value.strip() for name, value in headers if name == REQUEST_HEADERS)
        if len(requested) > MAX_REQUESTED_BYTES or not _TOKENS.fullmatch(requested):
            message = (
                "Access-Control-Request-Headers must be header names joined by commas, at most"
                f" {MAX_REQUESTED_BYTES} bytes, got {requested[:60].decode('latin-1')!r}"
            )
            return error_response(HTTPError(400, "malformed_header", message))
        methods = self._application.methods(path) or ("GET", "HEAD", "POST")
        vary = "Access-Control-Request-Method, Access-Control-Request-Headers"
        answer = [
            (b"access-control-allow-methods", ", ".join(methods).encode()),
            (b"access-control-max-age", b"%d" % MAX_AGE_S),
            (b"vary", (vary if self._all else f"Origin, {vary}").encode()),
        ]
        if requested:
            answer.append((b"access-control-allow-headers", requested))
        return Response(b"", b"text/plain", headers=answer)


def _is_preflight(headers: Headers) -> bool:
    """True if an OPTIONS request is a preflight."""
    names = [name for name, _ in headers]
    return b"origin" in names and b"access-control-request-method" in names


def _add_headers(send: Send, more: Headers) -> Send:
    """Adds headers to the response."""

    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return send_with_headers
