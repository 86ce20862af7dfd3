"""Real-time factors by a clock that is set by the work."""

import pytest
import torch

from aigc.metrics.real_time import real_time_factor


class Work:
    """Takes so many seconds in turn, by its own clock."""

    def __init__(self, *seconds: float) -> None:
        self.seconds, self.now, self.threads = iter(seconds), 0.0, 0

    def __call__(self) -> None:
        self.now += next(self.seconds)
        self.threads = torch.get_num_threads()

    def clock(self) -> float:
        return self.now


def test_factor_is_the_median_without_the_first_round() -> None:
    work = Work(100, 1, 2, 9)
    assert real_time_factor(work, 4.0, rounds=3, clock=work.clock) == 0.5


def test_torch_has_one_thread_meanwhile() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        work = Work(1, 1)
        real_time_factor(work, 1.0, rounds=1, clock=work.clock)
        assert (work.threads, torch.get_num_threads()) == (1, 2)
        with pytest.raises(StopIteration):
            real_time_factor(Work(), 1.0)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_default_clock_counts_work_and_not_waiting() -> None:
    assert real_time_factor(lambda: sum(range(10_000)), 1.0) > 0


def test_no_sound_and_no_rounds_are_refused() -> None:
    with pytest.raises(ValueError, match="sound_s must be > 0"):
        real_time_factor(Work(), 0)
    with pytest.raises(ValueError, match="rounds must be >= 1"):
        real_time_factor(Work(), 1.0, rounds=0)
