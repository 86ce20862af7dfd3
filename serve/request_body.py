"""Request bodies: their encoding checked, read under a time limit, decoded to a route's type.

reader = BodyReader(30)
check_encoding(scope["headers"])                        # HTTPError 415
body = await reader.read(scope, receive, max_bytes)     # HTTPError 408 after 30 s
request = decode(decoder, body, "/v1/samples")          # HTTPError 400, naming the field
"""

import asyncio
import contextlib
import re
import time
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from python_multipart.multipart import parse_options_header

from serve import whole_numbers
from serve.errors import HTTPError
from serve.http import CLOSE, Receive, Scope

T = TypeVar("T")


class BodyReader:
    """Read timeout for request bodies: each must arrive within `limit_s` seconds.

    One instance per event loop, with one timer for all bodies in progress: most bodies arrive at
    once, and asyncio.timeout() would cost each of them more than reading does.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s = limit_s
        self.deadlines_s: dict[asyncio.Task[object], float] = {}
        """Deadlines of tasks that read, by the monotonic clock; ascending: all have one limit."""
        self.timer: asyncio.TimerHandle | None = None
        """Timer of the next deadline; None once no read is left that it could cut off."""

    async def read(
        self,
        scope: Scope,
        receive: Receive,
        max_bytes: int,
        hold: Callable[[int], Any] = lambda _: None,
    ) -> bytes:
        """The body. Raises HTTPError 400, 408, or 413 as soon as it is known to be too large.

        `hold(num_bytes)` is called before bytes are kept, and may raise.
        """
        task = asyncio.current_task()
        assert task is not None
        self.deadlines_s[task] = time.monotonic() + self.limit_s
        if self.timer is None:
            self._start_timer(self.limit_s)
        try:
            return await _read(scope, receive, max_bytes, hold)
        except asyncio.CancelledError:
            # A client that is late and also hangs up cancels twice, and the task stays cancelled.
            if task in self.deadlines_s or task.uncancel() > 0:
                raise
            message = f"the body must arrive within {self.limit_s:g} s"
            raise HTTPError(408, "body_too_slow", message, [CLOSE]) from None
        finally:
            self.deadlines_s.pop(task, None)

    def _start_timer(self, seconds: float) -> None:
        self.timer = asyncio.get_running_loop().call_later(seconds, self._cancel_late)

    def _cancel_late(self) -> None:
        """Cancel the reads that are due, and start the timer for the next deadline."""
        self.timer = None
        now_s = time.monotonic()
        for task, deadline_s in list(self.deadlines_s.items()):
            if deadline_s > now_s:
                self._start_timer(deadline_s - now_s)
                return
            del self.deadlines_s[task]
            task.cancel()


async def _read(
    scope: Scope, receive: Receive, max_bytes: int, hold: Callable[[int], Any]
) -> bytes:
    for name, value in scope["headers"]:
        if name == b"content-length" and (not value.isdigit() or int(value) > max_bytes):
            raise _too_large(max_bytes)
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body"):
        body: bytes = message.get("body", b"")
        if len(body) > max_bytes:
            raise _too_large(max_bytes)
        hold(len(body))
        return body
    chunks, size = [], 0
    while message["type"] == "http.request":
        chunk: bytes = message.get("body", b"")
        size += len(chunk)
        if size > max_bytes:
            raise _too_large(max_bytes)
        hold(len(chunk))
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)
        message = await receive()
    raise HTTPError(400, "malformed_body", "the client hung up before its body was whole")


def _too_large(max_bytes: int) -> HTTPError:
    message = f"the body must be at most {max_bytes} bytes"
    return HTTPError(413, "body_too_large", message, [CLOSE])


def decode(decoder: msgspec.json.Decoder[T], body: bytes | memoryview, path: str) -> T:
    """A JSON body as the request type of the route at `path`.

    Raises HTTPError 400, naming the field at fault.
    """
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        if whole_numbers.is_float_for_integer(error):
            with contextlib.suppress(msgspec.DecodeError, RecursionError):
                return whole_numbers.decode(body, decoder.type)
        name = _non_finite_field(body, f"{error}")
        reason = f"{name} must be a finite number" if name else f"{error}"
        raise malformed(f"the body is not what {path} takes: {reason}", name) from None


def malformed(message: str, param: str | None = None) -> HTTPError:
    """HTTPError 400 for a body that cannot be read.

    `param` is the field at fault; if absent, it is taken from msgspec's message.
    """
    field = None if param else _FIELD.search(message)
    return HTTPError(400, "malformed_body", message, param=field[1] if field else param)


_FIELD = re.compile(r"(?:field `|at `\$\.)(\w+)")
"""A missing, unknown or mistyped field in a message of msgspec."""


def _non_finite_field(body: bytes | memoryview, reason: str) -> str | None:
    """Field whose value is NaN or infinite, if that is why the decoder stopped."""
    if reason.startswith("Number out of range"):
        field = _TOO_LARGE.search(body)
        return field[1].decode() if field else None
    at = _AT.search(reason)
    if at is None:
        return None
    byte = int(at[1])
    if not _NAN.match(bytes(body[byte : byte + 10])):
        return None
    field = _LAST_FIELD.search(bytes(body[max(0, byte - 200) : byte]))
    return field[1].decode() if field else None


_TOO_LARGE = re.compile(rb'"(\w{1,100})"\s*:\s*-?[0-9][0-9.]{0,40}[eE]\+?[0-9]{3}')
_AT = re.compile(r"\(byte (\d+)\)")
_NAN = re.compile(rb"-?(?:NaN|Infinity|inf)", re.IGNORECASE)
_LAST_FIELD = re.compile(rb'"(\w{1,100})"\s*:\s*(?:\[[^"\]]*)?-?$')

ACCEPT_IDENTITY = (b"accept-encoding", b"identity")


def check_encoding(headers: Iterable[tuple[bytes, bytes]]) -> None:
    """Raise HTTPError 415 for a compressed body, and for text that is not UTF-8."""
    for name, value in headers:
        if name == b"content-encoding":
            if any(one.strip().lower() not in (b"", b"identity") for one in value.split(b",")):
                message = (
                    f"a body of Content-Encoding {value[:60].decode('latin-1')!r} is not taken;"
                    " send it uncompressed, without that header"
                )
                raise HTTPError(415, "compressed_body", message, [ACCEPT_IDENTITY])
        elif name == b"content-type" and b";" in value:
            charset = parse_options_header(value[:1000])[1].get(b"charset", b"")
            if charset.lower() not in _CHARSETS:
                got = charset[:60].decode("latin-1")
                message = f"a text must be UTF-8, got charset {got!r} in Content-Type"
                raise HTTPError(415, "content_type", message)


_CHARSETS = (b"", b"utf-8", b"utf8", b"us-ascii", b"ascii")
"""Charsets whose bytes are valid UTF-8."""
