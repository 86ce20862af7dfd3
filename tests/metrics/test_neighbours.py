"""k-NN coverage and copies on points whose answer is known."""

import numpy as np
import pytest

from aigc.metrics import TooFewRows, neighbours
from aigc.metrics.neighbours import copied, in_manifold, nearest


def share(points: np.ndarray, manifold: np.ndarray, k: int = 3) -> float:
    return float(in_manifold(points, manifold, k).mean())


def test_set_covers_itself_and_nothing_far_away() -> None:
    points = np.random.default_rng(0).normal(size=(200, 3))
    assert share(points, points) == 1
    assert share(points + 100, points) == 0


def test_radius_is_the_distance_to_the_kth_neighbour() -> None:
    line = np.arange(4.0)[:, None]  # reaches with k = 1 are all 1
    assert share(np.array([[3.9], [4.1], [-1.0]]), line, k=1) == pytest.approx(2 / 3)


def test_dropped_mode_lowers_recall_not_precision() -> None:
    generator = np.random.default_rng(1)
    real = np.concatenate([generator.normal(m, 0.1, (200, 2)) for m in (0, 5)])
    fake = generator.normal(0, 0.1, (400, 2))
    assert share(real, fake) == pytest.approx(0.5, abs=0.05)
    assert share(fake, real) > 0.95


def test_too_few_rows_are_refused() -> None:
    for points, rows in ((5, 3), (0, 5)):
        with pytest.raises(
            TooFewRows, match=f"more than 3 to be near to; there are {points} and {rows}"
        ):
            share(np.zeros((points, 2)), np.zeros((rows, 2)))
    none, some = np.zeros((0, 2)), np.zeros((3, 2))
    for call in (
        lambda: nearest(some, none),
        lambda: copied(none, some, some),
        lambda: copied(some, some, none),
    ):
        with pytest.raises(TooFewRows):
            call()


def test_chunked_search_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    points, manifold = (np.random.default_rng(n).normal(size=(n, 3)) for n in (70, 90))
    whole = share(points, manifold)
    monkeypatch.setattr(neighbours, "PART", 32)
    assert share(points, manifold) == whole


def test_nearest_is_the_nearest() -> None:
    points, others = np.array([[0.0, 0.0], [3.0, 4.0]]), np.array([[3.0, 4.0], [0.0, 1.0]])
    assert nearest(points, others).tolist() == [1.0, 0.0]


def test_copies_are_detected_and_new_rows_are_not() -> None:
    generator = np.random.default_rng(2)
    train, held_out, new = (generator.normal(size=(n, 8)) for n in (2000, 1000, 1000))
    repeated = train[:500] + generator.normal(0, 1e-3, (500, 8))
    assert copied(repeated, train, held_out) == 1
    assert copied(np.concatenate([repeated, new[:500]]), train, held_out) > 0.5
    assert copied(new, train, held_out) < 0.03
    assert copied(held_out, train, held_out) == pytest.approx(0.01, abs=0.001)
