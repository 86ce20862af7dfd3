"""API keys: who may do what, and how much of it.

    [[key]]
    name = "alice"                # label of metrics and logs: letters, digits, '.', '_', '-'
    sha256 = "9f86d081884c7d65..." # of the secret; `aigc keys new alice` makes both
    scopes = ["sample"]           # of sample, metrics, admin
    samples_per_s = 500           # over all replicas together; left out: no limit
    burst = 1000                  # most samples at once; left out: two seconds' worth
    concurrency = 16              # requests at a time, over all replicas; left out: no limit

A secret is 256 random bits, so its plain SHA-256 is stored: slow hashes such as scrypt make the
guessing of *passwords* dear, and nobody guesses 256 bits at any speed. One SHA-256 costs a request
a microsecond, scrypt would cost it a tenth of a second.
"""

import hashlib
import hmac
import math
import re
import secrets
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import tyro

from serve.access.budget import Policy
from serve.http import HTTPError

Permission = Literal["sample", "metrics", "admin"]
"""What a key may do: draw samples and list models, read /metrics, change what is served."""

ENVIRONMENT = "AIGC_KEYS"
"""Variable that holds the text of a keys file where there is no file."""

MAX_KEYS = 256
"""Each name is a metrics label, and every request is compared with every key."""

MAX_HEADER_BYTES = 256
"""Longer Authorization and X-API-Key headers are not even hashed."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key. The secret itself is nowhere."""

    name: str
    digest: bytes
    """SHA-256 of the secret, 32 bytes."""
    scopes: frozenset[str]
    policy: Policy


class Keys:
    """All keys of a server. Never changes."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.all = tuple(keys)

    def find(self, authorization: bytes | None, x_api_key: bytes | None) -> Key | None:
        """The key whose secret is in `Authorization: Bearer SECRET`, else in `X-API-Key: SECRET`.

        The presented secret's hash is compared with every key's, in constant time and without
        stopping at the one that fits: how long it takes tells nothing about any of them.
        """
        secret = _secret(authorization, x_api_key)
        if secret is None:
            return None
        digest = hashlib.sha256(secret).digest()
        found = None
        for key in self.all:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found


def _secret(authorization: bytes | None, x_api_key: bytes | None) -> bytes | None:
    if authorization is not None and len(authorization) <= MAX_HEADER_BYTES:
        scheme, _, secret = authorization.partition(b" ")
        if scheme.lower() == b"bearer" and secret.strip():
            return secret.strip()
    if x_api_key is not None and 0 < len(x_api_key) <= MAX_HEADER_BYTES:
        return x_api_key
    return None


def authorise(
    keys: Keys | None, headers: Iterable[tuple[bytes, bytes]], scope: Permission | None
) -> Key | None:
    """The key of a request with these ASGI headers, or None where the server has no keys.

    Raises HTTPError 401 without a key that is known, 403 when it lacks the scope, if there is one.
    """
    if keys is None:
        return None
    authorization = x_api_key = None
    for name, value in headers:
        if name == b"authorization":
            authorization = value
        elif name == b"x-api-key":
            x_api_key = value
    key = keys.find(authorization, x_api_key)
    if key is None:
        given = authorization is not None or x_api_key is not None
        message = (
            "the key is not one of this server's"
            if given
            else "this server wants a key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
        )
        challenge = (b"www-authenticate", b'Bearer realm="aigc"')
        raise HTTPError(401, "unknown_key" if given else "key_needed", message, [challenge])
    if scope is not None and scope not in key.scopes:
        raise HTTPError(
            403,
            "scope_needed",
            f"this needs the scope {scope!r}; key {key.name!r} has:"
            f" {', '.join(sorted(key.scopes))}",
        )
    return key


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A key as it is written down."""

    name: str
    sha256: str
    scopes: tuple[Permission, ...] = ("sample",)
    samples_per_s: float | None = None
    burst: int | None = None
    concurrency: int | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: tuple[_Entry, ...]


def load(path: str, environment: Mapping[str, str]) -> Keys | None:
    """The keys of a file, else of AIGC_KEYS, else None: no keys are asked for.

    Raises ValueError naming the file and the field that is wrong, OSError if it cannot be read.
    """
    if path:
        return parse(Path(path).read_text("utf-8"), path)
    if environment.get(ENVIRONMENT):
        return parse(environment[ENVIRONMENT], ENVIRONMENT)
    return None


