"""`aigc serve`: Ray Serve on this machine, for as long as the command runs."""

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path

import tyro

from aigc import private
from aigc.artifact import Manifest, providers, signing
from aigc.artifact.folder import read_manifest
from aigc.artifact.store import locate
from serve.access import api_keys
from serve.hosting.desired_models import absolute, desired_from_settings
from serve.local import exposure, ports, server
from serve.local.signals import Signals
from serve.options import ServeConfig, read_config
from serve.settings import Settings, settings_from_pools

TRACING = "AIGC_TRACING"
"""Environment variable: 1 does what --tracing does."""


def command(argv: list[str]) -> int:
    """Serve artifacts over HTTP: samples, a page to try them, API docs and metrics."""
    file = _config_file(argv)
    if file:
        default = read_config(Path(file))
        config = tyro.cli(ServeConfig, args=argv, prog="aigc serve", default=default)
    else:
        config = tyro.cli(ServeConfig, args=argv, prog="aigc serve")
    return run(config)


def run(config: ServeConfig) -> int:
    """Serve until a signal; returns the exit status. Raises ValueError as server.serve() does."""
    with Signals() as signals:
        settings, manifests = prepare(config)
        signals.record()
        return server.serve(config, settings, manifests, signals)


def prepare(config: ServeConfig) -> tuple[Settings, list[Manifest]]:
    """Settings and the manifests to host, checked before any process is started.

    Raises ValueError for whatever would keep the server from starting.
    """
    private.check_working_folder("serve")
    ports.resolve(config.host)
    has_keys = api_keys.load(config.keys, os.environ) is not None
    warning = exposure.check(
        config.host, keys=has_keys, insecure=config.insecure, environment=os.environ
    )
    if warning is not None:
        print(f"warning: {warning}", file=sys.stderr, flush=True)
    for pool in config.pools_by_name().values():
        providers.check(pool.provider)
    trust = signing.wanted(config.trust)
    pools = {
        name: replace(pool, artifacts=tuple(locate(absolute(a)) for a in pool.artifacts))
        for name, pool in config.pools_by_name().items()
    }
    options = config.server_options() | {
        "tracing": _tracing(config),
        "keys": str(Path(config.keys).absolute()) if config.keys else "",
        "trust": str(Path(trust.name).absolute()) if trust is not None else "",
    }
    settings = settings_from_pools(pools, **options)
    hosted = desired_from_settings(settings).hosted()
    if trust is not None:
        for _, uri, _ in hosted:
            read_manifest(uri, trust)
    ports.check_free(config.host, config.port, "--port")
    if config.grpc_port:
        ports.check_free(config.host, config.grpc_port, "--grpc-port")
    ports.check_free(server.metrics_host(config), config.metrics_port, "--metrics-port")
    return settings, [manifest for _, _, manifest in hosted]


def _config_file(argv: list[str]) -> str:
    """The value of --config, which has to be read before the other options are parsed."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default="")
    return str(parser.parse_known_args(argv)[0].config)


def _tracing(config: ServeConfig) -> bool:
    """True if spans are wanted. Raises ValueError if they are and what they need is missing."""
    variable = os.environ.get(TRACING, "0")
    if variable not in ("0", "1"):
        raise ValueError(f"{TRACING} must be 0 or 1, got {variable!r}")
    if not config.tracing and variable == "0":
        return False
    from serve import tracing

    tracing.exporter()
    return True
