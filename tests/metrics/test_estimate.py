"""Bootstrap intervals of statistics whose spread is known."""

import numpy as np
import pytest

from aigc.metrics.estimate import bootstrap, of_mean


def test_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = np.random.default_rng(0).normal(size=200)
    found, wanted = bootstrap(lambda rows: values[rows].mean(), 200), of_mean(values)
    assert found.value == pytest.approx(values.mean())
    assert found.interval == pytest.approx(wanted.interval, abs=0.015)


def test_interval_holds_the_truth_of_a_ratio() -> None:
    inside = 0
    for seed in range(40):
        random = np.random.default_rng(seed)
        below = random.uniform(1, 3, 60)
        above = 2 * below + random.normal(size=60)
        found = bootstrap(lambda rows, a=above, b=below: a[rows].sum() / b[rows].sum(), 60, 200)
        inside += found.interval[0] < 2 < found.interval[1]
    assert inside >= 35


def test_equal_calls_give_equal_intervals() -> None:
    values = np.random.default_rng(0).normal(size=20)

    def statistic(rows: np.ndarray) -> float:
        return float(np.median(values[rows]))

    assert bootstrap(statistic, 20) == bootstrap(statistic, 20)
    assert bootstrap(statistic, 20) != bootstrap(statistic, 20, seed=1)


def test_one_thing_has_no_interval_and_undefined_samples_are_passed_over() -> None:
    assert bootstrap(lambda rows: 3.0, 1).interval is None
    assert bootstrap(lambda rows: np.nan, 5).interval is None
    defined = bootstrap(lambda rows: 1.0 if 0 in rows else np.nan, 5)
    assert defined.interval == (1, 1)
