"""`aigc serve`: Ray Serve on this machine, for as long as the command runs."""

import argparse
import contextlib
import http.client
import logging
import math
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import fsspec
import tyro

from aigc.artifact import Manifest
from aigc.artifact.store import locate
from serve import exposure, machine
from serve.access import keys
from serve.configfile import options
from serve.settings import DEFAULT, PoolSettings, Settings, from_pools, parse_replicas
from serve.switching import target_of

READY_TIMEOUT_S = 120.0
TRACING = "AIGC_TRACING"
ADD_TO_SERVER = "serve.dialects.protobuf.add_to_server"


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serve artifacts over HTTP: samples, a page to try them, API docs and metrics."""

    artifacts: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="ARTIFACT...")
    ] = ()
    """Folders, STORE/NAME (the newest version) or STORE/NAME@VERSION."""
    config: Annotated[str, tyro.conf.arg(metavar="FILE")] = ""
    """YAML of these options and of pools of replicas, each with artifacts of its own; options
    beside it go before what it says."""
    pools: Annotated[dict[str, PoolSettings], tyro.conf.Suppress] = field(default_factory=dict)
    """Of the file; without one, artifacts, replicas, threads and linger are the only pool's."""
    host: str = "127.0.0.1"
    """Address to listen on; 0.0.0.0 lets other machines in."""
    port: int = 8000
    """Port of the page and the API."""
    grpc_port: int = 0
    """Port of the Open Inference Protocol over gRPC; 0 for none."""
    replicas: Annotated[str, tyro.conf.arg(metavar="N|MIN..MAX")] = "1"
    """Serving processes: a fixed number, or as many as the load needs within MIN..MAX."""
    threads: int = 1
    """Threads of onnxruntime per replica."""
    metrics_port: int = 9464
    """Port of the merged metrics; 0 takes a free one. With keys, on loopback only."""
    grace: float = 10.0
    """Seconds that running requests get when the server is stopped."""
    keys: str = ""
    """File of API keys (`aigc keys new NAME` makes them); AIGC_KEYS may hold its text instead."""
    cors: tuple[str, ...] = ()
    """Origins (https://example.org) whose pages may ask this server; \"*\" for all."""
    logs: Literal["text", "json"] = "text"
    """How the replicas write their log."""
    tracing: bool = False
    """Send OpenTelemetry spans to OTEL_EXPORTER_OTLP_ENDPOINT; AIGC_TRACING=1 does the same."""
    linger: float = 0.0
    """Milliseconds that a batch that is not full may be held back, for others to join."""
    price_per_replica_hour: float = 0.0
    """What a replica costs per hour, in any unit; the metric aigc_cost_total counts in it."""
    insecure: bool = False
    """Let other machines in without keys or without Ray's tokens."""

    def __post_init__(self) -> None:
        given = [name for name in OF_ONE_POOL if getattr(self, name) != _default(name)]
        if self.pools and given:
            raise ValueError(
                f"{', '.join(given)} beside --config: it says that for every pool; write it there,"
                f" below pools.{DEFAULT}"
            )
        if not self.pools and not self.artifacts:
            raise ValueError("name at least one artifact to serve, or a --config FILE of pools")
        for name in ("port", "grpc_port", "metrics_port"):
            if not 0 <= getattr(self, name) < 65536:
                raise ValueError(f"{name} must be in [0, 65536), got {getattr(self, name)}")
        if self.port == 0:
            raise ValueError("port must be in [1, 65536), got 0")
        if self.grpc_port == self.port:
            raise ValueError(f"grpc_port must differ from port, both are {self.port}")
        if self.grace < 0:
            raise ValueError(f"grace must be at least 0 seconds, got {self.grace}")


OF_ONE_POOL = ("artifacts", "replicas", "threads", "linger")
"""Options of the command line that describe the default pool, when there is no file."""


def _default(name: str) -> Any:
    return ServeConfig.__dataclass_fields__[name].default


class Stopped(BaseException):
    """SIGINT or SIGTERM arrived."""


def command(argv: list[str]) -> int:
    """Serve artifacts over HTTP: samples, a page to try them, API docs and metrics."""
    file = _config_file(argv)
    if file:
        config = tyro.cli(ServeConfig, args=argv, prog="aigc serve", default=read(Path(file)))
    else:
        config = tyro.cli(ServeConfig, args=argv, prog="aigc serve")
    settings, manifests = prepare(config)
    with _signals_stop():
        try:
            serve(config, settings, manifests)
        except Stopped:
            return 0
        except SystemExit as error:
            if error.code != signal.SIGTERM:  # what Ray's handler makes of it, until ours is back
                raise
    return 0


