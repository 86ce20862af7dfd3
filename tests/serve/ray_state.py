"""Ray's own autoscaling state, as its controller holds it, on the clock of a simulated pool.

Its delays, cold start, averages and bounds are thus Ray's code and not a copy of it.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from tests.serve.batching.queueing import Policy, Pool

with warnings.catch_warnings():
    # Ray 2.60 declares its schemas with arguments that pydantic has deprecated.
    warnings.simplefilter("ignore", DeprecationWarning)
    from ray.serve import autoscaling_policy
    from ray.serve._private import autoscaling_state
    from ray.serve._private.common import (
        DeploymentHandleSource,
        DeploymentID,
        HandleMetricReport,
        ReplicaID,
        ReplicaMetricReport,
        TimeStampedValue,
    )
    from ray.serve._private.config import DeploymentConfig
    from ray.serve.config import AutoscalingConfig

START_S = 1_800_000_000.0
"""Time of day at which the simulation begins."""


@contextmanager
def clock_at(time_s: float) -> Iterator[None]:
    """Ray's autoscaling modules see this time of day."""
    clock = SimpleNamespace(time=lambda: time_s, monotonic=lambda: time_s)
    modules: list[Any] = [autoscaling_state, autoscaling_policy]
    before = [module.time for module in modules]
    for module in modules:
        module.time = clock
    try:
        yield
    finally:
        for module, real in zip(modules, before, strict=True):
            module.time = real


def through_ray(config: Any) -> Policy:
    """Decisions of Ray's DeploymentAutoscalingState under this AutoscalingConfig.

    The config goes through the bytes that the driver sends to the controller first.
    """
    deployment = DeploymentID(name="pool", app_name="app")
    sent = DeploymentConfig(num_replicas=None, autoscaling_config=config).to_proto_bytes()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        arrived = DeploymentConfig.from_proto_bytes(sent)
    state = autoscaling_state.DeploymentAutoscalingState(deployment)
    info = SimpleNamespace(
        deployment_config=arrived, target_capacity=None, target_capacity_direction=None
    )
    state.register(info, config.min_replicas)
    look_back_s = config.look_back_period_s

    def decide(pool: Pool) -> int:
        now_s = START_S + pool.now_s
        running = []
        for replica in pool.running:
            name = ReplicaID(replica.name, deployment)
            running.append(name)
            points = [p for p in replica.points if p[0] >= pool.now_s - look_back_s]
            series: dict[str, list[Any]] = {}
            for time_s, report in points:
                for key, value in report.items():
                    series.setdefault(key, []).append(TimeStampedValue(START_S + time_s, value))
            if points:
                state.record_request_metrics_for_replica(
                    ReplicaMetricReport(name, series, START_S + points[-1][0])
                )
        with clock_at(now_s):
            state.record_request_metrics_for_handle(
                HandleMetricReport(
                    deployment,
                    "handle",
                    "actor",
                    DeploymentHandleSource.UNKNOWN,
                    [TimeStampedValue(now_s, float(pool.held))],
                    {},
                    now_s,
                )
            )
            state.update_running_replica_ids(running)
            return int(state.get_decision_num_replicas(pool.target))

    return decide


def by_requests(
    target: float,
    *,
    low: int = 1,
    high: int = 8,
    look_back_s: float = 30.0,
    upscale_delay_s: float,
    downscale_delay_s: float,
) -> Policy:
    """Ray's default policy: so many unanswered requests per replica."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # metrics_interval_s
        config = AutoscalingConfig(
            min_replicas=low,
            max_replicas=high,
            target_ongoing_requests=target,
            metrics_interval_s=1.0,
            look_back_period_s=look_back_s,
            upscale_delay_s=upscale_delay_s,
            downscale_delay_s=downscale_delay_s,
        )
    return through_ray(config)
