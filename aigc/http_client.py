"""Requests of the command line to a server, with the key in AIGC_KEY. Needs no torch.

Every outcome is either JSON of the right shape or a ValueError of one sentence. The server controls
neither the time nor the memory that a request takes.
"""

import http.client
import json
import os
import re
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from aigc.display import printable

ENVIRONMENT = "AIGC_KEY"
"""Environment variable with the API key: other users can see command line options."""

TIMEOUT_S = 60
"""Longest that a response may take, to its last byte."""
MAX_BYTES = 16 << 20
"""Longest response, unless a caller expects more."""
MAX_ERROR_BYTES = 64 << 10
"""Most bytes read of an error response."""
MAX_QUOTED = 300
"""Most characters of a server's text that an error repeats."""

T = TypeVar("T")


class ResponseError(ValueError):
    """Error response of a server, with its HTTP status and the seconds of Retry-After."""

    def __init__(self, url: str, status: int, message: str, retry_after_s: float | None) -> None:
        super().__init__(f"{url} answered {status}: {message}")
        self.status = status
        self.retry_after_s = retry_after_s


def request_json(
    url: str,
    body: dict[str, Any] | None = None,
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_BYTES,
) -> Any:
    """JSON response to a GET, or to a POST of `body`.

    Raises ResponseError for an error response, ValueError without a response or for other content.
    """
    _check(url)
    headers = {"content-type": "application/json", "accept": "application/json"}
    if key := os.environ.get(ENVIRONMENT):
        if not re.fullmatch(r"[!-~]+", key):
            raise ValueError(f"the environment variable {ENVIRONMENT} holds no key: keys are ASCII")
        headers["authorization"] = f"Bearer {key}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers)
    through = _proxy(url)
    with _deadline(timeout_s) as connections:
        try:
            with connections.opener().open(request, timeout=timeout_s) as response:
                answer = _read(url, response, through, max_bytes)
            if connections.late:
                raise TimeoutError
        except urllib.error.HTTPError as error:
            with error:
                raise _response_error(url, error, through) from None
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if connections.late:
                raise ValueError(
                    f"{url} has not come to the end of its answer{through} in {timeout_s:g} s"
                ) from None
            raise ValueError(_unanswered(url, error, through)) from None
    try:
        return json.loads(answer, parse_constant=_no_number)
    except (ValueError, RecursionError):
        kind = quoted(response.headers.get("content-type", "no content type"))
        begins = quoted(answer[:60].decode("utf-8", "replace"))
        raise ValueError(
            f"{url} answered no JSON{through} but {kind}, which begins {begins!r}; is it a server"
            " of `aigc serve`?"
        ) from None


