"""The Idempotency-Key header: a retry draws the same seed and is charged once.

    attempt = idempotency.attempt(key, header, path, body)     # None without the header
    seed = attempt.seed                                        # where the client named none
    charges = idempotency.charges(attempt)                     # of earlier attempts, to share
    idempotency.remember(attempt, charges)                     # once it was paid for

The seed is a function of the API key, the header and the request, so every replica draws the same
one at any time, and nothing is stored for it.

Charges are remembered for KEEP_S. Retries on the same replica share one charge. A retry on another
replica is charged first and paid back with its next message to the ledger, a fraction of a second
later; where the budget is used up, it may therefore be refused with 429 like any request. At most
MAX_FREE_RETRIES are free on each replica, and as many are paid back: otherwise one paid request
would buy any number. Retries take slots of concurrency too.

draft-ietf-httpapi-idempotency-key-header-07: 400 for a malformed header, 422 when a key comes back
with another request, which a replica only knows of requests that it answered itself. 409 for a
retry while the first attempt is still being answered is not used: samples are a function of the
request, so both get the same answer, as a client that hung up too early wants.
"""

import hashlib
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from serve.access.api_keys import Key
from serve.access.charge import Charge
from serve.access.rate_ledger import KEEP_CHARGES_S, MAX_FREE_RETRIES
from serve.errors import HTTPError

HEADER = b"idempotency-key"

KEEP_S = KEEP_CHARGES_S
"""Seconds for which retries are free."""

MAX_ATTEMPTS = 16_384
"""Requests remembered per replica; the oldest go first."""

SEED_BITS = 53
"""Bits of seeds over HTTP (serve.settings.MAX_SEED)."""

VALUE = re.compile(rb'"([ !#-\[\]-~]{1,255})"|([!#-\[\]-~]{1,255})')
"""Quoted string of the draft, without escapes, or the bare word that most clients send."""

NO_KEY = b"aigc"
"""Stand-in for the API key on a server without keys, where every response tells its seed anyway."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One request with an Idempotency-Key."""

    seed: int
    """In [0, 2^53): the same for every retry on every replica."""
    charge: bytes
    """Identifier of the request, its body included, for the ledger."""
    name: bytes
    """Identifier of this API key and header value, whatever the request."""


@dataclass(slots=True)
class _Entry:
    charge: bytes
    until_s: float
    charges: list[Charge]
    retries: int = 0


class Idempotency:
    """Charges of recent requests with an Idempotency-Key, in one replica."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def __len__(self) -> int:
        """Number of requests that are remembered."""
        return len(self._entries)

    def attempt(
        self, key: Key | None, header: bytes | None, path: str, body: bytes
    ) -> Attempt | None:
        """The request as an attempt; None without the header.

        Raises HTTPError 400 for a malformed header, 422 for a key that came with another request
        before.
        """
        if header is None:
            return None
        match = VALUE.fullmatch(header)
        if match is None:
            raise HTTPError(
                400,
                "idempotency_key_malformed",
                "Idempotency-Key must be 1 to 255 visible ASCII characters, bare or in double"
                " quotes, without backslashes",
            )
        value = match[1] or match[2]
        secret = key.digest if key is not None else NO_KEY
        name = hmac.digest(secret, b"name\0" + value, "sha256")[:16]
        request = hashlib.sha256(path.encode() + b"\0" + body).digest()
        drawn = hmac.digest(secret, b"request\0" + request + value, "sha256")
        charge = drawn[:16]
        entry = self._known(name)
        if entry is not None and entry.charge != charge:
            raise HTTPError(
                422,
                "idempotency_key_reused",
                "this Idempotency-Key came with another request before; take a new one for each",
            )
        return Attempt(
            seed=int.from_bytes(drawn[16:24]) >> (64 - SEED_BITS),
            charge=charge,
            name=name,
        )

    def charges(self, attempt: Attempt) -> list[Charge] | None:
        """Charges of earlier attempts, to share: empty for a first attempt, None if none is free.

        Counts the free retries.
        """
        entry = self._known(attempt.name)
        if entry is None:
            return []
        if entry.retries >= MAX_FREE_RETRIES:
            return None
        entry.retries += 1
        return entry.charges

    def remember(self, attempt: Attempt, charges: list[Charge]) -> None:
        """Let the retries of a paid first attempt share its charges."""
        if self._known(attempt.name) is not None:
            return
        until_s = self._clock() + KEEP_S
        self._entries[attempt.name] = _Entry(attempt.charge, until_s, charges)
        if len(self._entries) > MAX_ATTEMPTS:
            self._entries.popitem(last=False)

    def forget(self, attempt: Attempt, charges: list[Charge]) -> None:
        """Drop charges that were all given back, so that the next attempt pays."""
        entry = self._known(attempt.name)
        if entry is not None and entry.charges is charges:
            del self._entries[attempt.name]

    def _known(self, name: bytes) -> _Entry | None:
        """The entry of a name, if it has not expired; drops expired ones."""
        now_s = self._clock()
        while self._entries and next(iter(self._entries.values())).until_s <= now_s:
            self._entries.popitem(last=False)
        return self._entries.get(name)
