"""The processes of `aigc serve`: starts them, waits until they serve, drains and ends them."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator

from aigc import ray_options, watchdog
from aigc.artifact import Manifest, providers
from aigc.display import netloc
from serve.access import api_keys
from serve.local import haproxy, ports, ray_machine
from serve.local.log_follower import Follower
from serve.local.signals import Signals, Stopped
from serve.options import ServeConfig
from serve.settings import PoolSettings, Settings

DRIVER = ("serve.local.driver",)
"""Module that starts Ray and Serve, and its arguments."""


def metrics_host(config: ServeConfig) -> str:
    """Address of the exporter, which asks for no key: with keys, only this machine reaches it."""
    guarded = config.keys or os.environ.get(api_keys.ENVIRONMENT)
    return ray_options.LOOPBACK if guarded else config.host


def serve(
    config: ServeConfig, settings: Settings, manifests: list[Manifest], signals: Signals
) -> int:
    """Start all processes, print the URL, wait for a signal, end all of them.

    Returns the exit status: 0 for a server that was stopped; 128 + the signal's number for a start
    that was stopped, or where a second signal cut off requests in progress. Raises ValueError if
    the server does not start or ends by itself. No process is left running.
    """
    ray_machine.raise_file_limit()
    run = ray_machine.new_run()
    watchdog.adopt_orphans()
    follower = Follower(run.ray)
    driver = guard = None
    url = ""
    try:
        with signals.prefer_stopped():
            _set_up(run, config, settings)
            guard = watchdog.Watchdog(run.folder)
            driver = ray_machine.start_driver(run, DRIVER, run, config, settings)
            exporter = ray_machine.start_exporter(run, metrics_host(config), config.metrics_port)
            metrics_url = next(_lines(exporter, signals), "")
            if not metrics_url:
                raise ValueError("the metrics exporter did not start; its message is above")
            for line in _lines(driver, signals):
                message = json.loads(line)
                event, text = message["event"], message["text"]
                if event == "failed":
                    raise ValueError(text)
                if event == "note":
                    follower.add(f"warning: {text}")
                    continue
                guard.watch(watchdog.run_processes(run.folder))
                if event == "ready":
                    url = f"http://{netloc(ports.reachable(config.host), config.port)}"
                    _say(_banner(url, metrics_url, config, settings, manifests))
                    print(url, flush=True)
                    follower.start()  # the error says what kept it from starting
            raise ValueError(ray_machine.last_words(run, driver))
    except Stopped as stopped:
        if not url:
            return stopped.status
        _say("stopping")
        try:
            _drain(run, config, signals)
        except Stopped as again:
            return again.status
        return 0
    finally:
        if driver is not None:
            driver.kill()  # first, as it starts others
            driver.wait()
        follower.close()
        watchdog.end_run(run.folder, spare=[guard.pid] if guard is not None else [])
        if guard is not None:
            guard.close()


def _set_up(run: ray_machine.Run, config: ServeConfig, settings: Settings) -> None:
    """Check HAProxy, print warnings, and set the environment of all processes to start."""
    if run.haproxy is not None:
        haproxy.check(run.haproxy)
    _warn(run, settings)
    address = ports.resolve(config.host)
    public = {port: address for port in (config.port, config.grpc_port) if port}
    grpc = netloc(address, config.grpc_port) if config.grpc_port and not run.haproxy else ""
    ray_machine.set_environment(run, most_replicas=settings.most_replicas, public=public, grpc=grpc)


def _warn(run: ray_machine.Run, settings: Settings) -> None:
    """Warn of what will work slowly on this machine."""
    if run.haproxy is None:
        _say(
            "warning: HAProxy does not run here, so Ray's own proxy does: expect about 0.3 of"
            " the throughput for small models. ray[serve] brings HAProxy on Linux x86-64 and"
            " arm64; or put one on PATH."
        )
    elif (warning := haproxy.few_connections()) is not None:
        _say(f"warning: {warning}")
    cores = os.cpu_count() or 1
    threads = sum(pool.replicas[1] * pool.num_threads for pool in settings.pools_by_name.values())
    if threads > cores:
        _say(
            f"warning: {settings.most_replicas} replicas of {threads} threads in all share"
            f" {cores} cores"
        )


def _lines(process: "subprocess.Popen[bytes]", signals: Signals) -> Iterator[str]:
    """Lines that a process prints, until it closes its stdout. Raises Stopped."""
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    rest = b""
    while signals.wait(descriptor) and (data := os.read(descriptor, 65536)):
        *lines, rest = (rest + data).split(b"\n")
        yield from (line.decode() for line in lines)


def _drain(run: ray_machine.Run, config: ServeConfig, signals: Signals) -> None:
    """Turn unready, take no new connections, wait until running requests are answered.

    Raises Stopped for a second signal.
    """
    with contextlib.suppress(OSError):  # a full disk must cut no request off
        run.drain_file.touch()
    proxies = ray_machine.stop_proxies(run)
    deadline = time.monotonic() + config.grace
    while time.monotonic() < deadline:
        if not any(map(watchdog.is_alive, proxies)) and not _in_progress(run):
            return
        signals.wait(timeout_s=0.1)


def _in_progress(run: ray_machine.Run) -> bool:
    from aigc.prometheus.exporter import render

    try:
        lines = render(run.metrics_dir).decode().splitlines()
    except OSError:  # a frozen replica is writing it, or there is no folder: unknown
        return True
    values = [line.split()[-1] for line in lines if line.startswith("aigc_requests_in_progress")]
    return any(float(value) > 0 for value in values)


def _banner(
    url: str,
    metrics_url: str,
    config: ServeConfig,
    settings: Settings,
    manifests: list[Manifest],
) -> str:
    host = ports.reachable(config.host)
    lines = [""]
    for manifest in manifests:
        signatures = ", ".join(manifest.offered)
        lines.append(f"  {manifest.id:<20} {manifest.source:<20} {signatures}")
    lines += [
        "",
        f"  page     {url}/",
        f"  docs     {url}/docs",
        *([f"  gRPC     {netloc(host, config.grpc_port)}"] if config.grpc_port else []),
        f"  metrics  {metrics_url}",
        "",
        *(f"  {_describe(name, pool, settings)}" for name, pool in settings.pools_by_name.items()),
        "  Ctrl-C stops.",
        "",
    ]
    return "\n".join(lines)


def _describe(name: str, pool: PoolSettings, settings: Settings) -> str:
    low, high = pool.replicas
    replicas = f"{low}..{high} replicas" if high > low else f"{low} replica{'s' * (low > 1)}"
    threads = f"{pool.num_threads} thread{'s' * (pool.num_threads > 1)}"
    taken = f" ({pool.provider})" * (pool.provider == "auto")
    provider = f"provider {providers.resolve(pool.provider)}{taken}"
    where = f"pool {name}: " if settings.pools else ""
    return f"{where}{replicas}, {threads} each, {provider}."


def _say(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
