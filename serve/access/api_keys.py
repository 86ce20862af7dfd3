"""API keys: scopes and limits of each.

    [[key]]
    name = "alice"                # label of metrics and logs: letters, digits, '.', '_', '-'
    sha256 = "9f86d081884c7d65..." # `aigc keys new alice --file FILE` writes all of this
    scopes = ["sample"]           # of sample, metrics, admin
    samples_per_s = 500           # over all replicas together; default: no limit
    burst = 1000                  # most samples at once; default: two seconds' worth
    concurrency = 16              # requests at a time, over all replicas; default: no limit

A secret is 256 random bits, so its plain SHA-256 is stored: slow hashes such as scrypt make it
expensive to guess *passwords*, but 256 random bits cannot be guessed at any speed. One SHA-256
costs a request a microsecond, scrypt would cost it a tenth of a second.
"""

import hashlib
import hmac
import math
import os
import re
import secrets
import stat
import sys
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TextIO

import msgspec
import tyro

from aigc.files import append, expanded, read_text
from serve.access.rate_ledger import Policy
from serve.errors import HTTPError

KeyScope = Literal["sample", "metrics", "admin"]
"""Scope of a key: draw samples and list models, read /metrics, change what is served."""

ENVIRONMENT = "AIGC_KEYS"
"""Environment variable with the text of a keys file, where there is no file."""

MAX_KEYS = 256
"""Each name is a metrics label, and every request is compared with every key."""

MAX_HEADER_BYTES = 256
"""Longer Authorization and X-API-Key headers are not even hashed."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, kw_only=True)
class Key:
    """One key, without its secret."""

    name: str
    digest: bytes
    """SHA-256 of the secret, 32 bytes."""
    scopes: frozenset[str]
    policy: Policy


class Keys:
    """All keys of a server. Immutable."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.all = tuple(keys)

    def find(self, authorization: bytes | None, x_api_key: bytes | None) -> Key | None:
        """The key whose secret is in `Authorization: Bearer SECRET`, else in `X-API-Key: SECRET`.

        The secret's hash is compared with every key's in constant time, without stopping at a
        match, so that the time tells nothing about any of them.
        """
        secret = _secret(authorization, x_api_key)
        if secret is None:
            return None
        digest = hashlib.sha256(secret).digest()
        match = None
        for key in self.all:
            if hmac.compare_digest(key.digest, digest):
                match = key
        return match


def _secret(authorization: bytes | None, x_api_key: bytes | None) -> bytes | None:
    if authorization is not None and len(authorization) <= MAX_HEADER_BYTES:
        scheme, _, secret = authorization.partition(b" ")
        if scheme.lower() == b"bearer" and secret.strip():
            return secret.strip()
    if x_api_key is not None and 0 < len(x_api_key) <= MAX_HEADER_BYTES:
        return x_api_key
    return None


def authorize(
    keys: Keys | None, headers: Iterable[tuple[bytes, bytes]], scope: KeyScope | None
) -> Key | None:
    """The key of a request with these ASGI headers, or None on a server without keys.

    Raises HTTPError 400 for a repeated header, 401 without a known key, 403 if the key lacks
    `scope`.
    """
    if keys is None:
        return None
    authorization = x_api_key = None
    for name, value in headers:
        if name == b"authorization":
            _refuse_twice("Authorization", authorization)
            authorization = value
        elif name == b"x-api-key":
            _refuse_twice("X-API-Key", x_api_key)
            x_api_key = value
    key = keys.find(authorization, x_api_key)
    if key is None:
        has_key = authorization is not None or x_api_key is not None
        message = (
            "the key is not one of this server's"
            if has_key
            else "this server wants a key, as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
        )
        challenge = (b"www-authenticate", b'Bearer realm="aigc"')
        raise HTTPError(401, "unknown_key" if has_key else "key_needed", message, [challenge])
    if scope is not None and scope not in key.scopes:
        raise HTTPError(
            403,
            "scope_needed",
            f"this needs the scope {scope!r}; key {key.name!r} has:"
            f" {', '.join(sorted(key.scopes))}",
        )
    return key


def _refuse_twice(name: str, before: bytes | None) -> None:
    """Refuse a repeated header: an intermediary may have checked the other one."""
    if before is not None:
        raise HTTPError(400, "malformed_header", f"{name} comes twice; send one of them")


