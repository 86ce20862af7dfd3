"""A pool of replicas as a queueing model with a clock of its own: hours of traffic in seconds.

A replica is an event loop that takes requests one by one and a thread that runs batches of their
samples; requests go to the replica with the fewest unfinished ones, as HAProxy sends them. Load
reports and the policy are the real ones.
"""

import heapq
import itertools
import math
import random
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

from serve.autoscaling import MEMORY, LoadReporter, PolicyState, Scaling, WorkPolicy

Policy = Callable[["Pool"], int]
"""The pool, at a decision -> its new target."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """Capacity of a replica."""

    request_s: float = 0.0007
    """Time of the event loop per request."""
    batch_s: float = 0.002
    sample_s: float = 0.001
    """A batch of n samples takes batch_s + n * sample_s."""
    max_batch: int = 64
    max_queue: int = 8192
    startup_s: float = 8.0
    draining_s: float = 5.0
    """The least time between the order to stop and the end."""


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """Open loop: for `seconds`, Poisson arrivals of requests for n samples, rates by n."""

    seconds: float
    per_s: Mapping[int, float]


@dataclass(eq=False)
class Request:
    arrived_s: float
    n: int
    left: int = 0
    """Samples that no batch has taken yet."""
    done_s: float = math.nan


@dataclass(eq=False)
class Replica:
    """One replica; also the batcher whose load is reported."""

    name: str
    machine: Machine
    ready_s: float
    stopped_s: float = math.inf
    """When it was told to stop."""
    open: int = 0
    """Requests that are not answered."""
    loop_free_s: float = 0.0
    loop_busy_s: float = 0.0
    waiting: deque[Request] = field(default_factory=deque)
    queued: int = 0
    running_since_s: float | None = None
    ended_s: float = 0.0
    """Seconds of the batches that have ended."""
    shed_s: float = 0.0
    pace_s: float = 0.0
    """Seconds per sample, of the last batches."""
    silent: bool = False
    points: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    """(time, report, with Ray's own count of open requests in it), the newest last."""
    load: LoadReporter | None = None

    def busy_s(self, now_s: float) -> float:
        since_s = self.running_since_s
        return self.ended_s + (0.0 if since_s is None else now_s - since_s)

    @property
    def work_s(self) -> float:
        return self.queued * self.pace_s


@dataclass
class Pool:
    """Replicas under a policy. `run` plays traffic and leaves what happened in its fields."""

    policy: Policy
    machine: Machine = field(default_factory=Machine)
    low: int = 1
    high: int = 8
    report_interval_s: float = 1.0
    decision_interval_s: float = 0.5
    seed: int = 0
    now_s: float = 0.0
    target: int = 0
    replicas: list[Replica] = field(default_factory=list)
    answered: list[Request] = field(default_factory=list)
    refused: list[Request] = field(default_factory=list)
    targets: list[tuple[float, int]] = field(default_factory=list)
    """(time, new target), the first one at the start."""
    replica_seconds: float = 0.0
    """Seconds of all replicas, from the order to start to the end of draining."""

    def __post_init__(self) -> None:
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._names = itertools.count()
        self._held: deque[Request] = deque()
        self._random = random.Random(self.seed)
        self._set_target(self.low)
        for replica in self.replicas:
            self._ready(replica, 0.0)
        self._every(self.report_interval_s, self._report)
        self._every(self.decision_interval_s, self._decide)

    # What a policy may look at.

    @property
    def running(self) -> list[Replica]:
        return [r for r in self.replicas if r.ready_s <= self.now_s and r.stopped_s == math.inf]

    @property
    def held(self) -> int:
        """Requests that wait for a first replica."""
        return len(self._held)

    def run(self, traffic: Iterable[Traffic]) -> "Pool":
        """Play the traffic after what was played before."""
        start_s = self.now_s
        for part in traffic:
            for n, per_s in part.per_s.items():
                if per_s > 0:
                    self._arrive_next(n, per_s, start_s, start_s + part.seconds)
            start_s += part.seconds
        self._play(start_s)
        return self

    def p(self, quantile: float, n: int | None = None) -> float:
        """A quantile of the seconds from arrival to answer; a refusal is an endless wait."""
        waits = [r.done_s - r.arrived_s for r in self.answered if n in (None, r.n)]
        waits += [math.inf for r in self.refused if n in (None, r.n)]
        return sorted(waits)[int(quantile * len(waits))] if waits else math.nan

    def changes(self) -> list[tuple[float, int]]:
        """(time, +1 or -1) of every change of the target."""
        pairs = itertools.pairwise(self.targets)
        return [(time_s, 1 if new > old else -1) for (_, old), (time_s, new) in pairs]

    # Events.

    def _at(self, time_s: float, event: Callable[[], None]) -> None:
        heapq.heappush(self._events, (time_s, next(self._order), event))

    def _every(self, seconds: float, event: Callable[[], None]) -> None:
        def again() -> None:
            event()
            self._at(self.now_s + seconds, again)

        self._at(self.now_s + seconds, again)

    def _play(self, until_s: float) -> None:
        while self._events and self._events[0][0] <= until_s:
            time_s, _, event = heapq.heappop(self._events)
            self._pass_time(time_s)
            event()
        self._pass_time(until_s)

    def _pass_time(self, time_s: float) -> None:
        self.replica_seconds += len(self.replicas) * (time_s - self.now_s)
        self.now_s = time_s

    def _arrive_next(self, n: int, per_s: float, from_s: float, until_s: float) -> None:
        time_s = from_s + self._random.expovariate(per_s)
        if time_s >= until_s:
            return

        def arrive() -> None:
            self._take(Request(arrived_s=self.now_s, n=n, left=n))
            self._arrive_next(n, per_s, time_s, until_s)

        self._at(time_s, arrive)

    def _take(self, request: Request) -> None:
        running = self.running
        if not running:
            self._held.append(request)
            return
        replica = min(running, key=lambda one: one.open)
        replica.open += 1
        start_s = max(self.now_s, replica.loop_free_s)
        replica.loop_free_s = start_s + self.machine.request_s
        replica.loop_busy_s += self.machine.request_s
        self._at(replica.loop_free_s, lambda: self._queue(replica, request))

    def _queue(self, replica: Replica, request: Request) -> None:
        if replica.queued + request.n > self.machine.max_queue:
            replica.shed_s += request.n * replica.pace_s
            replica.open -= 1
            self.refused.append(request)
            return
        replica.waiting.append(request)
        replica.queued += request.n
        if replica.running_since_s is None:
            self._run_batch(replica)

    def _run_batch(self, replica: Replica) -> None:
        room, ended = self.machine.max_batch, []
        while replica.waiting and room:
            request = replica.waiting[0]
            taken = min(room, request.left)
            request.left -= taken
            room -= taken
            if not request.left:
                ended.append(replica.waiting.popleft())
        size = self.machine.max_batch - room
        replica.queued -= size
        seconds = self.machine.batch_s + size * self.machine.sample_s
        replica.running_since_s = self.now_s
        self._at(self.now_s + seconds, lambda: self._end_batch(replica, size, seconds, ended))

    def _end_batch(
        self, replica: Replica, size: int, seconds: float, ended: Sequence[Request]
    ) -> None:
        replica.running_since_s = None
        replica.ended_s += seconds
        weight = 0.2 if replica.pace_s else 1.0
        replica.pace_s += weight * (seconds / size - replica.pace_s)
        for request in ended:
            request.done_s = self.now_s
            replica.open -= 1
            self.answered.append(request)
        if replica.waiting:
            self._run_batch(replica)

    # Reports and decisions.

    def _report(self) -> None:
        for replica in self.running:
            if replica.load is not None and not replica.silent:
                report = {"running_requests": float(replica.open), **replica.load.report()}
                replica.points.append((self.now_s, report))
                del replica.points[:-30]

    def _decide(self) -> None:
        self._set_target(min(max(self.policy(self), self.low), self.high))
        self.replicas = [r for r in self.replicas if not self._has_ended(r)]

    def _has_ended(self, replica: Replica) -> bool:
        return not replica.open and self.now_s >= replica.stopped_s + self.machine.draining_s

    def _set_target(self, target: int) -> None:
        if target != self.target or not self.targets:
            self.targets.append((self.now_s, target))
        self.target = target
        living = [r for r in self.replicas if r.stopped_s == math.inf]
        for _ in range(target - len(living)):
            replica = Replica(
                name=f"replica-{next(self._names)}",
                machine=self.machine,
                ready_s=self.now_s + self.machine.startup_s,
            )
            self.replicas.append(replica)
            self._at(replica.ready_s, partial(self._ready, replica, replica.ready_s))
        for replica in living[target:]:  # the youngest
            replica.stopped_s = self.now_s

    def _ready(self, replica: Replica, ready_s: float) -> None:
        replica.ready_s = ready_s
        if replica.load is None:
            replica.load = LoadReporter(
                replica,
                clock=lambda: self.now_s,
                loop_clock=lambda: replica.loop_busy_s - max(0.0, replica.loop_free_s - self.now_s),
            )
        while self._held:
            self._take(self._held.popleft())


def by_work(scaling: Scaling | None = None) -> Policy:
    """serve.autoscaling.WorkPolicy, called as Ray calls it."""
    options = scaling or Scaling()
    policy = WorkPolicy(**{name: getattr(options, name) for name in options.__dataclass_fields__})
    state: dict[str, Any] = {}

    def decide(pool: Pool) -> int:
        if not pool.running and pool.held:
            return max(1, pool.target)  # what Ray does before it asks a policy
        context = SimpleNamespace(
            policy_state=state,
            current_time=pool.now_s,
            target_num_replicas=pool.target,
            capacity_adjusted_min_replicas=pool.low,
            capacity_adjusted_max_replicas=pool.high,
            running_replicas=[replica.name for replica in pool.running],
            raw_metrics=raw_metrics(pool.running),
        )
        target, new = policy(context)
        assert isinstance(new[MEMORY], PolicyState)
        state.update(new)
        return target

    return decide


def raw_metrics(replicas: Iterable[Replica]) -> dict[str, dict[str, list[Any]]]:
    """Their reports as Ray hands them to a policy."""
    found: dict[str, dict[str, list[Any]]] = {}
    for replica in replicas:
        for time_s, report in replica.points[-5:]:
            for name, value in report.items():
                point = SimpleNamespace(timestamp=time_s, value=value)
                found.setdefault(name, {}).setdefault(replica.name, []).append(point)
    return found


def phases(*parts: tuple[float, Mapping[int, float]]) -> Iterator[Traffic]:
    """(seconds, {n: requests per second}) ..."""
    return (Traffic(seconds=seconds, per_s=per_s) for seconds, per_s in parts)
