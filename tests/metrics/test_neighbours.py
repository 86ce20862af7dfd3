"""k-NN coverage on points whose answer is known."""

import numpy as np
import pytest

from aigc.metrics.neighbours import covered


def test_a_set_covers_itself_and_nothing_far_away() -> None:
    points = np.random.default_rng(0).normal(size=(200, 3))
    assert covered(points, points) == 1
    assert covered(points + 100, points) == 0


def test_reach_is_the_distance_to_the_kth_neighbour() -> None:
    line = np.arange(4.0)[:, None]  # reaches with k = 1 are all 1
    assert covered(np.array([[3.9], [4.1], [-1.0]]), line, k=1) == pytest.approx(2 / 3)


def test_a_dropped_mode_costs_recall_and_not_precision() -> None:
    generator = np.random.default_rng(1)
    real = np.concatenate([generator.normal(m, 0.1, (200, 2)) for m in (0, 5)])
    fake = generator.normal(0, 0.1, (400, 2))
    assert covered(real, fake) == pytest.approx(0.5, abs=0.05)
    assert covered(fake, real) > 0.95


def test_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="more than k = 3"):
        covered(np.zeros((5, 2)), np.zeros((3, 2)))
