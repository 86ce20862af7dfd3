"""Starts Ray, Serve and its application for `aigc serve`, in a process of its own.

    python -m serve.local.driver      # (Run, ServeConfig, Settings) arrive pickled on stdin

Ray installs signal handlers and runs C code that must not be interrupted, so the process that the
user stops has no Ray in it and can kill this one at any moment. Every step is a line of JSON on
stdout, {"event": Event, "text": ...}; the process ends when its stdin does.
"""

import http.client
import json
import logging
import math
import os
import pickle
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import psutil

from aigc import ray_options
from serve.local import exposure, haproxy_config, ports, ray_machine
from serve.options import ServeConfig
from serve.settings import Settings

Event = Literal["ray", "ready", "note", "failed"]
"""Ray runs; the server is ready; a warning; it does not start, with the reason."""

READY_TIMEOUT_S = 120.0
WATCH_S = 5.0
"""Time between two checks of Serve's status."""

ADD_TO_SERVER = "serve.protocols.oip.protobuf.add_to_server"

Tell = Callable[[Event, str], None]


def main() -> None:
    """Serve until stdin ends."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what other code prints must not pass for an event

    def tell(event: Event, text: str = "") -> None:
        out.write(json.dumps({"event": event, "text": text}) + "\n")
        out.flush()

    run, config, settings = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        start(run, config, settings, tell)
    except Exception as error:
        print(f"{error!r}", file=sys.stderr)
        tell("failed", sentence(error))
        os._exit(1)
    watch(tell)


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(1)


def start(run: ray_machine.Run, config: ServeConfig, settings: Settings, tell: Tell) -> None:
    """Start Ray and Serve and wait until requests are answered.

    Raises what Ray raises, and ValueError for errors of ours.
    """
    pools = settings.pools_by_name.values()
    # Enough for all replicas, which share the cores that there are.
    num_cpus = math.ceil(sum(pool.replicas[1] * pool.num_cpus for pool in pools))
    ray_machine.start_ray(run, num_cpus=num_cpus)
    _check_gpus(sum(pool.replicas[0] * pool.num_gpus for pool in pools))
    tell("ray", "")
    deploy(run, config, settings)
    _wait_until_ready(config)
    me = psutil.Process()
    public = {config.port, config.grpc_port}
    if not config.insecure:
        exposure.check_listeners(exposure.listeners([me, *me.children(recursive=True)]), public)
    tell("ready", "")


def _check_gpus(wanted: float) -> None:
    """Raise ValueError for too few GPUs: Serve would wait for them without end."""
    import ray

    available = ray.cluster_resources().get("GPU", 0)
    if wanted > available:
        raise ValueError(
            f"the pools want {wanted:g} GPUs, this machine has {available:g}; lower their gpus or"
            " replicas"
        )


def deploy(run: ray_machine.Run, config: ServeConfig, settings: Settings) -> None:
    """Start Serve and its application. Raises ValueError with the reason if it fails."""
    from ray import serve as ray_serve
    from ray.serve.config import HTTPOptions, gRPCOptions
    from ray.serve.schema import LoggingConfig

    from serve.app import NAME, application
    from serve.hosting.desired_models_store import deploy as deploy_config

    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    quiet = LoggingConfig(
        log_level="WARNING", enable_access_log=False, encoding=config.logs.upper()
    )
    # HAProxy listens where the user says (ray_machine.set_environment), all behind it on loopback.
    host = ports.resolve(config.host) if run.haproxy is None else ray_options.LOOPBACK
    # HAProxy has the same bound; in a replica it would cost a task and a timer per request.
    timeout_s = haproxy_config.SERVER_S if run.haproxy is None else None
    ray_serve.start(
        proxy_location="HeadOnly",
        http_options=HTTPOptions(host=host, port=config.port, request_timeout_s=timeout_s),
        grpc_options=gRPCOptions(
            port=config.grpc_port,
            grpc_servicer_functions=[ADD_TO_SERVER] if config.grpc_port else [],
            enable_reflection=False,  # it needs protobuf's default pool, which is not ours
        ),
        logging_config=quiet,
    )
    settings = replace(
        settings,
        metrics_dir=str(run.metrics_dir),
        drain_file=str(run.drain_file),
        # Behind HAProxy every call comes from this machine; without it the peer address counts.
        local_only=run.haproxy is not None or exposure.is_loopback(config.host),
        # A page allowed by CORS could use them as well.
        admin_without_key=exposure.is_loopback(config.host) and not config.cors,
    )
    deploy_config([application(settings)])
    longest_s = _longest_start_s(settings)
    deadline = time.monotonic() + longest_s
    while time.monotonic() < deadline:
        status = ray_serve.status().applications.get(NAME)
        if status and status.status == "RUNNING":
            return
        if status and status.status in ("DEPLOY_FAILED", "UNHEALTHY"):
            failed = [pool for pool in status.deployments.values() if "FAILED" in pool.status]
            ailing = [pool for pool in status.deployments.values() if pool.message]
            message = next((pool.message for pool in [*failed, *ailing]), status.message)
            raise ValueError(f"serving did not start: {reason(message or status.message)}")
        time.sleep(0.1)
    raise ValueError(
        f"serving did not start within {longest_s:.0f} s, as long as all artifacts may take to load"
        " three times (limits.max_load_seconds)"
    )


def _longest_start_s(settings: Settings) -> float:
    """Longest start: Serve tries a replica three times, each loads its artifacts one by one."""
    loads = (
        len(pool.artifacts) * pool.limits.max_load_seconds
        for pool in settings.pools_by_name.values()
    )
    return READY_TIMEOUT_S + 3 * max(loads)


def _wait_until_ready(config: ServeConfig) -> None:
    """Wait until /readyz answers through the proxy. Raises ValueError after READY_TIMEOUT_S."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    host = ports.reachable(config.host)
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection(host, config.port, timeout=5)
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


