"""Numbers that change during a run: their texts, values, and mistakes."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aigc.config import OptimizerConfig
from aigc.config.schedule import CURVES, FORM, parse, value_at, values

WARM_UP_AND_COSINE = "0:0 2k:1e-3 100%:0:cosine"


def test_a_plain_number_is_constant() -> None:
    assert {value_at(0.25, samples, 100) for samples in (0, 50, 1000)} == {0.25}


def test_warm_up_and_cosine_follow_the_formula() -> None:
    at = {samples: value_at(WARM_UP_AND_COSINE, samples, 10_000) for samples in range(12_001)}
    assert at[0] == 0
    assert at[500] == pytest.approx(0.25e-3)
    assert at[2000] == 1e-3
    assert at[6000] == pytest.approx(0.5e-3)
    assert at[4000] == pytest.approx(1e-3 * (1 + math.cos(math.pi / 4)) / 2)
    assert at[10_000] == at[12_000] == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:8 100:2", [8, 5, 2, 2]),
        ("0:8 100:2:exponential", [8, 4, 2, 2]),
        ("0:8 100:2:step", [8, 8, 2, 2]),
        ("0:8 100:2:cosine", [8, 5, 2, 2]),
        ("50:8 50%:2:step", [8, 8, 2, 2]),
        ("7:3", [3, 3, 3, 3]),
        ("0:1 0.05k:2 75%:4", [1, 2, 3, 4]),
    ],
)
def test_curves_lead_from_point_to_point(text: str, expected: list[float]) -> None:
    found = [value_at(text, samples, 200) for samples in (0, 50, 100, 150)]
    assert found == pytest.approx(expected)


@pytest.mark.parametrize("text", ["2k:1e-3 100%:0", "10k:1e-3 100%:0:cosine", "50%:1e-3 1:2"])
def test_before_the_first_point_the_value_is_that_of_the_first(text: str) -> None:
    assert value_at(text, 1, 1000) == 1e-3


def test_values_may_be_thousands_and_millions_too() -> None:
    assert values("0:2k 1M:3M 2M:0.5k") == (2000, 3e6, 500)


def test_points_that_a_short_run_overtakes_keep_their_order() -> None:
    # The warm-up is longer than the run: the fall to 0 has no time left, and comes after it.
    assert value_at(WARM_UP_AND_COSINE, 500, 1000) == pytest.approx(0.25e-3)
    assert value_at(WARM_UP_AND_COSINE, 2000, 1000) == 0


@given(
    st.lists(st.tuples(st.integers(1, 10**6), st.floats(1e-6, 1e3)), min_size=1, max_size=5),
    st.sampled_from(sorted(CURVES)),
    st.integers(0, 10**7),
)
def test_a_value_stays_between_those_of_the_points(
    steps: list[tuple[int, float]], curve: str, samples: int
) -> None:
    position, words = 0, []
    for step, value in steps:
        words.append(f"{position}:{value!r}:{curve}")
        position += step
    text = " ".join(words)
    low, high = min(values(text)), max(values(text))
    assert low * (1 - 1e-9) <= value_at(text, samples, 10**6) <= high * (1 + 1e-9)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no points"),
        ("1e-3 2e-3", "'1e-3' is no point"),
        ("0:fast", "'0:fast' is no point"),
        ("0:nan", "'0:nan' is no point"),
        ("0:1 10:2:sine", "'10:2:sine' is no point"),
        ("0:1 10:2:step:3", "is no point"),
        ("-5:1", "'-5:1' is no point"),
        ("0:1 0:2", "positions must grow"),
        ("50%:1 20%:2", "positions must grow"),
        ("0:1 120%:2", "behind the end of the run"),
        ("0:0 10:1:exponential", "values > 0 at both of its ends"),
    ],
)
def test_a_mistake_is_named(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        parse(text)


def test_advice_about_the_form_can_be_followed() -> None:
    example = FORM.split("'")[1]
    assert OptimizerConfig(learning_rate=example).learning_rate == example


def test_bounds_hold_at_every_point() -> None:
    with pytest.raises(ValueError, match=r"betas must be in \[0, 1\), got 0:0.5 1k:1"):
        OptimizerConfig(betas=(0.5, "0:0.5 1k:1"))
    with pytest.raises(ValueError, match="learning_rate must be > 0, got 0:-1 1k:1"):
        OptimizerConfig(learning_rate="0:-1 1k:1")
    with pytest.raises(ValueError, match="learning_rate: 'fast' is no point"):
        OptimizerConfig(learning_rate="fast")
