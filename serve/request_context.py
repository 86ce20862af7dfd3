"""Context of one request in progress: its key, deadline, held bytes and metrics."""

import time
from copy import copy

from serve.access.access_control import RawHeaders, anonymous
from serve.access.in_flight import BytesInFlight
from serve.errors import HTTPError
from serve.http import Receive, Scope
from serve.metrics import RequestMetrics
from serve.request_body import BodyReader, check_encoding

TIMEOUT = b"x-request-timeout"
"""Header with the seconds the client waits; a request that cannot begin by then is refused."""

MAX_TIMEOUT_S = 3600.0


class RequestContext:
    """Context of one request in progress."""

    def __init__(
        self,
        metrics: RequestMetrics,
        body_reader: BodyReader,
        in_flight: BytesInFlight,
        request_id: str = "",
    ) -> None:
        self._body_reader = body_reader
        self._in_flight = in_flight
        self._held_bytes = 0
        self._part_bytes = 0
        self.request_id = request_id
        """Request ID for the log."""
        self.metrics = metrics
        """Metrics of the requested signature, once it is known."""
        self.deadline_s: float | None = None
        """Latest start of a run, by the monotonic clock."""
        self.access = anonymous()
        """Authenticated caller and its budget; anonymous until the key is checked."""
        self.num_samples = 0
        """Number of samples requested, once it is known."""
        self.num_bytes = 0
        """Size of a response that is not over HTTP."""
        self.receive: Receive | None = None
        """ASGI receive(), for the disconnect, once the body is read."""

    @property
    def key(self) -> str:
        """Name of the key; empty if the server has no keys."""
        return "" if self.access.key is None else self.access.key.name

    def unwatched(self) -> "RequestContext":
        """The same request for one of several runs: its client hanging up ends none of them."""
        context = copy(self)
        context.receive = None
        return context

    def hold(self, num_bytes: int) -> None:
        """Count bytes before they are kept. Raises HTTPError 413, 429 or 503."""
        self._held_bytes += self._in_flight.hold(self.key, num_bytes)

    def hold_parts(self, num_bytes: int, described: str) -> None:
        """Count all bytes of samples that are made of tiles or chunks, before any are allocated.

        Called again, it counts what was not counted yet. `described`: the samples, for the error of
        more than ever fit. Raises HTTPError 400, 429 or 503.
        """
        most, more = self._in_flight.share, num_bytes - self._part_bytes
        if self._held_bytes + more > most:
            message = (
                f"{described} take {num_bytes:,} bytes of memory with all parts; at most"
                f" {most:,} are allowed for one request, half of limits.max_inflight_bytes: ask for"
                " fewer or smaller ones, or have it raised"
            )
            raise HTTPError(400, "size_out_of_range", message, param="sizes")
        if more > 0:
            self.hold(more)
            self._part_bytes = num_bytes

    def leave(self, answered: bool) -> None:
        """Settle the charge and release the held bytes at the end of the request."""
        self._in_flight.release(self.key, self._held_bytes)
        self._held_bytes = 0
        self.access.leave(answered)

    async def read(self, scope: Scope, receive: Receive, max_bytes: int) -> bytes:
        """Read the body, which identifies a retry.

        Raises HTTPError 400, 408, 413, 415, 422, 429 or 503.
        """
        check_encoding(scope["headers"])
        body = await self._body_reader.read(scope, receive, max_bytes, self.hold)
        self.access.identify(scope["path"], body)
        self.receive = receive
        return body

    def seed(self, requested: int | None) -> int | None:
        """The requested seed, else that of the request which this one repeats."""
        return self.access.seed if requested is None else requested


def deadline_s(headers: RawHeaders) -> float | None:
    """End of X-Request-Timeout by the monotonic clock; None without one. Raises HTTPError 400."""
    for name, value in headers:
        if name == TIMEOUT:
            try:
                seconds = float(value)
            except ValueError:
                seconds = 0.0
            if not 0 < seconds <= MAX_TIMEOUT_S:
                shown = value[:40].decode("latin-1")
                message = f"X-Request-Timeout must be seconds in (0, 3600], got {shown!r}"
                raise HTTPError(400, "malformed_header", message)
            return time.monotonic() + seconds
    return None
