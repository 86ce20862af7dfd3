"""MIN..MAX workers: a worker group grows without losing a sample, and shrinks as nodes die."""

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
    """Ray Train's elastic policy, but nothing is resized before the workers have saved.

    Ray resizes by killing the group, which loses all since the last checkpoint, and while its
    controller waits it hears no worker. So a wished resize answers "no change" and asks the
    workers to make way: they save after their batch and leave with `Yielded`, and the group that
    follows gets its size here.
    """

    def __init__(self, scaling_config: ScalingConfig, board: Any) -> None:
        super().__init__(scaling_config)
        self._board = board

    def make_decision_for_running_worker_group(
        self, worker_group_state: WorkerGroupState, worker_group_status: WorkerGroupPollStatus
    ) -> ScalingDecision:
        """Ray Train's hook, asked at every poll while the workers are well."""
        decision = super().make_decision_for_running_worker_group(
            worker_group_state, worker_group_status
        )
        if isinstance(decision, ResizeDecision):
            self._board.make_way.remote()
        return NoopDecision()

    def make_decision_for_non_running_worker_group(self) -> ScalingDecision:
        """Ray Train's hook, asked in a loop without a pause while there is no group."""
        decision = super().make_decision_for_non_running_worker_group()
        if isinstance(decision, NoopDecision):
            time.sleep(0.2)
        return decision

    def _get_reserved_resources(self) -> dict[str, dict[str, float]] | None:
        """What is reserved for this run by node, as of now.

        Ray's own answer is up to 20 s old and counts nodes that have died or are going away: a
        group planned on them would wait in vain.
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
