"""One request while it is being answered: who asks, until when, and what became of it."""

import time

from serve.access.gate import NOBODY, RawHeaders
from serve.http import HTTPError, Receive, Scope
from serve.metrics import RequestMetrics
from serve.slow import Patience

TIMEOUT = b"x-request-timeout"
"""Seconds that the client waits; what cannot be begun by then is refused at once, and dropped."""

MAX_TIMEOUT_S = 3600.0


class Call:
    """One request while it is being answered."""

    def __init__(self, metrics: RequestMetrics, patience: Patience) -> None:
        self._patience = patience
        self.metrics = metrics
        """Of the signature that it asks for, once that is known."""
        self.deadline_s: float | None = None
        """By the monotonic clock: what has not begun by then is not begun."""
        self.visit = NOBODY
        """Whose it is and what it pays with, once its key was read."""
        self.num_samples = 0
        """That it asked for, once that is known."""
        self.num_bytes = 0
        """Of its answer, where that is no HTTP response."""
        self.receive: Receive | None = None
        """What tells of the client hanging up, once its body was read."""

    async def read(self, scope: Scope, receive: Receive, max_bytes: int) -> bytes:
        """The body; by it a retry is known. Raises HTTPError 400, 408, 413 or 422."""
        body = await self._patience.read(scope, receive, max_bytes)
        self.visit.identify(scope["path"], body)
        self.receive = receive
        return body

    def seed(self, asked: int | None) -> int | None:
        """The seed asked for, else the one that a retry must get again."""
        return self.visit.seed if asked is None else asked


def deadline_s(headers: RawHeaders) -> float | None:
    """When the client stops waiting, by the monotonic clock. Raises HTTPError 400."""
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