def read(file: Path) -> ServeConfig:
    """What a file says. Raises ValueError naming the option at fault."""
    kinds = {
        each.name: each.type
        for each in fields(ServeConfig)
        if each.name not in (*OF_ONE_POOL, "config", "pools")
    }
    return ServeConfig(**options(file, kinds), config=str(file))


def prepare(config: ServeConfig) -> tuple[Settings, list[Manifest]]:
    """Everything that can be found wrong before a process is started. Raises ValueError."""
    guarded = keys.load(config.keys, os.environ) is not None
    warning = exposure.check(
        config.host, keys=guarded, insecure=config.insecure, environment=os.environ
    )
    if warning is not None:
        _say(f"warning: {warning}")
    pools = {
        name: replace(pool, artifacts=tuple(_absolute(locate(a)) for a in pool.artifacts))
        for name, pool in (config.pools or {DEFAULT: _only_pool(config)}).items()
    }
    settings = from_pools(
        pools,
        cors=config.cors,
        logs=config.logs,
        tracing=_tracing(config),
        price_per_replica_hour=config.price_per_replica_hour,
        keys=str(Path(config.keys).absolute()) if config.keys else "",
    )
    hosted = target_of(settings).hosted()
    machine.check_free(config.host, config.port, "--port")
    if config.grpc_port:
        machine.check_free(config.host, config.grpc_port, "--grpc-port")
    if config.metrics_port:
        machine.check_free(_metrics_host(config), config.metrics_port, "--metrics-port")
    return settings, [manifest for _, _, manifest in hosted]


def _only_pool(config: ServeConfig) -> PoolSettings:
    return PoolSettings(
        artifacts=config.artifacts,
        replicas=parse_replicas(config.replicas),
        threads=config.threads,
        linger_ms=config.linger,
    )


def _config_file(argv: list[str]) -> str:
    """What follows --config: it has to be read before the other options are."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default="")
    return str(parser.parse_known_args(argv)[0].config)


def _tracing(config: ServeConfig) -> bool:
    """Whether spans are wanted. Raises ValueError if they are and what they need is missing."""
    asked = os.environ.get(TRACING, "0")
    if asked not in ("0", "1"):
        raise ValueError(f"{TRACING} must be 0 or 1, got {asked!r}")
    if not config.tracing and asked == "0":
        return False
    from serve import tracing

    tracing.exporter()
    return True


def _metrics_host(config: ServeConfig) -> str:
    """The exporter's port asks for no key: where there are keys, only this machine reaches it."""
    return "127.0.0.1" if config.keys or os.environ.get(keys.ENVIRONMENT) else config.host


def _absolute(uri: str) -> str:
    fs, path = fsspec.core.url_to_fs(uri)
    return path if isinstance(fs, fsspec.get_filesystem_class("file")) else uri


