"""Limits and options of a replica; how many of them there are is the machine's or the cluster's."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import msgspec

from serve.autoscaling import Scaling

MAX_SEED = 2**53 - 1
"""Largest seed and index over HTTP: JavaScript and most JSON readers keep integers exact so far."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request and one queue may hold."""

    max_body_bytes: int = 1 << 20
    """Largest request body, or JSON part of one; more is answered with 413."""
    max_tensor_bytes: int = 1 << 24
    """Most bytes of binary tensors after the JSON of a request; more is answered with 413."""
    max_n: int = 1024
    """Most samples per request."""
    max_values: int = 1 << 25
    """Most output values per request (n x channels x height x width)."""
    max_batch: int = 64
    """Most samples per run of a graph; larger requests are split, small ones are merged."""
    max_queue: int = 8192
    """Most samples waiting in a replica; beyond, requests are answered with 503."""
    max_wait_s: float = 30.0
    """Most work waiting in a replica, in seconds as measured; beyond, requests get a 503 too."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.max_n > self.max_queue:
            raise ValueError(
                f"max_n ({self.max_n}) must not exceed max_queue ({self.max_queue}):"
                " the largest request would never be taken"
            )


class ParsedScaling(Scaling):
    """A Scaling that msgspec may parse.

    It leaves a cache in every class that it parses, and with one in it Ray could not pickle
    Scaling, by value, into its controller.
    """


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything `serve.app:build` takes."""

    artifacts: tuple[str, ...] = ()
    """Folders, `store/name` (the newest version) or `store/name@version`."""
    replicas: tuple[int, int] = (1, 1)
    """Fewest and most replicas; equal for a fixed number."""
    threads: int = 1
    """Threads of onnxruntime per replica."""
    metrics_dir: str = ""
    """Folder where the processes of this machine keep their metrics."""
    drain_file: str = ""
    """While this file exists, /readyz answers 503."""
    local_only: bool = False
    """Refuse gRPC calls from other machines: Ray listens for them on every interface."""
    admin_without_key: bool = False
    """The admin routes are open to all who reach this server: only on loopback, without keys."""
    keys: str = ""
    """File of API keys on every replica's machine; without one AIGC_KEYS counts, if it is set."""
    cors: tuple[str, ...] = ()
    """Origins whose pages may ask this server from a browser, "*" for all; none by default."""
    logs: Literal["text", "json"] = "text"
    """How a replica writes its log; json is a line per record, with the request's id."""
    linger_ms: float = 0.0
    """Longest that a batch that is not full is held back for others to join; 0: not at all."""
    limits: Limits = field(default_factory=Limits)
    scaling: ParsedScaling = field(default_factory=ParsedScaling)
    """When the number of replicas changes within its range."""

    def __post_init__(self) -> None:
        low, high = self.replicas
        if not 1 <= low <= high:
            raise ValueError(f"replicas must be MIN..MAX with 1 <= MIN <= MAX, got {low}..{high}")
        if not 0 <= self.linger_ms <= 1000:
            raise ValueError(f"linger_ms must be in [0, 1000], got {self.linger_ms}")
        if self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")


def parse(args: Mapping[str, Any]) -> Settings:
    """The `args` of a Serve config -> Settings. Raises ValueError naming what is wrong.

    `replicas` may be a number, "MIN..MAX" or [MIN, MAX]. Unknown names are refused: Serve itself
    would pass over them in silence.
    """
    document = dict(args)
    if "replicas" in document:
        document["replicas"] = parse_replicas(document["replicas"])
    _check_names(document, Settings, "")
    _check_names(document.get("limits", {}), Limits, "limits.")
    _check_names(document.get("scaling", {}), Scaling, "scaling.")
    try:
        return msgspec.convert(document, Settings)
    except msgspec.ValidationError as error:
        raise ValueError(f"{error}") from error


def parse_replicas(value: Any) -> Any:
    """3, "3" -> (3, 3); "1..4" -> (1, 4); anything else as it is."""
    if isinstance(value, int):
        return value, value
    if not isinstance(value, str):
        return value
    low, dots, high = value.partition("..")
    try:
        return int(low), int(high if dots else low)
    except ValueError:
        raise ValueError(f"replicas must be a number or MIN..MAX, got {value!r}") from None


def _check_names(document: Any, kind: type, prefix: str) -> None:
    known = [field.name for field in fields(kind)]
    unknown = [name for name in document if name not in known]
    if unknown:
        raise ValueError(f"unknown option {prefix}{unknown[0]!r}; there are: {', '.join(known)}")