def request_as(
    kind: type[T],
    url: str,
    body: dict[str, Any] | None = None,
    timeout_s: float = TIMEOUT_S,
    max_bytes: int = MAX_BYTES,
) -> T:
    """request_json() for a response of one msgspec type. Raises ValueError for any other, too."""
    answer = request_json(url, body, timeout_s, max_bytes)
    try:
        return msgspec.convert(answer, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ValueError(
            f"{url} answered JSON that is not what was asked for: {quoted(str(error))}; is it a"
            " server of `aigc serve`?"
        ) from None


def quoted(text: str) -> str:
    """Text of a server for a message: one printable line of at most MAX_QUOTED characters."""
    shown = printable(text)
    return shown if len(shown) <= MAX_QUOTED else f"{shown[:MAX_QUOTED]}..."


def _check(url: str) -> None:
    """Raise ValueError if `url` is not the URL of a server."""
    try:
        parts = urlsplit(url)
        fits = bool(parts.scheme in ("http", "https") and parts.hostname and parts.port != 0)
        fits = fits and not re.search(r"[\x00-\x20\x7f]", url) and url.isascii()
        fits = fits and not (parts.query or parts.fragment or "@" in parts.netloc)
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{quoted(url)!r} is no URL of a server; it must be http://HOST:PORT or"
            f" https://HOST, without a user, a query or blanks; {ENVIRONMENT} may hold a key"
        )


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Follows no redirect, as the key is meant for the named server only."""

    def redirect_request(self, *_: object, **__: object) -> None:
        return None


class _Connections:
    """Connections of one request, all of which end at its deadline."""

    def __init__(self) -> None:
        self.late = False
        self._sockets: list[socket.socket] = []
        self._changing = threading.Lock()

    def opener(self) -> urllib.request.OpenerDirector:
        def connect(*arguments: Any, **options: Any) -> socket.socket:
            connection = socket.create_connection(*arguments, **options)
            with self._changing:
                # TLS takes over the socket; its duplicate still ends the connection.
                self._sockets.append(connection.dup())
                if self.late:
                    connection.close()
                    raise TimeoutError
            return connection

        class Plain(http.client.HTTPConnection):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                self._create_connection = connect

        class Secure(http.client.HTTPSConnection):
            def __init__(self, *arguments: Any, **options: Any) -> None:
                super().__init__(*arguments, **options)
                self._create_connection = connect

        class Open(urllib.request.HTTPHandler, urllib.request.HTTPSHandler):
            def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(Plain, req)

            def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
                return self.do_open(Secure, req)

        return urllib.request.build_opener(_NoRedirects, Open)

    def cut(self) -> None:
        """End all open connections, and later ones at once."""
        with self._changing:
            self.late = True
            for one in self._sockets:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._changing:
            for one in self._sockets:
                one.close()
            self._sockets.clear()


@contextmanager
def _deadline(seconds: float) -> Iterator[_Connections]:
    """Connections that are cut after `seconds`, even while data arrives."""
    connections = _Connections()
    timer = threading.Timer(seconds, connections.cut)
    timer.daemon = True
    timer.start()
    try:
        yield connections
    finally:
        timer.cancel()
        connections.close()


def _read(url: str, response: Any, through: str, max_bytes: int) -> bytes:
    """Body of a response. Raises ValueError if it is too long or compressed."""
    encoding = response.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise ValueError(f"{url} answered in {quoted(encoding)}{through}, which was not asked for")
    body = bytearray()
    while chunk := response.read(1 << 16):
        body += chunk
        if len(body) > max_bytes:
            raise ValueError(
                f"{url} answered more than {max_bytes >> 20} MiB{through}, too much for what was"
                " asked; ask for fewer samples at once"
            )
    if response.length:  # read() with a size does not check it
        raise http.client.IncompleteRead(bytes(body[:0]), response.length)
    return bytes(body)


def _unanswered(url: str, error: Exception, through: str) -> str:
    reason = getattr(error, "reason", error)
    shown = quoted(str(reason)) or type(reason).__name__
    if isinstance(error, http.client.IncompleteRead):
        return f"{url} stopped in the middle of its answer{through}; try again"
    if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
        shown = f"{type(error).__name__}: {shown}"
        return f"{url} answers{through}, but not in HTTP ({shown}); is `aigc serve` there?"
    return f"{url} does not answer{through}: {shown}; is `aigc serve` up?"


def _proxy(url: str) -> str:
    """ " through the proxy ... of http_proxy", if one is used; "" if none is."""
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme, "")
    if not proxy or urllib.request.proxy_bypass(parts.netloc):
        return ""
    name = f"{parts.scheme}_proxy"
    named = name if os.environ.get(name) else name.upper()
    return f" through the proxy {quoted(proxy.rpartition('@')[2])} of {named}"


def _response_error(url: str, error: urllib.error.HTTPError, through: str) -> ResponseError:
    message = ""
    with suppress(Exception):  # any error, as the body may be anything
        answer = json.loads(error.read(MAX_ERROR_BYTES))
        message = answer["error"]["message"] if isinstance(answer["error"], dict) else ""
    message = quoted(message if isinstance(message, str) and message else str(error.reason))
    if 300 <= error.code < 400 and error.headers.get("location"):
        to = quoted(error.headers["location"])
        message += f"; it sends on to {to}, which is not followed"
    if error.code == 401:
        message += f"; the environment variable {ENVIRONMENT} may hold the key"
    after = error.headers.get("retry-after", "")
    retry_after_s = float(after) if re.fullmatch(r"[0-9]{1,9}", after) else None
    return ResponseError(url, error.code, f"{message}{through}", retry_after_s)