class KeyFile:
    """A keys file that may change while its keys are in use."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen = self._stamp()

    def changed(self) -> Keys | None:
        """Its keys if it is another file, or was written to, since the last look. Blocks.

        Raises ValueError or OSError, once for each change, if it is no keys file now.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        return parse(self._path.read_text("utf-8"), str(self._path))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size


def parse(text: str, source: str) -> Keys:
    """The keys of a TOML text. Raises ValueError that begins with `source` and names the field."""
    try:
        entries = msgspec.convert(tomllib.loads(text), _File).key
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{source}: {error}") from None
    if not 1 <= len(entries) <= MAX_KEYS:
        raise ValueError(f"{source}: there must be 1 to {MAX_KEYS} [[key]], got {len(entries)}")
    seen: dict[str, str] = {}
    keys = []
    for number, entry in enumerate(entries):
        where = f"{source}: key[{number}]"
        key = _key(entry, where)
        for field, value in (("name", entry.name), ("sha256", entry.sha256)):
            if value in seen:
                raise ValueError(f"{where}.{field}: {seen[value]} has the same one")
            seen[value] = f"key[{number}]"
        keys.append(key)
    return Keys(keys)


def _key(entry: _Entry, where: str) -> Key:
    if not NAME.fullmatch(entry.name):
        raise ValueError(
            f"{where}.name must be 1 to 64 letters, digits, '.', '_' or '-', starting with a letter"
            f" or digit, got {entry.name[:100]!r}"
        )
    if not SHA256.fullmatch(entry.sha256):
        raise ValueError(f"{where}.sha256 must be 64 lower-case hexadecimal digits")
    if not entry.scopes:
        raise ValueError(f"{where}.scopes must name at least one of sample, metrics, admin")
    burst = entry.burst
    if entry.samples_per_s is None and burst is not None:
        raise ValueError(f"{where}.burst has no effect without samples_per_s; set that too")
    if burst is None and entry.samples_per_s is not None:
        doubled = 2 * entry.samples_per_s
        burst = max(1, math.ceil(doubled)) if math.isfinite(doubled) else 1
    try:
        policy = Policy(
            samples_per_s=entry.samples_per_s, burst=burst or 0, concurrency=entry.concurrency
        )
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None
    digest = bytes.fromhex(entry.sha256)
    return Key(name=entry.name, digest=digest, scopes=frozenset(entry.scopes), policy=policy)


@dataclass(frozen=True, kw_only=True)
class New:
    """Make a key: its secret goes to stdout, once; its entry for the keys file to stderr."""

    action: tyro.conf.Positional[Literal["new"]]
    """The only thing to do with keys here."""
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Whose key it is; a label of metrics and logs."""
    scope: tuple[Permission, ...] = ("sample",)
    """What it may do: sample, metrics, admin."""
    samples_per_s: float | None = None
    """Most samples per second over all replicas together; none for no limit."""
    burst: int | None = None
    """Most samples at once; none for two seconds' worth."""
    concurrency: int | None = None
    """Most requests at a time over all replicas together; none for no limit."""


def command(argv: list[str]) -> int:
    """Make a key for the keys file of `aigc serve --keys FILE`."""
    wish = tyro.cli(New, args=argv, prog="aigc keys")
    secret = f"aigc_{secrets.token_urlsafe(32)}"
    block = entry_text(wish, secret)
    parse(block, "keys new")
    print(block, file=sys.stderr)
    print(secret, flush=True)
    return 0


def entry_text(wish: New, secret: str) -> str:
    """The [[key]] of a secret. Raises ValueError for a name that no key may have."""
    if not NAME.fullmatch(wish.name):
        raise ValueError(f"a name is 1 to 64 letters, digits, '.', '_' or '-', got {wish.name!r}")
    scopes = ", ".join(f'"{scope}"' for scope in wish.scope)
    lines = [
        "[[key]]",
        f'name = "{wish.name}"',
        f'sha256 = "{hashlib.sha256(secret.encode()).hexdigest()}"',
        f"scopes = [{scopes}]",
    ]
    for field in ("samples_per_s", "burst", "concurrency"):
        value = getattr(wish, field)
        if value is not None:
            lines.append(f"{field} = {value}")
    return "\n".join(lines) + "\n"
