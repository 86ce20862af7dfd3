"""Features in blocks: the same statistics as all at once, in bounded memory, and from the cache."""

import tracemalloc
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from aigc.data import Dataset
from aigc.feature_network import FeatureNetwork
from aigc.metrics import TooFewRows, feature_sets, moments
from aigc.metrics.estimate import GROUPS, Estimate, jackknife_of, of_mean, of_share
from aigc.metrics.feature_sets import collect, of_real
from aigc.metrics.frechet import frechet, frechet_estimate, frechet_infinity, moments_frechet
from aigc.metrics.moments import GroupedMoments, Moments
from aigc.metrics.vendi import vendi


def blocks(x: np.ndarray, size: int = 37) -> Iterator[np.ndarray]:
    yield from (x[i : i + size] for i in range(0, len(x), size))


@pytest.mark.parametrize("together", [1, 64, 10_000])
def test_moments_of_blocks_are_those_of_all_rows(
    together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moments, "TOGETHER", together)
    x = np.random.default_rng(0).normal(1000, 1, (500, 6))  # far from 0
    found = GroupedMoments.of(blocks(x))
    whole = found.merged()
    assert whole.count == 500
    assert whole.mean == pytest.approx(x.mean(0))
    assert whole.covariance == pytest.approx(np.cov(x.T), abs=1e-9)
    for group in range(GROUPS):
        assert found.merged([group]).covariance == pytest.approx(np.cov(x[group::GROUPS].T))
    nothing = Moments.of(x[:0])
    assert (nothing + whole).count == (whole + nothing).count == 500


def test_distance_of_blocks_has_an_interval_that_holds_the_truth() -> None:
    """The distance of N(0, 1) and N(0.5, 1) in 4 dimensions is 1."""
    inside = 0
    for seed in range(20):
        random = np.random.default_rng(seed)
        real, made = random.normal(size=(20_000, 4)), random.normal(0.5, 1, (800, 4))
        found = frechet_estimate(Moments.of(real), GroupedMoments.of(blocks(made)))
        assert found.value == pytest.approx(frechet(real, made))
        assert found.interval is not None
        inside += found.interval[0] < 1 < found.interval[1]
    assert inside >= 16
    few = frechet_estimate(Moments.of(real), GroupedMoments.of(blocks(made[:15])))
    assert few.interval is None


def test_extrapolated_distance_has_no_bias_by_the_number_of_samples() -> None:
    random = np.random.default_rng(0)
    real, made = random.normal(size=(40_000, 32)), random.normal(size=(1000, 32))
    known, grouped = Moments.of(real), GroupedMoments.of(blocks(made))
    plain, found = moments_frechet(known, grouped.merged()), frechet_infinity(known, grouped)
    assert plain > 0.2
    assert abs(found.value) < 0.1 * plain
    shifted = frechet_infinity(known, GroupedMoments.of(blocks(made + 0.5)))
    assert shifted.value == pytest.approx(8, rel=0.1)
    assert shifted.interval is not None
    assert shifted.interval[0] < 8.2
    assert shifted.interval[1] > 7.8
    with pytest.raises(TooFewRows, match="of 32 features needs 512 rows, there are 500"):
        frechet_infinity(known, GroupedMoments.of(blocks(made[:500])))


@pytest.mark.parametrize("classes", [2, 3, 8, 10, 100])
def test_classes_in_turn_are_in_every_group(classes: int) -> None:
    """Samples come of classes in turn: a group of one of eight of them would be of few classes,
    far from the real rows."""
    random = np.random.default_rng(0)
    centres = random.normal(0, 5, (classes, 8))

    def drawn(n: int) -> np.ndarray:
        return centres[np.arange(n) % classes] + random.normal(size=(n, 8))

    real, made = Moments.of(drawn(20_000)), drawn(1600)
    grouped = GroupedMoments.of(blocks(made), classes)
    sizes = [grouped.merged([group]).count for group in range(GROUPS)]
    assert max(sizes) - min(sizes) <= classes
    whole, part = grouped.merged(), grouped.merged([3])
    assert moments_frechet(whole, part) < 0.05 * np.trace(real.covariance)
    distance = frechet_estimate(real, grouped)
    assert distance.interval is not None
    assert distance.interval[1] < 2 * distance.value
    if classes <= 10:
        assert abs(frechet_infinity(real, grouped).value) < distance.value
    wide = vendi(made.astype(np.float32), classes)
    assert wide.interval is not None
    assert wide.interval[1] - wide.interval[0] < 0.1 * wide.value


