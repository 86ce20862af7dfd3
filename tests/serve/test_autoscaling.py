"""A pool follows its work: hours of traffic on a fake clock, the policy as Ray calls it."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.autoscaling import LoadReport, PolicyState, Scaling, decide, demand_of, read
from tests.serve.batching.queueing import Machine, Pool, Replica, by_work, phases, raw_metrics

SCALING = Scaling(downscale_delay_s=30.0)
BIG = Machine().batch_s * 4 + 256 * Machine().sample_s
"""Seconds of work in a request for 256 samples."""


def needed(per_s: float) -> int:
    """Replicas for so many requests for 256 samples per second."""
    return math.ceil(per_s * BIG / SCALING.target_busy)


def pool(**options: object) -> Pool:
    return Pool(by_work(SCALING), **options)  # type: ignore[arg-type]


def reached(ran: Pool, replicas: int) -> float:
    """When the target first was at least this."""
    return next(time_s for time_s, target in ran.targets if target >= replicas)


def assert_bounded(ran: Pool) -> None:
    assert all(ran.low <= target <= ran.high for _, target in ran.targets)
    assert_directions(ran.changes())


def assert_directions(changes: list[tuple[float, int]]) -> None:
    """The changes within any downscale delay turn at most once, and never from up to down."""
    for start_s, _ in changes:
        end_s = start_s + SCALING.downscale_delay_s - 1e-6
        inside = [change for time_s, change in changes if start_s <= time_s < end_s]
        assert inside == sorted(inside), "it shrank soon after it grew"


def test_a_step_is_followed_up_and_down_and_nothing_is_refused() -> None:
    ran = pool().run(phases((60, {256: 0.5})))
    assert ran.targets == [(0.0, 1)]
    ran.run(phases((120, {256: 6})))
    # Within 8 report intervals of the step: one to notice, two to average, one to be sure, and
    # what the moving average takes for the last replica.
    assert reached(ran, needed(6)) <= 60 + 8 * ran.report_interval_s
    assert ran.target >= needed(6)
    ran.run(phases((180, {})))
    assert ran.target == 1
    assert not ran.refused
    assert len(ran.answered) > 600
    assert_bounded(ran)


def test_a_ramp_is_followed() -> None:
    steps = [float(step) / 2 for step in range(1, 13)]
    ran = pool().run(phases(*((20, {256: per_s}) for per_s in steps)))
    assert ran.target >= needed(steps[-1])
    assert all(change == 1 for _, change in ran.changes())
    ran.run(phases(*((60, {256: per_s}) for per_s in reversed(steps)), (120, {})))
    assert ran.target == 1
    assert_bounded(ran)


def test_a_spike_costs_one_way_up_and_one_way_down() -> None:
    ran = pool().run(phases((60, {1: 5}), (10, {256: 5}), (300, {1: 5})))
    directions = [change for _, change in ran.changes()]
    assert directions
    assert directions == sorted(directions, reverse=True)
    assert ran.target == 1
    assert not ran.refused


@pytest.mark.parametrize("seed", range(3))
def test_constant_traffic_settles(seed: int) -> None:
    ran = pool(seed=seed).run(phases((600, {1: 20, 256: 4})))
    assert_bounded(ran)
    late = [target for time_s, target in ran.targets if time_s > 120] + [ran.target]
    assert min(late) >= needed(4) - 1
    assert len([t for t, _ in ran.changes() if t > 120]) <= 2 * 480 / SCALING.downscale_delay_s


def test_small_requests_that_wear_out_the_event_loop_count_too() -> None:
    machine = Machine(request_s=0.004, batch_s=0.0001, sample_s=0.00001)
    ran = pool(machine=machine).run(phases((120, {1: 400})))
    assert ran.target >= math.ceil(400 * 0.004 / SCALING.target_busy)


def test_work_counts_where_requests_do_not() -> None:
    """The same number of requests, 256 times the samples."""
    small = pool().run(phases((120, {1: 8})))
    large = pool().run(phases((120, {256: 8})))
    assert small.target == 1
    assert large.target >= needed(8)


def test_refused_samples_count_as_demand() -> None:
    """A short queue: the thread is as busy with twice the load as with ten times."""
    machine = Machine(max_queue=256)
    ran = pool(machine=machine, high=20).run(phases((40, {256: 20})))
    assert ran.refused
    assert max(target for _, target in ran.targets) >= needed(20) > math.ceil(4 / 0.7)
    ran.refused.clear()
    ran.run(phases((30, {256: 10})))
    assert not ran.refused


def test_silent_replicas_keep_the_target_as_it_is() -> None:
    ran = pool().run(phases((60, {256: 6})))
    target, num_changes = ran.target, len(ran.targets)
    assert target > 1
    for replica in ran.replicas:
        replica.silent = True
    ran.run(phases((300, {})))
    assert ran.target == target
    assert len(ran.targets) == num_changes
    for replica in ran.replicas:
        replica.silent = False
    heard_again_s = ran.now_s
    ran.run(phases((SCALING.downscale_delay_s - 1, {})))
    assert ran.target == target
    ran.run(phases((60, {})))
    assert ran.target == 1
    assert min(t for t, _ in ran.targets if t > 60) >= heard_again_s + SCALING.downscale_delay_s - 1


def test_one_silent_replica_keeps_the_pool_from_shrinking_but_not_from_growing() -> None:
    ran = pool().run(phases((60, {256: 3})))
    target = ran.target
    assert target > 1
    ran.running[0].silent = True
    ran.run(phases((200, {})))
    assert ran.target == target
    ran.run(phases((60, {256: 12})))
    assert ran.target > target


def test_a_pool_behind_a_handle_goes_to_zero_and_back() -> None:
    ran = pool(low=0).run(phases((30, {256: 1}), (120, {})))
    assert ran.target == 0
    assert not ran.replicas
    ran.run(phases((120, {256: 3})))
    assert ran.target >= needed(3) - 1
    ran.run(phases((200, {})))
    assert ran.target == 0
    assert not ran.refused
    assert_bounded(ran)


def test_an_ingress_pool_keeps_one() -> None:
    ran = pool(low=1).run(phases((30, {256: 1}), (600, {})))
    assert ran.target == 1


def test_a_trickle_keeps_one_replica() -> None:
    ran = pool(low=0).run(phases((900, {1: 0.3})))
    assert ran.target == 1


def test_demand_is_busy_and_shed_over_their_targets_plus_work() -> None:
    scaling = Scaling(target_busy=0.5, target_work_s=2.0)
    reports = [
        LoadReport(taken_s=0, work_s=3.0, busy=0.25, shed=1.0),
        LoadReport(taken_s=9, work_s=1.0, busy=1.0, shed=0.0),
    ]
    assert demand_of(scaling, reports) == pytest.approx((0.25 + 1.0 + 1.0) / 0.5 + 4.0 / 2.0)
    assert demand_of(scaling, []) == 0


def test_more_is_started_when_it_was_needed_for_all_of_the_delay() -> None:
    scaling = Scaling(upscale_delay_s=3.0, average_s=0.0)

    def targets(shares: list[float]) -> list[int]:
        memory, target, found = PolicyState(), 1, []
        for second, busy in enumerate(shares):
            report = LoadReport(taken_s=second, work_s=0.0, busy=busy, shed=0.0)
            target, memory = decide(
                scaling,
                memory,
                now_s=float(second),
                target=target,
                low=1,
                high=8,
                reports={"one": report},
            )
            found.append(target)
        return found

    assert targets([1.0, 1.0, 1.0, 0.1, 1.0, 1.0, 1.0, 1.0, 1.0]) == [1] * 7 + [2, 2]


def test_a_demand_after_none_is_taken_as_it_is_and_then_averaged() -> None:
    def report(second: float, work_s: float) -> dict[str, LoadReport]:
        return {"one": LoadReport(taken_s=second, work_s=work_s, busy=0.0, shed=0.0)}

    memory = PolicyState()
    for second, work_s in enumerate((0.0, 4.0, 1.0)):
        _, memory = decide(
            SCALING,
            memory,
            now_s=float(second),
            target=1,
            low=1,
            high=8,
            reports=report(second, work_s),
        )
        if second == 1:
            assert memory.demand == 4.0
    keep = math.exp(-1 / SCALING.average_s)
    assert memory.demand == pytest.approx(1.0 + keep * 3.0, abs=1e-6)


def test_clocks_of_other_machines_do_not_matter() -> None:
    """A replica an hour behind is as fresh as one an hour ahead, while it goes on reporting."""
    memory, target = PolicyState(), 1
    for second in range(60):
        reports: Mapping[str, LoadReport] = {
            name: LoadReport(taken_s=second + skew, work_s=0.0, busy=1.0, shed=0.0)
            for name, skew in (("behind", -3600.0), ("ahead", 3600.0))
        }
        target, memory = decide(
            SCALING, memory, now_s=second, target=target, low=1, high=8, reports=reports
        )
    assert target == math.ceil(2 / SCALING.target_busy)


def test_a_clock_set_back_starts_the_delays_anew() -> None:
    memory = PolicyState()
    idle = {"one": LoadReport(taken_s=1.0, work_s=0.0, busy=0.0, shed=0.0)}
    target, memory = decide(SCALING, memory, now_s=1e9, target=4, low=1, high=8, reports=idle)
    changed_s = []
    for second in range(100):
        idle = {"one": LoadReport(taken_s=2.0 + second, work_s=0.0, busy=0.0, shed=0.0)}
        new, memory = decide(
            SCALING, memory, now_s=float(second), target=target, low=1, high=8, reports=idle
        )
        changed_s += [second] if new != target else []
        target = new
    assert target == 1
    assert SCALING.downscale_delay_s <= changed_s[0] <= SCALING.downscale_delay_s + 2


def test_series_of_ray_are_read_by_their_newest_points() -> None:
    replica = Replica(name="one", machine=Machine(), ready_s=0.0)
    for time_s, shed_s in ((1.0, 0.0), (2.0, 5.0), (4.0, 8.0)):
        report = {"work_s": time_s / 10, "busy": 0.5, "shed_s": shed_s}
        replica.points.append((time_s, report))
    found = read(["one", "other"], raw_metrics([replica]))
    assert found == {"one": LoadReport(taken_s=4.0, work_s=0.4, busy=0.5, shed=1.5), "other": None}
    replica.points[:] = replica.points[:1]
    one = read(["one"], raw_metrics([replica]))["one"]
    assert one is not None
    assert one.shed == 0.0


shares = st.floats(0, 1)
said = st.one_of(st.none(), st.tuples(shares, st.floats(0, 20), st.floats(0, 5)))
moments = st.lists(
    st.tuples(st.floats(0.1, 4.0), st.lists(said, max_size=4), st.integers(0, 2)), max_size=60
)


@given(moments=moments, low=st.integers(0, 2), room=st.integers(0, 6), start=st.integers(0, 8))
@settings(deadline=None, max_examples=200)
def test_whatever_is_said_the_target_is_bounded_and_turns_seldom(
    moments: list[tuple[float, list[tuple[float, float, float] | None], int]],
    low: int,
    room: int,
    start: int,
) -> None:
    high = max(1, low + room)
    target, memory, now_s = min(max(start, low), high), PolicyState(), 0.0
    changes = []
    for seconds, replicas, repeat in moments:
        now_s += seconds
        reports = {
            str(number): report
            and LoadReport(
                taken_s=0.0 if repeat == 0 else now_s,
                busy=report[0],
                work_s=report[1],
                shed=report[2],
            )
            for number, report in enumerate(replicas)
        }
        new, memory = decide(
            SCALING, memory, now_s=now_s, target=target, low=low, high=high, reports=reports
        )
        assert low <= new <= high
        if not any(reports.values()):
            assert new == target
        if new != target:
            changes.append((now_s, 1 if new > target else -1))
        target = new
    assert_directions(changes)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("target_busy", 0.0),
        ("target_busy", 1.5),
        ("target_work_s", 0.0),
        ("stale_s", math.inf),
        ("upscale_delay_s", -1.0),
        ("average_s", math.nan),
    ],
)
def test_wrong_options_are_named(option: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"scaling.{option} must be"):
        Scaling(**{option: value})
