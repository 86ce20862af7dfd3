"""Limits and options of pools and their replicas; how many there are is the machine's business.

    default = {"artifacts": ["store/digits"], "mode": "latency"}
    large = {"artifacts": ["store/faces"], "replicas": "0..2", "memory": "4GiB"}
    parse({"keys": "keys.toml", "pools": {"default": default, "large": large}})

Options of the default pool may stand at the top as well: with one pool, that is all there is.
"""

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, Self, TypeVar

import msgspec

from serve.autoscaling import Scaling
from serve.memory import share

MAX_SEED = 2**53 - 1
"""Largest seed and index over HTTP: JavaScript and most JSON readers keep integers exact so far."""

DEFAULT = "default"
"""The pool that is the ingress: it serves its own artifacts in one hop."""

THREADS = {"throughput": 1, "latency": 2}
"""Of onnxruntime, by mode."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request and one queue may hold."""

    max_body_bytes: int = 1 << 20
    """Largest request body, or JSON part of one; more is answered with 413."""
    max_tensor_bytes: int = 1 << 24
    """Most bytes of binary tensors after the JSON of a request; more is answered with 413."""
    max_body_seconds: int = 30
    """Longest that a request's body may take to arrive; who is slower is answered with 408."""
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
class PoolSettings:
    """A set of artifacts that each of so many replicas hosts."""

    artifacts: tuple[str, ...] = ()
    """Folders, `store/name` (the newest version) or `store/name@version`."""
    pinned: dict[str, str] = field(default_factory=dict)
    """Version that a name alone means; without one the newest."""
    replicas: tuple[int, int] = (1, 1)
    """Fewest and most replicas; equal for a fixed number. Fewest may be 0 for all pools but the
    default one: a request then starts a replica, and waits for it."""
    mode: Literal["throughput", "latency"] = "throughput"
    """throughput: one thread of onnxruntime per replica, the most samples per core. latency: two,
    which answer a lone request sooner for more processor time."""
    threads: int | None = None
    """Threads of onnxruntime per replica, if not those of the mode."""
    cpus: float | None = None
    """Processors that Ray keeps for a replica; as many as it has threads if absent."""
    gpus: float = 0.0
    """GPUs that Ray keeps for a replica, a fraction for several replicas on one."""
    memory: int | None = None
    """Most bytes that a replica may hold ("4GiB" in a file). If absent, 80 % of what the machine or
    its cgroup has, divided by the most replicas of all pools: they may all come to be on one."""
    linger_ms: float = 0.0
    """Longest that a batch that is not full is held back for others to join; 0: not at all."""
    limits: Limits = field(default_factory=Limits)
    scaling: ParsedScaling = field(default_factory=ParsedScaling)
    """When the number of replicas changes within its range."""

    def __post_init__(self) -> None:
        low, high = self.replicas
        if not (0 <= low <= high and high >= 1):
            raise ValueError(
                f"replicas must be MIN..MAX with 0 <= MIN <= MAX and 1 <= MAX, got {low}..{high}"
            )
        if not 0 <= self.linger_ms <= 1000:
            raise ValueError(f"linger_ms must be in [0, 1000], got {self.linger_ms}")
        if self.threads is not None and self.threads < 1:
            raise ValueError(f"threads must be at least 1, got {self.threads}")
        if self.cpus is not None and self.cpus < 0:
            raise ValueError(f"cpus must be at least 0, got {self.cpus}")
        if self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus)):
            raise ValueError(f"gpus must be a fraction up to 1 or a whole number, got {self.gpus}")
        if self.memory is not None and self.memory < 1:
            raise ValueError(f"memory must be at least 1 byte, got {self.memory}")

    @property
    def num_threads(self) -> int:
        """Threads of onnxruntime in a replica."""
        return THREADS[self.mode] if self.threads is None else self.threads

    @property
    def num_cpus(self) -> float:
        """What Ray keeps for a replica."""
        return float(self.num_threads) if self.cpus is None else self.cpus

    @property
    def max_outstanding(self) -> int:
        """Most samples that may wait for the pool, also while it has no replica."""
        return self.limits.max_queue * self.replicas[1]

    def without_target(self) -> Self:
        """This without what changes while replicas run: artifacts, and when there are how many."""
        return replace(self, artifacts=(), pinned={}, scaling=ParsedScaling())


