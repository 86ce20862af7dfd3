"""Bound on the bytes of requests that a replica holds, for each key and for all together.

held = in_flight.hold("alice", len(chunk))     # before it is kept; HTTPError 413, 429 or 503
...
in_flight.release("alice", held)               # when the request is over
"""

from serve.errors import HTTPError
from serve.http import CLOSE, Headers

SHARE = 0.5
"""Largest share of the limit for one key, so that others always find room."""

RETRY: Headers = [(b"retry-after", b"1"), CLOSE]


class BytesInFlight:
    """Bytes that the requests of one replica hold. Not thread-safe: used on one event loop."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self.share = int(SHARE * limit_bytes)
        """Most bytes of one key."""
        self.by_key: dict[str, int] = {}
        """Bytes held by the requests of each key that has any."""
        self.held = 0
        """Bytes held by all requests together."""

    def hold(self, key: str, num_bytes: int) -> int:
        """Count bytes before they are kept, and return them. `key` is empty without keys.

        Raises HTTPError 413 for more than ever fit, 429 if the key's share is used up, 503 if the
        whole limit is.
        """
        by_key = self.by_key.get(key, 0) + num_bytes
        if by_key > self.share or self.held + num_bytes > self._limit:
            raise self._refusal(key, num_bytes, by_key)
        self.by_key[key] = by_key
        self.held += num_bytes
        return num_bytes

    def release(self, key: str, num_bytes: int) -> None:
        """Uncount the bytes of a request that has ended."""
        self.held -= num_bytes
        left = self.by_key.get(key, 0) - num_bytes
        if left:
            self.by_key[key] = left
        else:
            self.by_key.pop(key, None)

    def _refusal(self, key: str, num_bytes: int, by_key: int) -> HTTPError:
        if num_bytes > self.share:
            message = f"the request takes {num_bytes} bytes of memory, at most {self.share} fit"
            return HTTPError(413, "body_too_large", message, [CLOSE])
        if key and by_key > self.share:
            message = (
                f"the requests of key {key!r} hold {by_key - num_bytes} bytes, of at most"
                f" {self.share}; wait for one of them"
            )
            return HTTPError(429, "bytes_limited", message, RETRY)
        message = f"requests hold {self.held} bytes already; wait for one of them"
        return HTTPError(503, "overloaded", message, RETRY)
