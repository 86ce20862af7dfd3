"""The Ray Serve application: one deployment, which is the ingress and the default pool.

    grpc_options: {port: 9000, grpc_servicer_functions: [serve.dialects.protobuf.add_to_server]}
    applications:
    - name: aigc
      import_path: serve.app:build
      args: {replicas: 1..4, scaling: {target_busy: 0.6}}
      deployments:
      - name: default
        user_config: {artifacts: [s3://models/digits/3]}

A change of user_config reaches the replicas that there are; one of args starts new ones.

Another pool would be another deployment in this application, reached by its handle.
"""

import asyncio
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import msgspec
import ray
from ray import serve as ray_serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.context import _get_global_client
from ray.serve.schema import LoggingConfig, ServeDeploySchema

from aigc.exporter import ENVIRONMENT
from serve.access.ledger import shared
from serve.autoscaling import Scaling, WorkPolicy
from serve.http import ASGI
from serve.logs import configure
from serve.settings import ParsedScaling, Settings, parse
from serve.switching import Config, Target, parse_target

NAME = "aigc"
POOL = "default"

MAX_ONGOING_REQUESTS = 4096
"""Far above what a replica's queue takes: shedding is the batcher's decision, not Serve's."""

REPORT_INTERVAL_S = 1.0
"""How often a replica tells the controller of its work."""


class Pool:
    """A replica as Ray Serve wants it. Its artifacts arrive by reconfigure()."""

    def __init__(self, args: Mapping[str, Any]) -> None:
        # Imported here: prometheus_client looks for its folder when it is imported, and only the
        # replica has it in its environment.
        from serve.replica import Replica

        settings = parse(args)
        configure(settings.logs)
        context = ray_serve.get_replica_context()
        config = Config(
            read=lambda: asyncio.to_thread(read_target, context.app_name),
            write=lambda target: asyncio.to_thread(write_target, context.app_name, target),
        )
        self._replica = Replica(settings, context.replica_id.unique_id, config, shared())

    def __serve_build_asgi_app__(self) -> ASGI:
        return self._replica.application

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        await self._replica.configure(user_config)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return self._replica.autoscaling_stats()

    async def check_health(self) -> None:
        self._replica.check_health()

    # Serve calls a method of the gRPC service by its own name.

    async def ServerLive(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        return await self._replica.grpc.answer("ServerLive", request, grpc_context)

    async def ServerReady(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        return await self._replica.grpc.answer("ServerReady", request, grpc_context)

    async def ServerMetadata(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        return await self._replica.grpc.answer("ServerMetadata", request, grpc_context)

    async def ModelReady(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        return await self._replica.grpc.answer("ModelReady", request, grpc_context)

    async def ModelMetadata(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        return await self._replica.grpc.answer("ModelMetadata", request, grpc_context)

    async def ModelInfer(self, request: Any, grpc_context: Any) -> Any:  # noqa: N802
        return await self._replica.grpc.answer("ModelInfer", request, grpc_context)


def build(args: Mapping[str, Any]) -> ray_serve.Application:
    """The application for `serve.settings.Settings` as a plain dictionary.

    Artifacts belong into the deployment's user_config; those in args are its default. Raises
    ValueError for an unknown or wrong option.
    """
    settings = parse(args)
    low, high = settings.replicas
    scaling: dict[str, Any] = {"num_replicas": low}
    if low != high:
        scaling = {"autoscaling_config": autoscaling(settings.scaling, low, high)}
    pool = ray_serve.deployment(
        ray_serve.ingress()(Pool),
        name=POOL,
        user_config={"artifacts": list(settings.artifacts)},
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        health_check_period_s=5.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=2,
        logging_config=LoggingConfig(
            log_level="WARNING", enable_access_log=False, encoding=settings.logs.upper()
        ),
        ray_actor_options={"num_cpus": 1, "runtime_env": {"env_vars": _environment(settings)}},
        **scaling,
    )
    return pool.bind(asdict(replace(settings, artifacts=(), scaling=ParsedScaling())))


def autoscaling(scaling: Scaling, low: int, high: int) -> AutoscalingConfig:
    """Replicas by work, between `low` and `high`. A pool behind a handle may have low = 0."""
    with warnings.catch_warnings():
        # Ray 2.60 calls metrics_interval_s deprecated, but nothing else sets the interval: the
        # variables that it names instead are read nowhere.
        warnings.simplefilter("ignore", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=low,
            max_replicas=high,
            initial_replicas=max(low, 1),
            metrics_interval_s=REPORT_INTERVAL_S,
            look_back_period_s=5 * REPORT_INTERVAL_S,
            # The policy has its own delays.
            upscale_delay_s=0.0,
            downscale_delay_s=0.0,
            policy=AutoscalingPolicy(policy_function=WorkPolicy, policy_kwargs=asdict(scaling)),
        )


def application(settings: Settings) -> dict[str, Any]:
    """The application as Serve's config describes it."""
    return {
        "name": NAME,
        "route_prefix": "/",
        "import_path": "serve.app:build",
        "args": msgspec.to_builtins(asdict(replace(settings, artifacts=()))),
        "deployments": [
            {"name": POOL, "user_config": Target(artifacts=settings.artifacts).document()}
        ],
    }


def deploy(applications: Iterable[Mapping[str, Any]]) -> None:
    """Make this Serve's config. It returns at once; `serve.status()` tells what comes of it."""
    schema = ServeDeploySchema.model_validate({"applications": [*applications]})
    _get_global_client().deploy_apps(schema)


def read_target(app: str) -> Target:
    """What Serve's config says is to be hosted. Raises ValueError if it was not deployed by one."""
    return parse_target(_pool(_configs(), app)["user_config"])


def write_target(app: str, target: Target) -> None:
    """Change what is to be hosted, and nothing else."""
    configs = _configs()
    _pool(configs, app)["user_config"] = target.document()
    deploy(configs)


def _configs() -> list[dict[str, Any]]:
    found = ray.get(_get_global_client()._controller.get_app_configs.remote())
    return [config.model_dump(exclude_unset=True) for config in found.values()]


def _pool(configs: list[dict[str, Any]], app: str) -> dict[str, Any]:
    for config in configs:
        for deployment in config.get("deployments", ()) if config["name"] == app else ():
            if deployment["name"] == POOL and deployment.get("user_config"):
                return deployment  # type: ignore[no-any-return]
    raise ValueError(
        f"the config of application {app} gives no user_config to its deployment {POOL}"
    )


def _environment(settings: Settings) -> dict[str, str]:
    """What must be in a replica's environment before its first import.

    Without a metrics_dir the replicas take PROMETHEUS_MULTIPROC_DIR from where Ray was started.
    """
    return {ENVIRONMENT: settings.metrics_dir} if settings.metrics_dir else {}