def test_memory_does_not_grow_with_the_rows() -> None:
    """50,000 rows of 2,048 features, 410 MB, go through the same code in blocks."""
    wide, block = 128, 256
    network = FeatureNetwork(
        name="wide", sha256="0", run=lambda x: x.reshape(len(x), -1).repeat(wide, 1)
    )

    def peak(num_blocks: int) -> int:
        random = np.random.default_rng(0)
        drawn = (random.normal(size=(block, 1, 1, 1)).astype(np.float32) for _ in range(num_blocks))
        tracemalloc.start()
        found = collect([network], drawn, np.arange(100))["wide"]
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert found.total.count == block * num_blocks
        assert found.rows.shape == (100, wide)
        return most

    assert peak(80) < 1.1 * peak(16)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> tuple[FeatureNetwork, list[int]]:
    """A network that notes how many pictures it was given, and an empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    seen: list[int] = []

    def run(x: np.ndarray) -> np.ndarray:
        seen.append(len(x))
        return x.reshape(len(x), -1)

    return FeatureNetwork(name="flat", sha256="1", run=run), seen


def test_features_of_real_rows_are_cached_by_data_and_network(
    counted: tuple[FeatureNetwork, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    network, seen = counted
    monkeypatch.setattr(feature_sets, "KEPT", 50)
    images = np.random.default_rng(0).integers(0, 255, (300, 1, 2, 2), np.uint8)
    made = Dataset(name="made", samples=images, labels=np.zeros(300, np.int64), classes=())
    first = of_real(network, made)
    assert sum(seen) == 300
    assert first.rows.shape == (50, 4)
    flat = images.reshape(300, 4) / np.float32(127.5) - np.float32(1)
    assert np.array_equal(first.rows, flat[first.numbers])
    assert first.total.covariance == pytest.approx(np.cov(flat.T), rel=1e-5)
    again = of_real(network, made)
    assert sum(seen) == 300
    assert np.array_equal(again.rows, first.rows)
    assert np.array_equal(again.total.scatter, first.total.scatter)
    of_real(replace(network, sha256="2"), made)
    assert sum(seen) == 600
    of_real(network, replace(made, samples=images[::-1].copy()))
    assert sum(seen) == 900
    empty = of_real(network, replace(made, samples=images[:0], labels=made.labels[:0]))
    assert len(empty.rows) == empty.total.count == 0


def test_intervals_of_means_and_shares() -> None:
    random = np.random.default_rng(0)
    found = of_mean(random.normal(3, 2, 400))
    assert found.interval is not None
    assert found.interval[1] - found.interval[0] == pytest.approx(2 * 1.96 * 2 / 20, rel=0.1)
    none = of_share(np.zeros(100, bool))
    assert none.value == 0
    assert none.interval == pytest.approx((0, 0.037), abs=1e-3)  # Wilson 1927
    for n in range(1, 300):  # the ends themselves, not nearly
        assert of_share(np.zeros(n, bool)).interval[0] == 0  # type: ignore[index]
        assert of_share(np.ones(n, bool)).interval[1] == 1  # type: ignore[index]
    half = of_share(np.arange(100) % 2 == 0)
    assert half.interval == pytest.approx((0.4038, 0.5962), abs=1e-4)
    rows = random.normal(size=(800, 1)).astype(np.float32)
    mean = jackknife_of(lambda x: float(x.mean()) + 1, rows)
    assert mean.interval is not None
    assert mean.interval[1] - mean.value == pytest.approx(1.96 / np.sqrt(800), rel=0.6)
    assert jackknife_of(lambda x: 1.0, rows[:3]) == Estimate(1.0)
