"""(seed, index) -> latents: golden bytes, independence of the batch, the right distribution."""

import hashlib
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from aigc.artifact import latents

SEEDS = st.integers(0, latents.MAX_SEED)
INDICES = st.integers(0, latents.MAX_SEED)


def key(purpose: str) -> int:
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")


def test_normal_is_golden_at_seed_0() -> None:
    z = latents.normal(0, range(100), (64,))
    assert z.dtype == np.float32
    assert z[0, :4].tobytes().hex() == "35ccb9be0a3144be64e3cb3f1e10a43f"
    assert hashlib.sha256(z.tobytes()).hexdigest() == (
        "bf0607318e3a622a6a5769c037790d6a427495750d196e5b503ed47fca1c17f3"
    )


def test_normal_is_golden_at_the_largest_seed_and_index() -> None:
    assert latents.normal(2**63 - 1, [2**62], (2,)).tobytes().hex() == "17bce3be38795a3e"


def test_labels_are_golden_at_seed_0() -> None:
    expected = [7, 2, 8, 4, 8, 8, 4, 4, 5, 2, 6, 9, 6, 8, 8, 7, 1, 0, 2, 5]
    assert latents.labels(0, range(20), 10).tolist() == expected


@given(seed=SEEDS, index=INDICES, purpose=st.sampled_from(["latent", "label", "order"]))
def test_integers_are_those_of_a_fresh_philox(seed: int, index: int, purpose: str) -> None:
    words, counter = (
        np.array([seed, key(purpose)], np.uint64),
        np.array([0, index, 0, 0], np.uint64),
    )
    fresh = np.random.Philox(key=words, counter=counter)
    assert np.array_equal(latents.integers(seed, purpose, [index], 9)[0], fresh.random_raw(9))


@given(seed=SEEDS, indices=st.lists(INDICES, min_size=1, max_size=6), n=st.integers(1, 7))
def test_sample_is_independent_of_its_batch(seed: int, indices: list[int], n: int) -> None:
    together = latents.normal(seed, indices, (n,))
    alone = [latents.normal(seed, [index], (n,))[0] for index in indices]
    assert together.tobytes() == np.stack(alone).tobytes()
    assert latents.labels(seed, indices, 10).tolist() == [
        int(latents.labels(seed, [index], 10)[0]) for index in indices
    ]


def test_several_seeds_equal_each_seed_alone() -> None:
    seeds, indices = [7, 0, 7, latents.MAX_SEED], [3, 3, 0, 9]
    together = latents.normal(seeds, indices, (2, 3))
    classes = latents.labels(seeds, indices, 10)
    for row, (seed, index) in enumerate(zip(seeds, indices, strict=True)):
        assert together[row].tobytes() == latents.normal(seed, [index], (2, 3)).tobytes()
        assert classes[row] == latents.labels(seed, [index], 10)[0]
    with pytest.raises(ValueError, match="seed must be in"):
        latents.labels([0, -1], [0, 0], 10)


def test_longer_latent_starts_with_the_shorter_one() -> None:
    assert np.array_equal(
        latents.normal(1, range(3), (50,))[:, :7], latents.normal(1, range(3), (7,))
    )


def test_shape_only_folds_the_stream() -> None:
    folded = latents.normal(1, range(3), (2, 5, 5))
    assert folded.shape == (3, 2, 5, 5)
    assert np.array_equal(folded.reshape(3, 50), latents.normal(1, range(3), (50,)))


def test_seeds_purposes_and_indices_are_independent_streams() -> None:
    streams = [
        latents.integers(seed, purpose, [index], 100)
        for seed in (0, 1, 2**62)
        for purpose in ("latent", "label")
        for index in (0, 1, 2**62)
    ]
    assert len(np.unique(streams)) == 100 * len(streams)


def test_latents_are_standard_normal() -> None:
    z = latents.normal(3, range(2000), (50,))
    flat = z.ravel().astype(np.float64)
    assert stats.kstest(flat, "norm").pvalue > 0.01
    assert abs(flat.mean()) < 4 / np.sqrt(flat.size)
    assert abs(flat.std() - 1) < 4 / np.sqrt(2 * flat.size)
    assert abs(stats.skew(flat)) < 4 * np.sqrt(6 / flat.size)
    assert abs(stats.kurtosis(flat)) < 4 * np.sqrt(24 / flat.size)


def test_dimensions_and_neighbours_are_uncorrelated() -> None:
    z = latents.normal(3, range(4000), (8,)).astype(np.float64)
    beside = np.concatenate([z[:-1], z[1:]], 1)  # a sample and the next one
    off_diagonal = np.corrcoef(beside.T) - np.eye(16)
    assert np.abs(off_diagonal).max() < 5 / np.sqrt(len(beside))


def test_labels_are_uniform() -> None:
    for num_classes in (2, 3, 10):
        counts = np.bincount(latents.labels(5, range(9000), num_classes), minlength=num_classes)
        assert len(counts) == num_classes
        assert stats.chisquare(counts).pvalue > 0.01
    assert latents.labels(5, range(9), 1).tolist() == [0] * 9


def test_logarithm_equals_numpys_within_rounding() -> None:
    random = np.random.default_rng(0)
    x = np.concatenate([2.0 ** -np.arange(53), 1 - 2.0**-52 * np.arange(1, 9), random.random(9999)])
    assert np.abs(latents.logarithm(x) - np.log(x)).max() <= 1e-14


