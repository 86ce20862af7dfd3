"""Options of `aigc serve`: its command line and its YAML file, which know the same names.

    host: 0.0.0.0
    keys: keys.toml
    pools:
      default: {artifacts: [artifacts/digits@1], replicas: 1..4}
      large:
        artifacts: [artifacts/faces]
        replicas: 0..2
        mode: latency
        memory: 4GiB

Paths in the file are relative to it. It is read strictly, so that no typo goes unnoticed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import tyro

from aigc import strict_yaml
from serve.settings import (
    DEFAULT,
    HostingOptions,
    PoolSettings,
    ServerOptions,
    parse_pools,
    parse_replicas,
    refuse_unknown,
)


@dataclass(frozen=True, kw_only=True)
class ListenOptions:
    """Where the server listens, and how it starts and stops."""

    config: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """YAML of these options and of pools of replicas, each with its own artifacts. Options on the
    command line override the file's."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0, or :: for IPv6 too, lets other machines in."""
    port: int = 8000
    """Port of the page and the API."""
    grpc_port: int = 0
    """Port of the Open Inference Protocol over gRPC; 0 for none."""
    metrics_port: int = 9464
    """Port of the merged metrics; 0 takes a free one. With keys, on loopback only."""
    grace: float = 10.0
    """Seconds that running requests get when the server is stopped."""
    insecure: bool = False
    """Let other machines in without keys or without Ray's tokens."""

    def __post_init__(self) -> None:
        for name in ("port", "grpc_port", "metrics_port"):
            if not 0 <= getattr(self, name) < 65536:
                raise ValueError(f"{name} must be in [0, 65536), got {getattr(self, name)}")
        if self.port == 0:
            raise ValueError("port must be in [1, 65536), got 0")
        if self.grpc_port == self.port:
            raise ValueError(f"grpc_port must differ from port, both are {self.port}")
        if self.grace < 0:
            raise ValueError(f"grace must be at least 0 seconds, got {self.grace}")


@dataclass(frozen=True, kw_only=True)
class ServeConfig(ServerOptions, HostingOptions, ListenOptions):
    """Serve artifacts over HTTP: samples, a page to try them, API docs and metrics."""

    replicas: Annotated[str, tyro.conf.arg(metavar="N|MIN..MAX")] = "1"
    """Serving processes: a fixed number, or as many as the load needs within MIN..MAX."""
    pools: Annotated[dict[str, PoolSettings], tyro.conf.Suppress] = field(default_factory=dict)
    """Pools of the file; without a file, ONLY_POOL_OPTIONS describe the only pool."""

    def __post_init__(self) -> None:
        twice = [name for name in ONLY_POOL_OPTIONS if getattr(self, name) != _default(name)]
        if self.pools and twice:
            raise ValueError(
                f"{', '.join(twice)} beside --config: it says that for every pool; write it there,"
                f" below pools.{DEFAULT}"
            )
        if not self.pools and not self.artifacts:
            raise ValueError("name at least one artifact to serve, or a --config FILE of pools")
        super().__post_init__()

    def pools_by_name(self) -> dict[str, PoolSettings]:
        """The file's pools, or the only one. Raises ValueError for options out of range."""
        if self.pools:
            return self.pools
        own = {each.name: getattr(self, each.name) for each in fields(HostingOptions)}
        return {DEFAULT: PoolSettings(**own, replicas=parse_replicas(self.replicas))}

    def server_options(self) -> dict[str, Any]:
        """Values of ServerOptions by name."""
        return {each.name: getattr(self, each.name) for each in fields(ServerOptions)}


ONLY_POOL_OPTIONS = (*(each.name for each in fields(HostingOptions)), "replicas")
"""Options of the command line that describe the default pool where there is no file."""


def _default(name: str) -> Any:
    return ServeConfig.__dataclass_fields__[name].default


def read_config(file: Path) -> ServeConfig:
    """The options of a file. Raises ValueError with the file's name and the option at fault."""
    try:
        with file.open("rb") as stream:
            data = stream.read(strict_yaml.MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    try:
        document = strict_yaml.document(strict_yaml.decode(data))
        options = _parse(document, file.parent)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return ServeConfig(**options, config=str(file))


def _parse(document: Any, folder: Path) -> dict[str, Any]:
    if not isinstance(document, Mapping):
        raise ValueError("a file of options by name is expected, pools among them")
    types = {
        each.name: each.type
        for each in fields(ServeConfig)
        if each.name not in (*ONLY_POOL_OPTIONS, "config", "pools")
    }
    refuse_unknown(document, ("pools", *types), "")
    pools = parse_pools(document.get("pools"))
    options = {}
    for name, value in document.items():
        if name != "pools":
            try:
                options[name] = msgspec.convert(value, types[name])
            except msgspec.ValidationError as error:
                raise ValueError(f"{name}: {error}") from None
    for name in ("keys", "trust"):
        if options.get(name):
            options[name] = str(folder / options[name])
    return {**options, "pools": {name: _located(pool, folder) for name, pool in pools.items()}}


def _located(pool: PoolSettings, folder: Path) -> PoolSettings:
    """The pool with paths that do not depend on the working folder."""
    artifacts = (uri if "://" in uri else str(folder / uri) for uri in pool.artifacts)
    return replace(pool, artifacts=tuple(artifacts))