@contextlib.contextmanager
def _signals_stop() -> Iterator[None]:
    """SIGINT and SIGTERM raise Stopped in the main thread; _listen() again after ray.init()."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    _listen()
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _listen() -> None:
    def stop(*_: object) -> None:
        _ignore()
        raise Stopped

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)


def _ignore() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def serve(config: ServeConfig, settings: Settings, manifests: list[Manifest]) -> None:
    """Start everything, tell where it is, wait for Stopped, end everything.

    Raises ValueError if it does not start; nothing is left running then either.
    """
    run = machine.new_run()
    try:
        if run.haproxy is None:
            _say(
                "warning: HAProxy does not run here, so Ray's own proxy does: expect about 0.3 of"
                " the throughput for small models. ray[serve] brings HAProxy on Linux x86-64 and"
                " arm64; or put one on PATH."
            )
        cores = os.cpu_count() or 1
        pools = settings.all_pools
        threads = sum(pool.replicas[1] * pool.num_threads for pool in pools.values())
        most = settings.most_replicas
        if threads > cores:
            _say(f"warning: {most} replicas of {threads} threads in all share {cores} cores")
        machine.set_environment(run, most_replicas=most)
        guard = machine.start_guard(run)
        exporter = machine.start_exporter(run, _metrics_host(config), config.metrics_port)
        assert exporter.stdout is not None
        metrics_url = exporter.stdout.readline().strip()
        if not metrics_url:
            raise ValueError("the metrics exporter did not start; its message is above")
        machine.start_ray(run, num_cpus=_num_cpus(settings))
        _listen()
        machine.guard_now(run, guard)
        deploy(run, config, settings)
        url = f"http://{_reachable(config.host)}:{config.port}"
        _wait_until_ready(config)
        machine.guard_now(run, guard)
        _say(_banner(url, metrics_url, config, settings, manifests))
        print(url, flush=True)
        threading.Event().wait()
    except Stopped:
        _say("stopping")
        _drain(run, config)
        raise
    finally:
        _ignore()
        machine.stop_ray(run)


def _num_cpus(settings: Settings) -> int:
    """What Ray is told: enough for all replicas, which share the cores that there are."""
    pools = settings.all_pools.values()
    return math.ceil(sum(pool.replicas[1] * pool.num_cpus for pool in pools))


def deploy(run: machine.Run, config: ServeConfig, settings: Settings) -> None:
    """Start Serve and its application. Raises ValueError with the reason if it fails."""
    from ray import serve as ray_serve
    from ray.serve.config import HTTPOptions, gRPCOptions
    from ray.serve.schema import LoggingConfig

    from serve.app import NAME, application
    from serve.app import deploy as deploy_config

    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    quiet = LoggingConfig(
        log_level="WARNING", enable_access_log=False, encoding=config.logs.upper()
    )
    ray_serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=config.host, port=config.port),
        grpc_options=gRPCOptions(
            port=config.grpc_port,
            grpc_servicer_functions=[ADD_TO_SERVER] if config.grpc_port else [],
            enable_reflection=False,  # it looks in protobuf's default pool, and ours is another
        ),
        logging_config=quiet,
    )
    settings = replace(
        settings,
        metrics_dir=str(run.metrics_dir),
        drain_file=str(run.drain_file),
        # Behind HAProxy every call comes from here; without it, the caller's own address counts.
        local_only=run.haproxy is not None or exposure.is_loopback(config.host),
        # A page that CORS lets in could use them as well.
        admin_without_key=exposure.is_loopback(config.host) and not config.cors,
    )
    deploy_config([application(settings)])
    while True:
        status = ray_serve.status().applications.get(NAME)
        if status and status.status == "RUNNING":
            return
        if status and status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            failed = [pool for pool in status.deployments.values() if "FAILED" in pool.status]
            ailing = [pool for pool in status.deployments.values() if pool.message]
            said = next((pool.message for pool in [*failed, *ailing]), status.message)
            reason = _reason(said or status.message)
            raise ValueError(f"serving did not start: {reason}")
        time.sleep(0.1)


def _reason(message: str) -> str:
    """The last error in what Serve reports, which holds the whole traceback of a replica."""
    found = re.findall(r"^(?:[\w.]+\.)?\w*(?:Error|Exception): (.+)$", message, re.MULTILINE)
    return found[-1] if found else " ".join(message.split())


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "") else host


def _wait_until_ready(config: ServeConfig) -> None:
    """Until /readyz answers through the proxy. Raises ValueError after READY_TIMEOUT_S."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(_reachable(config.host), config.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return
        except (OSError, http.client.HTTPException):
            pass
        finally:
            connection.close()
        time.sleep(0.1)
    raise ValueError(f"no replica answered on port {config.port} within {READY_TIMEOUT_S:.0f} s")


def _drain(run: machine.Run, config: ServeConfig) -> None:
    """Turn unready, take no new connections, wait until the running requests are answered."""
    with contextlib.suppress(OSError):
        run.drain_file.touch()
        proxies = machine.stop_proxies(run)
        deadline = time.monotonic() + config.grace
        while time.monotonic() < deadline:
            if not any(p.is_running() for p in proxies) and not _in_progress(run):
                return
            time.sleep(0.1)


def _in_progress(run: machine.Run) -> bool:
    from aigc.exporter import render

    lines = render(run.metrics_dir).decode().splitlines()
    values = [line.split()[-1] for line in lines if line.startswith("aigc_requests_in_progress")]
    return any(float(value) > 0 for value in values)


def _banner(
    url: str,
    metrics_url: str,
    config: ServeConfig,
    settings: Settings,
    manifests: list[Manifest],
) -> str:
    lines = [""]
    for manifest in manifests:
        signatures = ", ".join(manifest.offered)
        preset = f"{manifest.model}:{manifest.preset}"
        lines.append(f"  {manifest.id:<20} {preset:<20} {signatures}")
    lines += [
        "",
        f"  page     {url}/",
        f"  docs     {url}/docs",
        *([f"  gRPC     {_reachable(config.host)}:{config.grpc_port}"] if config.grpc_port else []),
        f"  metrics  {metrics_url}",
        "",
        *(f"  {_described(name, pool, settings)}" for name, pool in settings.all_pools.items()),
        "  Ctrl-C stops.",
        "",
    ]
    return "\n".join(lines)


def _described(name: str, pool: PoolSettings, settings: Settings) -> str:
    low, high = pool.replicas
    replicas = f"{low}..{high} replicas" if high > low else f"{low} replica{'s' * (low > 1)}"
    threads = f"{pool.num_threads} thread{'s' * (pool.num_threads > 1)}"
    where = f"pool {name}: " if settings.pools else ""
    return f"{where}{replicas}, {threads} each."


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
