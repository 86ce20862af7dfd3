"""The Ray Serve application: the default pool is the ingress, others are reached by its handles.

    grpc_options: {port: 9000, grpc_servicer_functions: [serve.dialects.protobuf.add_to_server]}
    applications:
    - name: aigc
      import_path: serve.app:build
      args:
        pools:
          default: {replicas: 1..4, scaling: {target_busy: 0.6}}
          large: {replicas: 0..2, cpus: 4, memory: 12GiB}
      deployments:
      - name: default
        user_config:
          artifacts: [s3://models/digits/3]
          pools: {large: {artifacts: [s3://models/faces/1]}}    # where requests for those go
      - name: large
        user_config: {artifacts: [s3://models/faces/1]}

A change of user_config reaches the replicas that there are; one of args starts new ones. What a
pool hosts stands in its own user_config and in the default pool's; `aigc deploy` writes both.
"""

import asyncio
import warnings
from collections.abc import AsyncGenerator, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import ray
from ray import serve as ray_serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.context import _get_global_client
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig, ServeDeploySchema

from aigc.exporter import ENVIRONMENT
from serve.access.ledger import shared
from serve.autoscaling import Scaling, WorkPolicy
from serve.http import ASGI
from serve.logs import configure
from serve.remote import Connection, Done, LostError, Refused, Work
from serve.settings import DEFAULT, Settings, document, parse
from serve.switching import Config, Target, located, parse_target, target_of
from serve.telling import Came

NAME = "aigc"
POOL = DEFAULT

MAX_ONGOING_REQUESTS = 4096
"""Far above what a replica's queue takes: shedding is the batcher's decision, not Serve's."""

LOST = (RayActorError, ReplicaUnavailableError, DeploymentUnavailableError)
"""What is raised where a replica went away, or was not reached."""

REPORT_INTERVAL_S = 1.0
"""How often a replica tells the controller of its work."""


class Pool:
    """A replica as Ray Serve wants it. Its artifacts arrive by reconfigure()."""

    def __init__(
        self, args: Mapping[str, Any], handles: Mapping[str, DeploymentHandle] | None = None
    ) -> None:
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
        self._replica = Replica(
            settings,
            context.replica_id.unique_id,
            config,
            shared(),
            {name: through(handle) for name, handle in (handles or {}).items()},
        )

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


class OtherPool:
    """A replica of another pool: it serves whom the ingress sends. Artifacts by reconfigure()."""

    def __init__(self, args: Mapping[str, Any], pool: str) -> None:
        from serve.worker import Worker  # here for the same reason as in Pool

        settings = parse(args).of_pool(pool)
        configure(settings.logs)
        self._worker = Worker(settings, ray_serve.get_replica_context().replica_id.unique_id)

    async def sample(self, work: Any) -> Any:
        return await self._worker.sample(work)

    async def stream(self, work: Any) -> Any:
        async for came in self._worker.stream(work):
            yield came

    async def prove(self, uri: str) -> str:
        return await self._worker.refusal(uri)

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        await self._worker.configure(user_config)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return self._worker.autoscaling_stats()

    async def check_health(self) -> None:
        self._worker.check_health()


def build(args: Mapping[str, Any]) -> ray_serve.Application:
    """The application for `serve.settings.Settings` as a plain dictionary.

    Artifacts belong into the deployments' user_config; those in args are its default. Raises
    ValueError for an unknown or wrong option.
    """
    settings = parse(args)
    replica_args = document(settings.without_targets())
    handles = {
        name: _deployment(OtherPool, name, settings).bind(replica_args, name)
        for name in settings.pools
    }
    pool = _deployment(ray_serve.ingress()(Pool), POOL, settings)
    return pool.bind(replica_args, handles) if handles else pool.bind(replica_args)


