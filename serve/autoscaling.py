"""How many replicas a pool needs, from its seconds of work instead of its number of requests.

    demand = sum(busy + shed) / target_busy + sum(work_s) / target_work_s      in replicas

over the replicas: busy, the share of the time for which one works; shed, seconds of work that it
refused per second; work_s, seconds of work in its queue. A request for 256 samples thus weighs
what it costs, and one that was refused still counts.

Ray pickles this module by value into its controller and its replicas report at most once a second,
so it imports nothing but the standard library, and decides on what was really said.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Scaling:
    """When a pool with a range of replicas grows and shrinks."""

    target_busy: float = 0.7
    """Share of the time, in (0, 1], for which a replica should work: less is faster and dearer."""
    target_work_s: float = 1.0
    """One replica more than the traffic needs for every so many seconds of work that wait."""
    average_s: float = 2.0
    """Time constant of the demand's moving average; 0 takes every report as it is."""
    upscale_delay_s: float = 1.0
    """More replicas are started when the demand for them has lasted this long."""
    downscale_delay_s: float = 60.0
    """Replicas are stopped when none was needed at any time for this long; nor does a pool that
    grew shrink sooner, so it changes direction at most once within this time."""
    stale_s: float = 5.0
    """A replica that says nothing new for this long is unheard: then the pool does not shrink."""

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
class Report:
    """What a replica said last."""

    taken_s: float
    """When, by the replica's clock, which is compared with nothing but its earlier reports."""
    work_s: float
    """Seconds of work in its queue."""
    busy: float
    """Share of the last interval for which it worked, in [0, 1]."""
    shed: float
    """Seconds of work that it refused per second of the last interval."""


@dataclass(frozen=True, kw_only=True)
class Wish:
    """A number of replicas that was right at every decision from `start_s` to `end_s`."""

    start_s: float
    end_s: float
    replicas: int


@dataclass(frozen=True, kw_only=True)
class Memory:
    """What one decision leaves to the next."""

    wishes: tuple[Wish, ...] = ()
    """Of the longer delay, oldest first."""
    demand: float = 0.0
    """The moving average, in replicas."""
    heard: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Replica -> its newest report, by its own clock, and that report's arrival, by ours."""


def decide(
    scaling: Scaling,
    memory: Memory,
    *,
    now_s: float,
    target: int,
    low: int,
    high: int,
    reports: Mapping[str, Report | None],
) -> tuple[int, Memory]:
    """The new target within low .. high, and what to remember.

    `target` is the present one, `reports` has every running replica; None is one that has said
    nothing yet. Where knowledge is missing, what there is counts as needed: what the others say
    may still add replicas, silence removes none.
    """
    last = memory.wishes[-1].end_s if memory.wishes else -math.inf
    pause_s = now_s - last
    if not 0 <= pause_s <= scaling.stale_s:
        # The first decision, one after a long pause, or the clock was set back: delays start anew.
        memory = replace(memory, wishes=(Wish(start_s=now_s, end_s=now_s, replicas=target),))
        pause_s = 0.0
    heard = _hear(memory.heard, reports, now_s)
    fresh = [
        report
        for name, report in reports.items()
        if report is not None and now_s - heard[name][1] <= scaling.stale_s
    ]
    demand = memory.demand
    if fresh:
        newest = demand_of(scaling, fresh)
        keep = math.exp(-pause_s / scaling.average_s) if scaling.average_s else 0.0
        # From nothing there is nothing to average with: a pool that wakes must not wait.
        demand = newest + keep * (demand - newest) if demand > NOTHING else newest
    wanted = math.ceil(demand - NOTHING) if fresh else target
    if len(fresh) < len(reports):
        wanted = max(wanted, target)
    wishes = _remember(scaling, memory.wishes, now_s, wanted)
    up = min(_since(wishes, now_s - scaling.upscale_delay_s))
    down = max(_since(wishes, now_s - scaling.downscale_delay_s))
    decided = min(max(min(max(target, up), down), low), high)
    return decided, Memory(wishes=wishes, demand=demand, heard=heard)


NOTHING = 1e-6
"""Replicas that are none: a moving average never comes down to 0, and sums are inexact."""


def demand_of(scaling: Scaling, reports: Iterable[Report]) -> float:
    """Replicas that the traffic and the queues of these replicas need, as a real number."""
    return sum(
        (report.busy + report.shed) / scaling.target_busy + report.work_s / scaling.target_work_s
        for report in reports
    )


def _hear(
    heard: Mapping[str, tuple[float, float]], reports: Mapping[str, Report | None], now_s: float
) -> dict[str, tuple[float, float]]:
    """Machines' clocks differ, so a report's age counts from when we first saw it."""
    arrivals = {}
    for name, report in reports.items():
        if report is None:
            continue
        before = heard.get(name)
        new = before is None or report.taken_s != before[0]
        arrivals[name] = (report.taken_s, now_s if new or before is None else min(before[1], now_s))
    return arrivals


def _remember(
    scaling: Scaling, wishes: Sequence[Wish], now_s: float, wanted: int
) -> tuple[Wish, ...]:
    last = wishes[-1]
    if last.replicas == wanted:
        kept = [*wishes[:-1], replace(last, end_s=now_s)]
    else:
        kept = [*wishes, Wish(start_s=now_s, end_s=now_s, replicas=wanted)]
    horizon = now_s - max(scaling.upscale_delay_s, scaling.downscale_delay_s)
    return tuple(wish for wish in kept if wish.end_s >= horizon)


def _since(wishes: Sequence[Wish], start_s: float) -> list[int]:
    """What was wished at any time from `start_s` on."""
    return [wish.replicas for wish in wishes if wish.end_s >= start_s]


MEMORY = "memory"
"""Key of the Memory in the state that Ray carries from one decision to the next."""


class WorkPolicy:
    """The policy as Ray Serve 2.60 calls it: AutoscalingContext -> (replicas, state).

    Ray makes it once per deployment, with the fields of a Scaling. Ray's own delays should be 0.
    """

    def __init__(self, **scaling: float) -> None:
        self._scaling = Scaling(**scaling)

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        replicas, memory = decide(
            self._scaling,
            context.policy_state.get(MEMORY) or Memory(),
            now_s=context.current_time,
            target=context.target_num_replicas,
            low=context.capacity_adjusted_min_replicas,
            high=context.capacity_adjusted_max_replicas,
            reports=read(context.running_replicas, context.raw_metrics or {}),
        )
        return replicas, {MEMORY: memory}


def read(
    running: Iterable[Any], metrics: Mapping[str, Mapping[Any, Sequence[Any]]]
) -> dict[str, Report | None]:
    """Ray's time series of what serve.load.Load says -> the newest report of each replica.

    metrics: name -> replica -> points with `timestamp` and `value`, oldest first.
    """
    return {str(replica): _newest(replica, metrics) for replica in running}


def _newest(replica: Any, metrics: Mapping[str, Mapping[Any, Sequence[Any]]]) -> Report | None:
    work, busy, shed = (metrics.get(name, {}).get(replica) for name in ("work_s", "busy", "shed_s"))
    if not (work and busy and shed):
        return None
    rate = 0.0
    if len(shed) > 1:
        seconds = shed[-1].timestamp - shed[-2].timestamp
        rate = max(0.0, shed[-1].value - shed[-2].value) / seconds if seconds > 0 else 0.0
    return Report(taken_s=work[-1].timestamp, work_s=work[-1].value, busy=busy[-1].value, shed=rate)
