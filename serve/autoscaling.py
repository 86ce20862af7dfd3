"""Autoscaling by seconds of work instead of the number of requests: load reports and the policy.

    demand = sum(busy + shed) / target_busy + sum(work_s) / target_work_s      in replicas

summed over the replicas. busy: share of the time for which one works; shed: seconds of work that it
refused per second; work_s: seconds of work in its queue. A request for 256 samples thus weighs what
it costs, and a refused one still counts.

Ray pickles this module by value into its controller, so it imports only the standard library.
Replicas report at most once a second, so decisions rest on reports, never on their absence.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """Scaling of a pool with a range of replicas."""

    target_busy: float = 0.7
    """Share of the time, in (0, 1], for which a replica should work; a lower one is faster."""
    target_work_s: float = 1.0
    """Seconds of queued work for which one more replica is added."""
    average_s: float = 2.0
    """Time constant of the demand's moving average; 0 for none."""
    upscale_delay_s: float = 1.0
    """Time for which a demand for more replicas must last."""
    downscale_delay_s: float = 60.0
    """Time for which fewer replicas must suffice before any is stopped. A pool that grew does not
    shrink sooner either, so it changes direction at most once within this time."""
    stale_s: float = 5.0
    """Age at which a report is stale: with a stale replica the pool does not shrink."""

    def __post_init__(self) -> None:
        if not 0 < self.target_busy <= 1:
            raise ValueError(f"scaling.target_busy must be in (0, 1], got {self.target_busy}")
        for name in ("target_work_s", "stale_s"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"scaling.{name} must be above 0 s, got {getattr(self, name)}")
        for name in ("average_s", "upscale_delay_s", "downscale_delay_s"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"scaling.{name} must be at least 0 s, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class LoadReport:
    """The newest load report of a replica."""

    taken_s: float
    """Time by the replica's clock; compared only with its own earlier reports."""
    work_s: float
    """Seconds of work in its queue."""
    busy: float
    """Share of the last interval for which it worked, in [0, 1]."""
    shed: float
    """Seconds of work refused per second of the last interval."""


@dataclass(frozen=True, kw_only=True)
class DesiredReplicas:
    """A number of replicas desired at every decision from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    replicas: int


@dataclass(frozen=True, kw_only=True)
class PolicyState:
    """State carried from one decision to the next."""

    desired: tuple[DesiredReplicas, ...] = ()
    """Desired numbers within the longer delay, oldest first."""
    demand: float = 0.0
    """The moving average, in replicas."""
    arrivals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Replica -> time of its newest report by its own clock, and of its arrival by ours."""


def decide(
    scaling: Scaling,
    state: PolicyState,
    *,
    now_s: float,
    target: int,
    low: int,
    high: int,
    reports: Mapping[str, LoadReport | None],
) -> tuple[int, PolicyState]:
    """The new target within low .. high, and the state for the next decision.

    `target` is the current one; `reports` has every running replica, with None for one that has not
    reported yet. Missing reports count as need: the others may still add replicas, silence removes
    none.
    """
    last = state.desired[-1].end_s if state.desired else -math.inf
    pause_s = now_s - last
    if not 0 <= pause_s <= scaling.stale_s:
        # The first decision, one after a long pause or a clock set back: delays restart.
        state = replace(
            state, desired=(DesiredReplicas(start_s=now_s, end_s=now_s, replicas=target),)
        )
        pause_s = 0.0
    arrivals = _arrivals(state.arrivals, reports, now_s)
    fresh = [
        report
        for name, report in reports.items()
        if report is not None and now_s - arrivals[name][1] <= scaling.stale_s
    ]
    demand = state.demand
    if fresh:
        newest = demand_of(scaling, fresh)
        keep = math.exp(-pause_s / scaling.average_s) if scaling.average_s else 0.0
        # No average from zero: a pool that wakes must not wait.
        demand = newest + keep * (demand - newest) if demand > NOTHING else newest
    wanted = math.ceil(demand - NOTHING) if fresh else target
    if len(fresh) < len(reports):
        wanted = max(wanted, target)
    desired = _remember(scaling, state.desired, now_s, wanted)
    up = min(_since(desired, now_s - scaling.upscale_delay_s))
    down = max(_since(desired, now_s - scaling.downscale_delay_s))
    decided = min(max(min(max(target, up), down), low), high)
    return decided, PolicyState(desired=desired, demand=demand, arrivals=arrivals)


NOTHING = 1e-6
"""Demand that counts as 0: a moving average never reaches 0, and sums are inexact."""


def demand_of(scaling: Scaling, reports: Iterable[LoadReport]) -> float:
    """Replicas that the traffic and the queues of these replicas need, as a real number."""
    return sum(
        (report.busy + report.shed) / scaling.target_busy + report.work_s / scaling.target_work_s
        for report in reports
    )


def _arrivals(
    known: Mapping[str, tuple[float, float]], reports: Mapping[str, LoadReport | None], now_s: float
) -> dict[str, tuple[float, float]]:
    """Arrival times of reports: clocks differ, so a report's age counts from its arrival here."""
    arrivals = {}
    for name, report in reports.items():
        if report is None:
            continue
        before = known.get(name)
        new = before is None or report.taken_s != before[0]
        arrivals[name] = (report.taken_s, now_s if new or before is None else min(before[1], now_s))
    return arrivals


def _remember(
    scaling: Scaling, desired: Sequence[DesiredReplicas], now_s: float, wanted: int
) -> tuple[DesiredReplicas, ...]:
    last = desired[-1]
    if last.replicas == wanted:
        kept = [*desired[:-1], replace(last, end_s=now_s)]
    else:
        kept = [*desired, DesiredReplicas(start_s=now_s, end_s=now_s, replicas=wanted)]
    horizon = now_s - max(scaling.upscale_delay_s, scaling.downscale_delay_s)
    return tuple(one for one in kept if one.end_s >= horizon)


def _since(desired: Sequence[DesiredReplicas], start_s: float) -> list[int]:
    """Numbers desired at any time from `start_s` on."""
    return [one.replicas for one in desired if one.end_s >= start_s]


MEMORY = "memory"
"""Key of the PolicyState in the state that Ray carries between decisions."""


class WorkPolicy:
    """The policy as Ray Serve 2.60 calls it: AutoscalingContext -> (replicas, state).

    Ray creates one per deployment, with the fields of a Scaling. Ray's own delays should be 0.
    """

    def __init__(self, **scaling: float) -> None:
        self._scaling = Scaling(**scaling)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        replicas, state = decide(
            self._scaling,
            context.policy_state.get(MEMORY) or PolicyState(),
            now_s=context.current_time,
            target=context.target_num_replicas,
            low=context.capacity_adjusted_min_replicas,
            high=context.capacity_adjusted_max_replicas,
            reports=read(context.running_replicas, context.raw_metrics or {}),
        )
        return replicas, {MEMORY: state}


def read(
    running: Iterable[Any], metrics: Mapping[str, Mapping[Any, Sequence[Any]]]
) -> dict[str, LoadReport | None]:
    """Ray's time series of LoadReporter.report() -> the newest report of each replica.

    metrics: name -> replica -> points with `timestamp` and `value`, oldest first.
    """
    return {str(replica): _newest(replica, metrics) for replica in running}


def _newest(replica: Any, metrics: Mapping[str, Mapping[Any, Sequence[Any]]]) -> LoadReport | None:
    work, busy, shed = (metrics.get(name, {}).get(replica) for name in ("work_s", "busy", "shed_s"))
    if not (work and busy and shed):
        return None
    rate = 0.0
    if len(shed) > 1:
        seconds = shed[-1].timestamp - shed[-2].timestamp
        rate = max(0.0, shed[-1].value - shed[-2].value) / seconds if seconds > 0 else 0.0
    return LoadReport(
        taken_s=work[-1].timestamp, work_s=work[-1].value, busy=busy[-1].value, shed=rate
    )


class BatcherStats(Protocol):
    """The counters of a batcher that are reported."""

    @property
    def work_s(self) -> float:
        """Seconds until its queued and running samples are done."""

    def busy_s(self, now_s: float) -> float:
        """Total seconds of all batches, the running one up to `now_s` by the monotonic clock."""

    @property
    def shed_s(self) -> float:
        """Total seconds that refused samples would have taken."""


IDLE_SHARE = 0.05
"""Share of the event loop's time that health checks and reports take: it does not count as work."""


class LoadReporter:
    """Reports a replica's load: differences of a batcher's counters between two reports."""

    def __init__(
        self,
        batcher: BatcherStats,
        *,
        clock: Callable[[], float] = time.monotonic,
        loop_clock: Callable[[], float] = time.thread_time,
    ) -> None:
        """`loop_clock`: processor time of the thread that calls report()."""
        self._batcher = batcher
        self._clock = clock
        self._loop_clock = loop_clock
        self._reported_s = clock()
        self._busy_s = batcher.busy_s(self._reported_s)
        self._loop_s: float | None = None
        """None until the first report: another thread may have created this object."""

    def report(self) -> dict[str, float]:
        """`work_s`, `busy` since the last report, total `shed_s`. On the event loop.

        Many small requests exhaust the event loop long before the inference thread, so the busier
        of the two counts.
        """
        now_s = self._clock()
        busy_s, loop_s = self._batcher.busy_s(now_s), self._loop_clock()
        seconds = max(now_s - self._reported_s, 1e-3)
        inference = (busy_s - self._busy_s) / seconds
        loop = 0.0 if self._loop_s is None else (loop_s - self._loop_s) / seconds
        self._reported_s, self._busy_s, self._loop_s = now_s, busy_s, loop_s
        busy = max(inference, loop if loop > IDLE_SHARE else 0.0)
        return {
            "work_s": float(self._batcher.work_s),
            "busy": min(max(busy, 0.0), 1.0),
            "shed_s": float(self._batcher.shed_s),
        }
