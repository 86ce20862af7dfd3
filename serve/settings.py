"""Options of a server, its pools and their limits: `Settings`, the arguments of the application.

    default = {"artifacts": ["store/digits"], "mode": "latency"}
    large = {"artifacts": ["store/faces"], "replicas": "0..2", "memory": "4GiB"}
    parse({"keys": "keys.toml", "pools": {"default": default, "large": large}})

Options of the default pool may also stand at the top level, which suffices for a single pool.
`serve.options` offers the same options on the command line and in its file.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec
import tyro

from aigc.artifact.providers import Provider
from aigc.suggest import did_you_mean
from serve.autoscaling import Scaling
from serve.hosting.memory_budget import replica_share

MAX_SEED = 2**53 - 1
"""Largest seed and index over HTTP: JavaScript and most JSON readers round larger integers."""

DEFAULT = "default"
"""Name of the pool that is the ingress: it serves its own artifacts in one hop."""

THREADS = {"throughput": 1, "latency": 2}
"""Threads of onnxruntime per replica, by mode."""
MAX_THREADS = 1024
"""Upper bound of `threads`: more than the processors of any machine."""

MIN_INFLIGHT_BYTES = 1 << 28
"""Smallest default for the bytes of requests that a replica may hold."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of one request and of a replica's queue."""

    max_body_bytes: int = 1 << 20
    """Largest request body, or JSON part of one; more is answered with 413."""
    max_tensor_bytes: int = 1 << 24
    """Most bytes of binary tensors after the JSON of a request; more is answered with 413."""
    max_inflight_bytes: int | None = None
    """Most bytes of requests that a replica holds at a time, each from the first byte of its body
    to the end of its answer; images made of tiles and sounds made of chunks are part of them. One
    key may hold half of them; beyond, requests are answered with 429 or 503, and 400 where one
    alone takes more. If absent, four times the largest request, and at least 256 MiB."""
    max_body_seconds: int = 30
    """Longest that a request's body may take to arrive; slower requests are answered with 408."""
    max_n: int = 1024
    """Most samples per request."""
    max_values: int = 1 << 25
    """Most output values per request (n x channels x height x width)."""
    max_batch: int = 64
    """Most samples per run of a graph; larger requests are split, small ones are merged."""
    max_queue: int = 8192
    """Most samples waiting in a replica; beyond, requests are answered with 503."""
    max_load_seconds: int = 300
    """Longest that an artifact may take to load; then it is refused and nothing else changes."""
    max_wait_s: float = 30.0
    """Most work waiting in a replica, in estimated seconds; beyond, requests get a 503 too."""
    max_batch_seconds: float | None = None
    """Longest run of a graph before it counts as hung: its requests get a 504, and the replica is
    replaced. If absent, 60, or 20 times what a full batch took when the artifact was loaded."""

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            value = getattr(self, name)
            if value is not None and not value >= 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.inflight_bytes < 2 * self.max_request_bytes:
            raise ValueError(
                f"max_inflight_bytes must be at least {2 * self.max_request_bytes}, twice what one"
                f" request may have, got {self.max_inflight_bytes}: one key may hold half of it"
            )
        if self.max_n > self.max_queue:
            raise ValueError(
                f"max_n ({self.max_n}) must not exceed max_queue ({self.max_queue}):"
                " the largest request would never be taken"
            )

    @property
    def max_request_bytes(self) -> int:
        """Bytes of the largest body, or gRPC message."""
        return self.max_body_bytes + self.max_tensor_bytes

    @property
    def inflight_bytes(self) -> int:
        """Most bytes of requests that a replica holds at a time."""
        if self.max_inflight_bytes is not None:
            return self.max_inflight_bytes
        return max(MIN_INFLIGHT_BYTES, 4 * self.max_request_bytes)


class ParsedScaling(Scaling):
    """Scaling as msgspec parses it.

    msgspec leaves a cache in every class that it parses. With a cache in Scaling itself, Ray could
    not pickle it, by value, into its controller.
    """


