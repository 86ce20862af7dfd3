"""What driver and workers tell each other during a run: an actor, polled from both sides."""

from dataclasses import dataclass, field
from typing import Literal

import ray

from aigc.run import Report
from aigc.train import Outcome

End = Outcome | Literal["failed"]


@dataclass
class News:
    """What happened since the driver asked last."""

    reports: list[Report] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)
    """Samples seen at each start of a worker group: one more than restarts."""
    end: tuple[End, str] | None = None


class Board:
    """Reports and results from rank 0 to the driver, the wish to stop the other way."""

    def __init__(self) -> None:
        self._news = News()
        self._starts: list[int] = []
        self._stop = False

    def started(self, samples: int) -> int:
        """A worker group begins at `samples`; returns how many began there in a row."""
        self._starts.append(samples)
        self._news.starts.append(samples)
        same = 0
        for earlier in reversed(self._starts):
            if earlier != samples:
                break
            same += 1
        return same

    def report(self, report: Report) -> None:
        """Rank 0 has a new report."""
        self._news.reports.append(report)

    def finish(self, end: End, reason: str) -> None:
        """The run is over and must not be retried."""
        self._news.end = end, reason

    def take(self) -> News:
        """What is new for the driver."""
        news, self._news = self._news, News()
        return news

    def stop(self) -> None:
        """The driver wants the run to stop after the current batch."""
        self._stop = True

    def stopping(self) -> bool:
        """Whether the driver wants the run to stop."""
        return self._stop


def create() -> "ray.actor.ActorHandle":
    """A board on this node; it takes no CPU from the workers."""
    return ray.remote(Board).options(num_cpus=0, max_concurrency=4).remote()
