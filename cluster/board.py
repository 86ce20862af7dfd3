"""What driver, controller and workers tell each other during a run: an actor that all can ask."""

from dataclasses import dataclass, field
from typing import Literal

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from aigc.run import Report

Wish = Literal["", "yield", "stop"]
"""What rank 0 shall do after its batch: go on, make way for another worker group, or stop."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """A worker group begins."""

    samples: int
    """Where: the checkpoint's samples seen."""
    workers: int
    lost: int
    """Samples that the group before had seen beyond this checkpoint."""


@dataclass
class News:
    """What happened since the driver asked last."""

    reports: list[Report] = field(default_factory=list)
    starts: list[Start] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    heard: bool = False
    """Whether rank 0 gave a sign of life."""


class Board:
    """Reports, warnings and samples seen from rank 0 to the driver, wishes the other way.

    Its methods run one at a time, so nothing told to it is lost between two questions.
    """

    def __init__(self) -> None:
        self._news = News()
        self._begun = -1
        self._seen = 0
        self._wish: Wish = ""

    def started(self, samples: int, workers: int, reported: int) -> int:
        """A worker group begins at `samples`; returns how many samples of work were lost.

        `reported` is what the run's folder knows: the only witness after the driver was killed.
        """
        lost = max(0, max(self._seen, reported) - samples)
        self._begun = self._seen = samples
        self._news.starts.append(Start(samples=samples, workers=workers, lost=lost))
        self._news.heard = True
        if self._wish == "yield":
            self._wish = ""
        return lost

    def begun(self) -> int:
        """Samples seen where the newest worker group began; -1 before the first."""
        return self._begun

    def seen(self, samples: int) -> Wish:
        """Rank 0 lives and has seen `samples`; returns what it shall do."""
        self._seen = max(self._seen, samples)
        self._news.heard = True
        return self._wish

    def report(self, report: Report) -> None:
        """Rank 0 has a new report."""
        self._news.reports.append(report)

    def warn(self, message: str) -> None:
        """Rank 0 logged a warning."""
        self._news.warnings.append(message)

    def take(self) -> News:
        """What is new for the driver."""
        news, self._news = self._news, News()
        return news

    def make_way(self) -> None:
        """The controller wants another number of workers."""
        self._wish = self._wish or "yield"

    def stop(self) -> None:
        """The driver wants the run to stop."""
        self._wish = "stop"


def create() -> "ray.actor.ActorHandle":
    """A board on the driver's node, whose death ends the run anyway; it takes no CPU."""
    node = ray.get_runtime_context().get_node_id()
    here = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(Board).options(num_cpus=0, scheduling_strategy=here).remote()