@dataclass(frozen=True, kw_only=True)
class Settings(PoolSettings):
    """Everything `serve.app:build` takes: the default pool, what is one for all, other pools."""

    pools: dict[str, PoolSettings] = field(default_factory=dict)
    """The other pools, by name."""
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
    tracing: bool = False
    """Send OpenTelemetry spans of every request to where OTEL_EXPORTER_OTLP_ENDPOINT says."""
    price_per_replica_hour: float = 0.0
    """What a replica costs per hour, in any unit: aigc_cost_total counts in it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.price_per_replica_hour < math.inf:
            raise ValueError(
                f"price_per_replica_hour must be at least 0, got {self.price_per_replica_hour}"
            )
        if self.replicas[0] < 1:
            raise ValueError(
                f"replicas must be MIN..MAX with 1 <= MIN <= MAX, got 0..{self.replicas[1]}: the"
                f" {DEFAULT} pool takes the requests, only other pools may have none"
            )
        if DEFAULT in self.pools:
            raise ValueError(f"pools holds the other pools; {DEFAULT} is these settings themselves")

    @property
    def all_pools(self) -> dict[str, PoolSettings]:
        """Every pool by name, the default one first."""
        return {DEFAULT: self, **self.pools}

    @property
    def most_replicas(self) -> int:
        """Of all pools together."""
        return sum(pool.replicas[1] for pool in self.all_pools.values())

    def of_pool(self, name: str) -> "Settings":
        """What a replica of another pool goes by: its own options, and what is one for all."""
        pool = self.pools[name]
        own = {each.name: getattr(pool, each.name) for each in fields(PoolSettings)}
        own["replicas"] = (max(1, pool.replicas[0]), pool.replicas[1])
        own["memory"] = self.memory_of(name)
        return replace(self, pools={}, **own)

    def memory_of(self, name: str) -> int:
        """Most bytes that a replica of the pool may hold."""
        memory = self.all_pools[name].memory
        return share(self.most_replicas) if memory is None else memory

    def without_targets(self) -> "Settings":
        """These as the `args` of replicas, which start anew when those change."""
        pools = {name: pool.without_target() for name, pool in self.pools.items()}
        return replace(self.without_target(), pools=pools)


def parse(args: Mapping[str, Any]) -> Settings:
    """The `args` of a Serve config -> Settings. Raises ValueError naming what is wrong.

    `replicas` may be a number, "MIN..MAX" or [MIN, MAX], `memory` bytes or "4GiB". Unknown names
    are refused: Serve itself would pass over them in silence.
    """
    document = dict(args)
    pools = document.get("pools")
    if isinstance(pools, Mapping) and DEFAULT in pools:
        document["pools"] = {name: pool for name, pool in pools.items() if name != DEFAULT}
        default = checked(pools[DEFAULT], PoolSettings, f"pools.{DEFAULT}")
        twice = default.keys() & document.keys()
        if twice:
            raise ValueError(
                f"{min(twice)!r} stands at the top and in pools.{DEFAULT}; say it once"
            )
        document |= default
    return convert(document, Settings, "")


def parse_pools(document: Any, path: str = "pools") -> dict[str, PoolSettings]:
    """Pools by name -> their settings. Raises ValueError naming what is wrong, and where."""
    if not isinstance(document, Mapping) or DEFAULT not in document:
        raise ValueError(f"{path} must hold pools by name, one of them {DEFAULT!r}")
    pools = {
        _pool_name(name, path): convert(pool, PoolSettings, f"{path}.{name}")
        for name, pool in document.items()
    }
    if pools[DEFAULT].replicas[0] < 1:
        raise ValueError(
            f"{path}.{DEFAULT}.replicas must be at least 1: the {DEFAULT} pool takes the requests,"
            " only other pools may have none"
        )
    return pools


def from_pools(pools: Mapping[str, PoolSettings], **options: Any) -> Settings:
    """Settings of these pools, one of them the default, and of what is one for all."""
    default = pools[DEFAULT]
    own = {each.name: getattr(default, each.name) for each in fields(PoolSettings)}
    others = {name: pool for name, pool in pools.items() if name != DEFAULT}
    return Settings(**own, **options, pools=others)


def convert(document: Any, kind: type[T], path: str) -> T:
    """A document -> a dataclass. Raises ValueError naming the option at fault with its path."""
    try:
        return msgspec.convert(checked(document, kind, path), kind)
    except msgspec.ValidationError as error:
        message = str(error)
        at = "$" + message.rpartition(" - at `$")[2].rstrip("`") if " - at `$" in message else "$"
        where = ".".join(part for part in (path, at[1:].lstrip(".")) if part)
        said = message.partition(" - at `$")[0]
        raise ValueError(f"{where}: {said}" if where else said) from error


def checked(document: Any, kind: Any, path: str) -> dict[str, Any]:
    """The document with shorthands written out. Raises ValueError for what `kind` has not."""
    if not isinstance(document, Mapping):
        raise ValueError(f"{path or 'the options'} must be options by name, got {document!r}")
    prefix = f"{path}." if path else ""
    types = {each.name: each.type for each in fields(kind)}
    found = dict(document)
    refuse_unknown(found, tuple(types), prefix)
    for name, value in found.items():
        if name == "replicas":
            found[name] = parse_replicas(value, f"{prefix}replicas")
        elif name == "memory":
            found[name] = parse_bytes(value, f"{prefix}memory")
        elif name == "pools" and isinstance(value, Mapping):
            found[name] = {
                _pool_name(pool, f"{prefix}pools"): checked(
                    options, PoolSettings, f"{prefix}pools.{pool}"
                )
                for pool, options in value.items()
            }
        elif is_dataclass(types[name]):
            found[name] = checked(value, types[name], f"{prefix}{name}")
    return found


def refuse_unknown(document: Mapping[Any, Any], known: Sequence[str], prefix: str) -> None:
    """Raise ValueError for an option that there is not; `prefix` is its path up to its name."""
    for name in document:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            there = ", ".join(known)
            raise ValueError(f"unknown option {prefix}{name!r}; there are: {there}{hint}")


def _pool_name(name: Any, path: str) -> str:
    """A pool's name is Serve's name of its deployment."""
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{path}: a pool's name must be letters, digits, - and _, got {name!r}")
    return name


def parse_replicas(value: Any, path: str = "replicas") -> Any:
    """3, "3" -> (3, 3); "1..4" -> (1, 4); anything else as it is."""
    if isinstance(value, int):
        return value, value
    if not isinstance(value, str):
        return value
    low, dots, high = value.partition("..")
    try:
        return int(low), int(high if dots else low)
    except ValueError:
        raise ValueError(f"{path} must be a number or MIN..MAX, got {value!r}") from None


def parse_bytes(value: Any, path: str = "memory") -> Any:
    """ "4GiB", "500MB" -> bytes; anything else as it is."""
    if not isinstance(value, str):
        return value
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(value))
    except ValidationError:
        raise ValueError(f"{path} must be bytes, or a size like 512MiB, got {value!r}") from None


def document(settings: Settings) -> dict[str, Any]:
    """Settings as `args`, of plain lists and numbers; parse() is its reverse."""
    return dict(msgspec.to_builtins(asdict(settings)))