def _deployment(kind: type[Any], name: str, settings: Settings) -> ray_serve.Deployment:
    """A pool as Serve knows it. Artifacts that are not in args must be in Serve's config."""
    pool = settings.all_pools[name]
    named = any(each.artifacts for each in settings.all_pools.values())
    targets = user_configs(target_of(settings)) if named else {}
    low, high = pool.replicas
    scaling: dict[str, Any] = {"num_replicas": low}
    if low != high:
        scaling = {"autoscaling_config": autoscaling(pool.scaling, low, high)}
    return ray_serve.deployment(
        kind,
        name=name,
        user_config=targets.get(name, {}),
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        health_check_period_s=5.0,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=2,
        logging_config=LoggingConfig(
            log_level="WARNING", enable_access_log=False, encoding=settings.logs.upper()
        ),
        ray_actor_options={
            "num_cpus": pool.num_cpus,
            "num_gpus": pool.gpus,
            "runtime_env": {"env_vars": _environment(settings)},
        },
        **scaling,
    )


def through(handle: DeploymentHandle) -> Connection:
    """The way to a pool: its deployment's handle."""
    return _Handle(handle)


class _Handle:
    def __init__(self, handle: DeploymentHandle) -> None:
        self._sample = handle.options(method_name="sample")
        self._stream = handle.options(method_name="stream", stream=True)
        self._prove = handle.options(method_name="prove")

    async def sample(self, work: Work) -> Done | Refused:
        answer: Done | Refused = await _call(self._sample, work)
        return answer

    async def stream(self, work: Work) -> AsyncGenerator[Came | Done | Refused, None]:
        parts = self._stream.remote(work)
        try:
            async for came in parts:
                yield came
        except LOST as error:
            raise LostError(f"{error}") from None
        finally:
            parts.cancel()  # does nothing once it has ended

    async def prove(self, uri: str) -> str:
        answer: str = await _call(self._prove, uri)
        return answer


async def _call(handle: DeploymentHandle, *arguments: Any) -> Any:
    """The answer of one replica. Cancelled, so is the work there. Raises LostError."""
    response = handle.remote(*arguments)
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    except LOST as error:
        raise LostError(f"{error}") from error


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
    without = {
        name: replace(pool, artifacts=(), pinned={}) for name, pool in settings.pools.items()
    }
    args = replace(settings, artifacts=(), pinned={}, pools=without)
    return {
        "name": NAME,
        "route_prefix": "/",
        "import_path": "serve.app:build",
        "args": document(args),
        "deployments": [
            {"name": name, "user_config": user_config}
            for name, user_config in user_configs(target_of(settings)).items()
        ],
    }


def user_configs(target: Target) -> dict[str, dict[str, Any]]:
    """By pool; the default one is told what the others host as well."""
    return {name: pool.document() for name, pool in target.by_pool.items()}


def deploy(applications: Iterable[Mapping[str, Any]]) -> None:
    """Make this Serve's config. It returns at once; `serve.status()` tells what comes of it."""
    schema = ServeDeploySchema.model_validate({"applications": [*applications]})
    _get_global_client().deploy_apps(schema)


def read_target(app: str) -> Target:
    """What Serve's config says is to be hosted. Raises ValueError if it was not deployed by one."""
    return located(parse_target(_deployments(_configs(), app, POOL)[POOL]["user_config"]))


def write_target(app: str, target: Target) -> None:
    """Change what is to be hosted, and nothing else."""
    configs = _configs()
    wanted = user_configs(target)
    for name, deployment in _deployments(configs, app, *wanted).items():
        deployment["user_config"] = wanted[name]
    deploy(configs)


def _configs() -> list[dict[str, Any]]:
    found = ray.get(_get_global_client()._controller.get_app_configs.remote())
    return [config.model_dump(exclude_unset=True) for config in found.values()]


def _deployments(configs: list[dict[str, Any]], app: str, *names: str) -> dict[str, dict[str, Any]]:
    """Those of the application by name. Raises ValueError if one has no user_config there."""
    found = {
        deployment["name"]: deployment
        for config in configs
        for deployment in (config.get("deployments", ()) if config["name"] == app else ())
        if deployment.get("user_config")
    }
    for name in names:
        if name not in found:
            raise ValueError(
                f"the config of application {app} gives no user_config to its deployment {name}"
            )
    return {name: found[name] for name in names}


def _environment(settings: Settings) -> dict[str, str]:
    """What must be in a replica's environment before its first import.

    Without a metrics_dir the replicas take PROMETHEUS_MULTIPROC_DIR from where Ray was started.
    """
    return {ENVIRONMENT: settings.metrics_dir} if settings.metrics_dir else {}