@dataclass(frozen=True, kw_only=True)
class HostingOptions:
    """Options of a pool that `aigc serve` also takes as flags, for a server of one pool."""

    artifacts: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ARTIFACT...")
    ] = ()
    """Folders, STORE/NAME (the newest version) or STORE/NAME@VERSION."""
    threads: Annotated[
        int | None, tyro.conf.arg(metavar="INT", help_behavior_hint="(default: 1)")
    ] = None
    """Threads of onnxruntime per replica."""
    provider: Provider = "auto"
    """Execution provider that runs the graphs. cpu, cuda and tensorrt end the start where they
    cannot be had; auto takes cuda where onnxruntime has it and it loads, else cpu."""
    gpus: Annotated[
        float | None, tyro.conf.arg(metavar="FLOAT", help_behavior_hint="(default: 1 on a GPU)")
    ] = None
    """GPUs that Ray keeps for a replica, a fraction for several replicas on one. If absent, 1 with
    provider cuda or tensorrt, else none."""
    linger_ms: Annotated[float, tyro.conf.arg(name="linger")] = 0.0
    """Longest that a batch that is not full is held back for others to join, in milliseconds."""


@dataclass(frozen=True, kw_only=True)
class PoolSettings(HostingOptions):
    """A set of artifacts that every replica of the pool hosts."""

    pinned: dict[str, str] = field(default_factory=dict)
    """Version that a name without one stands for; by default the newest."""
    replicas: tuple[int, int] = (1, 1)
    """Fewest and most replicas; equal for a fixed number. Fewest may be 0 for all pools but the
    default one: a request then starts a replica, and waits for it."""
    mode: Literal["throughput", "latency"] = "throughput"
    """throughput: one thread of onnxruntime per replica, the most samples per core. latency: two,
    which answer a lone request sooner for more processor time. `threads` overrides both."""
    cpus: float | None = None
    """Processors that Ray keeps for a replica; as many as it has threads if absent."""
    memory: int | None = None
    """Most bytes that a replica may hold ("4GiB" in a file). If absent, 80 % of what the machine or
    its cgroup has, divided by the most replicas of all pools: they may all run on one machine."""
    gpu_memory: int | None = None
    """Most bytes of GPU memory ("4GiB" in a file) of a replica; if absent, 80 % of its share of the
    GPU (`gpus`). Artifacts whose graphs, with those of a version being deployed, are larger
    together are refused. In use it bounds each graph alone: the gpu_mem_limit of CUDA's arena, the
    workspace of TensorRT."""
    engine_cache: str = ""
    """Folder on the replica's machine where TensorRT keeps its engines, writable for its user
    alone; by default below the user's cache folder. They are built at the first load, in minutes:
    raise limits.max_load_seconds."""
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
        if self.threads is not None and not 1 <= self.threads <= MAX_THREADS:
            raise ValueError(f"threads must be in [1, {MAX_THREADS}], got {self.threads}")
        if self.cpus is not None and self.cpus < 0:
            raise ValueError(f"cpus must be at least 0, got {self.cpus}")
        self._check_gpus()
        if self.memory is not None and self.memory < 1:
            raise ValueError(f"memory must be at least 1 byte, got {self.memory}")

    def _check_gpus(self) -> None:
        gpus, provider = self.num_gpus, self.provider
        if gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise ValueError(f"gpus must be a fraction up to 1 or a whole number, got {gpus}")
        if provider in ("cuda", "tensorrt") and not gpus:
            raise ValueError(f"gpus must be above 0 with provider {provider}, got 0")
        if provider == "cpu" and (gpus or self.gpu_memory is not None):
            raise ValueError("gpus and gpu_memory have no effect with provider cpu; leave them out")
        if self.engine_cache and provider != "tensorrt":
            raise ValueError(
                f"engine_cache is for provider tensorrt and has no effect with {provider}"
            )
        if self.gpu_memory is not None and self.gpu_memory < 1:
            raise ValueError(f"gpu_memory must be at least 1 byte, got {self.gpu_memory}")

    @property
    def num_gpus(self) -> float:
        """GPUs that Ray keeps for a replica."""
        if self.gpus is None:
            return 1.0 if self.provider in ("cuda", "tensorrt") else 0.0
        return self.gpus

    @property
    def num_threads(self) -> int:
        """Threads of onnxruntime per replica."""
        return THREADS[self.mode] if self.threads is None else self.threads

    @property
    def num_cpus(self) -> float:
        """Processors that Ray keeps for a replica."""
        return float(self.num_threads) if self.cpus is None else self.cpus

    @property
    def max_outstanding(self) -> int:
        """Most samples that may wait for the pool, also while it has no replica."""
        return self.limits.max_queue * self.replicas[1]

    def without_models(self) -> Self:
        """A copy that hosts nothing: no artifacts, no pinned versions."""
        return replace(self, artifacts=(), pinned={})

    def without_runtime_options(self) -> Self:
        """A copy without the options that change while replicas run: artifacts, pins, scaling."""
        return replace(self.without_models(), scaling=ParsedScaling())