def test_inverse_normal_equals_scipys() -> None:
    tails = 2.0 ** -np.arange(2, 53)
    p = np.concatenate([tails, 1 - tails, np.linspace(0.001, 0.999, 9999), [2.0**-53]])
    expected = stats.norm.ppf(p)
    assert np.abs(latents.inverse_normal(p) - expected).max() <= 2e-6
    inner = np.abs(expected) > 0.01
    relative = np.abs(latents.inverse_normal(p) / np.where(inner, expected, 1) - 1)[inner]
    assert relative.max() <= 3e-7


def test_inverse_normal_is_odd_and_monotonic() -> None:
    p = np.linspace(0.0001, 0.5, 5001)
    z = latents.inverse_normal(p)
    assert np.allclose(z, -latents.inverse_normal(1 - p), atol=1e-12)
    assert (np.diff(z) > 0).all()
    assert latents.inverse_normal(np.array([0.5]))[0] == 0


def test_extreme_integers_give_finite_latents(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = np.array([[0, 2**64 - 1, 2**63, 2**12 - 1]], np.uint64)
    monkeypatch.setattr(latents, "integers", lambda *_: ends)
    z = latents.normal(0, [0], (4,))[0]
    assert np.isfinite(z).all()
    assert z[0] == z[3] == -z[1]
    assert abs(z[0]) == pytest.approx(-stats.norm.ppf(2.0**-53), abs=1e-5)


@pytest.mark.parametrize("seed", [-1, 2**63, 2**64])
def test_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=rf"seed must be in \[0, 2\^63\), got {seed}"):
        latents.normal(seed, [0], (1,))


@pytest.mark.parametrize("index", [-1, 2**63, 2**70])
def test_index_out_of_range_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match=rf"index must be in \[0, 2\^63\), got {index}"):
        latents.normal(0, [0, index], (1,))
    assert latents.normal(0, [0], (1,)).tobytes().hex() == "35ccb9be"  # no state is left behind


@pytest.mark.parametrize(
    "seven", [7.0, np.int64(7), np.uint8(7), np.float32(7), np.array(7), np.array(7.0)]
)
def test_numpy_integers_are_accepted(seven: Any) -> None:
    expected = latents.normal(7, [7, 2], (3,))
    assert np.array_equal(latents.normal(seven, [seven, np.int16(2)], (3,)), expected)
    assert np.array_equal(latents.normal([seven, 7], np.array([7, 2]), (3,)), expected)
    assert np.array_equal(latents.normal(np.array([7, 7]), [7, 2.0], (3,)), expected)


@pytest.mark.parametrize("value", [2.5, float("nan"), float("inf"), 2.0**53, "7", None, [7], 1j])
def test_other_types_are_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="n must be a whole number, got"):
        latents.whole(value, "n")


def test_threads_get_equal_numbers() -> None:
    expected = [latents.normal(s, range(20), (30,)).tobytes() for s in range(40)]
    found: dict[int, list[bytes]] = {}
    barrier = threading.Barrier(8)

    def work(worker: int) -> None:
        barrier.wait()
        found[worker] = [latents.normal(s, range(20), (30,)).tobytes() for s in range(40)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[i] for i in range(8)] == [expected] * 8


@given(
    seeds=st.tuples(st.integers(0, 2**53), st.integers(0, 2**53)),
    size=st.integers(1, 40),
    frames=st.integers(2, 12),
)
def test_slerp_stays_on_the_sphere(seeds: tuple[int, int], size: int, frames: int) -> None:
    a, b = (latents.normal(seed, [0], (size,))[0] for seed in seeds)
    t = np.linspace(0, 1, frames)
    way = latents.slerp(a, b, t)
    assert way.dtype == np.float32
    assert np.array_equal(way[0], a)
    assert np.array_equal(way[-1], b)
    assert np.allclose(latents.slerp(b, a, t), way[::-1], atol=1e-5)
    unit = [x.astype(np.float64) / np.linalg.norm(x.astype(np.float64)) for x in (a, b)]
    if abs(unit[0] @ unit[1]) < 0.999:
        on_it = latents.slerp(*(x.astype(np.float32) for x in unit), t)
        assert np.allclose(np.linalg.norm(on_it, axis=1), 1, atol=1e-5)
        steps = np.sum(on_it[1:] * on_it[:-1], axis=1)
        assert np.allclose(
            np.arccos(np.clip(steps, -1, 1)), np.arccos(unit[0] @ unit[1]) / (frames - 1), atol=1e-2
        )


def test_slerp_halves_a_right_angle() -> None:
    a, b = np.array([[1, 0]], np.float32), np.array([[0, 1]], np.float32)
    found = latents.slerp(a, b, np.array([0, 0.5, 1]))
    root = np.float32(np.sqrt(0.5))
    assert found.shape == (3, 1, 2)
    assert np.allclose(found[:, 0], [[1, 0], [root, root], [0, 1]])


@pytest.mark.parametrize("factor", [-2.0, 0.0, 1.0, 3.0])
def test_slerp_of_parallel_latents_is_linear(factor: float) -> None:
    a = np.array([0.6, -0.8], np.float32)
    b = (a * factor).astype(np.float32)
    way = latents.slerp(a, b, np.linspace(0, 1, 5))
    assert np.isfinite(way).all()
    assert np.allclose(way, [a + (b - a) * t for t in np.linspace(0, 1, 5)], atol=1e-6)
