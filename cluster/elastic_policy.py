"""Ray Train's scaling policy for MIN..MAX workers: groups grow without losing a sample."""

import time
from typing import Any

import ray
from ray.train import ScalingConfig
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    NoopDecision,
    ResizeDecision,
    ScalingDecision,
)
from ray.train.v2._internal.execution.worker_group import WorkerGroupPollStatus, WorkerGroupState


class CheckpointedElasticPolicy(ElasticScalingPolicy):  # type: ignore[misc]
    """Ray Train's elastic policy, except that workers save before a resize.

    Ray resizes by killing the group, which loses all work since the last checkpoint, and its
    controller hears no worker while it waits. Here a resize answers "no change" and asks the
    workers to yield: they save after their batch and raise `Preempted`, and the next group gets
    its size from this policy.
    """

    def __init__(self, scaling_config: ScalingConfig, coordinator: Any) -> None:
        super().__init__(scaling_config)
        self._coordinator = coordinator

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Ray Train's hook, asked at every poll while the workers are well."""
        decision = super().make_decision_for_running_worker_group(
            worker_group_state, worker_group_status
        )
        if isinstance(decision, ResizeDecision):
            self._coordinator.request_yield.remote()
        return NoopDecision()

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Ray Train's hook, asked in a loop without a pause while there is no group."""
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            time.sleep(0.2)
        return decision

    def _get_reserved_resources(self) -> dict[str, dict[str, float]] | None:
        """Resources reserved for this run by node, as of now.

        Ray's own answer is up to 20 s old and counts nodes that have died or are going away: a
        group planned on them would never start.
        """
        try:
            reserved: dict[str, dict[str, float]] = ray.get(
                self._autoscaling_coordinator.get_reserved_resources.remote(
                    self._requester_id, recompute=True
                ),
                timeout=5,
            )
            leaving = ray._private.state.state.get_draining_nodes()
        except ray.exceptions.RayError:
            return None
        return {node: room for node, room in reserved.items() if node not in leaving}
