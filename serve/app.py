"""The Ray Serve application: one deployment, which is the ingress and the default pool.

    grpc_options: {port: 9000, grpc_servicer_functions: [serve.protobuf.add_to_server]}
    applications:
    - name: aigc
      import_path: serve.app:build
      args: {artifacts: [s3://models/digits], replicas: 1..4, scaling: {target_busy: 0.6}}

Another pool would be another deployment in this application, reached by its handle.
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from ray import serve as ray_serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import LoggingConfig

from aigc.exporter import ENVIRONMENT
from serve.autoscaling import Scaling, WorkPolicy
from serve.http import Application
from serve.settings import ParsedScaling, Settings, parse

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

        name = ray_serve.get_replica_context().replica_id.unique_id
        self._replica = Replica(parse(args), name)

    def __serve_build_asgi_app__(self) -> Application:
        return self._replica.application

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        await self._replica.configure(user_config["artifacts"])

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

    Artifacts go into user_config: changing them reconfigures the replicas that there are, whereas
    a change of what a replica is made with starts new ones. Raises ValueError for an unknown or
    wrong option.
    """
    settings = parse(args)
    if not settings.artifacts:
        raise ValueError("artifacts must name at least one artifact")
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
        logging_config=LoggingConfig(log_level="WARNING", enable_access_log=False),
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


def _environment(settings: Settings) -> dict[str, str]:
    """What must be in a replica's environment before its first import.

    Without a metrics_dir the replicas take PROMETHEUS_MULTIPROC_DIR from where Ray was started.
    """
    return {ENVIRONMENT: settings.metrics_dir} if settings.metrics_dir else {}
