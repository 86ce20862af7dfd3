"""The Idempotency-Key header: a retry draws the same seed and is charged once.

    attempt = idempotency.attempt(key, header, path, body)     # None without the header
    seed = attempt.seed                                        # where the client named none
    ... spend(key, 0 if attempt.free else n, None if attempt.free else attempt.charge) ...
    idempotency.charged(attempt)                               # once it was paid for

The seed is a function of the API key, the header and the request, so every replica draws the same
one, now and next year, and nothing is stored for it.

That a retry is free is remembered: by this replica for KEEP_S, and by the ledger, which a retry on
*another* replica is charged by first and paid back from with the next message, a fraction of a
second later. Where the budget is used up, such a retry may thus be refused with 429 like any
request. At most MAX_FREE_RETRIES are free on each replica, and as many are paid back: else one paid
request would buy any number. Slots of concurrency are taken by retries too.

draft-ietf-httpapi-idempotency-key-header-07: 400 for a header that is none, 422 when a key comes
back with another request, which a replica can only say of the requests that it answered itself. 409
for a retry while the first is still being answered is not used: samples are a function of the
request, so both get the same answer, which is what a client that hung up too early wants.
"""

import hashlib
import hmac
import re
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from serve.access.budget import KEEP_CHARGES_S, MAX_FREE_RETRIES
from serve.access.keys import Key
from serve.http import HTTPError

HEADER = b"idempotency-key"

KEEP_S = KEEP_CHARGES_S
"""For so long is a retry free."""

MAX_ATTEMPTS = 16_384
"""Requests remembered per replica; the oldest go first."""

SEED_BITS = 53
"""As many as seeds over HTTP have (serve.settings.MAX_SEED)."""

VALUE = re.compile(rb'"([ !#-\[\]-~]{1,255})"|([!#-\[\]-~]{1,255})')
"""The draft's quoted string, without escapes, or the bare word that most clients send."""

NOBODY = b"aigc"
"""Stands for the API key on a server without keys: every answer tells its seed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Attempt:
    """One request with an Idempotency-Key."""

    seed: int
    """In [0, 2^53): the same for every retry on every replica."""
    charge: bytes
    """Names the request, its body included, to the ledger."""
    free: bool
    """A retry of what this replica was paid for."""
    name: bytes
    """Names the header's value of this API key, whatever the request."""


@dataclass(slots=True)
class _Entry:
    charge: bytes
    until_s: float
    retries: int = 0


class Idempotency:
    """What one replica remembers of the requests that had an Idempotency-Key."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()

    def attempt(
        self, key: Key | None, header: bytes | None, path: str, body: bytes
    ) -> Attempt | None:
        """The request as an attempt; None without the header.

        Raises HTTPError 400 for a header that is no key, 422 for a key that came with another
        request before.
        """
        if header is None:
            return None
        found = VALUE.fullmatch(header)
        if found is None:
            raise HTTPError(
                400,
                "idempotency_key_malformed",
                "Idempotency-Key must be 1 to 255 visible ASCII characters, bare or in double"
                " quotes, without backslashes",
            )
        value = found[1] or found[2]
        secret = key.digest if key is not None else NOBODY
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
            free=entry is not None and entry.retries < MAX_FREE_RETRIES,
            name=name,
        )

    def charged(self, attempt: Attempt) -> None:
        """The attempt passed: its retries are free now, and a free one is counted."""
        entry = self._known(attempt.name)
        if entry is not None:
            entry.retries += attempt.free
            return
        self._entries[attempt.name] = _Entry(attempt.charge, self._clock() + KEEP_S)
        if len(self._entries) > MAX_ATTEMPTS:
            self._entries.popitem(last=False)

    def forget(self, attempt: Attempt) -> None:
        """What a first attempt paid was given back: the next one pays."""
        self._entries.pop(attempt.name, None)

    def _known(self, name: bytes) -> _Entry | None:
        """An entry that still holds; the front of the queue is cleared of those that do not."""
        now_s = self._clock()
        while self._entries and next(iter(self._entries.values())).until_s <= now_s:
            self._entries.popitem(last=False)
        return self._entries.get(name)
