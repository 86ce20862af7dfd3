"""Replicas' logs on the terminal: `Limiter`, on a clock of the test."""

from serve.local.log_follower import MOST_PER_WINDOW, SAME_S, WINDOW_S, Limiter


def record(second: int, text: str) -> str:
    return f"2026-01-01 00:00:{second:02},000 ERROR serve.app: {text}"


def test_equal_records_are_shown_once_per_interval_and_counted() -> None:
    now = 0.0
    limiter = Limiter(lambda: now)
    shown = []
    for second in range(20):
        now = second / 19 * (SAME_S - 1)
        shown += limiter.filter(record(second, "a replica does not start"))
    assert shown == [record(0, "a replica does not start")]
    now = SAME_S
    last = record(30, "a replica does not start")
    assert [*limiter.filter(last)] == ["19 more like the next one since it was last shown", last]


def test_records_beyond_the_window_are_counted() -> None:
    now = 0.0
    limiter = Limiter(lambda: now)
    shown = [line for i in range(MOST_PER_WINDOW + 5) for line in limiter.filter(f"record {i}")]
    assert shown == [f"record {i}" for i in range(MOST_PER_WINDOW)]
    now = WINDOW_S
    first, second = limiter.filter("later")
    assert first.startswith("5 more records were not shown")
    assert second == "later"
