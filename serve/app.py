"""The Ray Serve application: the default pool is the ingress, its handles reach the others.

    grpc_options:
      port: 9000
      grpc_servicer_functions: [serve.protocols.oip.protobuf.add_to_server]
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
          pools: {large: {artifacts: [s3://models/faces/1]}}    # requests for them go there
      - name: large
        user_config: {artifacts: [s3://models/faces/1]}

A change of user_config reaches running replicas; a change of args starts new ones. A pool's
artifacts stand in its own user_config and in the default pool's; `aigc deploy` writes both.
"""

import asyncio
import logging
import warnings
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from typing import Any

from ray import serve as ray_serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.exceptions import DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig

from aigc.prometheus.exporter import ENVIRONMENT
from serve.access.ledger_actor import cluster_ledger
from serve.autoscaling import Scaling, WorkPolicy
from serve.batching.progress import Progress
from serve.hosting.desired_models import DesiredModelsStore, desired_from_settings
from serve.hosting.desired_models_store import read_target, swap, user_configs
from serve.hosting.models import KnownProvider
from serve.hosting.pool_client import (
    PoolRefusal,
    PoolRequest,
    PoolResult,
    ReplicaLostError,
    UnreachedError,
)
from serve.http import ASGI
from serve.log_format import configure
from serve.settings import DEFAULT, Settings, document, parse

logger = logging.getLogger(__name__)

NAME = "aigc"

MAX_ONGOING_REQUESTS = 4096
"""Far above a replica's queue: the batcher sheds load, not Serve."""

UNREACHED = (ReplicaUnavailableError, DeploymentUnavailableError)
"""Errors for which no replica was reached; Serve itself retries while none has accepted."""

HEALTH_CHECK_S = 2.0
"""Time between two health checks of a replica. Serve replaces a dead one after the first that
fails, one whose run does not end after the third."""

REPORT_INTERVAL_S = 1.0
"""Interval of a replica's load reports."""


@contextmanager
def logged() -> Iterator[None]:
    """Log errors that keep a replica from starting: Serve reports them to its controller only."""
    try:
        yield
    except ValueError as error:  # one sentence; a traceback adds nothing
        logger.error("a replica does not start: %s", error)
        raise
    except Exception:
        logger.exception("a replica does not start")
        raise


class IngressDeployment:
    """A replica of the default pool in Ray Serve. Its artifacts arrive by reconfigure()."""

    def __init__(
        self, args: Mapping[str, Any], handles: Mapping[str, DeploymentHandle] | None = None
    ) -> None:
        # Imported here: prometheus_client reads its folder from the environment when it is
        # imported, and only a replica has it.
        from serve.ingress import IngressReplica
        from serve.ingress_servers import limit_grpc, replace_http
        from serve.protocols.oip.protobuf import receive_by

        settings = parse(args)
        configure(settings.logs)
        context = ray_serve.get_replica_context()
        config = DesiredModelsStore(
            read=lambda: asyncio.to_thread(read_target, context.app_name),
            swap=partial(swap, context.app_name),
        )
        with logged():
            self._replica = IngressReplica(
                settings,
                context.replica_id.unique_id,
                config,
                cluster_ledger(),
                {name: HandleTransport(handle) for name, handle in (handles or {}).items()},
                apart=True,
            )
        # Ray creates the servers before it calls this.
        replace_http()
        limit_grpc(settings.limits.max_request_bytes)
        receive_by(self._replica.grpc.reception)

    def __serve_build_asgi_app__(self) -> ASGI:
        return self._replica.application

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        with logged():
            await self._replica.configure(user_config)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return self._replica.autoscaling_stats()

    async def check_health(self) -> None:
        self._replica.check_health()

    # Serve calls the methods of the gRPC service by name.

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


class PoolDeployment:
    """A replica of another pool, called by the ingress. Its artifacts arrive by reconfigure()."""

    def __init__(self, args: Mapping[str, Any], pool: str) -> None:
        from serve.hosting.pool_worker import ModelReplica  # as in IngressDeployment

        settings = parse(args).replica_settings(pool)
        configure(settings.logs)
        name = ray_serve.get_replica_context().replica_id.unique_id
        with logged():
            self._replica = ModelReplica(settings, name, apart=True)

    async def sample(self, request: Any) -> Any:
        return await self._replica.sample(request)

    async def stream(self, request: Any) -> Any:
        async for message in self._replica.stream(request):
            yield message

    async def prove(self, uri: str) -> str:
        return await self._replica.refusal(uri)

    async def provider(self) -> str:
        return self._replica.provider

    async def reconfigure(self, user_config: Mapping[str, Any]) -> None:
        with logged():
            await self._replica.configure(user_config)

    async def record_autoscaling_stats(self) -> dict[str, float]:
        return self._replica.autoscaling_stats()

    async def check_health(self) -> None:
        self._replica.check_health()


