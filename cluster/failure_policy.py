"""Ray Train's failure policy: retry what another start may survive, while there is progress."""

from typing import Any

import ray
from ray.train import FailureConfig
from ray.train.v2._internal.exceptions import (
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.failure_handling import (
    DefaultFailurePolicy,
    FailureDecision,
)
from ray.train.v2.api.exceptions import (
    ControllerError,
    PreemptionError,
    TrainingFailedError,
    WorkerGroupError,
)

from aigc.training.lease import LeaseLost
from aigc.training.loop import Diverged

MAX_FRUITLESS_STARTS = 3
"""Failed starts in a row at the same sample after which a run gives up."""

NODE_DIED = "its node has died"

DETERMINISTIC = (ValueError, Diverged, LeaseLost)
"""Errors that another start would meet again: mistakes of the user, and the loss of the lease."""


class Preempted(Exception):
    """A worker group saved its state and ended, so that a resized one can start."""


class ProgressPolicy(DefaultFailurePolicy):  # type: ignore[misc]
    """Retry as long as there is progress: three failures at the same sample end the run.

    The death of a node does not count as a failure of the run. The policy runs in Ray Train's
    controller, which a stuck worker cannot block.
    """

    def __init__(self, coordinator: Any) -> None:
        super().__init__(FailureConfig(max_failures=-1))
        self._coordinator = coordinator
        self._begun = -1
        self._fruitless = 0

    def make_decision(self, training_failed_error: TrainingFailedError) -> FailureDecision:
        """Ray Train's hook: RETRY or RAISE."""
        failures = failures_of(training_failed_error)
        if any(isinstance(failure, Preempted) for failure in failures):
            return FailureDecision.RETRY
        if any(isinstance(failure, DETERMINISTIC) for failure in failures):
            return FailureDecision.RAISE
        decision: FailureDecision = super().make_decision(training_failed_error)
        if decision != FailureDecision.RETRY or _is_waiting(training_failed_error):
            return decision
        if any(_node_died(failure) for failure in failures):
            return FailureDecision.RETRY
        begun = ray.get(self._coordinator.begun.remote())
        self._fruitless = self._fruitless + 1 if begun == self._begun else 1
        self._begun = begun
        fruitless = self._fruitless >= MAX_FRUITLESS_STARTS
        return FailureDecision.RAISE if fruitless else FailureDecision.RETRY


def failures_of(error: BaseException) -> list[BaseException]:
    """Errors of the workers, dead processes first: the other ranks' errors follow from theirs."""
    if isinstance(error, WorkerGroupError):
        ranks = [failure for _, failure in sorted(error.worker_failures.items())]
        return sorted(ranks, key=lambda one: not isinstance(one, WorkerHealthCheckFailedError))
    return [error.controller_failure if isinstance(error, ControllerError) else error]


def reason(error: BaseException, begun: int) -> str:
    """The reason why a run ended, in a sentence; its last worker group began at `begun` samples."""
    failures = failures_of(error)
    for failure in failures:
        if isinstance(failure, DETERMINISTIC):
            return str(failure)
    first = failures[0]
    if isinstance(first, WorkerHealthCheckFailedError):
        text = f"a worker died: {first.health_check_failure}"
    else:
        text = f"{type(first).__name__}: {first}"
    text = " ".join(text.split())
    text = text if len(text) < 500 else f"{text[:500]}..."
    if not isinstance(error, WorkerGroupError):
        return f"Ray Train gave up: {text}"
    return (
        f"{MAX_FRUITLESS_STARTS} starts in a row came no further than {max(begun, 0):,} samples;"
        f" the last one ended with {text}"
    )


def _node_died(failure: BaseException) -> bool:
    """True if a worker died with its node, which only Ray's message says."""
    return isinstance(failure, WorkerHealthCheckFailedError) and NODE_DIED in str(failure)


def _is_waiting(error: TrainingFailedError) -> bool:
    """True if the group waits for nodes, or had notice that its node will be drained."""
    return isinstance(error, PreemptionError) or isinstance(
        failures_of(error)[0], WorkerGroupStartupTimeoutError
    )
