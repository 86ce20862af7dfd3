"""Fréchet distance against closed forms."""

import numpy as np
import pytest

from aigc.metrics import Evaluation, TooFewRows
from aigc.metrics.frechet import add_frechet, frechet, gaussian_frechet


@pytest.mark.parametrize(("mu", "s1", "s2"), [(0.0, 1.0, 1.0), (3.0, 1.0, 2.0), (-1.0, 0.5, 4.0)])
def test_frechet_in_one_dimension_is_the_closed_form(mu: float, s1: float, s2: float) -> None:
    zero, one = np.zeros(1), np.ones((1, 1))
    found = gaussian_frechet(zero, one * s1**2, zero + mu, one * s2**2)
    assert found == pytest.approx(mu**2 + (s1 - s2) ** 2)


def test_frechet_of_diagonal_covariances_is_a_sum() -> None:
    generator = np.random.default_rng(0)
    mu, s1, s2 = generator.normal(size=5), *generator.uniform(0.1, 3, (2, 5))
    found = gaussian_frechet(np.zeros(5), np.diag(s1**2), mu, np.diag(s2**2))
    assert found == pytest.approx((mu**2 + (s1 - s2) ** 2).sum())


def test_frechet_is_invariant_to_rotation() -> None:
    generator = np.random.default_rng(1)
    a, b = generator.normal(size=(500, 4)), generator.normal(1, 2, (400, 4))
    turn, _ = np.linalg.qr(generator.normal(size=(4, 4)))
    assert frechet(a @ turn, b @ turn) == pytest.approx(frechet(a, b))
    assert frechet(a, b) == pytest.approx(frechet(b, a))


def test_frechet_of_equal_sets_is_zero_with_constant_features() -> None:
    x = np.random.default_rng(2).normal(size=(300, 6))
    x[:, 3] = 1
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)
    assert frechet(x, x + 2) == pytest.approx(24)


def test_frechet_refuses_mismatched_shapes() -> None:
    with pytest.raises(ValueError, match="features must be"):
        frechet(np.zeros((5, 2)), np.zeros((5, 3)))
    with pytest.raises(TooFewRows, match="two rows on each side, got 1 and 5"):
        frechet(np.zeros((1, 3)), np.zeros((5, 3)))


@pytest.mark.parametrize(("shift", "told"), [(0.0, False), (0.01, False), (9.0, True)])
def test_floor_counts_as_real(shift: float, told: bool) -> None:
    real, held_out = np.random.default_rng(3).normal(size=(2, 100, 4))
    made = held_out + shift
    figures = Evaluation()
    add_frechet(figures, "frechet/x", real, made, held_out, "weak")
    (metric,) = figures
    assert metric.value == frechet(real, made)
    assert metric.floor == frechet(real, held_out)
    near = "; not told from real data: 100 real rows score about the same"
    assert metric.note == "weak" + ("" if told else near)