class _Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One [[key]] of a keys file."""

    name: str
    sha256: str
    scopes: tuple[KeyScope, ...] = ("sample",)
    samples_per_s: float | None = None
    burst: int | None = None
    concurrency: int | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: tuple[_Entry, ...]


def load(path: str, environment: Mapping[str, str]) -> Keys | None:
    """The keys of a file, else of AIGC_KEYS, else None for a server without keys.

    Raises ValueError naming the file and what is wrong in it, OSError if it cannot be read.
    """
    if path:
        return parse(read_text(Path(path)), path)
    if environment.get(ENVIRONMENT):
        return parse(environment[ENVIRONMENT], ENVIRONMENT)
    return None


class KeyFile:
    """A keys file that may change while its keys are in use."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._seen = self._stamp()

    def read_if_changed(self) -> Keys | None:
        """The new keys if the file was replaced or written since the last call, else None. Blocks.

        Raises ValueError or OSError, once per change, if it is not a valid keys file now.
        """
        stamp = self._stamp()
        if stamp == self._seen:
            return None
        self._seen = stamp
        return parse(read_text(self._path), str(self._path))

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size


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
class CreateKey:
    """Make a key: its secret goes to stdout, once; its entry to the keys file, or to stderr."""

    action: tyro.conf.Positional[Literal["new"]]
    """The only action."""
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")]
    """Name of the key, a label of metrics and logs."""
    file: str = ""
    """Keys file to append the entry to; created if absent."""
    scope: tuple[KeyScope, ...] = ("sample",)
    """Scopes of the key: sample, metrics, admin."""
    samples_per_s: float | None = None
    """Most samples per second over all replicas together; no limit by default."""
    burst: int | None = None
    """Most samples at once; two seconds' worth by default."""
    concurrency: int | None = None
    """Most requests at a time over all replicas together; no limit by default."""


def command(argv: list[str]) -> int:
    """Make a key for the keys file of `aigc serve --keys FILE`."""
    entries = sys.stderr
    keys_file = _regular_file(entries)
    if keys_file:
        # `2>> keys.toml`: any other text there, such as a usage error, would break the keys file.
        sys.stderr = sys.stdout
    options = tyro.cli(CreateKey, args=argv, prog="aigc keys")
    secret = f"aigc_{secrets.token_urlsafe(32)}"
    block = key_entry(options, secret)
    parse(block, "keys new")
    if options.file:
        add(Path(expanded(options.file)), options.name, block)
    else:
        known = None
        with suppress(ValueError, OSError):  # it may be a log
            known = parse(read_text(keys_file), "") if keys_file else None
        if known:
            _check_new(options.name, known, "the file that stderr goes to")
        print(block, file=entries, flush=True)
    print(secret, flush=True)
    return 0


def add(path: Path, name: str, block: str) -> None:
    """Append the [[key]] of a name to a keys file, whole or not at all.

    Raises ValueError naming the file if it has a key of that name or is not a keys file, OSError if
    it cannot be written.
    """
    before = read_text(path) if path.exists() else ""
    if before.strip():
        _check_new(name, parse(before, str(path)), str(path))
    gap = "\n" if before.endswith("\n") else "\n\n"
    added = (gap if before else "") + block
    parse(before + added, str(path))
    append(path, added.encode())


def _check_new(name: str, known: Keys, where: str) -> None:
    """Raise ValueError if there is a key of that name."""
    if name in {key.name for key in known.all}:
        raise ValueError(f"{where} has a key {name!r} already; delete it, or give another name")


def _regular_file(stream: TextIO) -> Path | None:
    """The regular file that a stream is redirected to, or None."""
    try:
        number = stream.fileno()
        regular = stat.S_ISREG(os.fstat(number).st_mode)
    except (OSError, ValueError):  # not a file of the system
        return None
    return Path(f"/dev/fd/{number}") if regular else None


def key_entry(options: CreateKey, secret: str) -> str:
    """The [[key]] of a secret. Raises ValueError for an invalid name."""
    if not NAME.fullmatch(options.name):
        raise ValueError(
            f"a name is 1 to 64 letters, digits, '.', '_' or '-', got {options.name!r}"
        )
    scopes = ", ".join(f'"{scope}"' for scope in options.scope)
    lines = [
        "[[key]]",
        f'name = "{options.name}"',
        f'sha256 = "{hashlib.sha256(secret.encode()).hexdigest()}"',
        f"scopes = [{scopes}]",
    ]
    for field in ("samples_per_s", "burst", "concurrency"):
        value = getattr(options, field)
        if value is not None:
            lines.append(f"{field} = {value}")
    return "\n".join(lines) + "\n"