_ORIGIN = re.compile(r"\*|null|[A-Za-z][A-Za-z0-9+.-]*://[^/?#\s]+/?")
"""Origin of a page as browsers send it (RFC 6454)."""


@dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """Options of all pools together: flags of `aigc serve`, keys of its file, `args` of Serve."""

    keys: str = ""
    """File of API keys (`aigc keys new NAME` makes them), on every replica's machine; AIGC_KEYS may
    hold its text instead."""
    trust: str = ""
    """File of public keys (PEM), on every replica's machine: serve only artifacts that one of them
    signed, deployed later included; AIGC_TRUST does the same."""
    cors: tuple[str, ...] = ()
    """Origins (https://example.org) whose pages may call this server; \"*\" for all."""
    logs: Literal["text", "json"] = "text"
    """Format of the replicas' log; json is one line per record, with the request's id."""
    tracing: bool = False
    """Send OpenTelemetry spans to OTEL_EXPORTER_OTLP_ENDPOINT; AIGC_TRACING=1 does the same."""
    price_per_replica_hour: float = 0.0
    """Cost of a replica per hour, in any unit; the metric aigc_cost_total counts in it."""


@dataclass(frozen=True, kw_only=True)
class Settings(ServerOptions, PoolSettings):
    """Arguments of `serve.app:build`: the default pool's options, the server's, the other pools."""

    pools: dict[str, PoolSettings] = field(default_factory=dict)
    """The other pools, by name."""
    metrics_dir: str = ""
    """Folder where the processes of this machine keep their metrics."""
    drain_file: str = ""
    """File whose existence makes /readyz answer 503."""
    local_only: bool = False
    """Refuse gRPC calls from other machines: Ray listens for them on every interface."""
    admin_without_key: bool = False
    """Open the admin routes to everyone who reaches this server: only on loopback, without keys."""

    def __post_init__(self) -> None:
        super().__post_init__()
        price = self.price_per_replica_hour
        if not 0 <= price < math.inf:
            raise ValueError(f"price_per_replica_hour must be at least 0, got {price}")
        if self.replicas[0] < 1:
            raise ValueError(
                f"replicas must be MIN..MAX with 1 <= MIN <= MAX, got 0..{self.replicas[1]}: the"
                f" {DEFAULT} pool takes the requests, only other pools may have none"
            )
        for origin in self.cors:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"cors must be origins such as https://page.example or '*', got {origin!r}"
                )
        if DEFAULT in self.pools:
            raise ValueError(f"pools holds the other pools; {DEFAULT} is these settings themselves")

    @property
    def pools_by_name(self) -> dict[str, PoolSettings]:
        """Every pool by name, the default one first."""
        return {DEFAULT: self, **self.pools}

    @property
    def most_replicas(self) -> int:
        """Most replicas of all pools together."""
        return sum(pool.replicas[1] for pool in self.pools_by_name.values())

    def replica_settings(self, name: str) -> "Settings":
        """Settings of a replica of another pool: that pool's options and the server's."""
        pool = self.pools[name]
        own = {each.name: getattr(pool, each.name) for each in fields(PoolSettings)}
        own["replicas"] = (max(1, pool.replicas[0]), pool.replicas[1])
        own["memory"] = self.memory_of(name)
        return replace(self, pools={}, **own)

    def memory_of(self, name: str) -> int:
        """Most bytes that a replica of the pool may hold."""
        memory = self.pools_by_name[name].memory
        return replica_share(self.most_replicas) if memory is None else memory

    def without_models(self) -> Self:
        pools = {name: pool.without_models() for name, pool in self.pools.items()}
        return replace(super().without_models(), pools=pools)

    def without_runtime_options(self) -> Self:
        pools = {name: pool.without_runtime_options() for name, pool in self.pools.items()}
        return replace(super().without_runtime_options(), pools=pools)


def parse(args: Mapping[str, Any]) -> Settings:
    """The `args` of a Serve config as Settings. Raises ValueError naming the option at fault.

    `replicas` may be a number, "MIN..MAX" or [MIN, MAX], `memory` bytes or "4GiB". Unknown names
    are refused: Serve itself would silently ignore them.
    """
    document = dict(args)
    pools = document.get("pools")
    if isinstance(pools, Mapping) and DEFAULT in pools:
        document["pools"] = {name: pool for name, pool in pools.items() if name != DEFAULT}
        default = _written_out(pools[DEFAULT], PoolSettings, f"pools.{DEFAULT}")
        twice = default.keys() & document.keys()
        if twice:
            raise ValueError(
                f"{min(twice)!r} stands at the top and in pools.{DEFAULT}; say it once"
            )
        document |= default
    return _convert(document, Settings, "")