def build(args: Mapping[str, Any]) -> ray_serve.Application:
    """The application for `serve.settings.Settings` as a plain dictionary.

    Artifacts belong into the deployments' user_config; those in args are its default. Raises
    ValueError for an unknown or invalid option.
    """
    settings = parse(args)
    replica_args = document(settings.without_runtime_options())
    handles = {
        name: _deployment(PoolDeployment, name, settings).bind(replica_args, name)
        for name in settings.pools
    }
    pool = _deployment(ray_serve.ingress()(IngressDeployment), DEFAULT, settings)
    return pool.bind(replica_args, handles) if handles else pool.bind(replica_args)


def _deployment(kind: type[Any], name: str, settings: Settings) -> ray_serve.Deployment:
    """The Serve deployment of a pool. Artifacts not in args must be in Serve's config."""
    pool = settings.pools_by_name[name]
    named = any(each.artifacts for each in settings.pools_by_name.values())
    targets = user_configs(desired_from_settings(settings)) if named else {}
    low, high = pool.replicas
    scaling: dict[str, Any] = {"num_replicas": low}
    if low != high:
        scaling = {"autoscaling_config": autoscaling(pool.scaling, low, high)}
    return ray_serve.deployment(
        kind,
        name=name,
        user_config=targets.get(name, {}),
        max_ongoing_requests=MAX_ONGOING_REQUESTS,
        health_check_period_s=HEALTH_CHECK_S,
        health_check_timeout_s=30.0,
        graceful_shutdown_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.5,
        max_constructor_retry_count=2,
        logging_config=LoggingConfig(
            log_level="WARNING", enable_access_log=False, encoding=settings.logs.upper()
        ),
        ray_actor_options={
            "num_cpus": pool.num_cpus,
            "num_gpus": pool.num_gpus,
            "runtime_env": {"env_vars": _environment(settings)},
        },
        **scaling,
    )


class HandleTransport:
    """A PoolTransport over a deployment's handle."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._sample = handle.options(method_name="sample")
        self._stream = handle.options(method_name="stream", stream=True)
        self._prove = handle.options(method_name="prove")
        self._provider = handle.options(method_name="provider")

    async def sample(self, request: PoolRequest) -> PoolResult | PoolRefusal:
        answer: PoolResult | PoolRefusal = await _call(self._sample, request)
        return answer

    async def stream(
        self, request: PoolRequest
    ) -> AsyncGenerator[Progress | PoolResult | PoolRefusal, None]:
        messages = self._stream.remote(request)
        try:
            async for message in messages:
                yield message
        except UNREACHED as error:
            raise UnreachedError(f"{error}") from None
        except RayActorError as error:
            raise ReplicaLostError(f"{error}") from None
        finally:
            messages.cancel()  # no effect once it has ended

    async def prove(self, uri: str) -> str:
        answer: str = await _call(self._prove, uri)
        return answer

    async def provider(self) -> KnownProvider:
        answer: KnownProvider = await _call(self._provider)
        return answer


async def _call(handle: DeploymentHandle, *arguments: Any) -> Any:
    """The answer of one replica; cancelling this cancels the call there.

    Raises UnreachedError or ReplicaLostError.
    """
    response = handle.remote(*arguments)
    try:
        return await response
    except asyncio.CancelledError:
        response.cancel()
        raise
    except UNREACHED as error:
        raise UnreachedError(f"{error}") from error
    except RayActorError as error:
        raise ReplicaLostError(f"{error}") from error


def autoscaling(scaling: Scaling, low: int, high: int) -> AutoscalingConfig:
    """Scaling by work between `low` and `high` replicas; `low` may be 0 behind a handle."""
    with warnings.catch_warnings():
        # Ray 2.60 calls metrics_interval_s deprecated, but nothing else sets the interval: it never
        # reads the variables that it names instead.
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
    """The application in the form of Serve's config."""
    return {
        "name": NAME,
        "route_prefix": "/",
        "import_path": "serve.app:build",
        "args": document(settings.without_models()),
        "deployments": [
            {"name": name, "user_config": user_config}
            for name, user_config in user_configs(desired_from_settings(settings)).items()
        ],
    }


def _environment(settings: Settings) -> dict[str, str]:
    """Environment of a replica before its first import.

    Without a metrics_dir, replicas inherit PROMETHEUS_MULTIPROC_DIR from where Ray was started.
    """
    return {ENVIRONMENT: settings.metrics_dir} if settings.metrics_dir else {}
