"""Actor between the driver, Ray Train's controller and rank 0 during a run."""

from dataclasses import dataclass, field
from typing import Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from aigc.training.run_context import RunReport

Command = Literal["", "yield", "stop"]
"""Command to rank 0: continue (""), yield to a resized worker group, or stop."""


@dataclass(frozen=True, kw_only=True)
class WorkerGroupStart:
    """The start of a worker group."""

    samples: int
    """Samples seen in the checkpoint that it starts from."""
    workers: int
    lost: int
    """Samples that the previous group had seen beyond this checkpoint."""


@dataclass
class Updates:
    """Events since the driver's last call."""

    reports: list[RunReport] = field(default_factory=list)
    starts: list[WorkerGroupStart] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    heard: bool = False
    """True if rank 0 sent anything."""


class RunCoordinator:
    """Passes reports, warnings and samples seen to the driver, and commands to rank 0.

    Its methods run one at a time, so no event is lost between two calls of take().
    """

    def __init__(self) -> None:
        self._updates = Updates()
        self._begun = -1
        self._seen = 0
        self._command: Command = ""

    def started(self, samples: int, workers: int, reported: int) -> int:
        """Note that a worker group starts at `samples`; returns the samples of work that were lost.

        `reported` is the last report in the run's folder, all that is left after a killed driver.
        """
        lost = max(0, max(self._seen, reported) - samples)
        self._begun = self._seen = samples
        self._updates.starts.append(WorkerGroupStart(samples=samples, workers=workers, lost=lost))
        self._updates.heard = True
        if self._command == "yield":
            self._command = ""
        return lost

    def begun(self) -> int:
        """Samples seen at the start of the newest worker group; -1 before the first."""
        return self._begun

    def seen(self, samples: int) -> Command:
        """Note that rank 0 lives and has seen `samples`; returns the command to it."""
        self._seen = max(self._seen, samples)
        self._updates.heard = True
        return self._command

    def report(self, report: RunReport) -> None:
        """Pass on a report of rank 0."""
        self._updates.reports.append(report)

    def warn(self, message: str) -> None:
        """Pass on a warning of rank 0."""
        self._updates.warnings.append(message)

    def take(self) -> Updates:
        """Events since the last call, for the driver."""
        updates, self._updates = self._updates, Updates()
        return updates

    def request_yield(self) -> None:
        """Tell rank 0 to yield: the controller wants another number of workers."""
        self._command = self._command or "yield"

    def stop(self) -> None:
        """Tell rank 0 to stop."""
        self._command = "stop"


def create() -> "ray.actor.ActorHandle":
    """Start a coordinator on the driver's node, whose death ends the run anyway. Takes no CPU."""
    node = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(RunCoordinator).options(num_cpus=0, scheduling_strategy=here).remote()