def parse_pools(document: Any, path: str = "pools") -> dict[str, PoolSettings]:
    """Settings of pools by name. Raises ValueError naming the option at fault with its path."""
    if not isinstance(document, Mapping) or DEFAULT not in document:
        raise ValueError(f"{path} must hold pools by name, one of them {DEFAULT!r}")
    pools = {
        _pool_name(name, path): _convert(pool, PoolSettings, f"{path}.{name}")
        for name, pool in document.items()
    }
    if pools[DEFAULT].replicas[0] < 1:
        raise ValueError(
            f"{path}.{DEFAULT}.replicas must be at least 1: the {DEFAULT} pool takes the requests,"
            " only other pools may have none"
        )
    return pools


def settings_from_pools(pools: Mapping[str, PoolSettings], **options: Any) -> Settings:
    """Settings of these pools, one of them the default, and of the server's `options`."""
    default = pools[DEFAULT]
    own = {each.name: getattr(default, each.name) for each in fields(PoolSettings)}
    others = {name: pool for name, pool in pools.items() if name != DEFAULT}
    return Settings(**own, **options, pools=others)


def _convert(document: Any, kind: type[T], path: str) -> T:
    """A document as a dataclass. Raises ValueError naming the option at fault with its path."""
    try:
        return msgspec.convert(_written_out(document, kind, path), kind)
    except msgspec.ValidationError as error:
        message = str(error)
        at = "$" + message.rpartition(" - at `$")[2].rstrip("`") if " - at `$" in message else "$"
        where = ".".join(part for part in (path, at[1:].lstrip(".")) if part)
        reason = message.partition(" - at `$")[0]
        raise ValueError(f"{where}: {reason}" if where else reason) from error


def _written_out(document: Any, kind: Any, path: str) -> dict[str, Any]:
    """The document with shorthands written out. Raises ValueError for names that `kind` lacks."""
    if not isinstance(document, Mapping):
        raise ValueError(f"{path or 'the options'} must be options by name, got {document!r}")
    prefix = f"{path}." if path else ""
    types = {each.name: each.type for each in fields(kind)}
    options = dict(document)
    refuse_unknown(options, tuple(types), prefix)
    for name, value in options.items():
        if name == "replicas":
            options[name] = parse_replicas(value, f"{prefix}replicas")
        elif name in ("memory", "gpu_memory"):
            options[name] = parse_bytes(value, f"{prefix}{name}")
        elif name == "pools" and isinstance(value, Mapping):
            options[name] = {
                _pool_name(name, f"{prefix}pools"): _written_out(
                    pool, PoolSettings, f"{prefix}pools.{name}"
                )
                for name, pool in value.items()
            }
        elif is_dataclass(types[name]):
            options[name] = _written_out(value, types[name], f"{prefix}{name}")
    return options


def refuse_unknown(document: Mapping[Any, Any], known: Sequence[str], prefix: str) -> None:
    """Raise ValueError for an unknown option; `prefix` is its path up to its name."""
    for name in document:
        if name not in known:
            hint = did_you_mean(name, known)
            there = ", ".join(known)
            raise ValueError(f"unknown option {prefix}{name!r}; there are: {there}{hint}")


def _pool_name(name: Any, path: str) -> str:
    """Check a pool's name, which names its deployment in Serve too."""
    if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum():
        raise ValueError(f"{path}: a pool's name must be letters, digits, - and _, got {name!r}")
    return name


def parse_replicas(value: Any, path: str = "replicas") -> Any:
    """3 and "3" as (3, 3), "1..4" as (1, 4), anything else unchanged."""
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
    """ "4GiB" and "500MB" as bytes, anything else unchanged."""
    if not isinstance(value, str):
        return value
    from pydantic import ByteSize, TypeAdapter, ValidationError

    try:
        return int(TypeAdapter(ByteSize).validate_python(value))
    except ValidationError:
        raise ValueError(f"{path} must be bytes, or a size like 512MiB, got {value!r}") from None


def document(settings: Settings) -> dict[str, Any]:
    """Settings as `args` of plain lists and numbers, the inverse of parse()."""
    return dict(msgspec.to_builtins(asdict(settings)))