def watch(tell: Tell) -> None:
    """Report problems of the pools whenever they change; never returns."""
    from ray import serve as ray_serve

    from serve.app import NAME

    before: dict[str, str] = {}
    while True:
        time.sleep(WATCH_S)
        try:
            app = ray_serve.status().applications.get(NAME)
            problems = {"": "Serve lost its application"} if app is None else problems_of(app)
        except Exception as error:
            problems = {"": f"Ray Serve's controller does not answer: {sentence(error)}"}
        for name, text in problems.items():
            if before.get(name) != text:
                tell("note", text)
        before = problems


def problems_of(app: Any) -> dict[str, str]:
    """Reason why a pool lacks replicas, by name of the pool."""
    return {
        name: f"pool {name}: {' '.join(pool.status.replace('_', ' ').lower().split())}: "
        f"{reason(pool.message)}"
        for name, pool in app.deployments.items()
        if pool.message and pool.status not in ("HEALTHY", "UPSCALING", "DOWNSCALING")
    }


def sentence(error: BaseException) -> str:
    """One sentence with the root cause of an error, without Ray's context."""
    if isinstance(error, ValueError) and error.__cause__ is None and "\n" not in str(error):
        return str(error)
    return f"serving did not start: {reason(str(error) or repr(error))}"


def reason(message: str) -> str:
    """The last error in a message of Serve, which may contain a whole traceback."""
    alerts = re.findall(r"\[ALERT\][^:\n]*: *(.+)", message)
    taken = re.search(r"cannot bind \w+ \((.+?)\) for \[(.+)\]", message)
    if taken:
        return f"cannot listen on {taken[2]}: {taken[1]}; it was free before, so something took it"
    if alerts:
        return f"HAProxy does not start: {alerts[0].strip()}"
    errors = re.findall(r"^(?:[\w.]+\.)?\w*(?:Error|Exception): (.+)$", message, re.MULTILINE)
    text = errors[-1] if errors else " ".join(message.split())
    return text if len(text) <= 600 else f"{text[:600]}…"


if __name__ == "__main__":
    main()
