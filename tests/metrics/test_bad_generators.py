"""Generators that are bad on purpose are caught by the metric that should; real pictures pass."""

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from aigc.metrics import Metric, image
from tests.metrics.drawn import artifact, digits

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("session_cache")]

NAMES = ("frechet", "kid", "prdc", "vendi", "class_share", "class_recall", "neighbours")


def measured(images: np.ndarray, channels: int = 1) -> dict[str, Metric]:
    train, test, _ = digits(channels)
    found = image.measure(artifact(images), train, test, len(images), 0, NAMES)
    assert not found.omitted
    return {metric.name.partition("/")[0]: metric for metric in found}


def real() -> np.ndarray:
    return digits()[2]


def collapsed() -> np.ndarray:
    """Three pictures, over and over."""
    train, _, others = digits()
    noise = np.random.default_rng(0).normal(0, 0.02, others.shape)
    return (train.samples[np.arange(len(others)) % 3] + noise).clip(-1, 1)


def memorised() -> np.ndarray:
    train, _, others = digits()
    noise = np.random.default_rng(0).normal(0, 0.01, others.shape)
    return (train.samples[: len(others)] + noise).clip(-1, 1)


def blurred() -> np.ndarray:
    return gaussian_filter(real(), (0, 0, 0.8, 0.8))


def noisy() -> np.ndarray:
    return (real() + np.random.default_rng(0).normal(0, 0.5, real().shape)).clip(-1, 1)


def without_seven() -> np.ndarray:
    train, _, others = digits()
    whole = train.samples[train.labels != 7]
    return whole[np.random.default_rng(0).permutation(len(whole))[: len(others)]]


def test_real_pictures_pass() -> None:
    found = measured(real())
    assert found["judge"].value > 0.9
    for name in ("recall", "precision", "coverage", "class_recall"):
        metric = found[name]
        assert metric.floor is not None
        assert metric.value > metric.floor - 0.15, metric
    for name in ("frechet", "kid"):
        assert found[name].interval is not None
    assert found["frechet"].value < 2 * found["frechet"].floor
    assert "not told from real data" in found["frechet"].note
    assert found["kid"].interval[0] < 2 * abs(found["kid"].floor)
    assert found["density"].value == pytest.approx(found["density"].floor, rel=0.2)
    assert found["vendi"].value == pytest.approx(found["vendi"].floor, rel=0.1)
    assert found["class_share"].value > 0.6
    assert found["copied"].value < 0.1
    assert found["nearest"].value == pytest.approx(found["nearest"].floor, rel=0.2)


Caught = dict[str, Callable[[float, float], bool]]
BAD: list[tuple[Callable[[], np.ndarray], Caught]] = [
    (
        collapsed,
        {
            "recall": lambda value, real: value < 0.5 * real,
            "coverage": lambda value, real: value < 0.3 * real,
            "vendi": lambda value, real: value < 0.8 * real,
            "frechet": lambda value, real: value > 5 * real,
        },
    ),
    (
        memorised,
        {
            "copied": lambda value, real: value > 0.9,
            "nearest": lambda value, real: value < 0.5 * real,
        },
    ),
    (
        blurred,
        {
            "frechet": lambda value, real: value > 5 * real,
            "kid": lambda value, real: value > 20 * abs(real),
            "precision": lambda value, real: value < 0.9 * real,
        },
    ),
    (
        noisy,
        {
            "frechet": lambda value, real: value > 3 * real,
            "precision": lambda value, real: value < 0.9 * real,
        },
    ),
    (
        without_seven,
        {
            "class_share": lambda value, real: value < 0.2,
            "class_recall": lambda value, real: value < 0.7 * real,
            "frechet": lambda value, real: value > 3 * real,
        },
    ),
]


@pytest.mark.parametrize(("generator", "caught"), BAD)
def test_bad_generators_are_caught(generator: Callable[[], np.ndarray], caught: Caught) -> None:
    found, passed = measured(generator()), measured(real())
    values = {name: (found[name].value, passed[name].value) for name in found}
    missed = [name for name, worse in caught.items() if not worse(*values[name])]
    assert not missed, values
    for name, worse in caught.items():  # anywhere in the interval
        for end in found[name].interval or ():
            assert worse(end, passed[name].value), found[name]
    if generator is without_seven:
        assert found["class_share"].note.startswith("worst: '7', ")
        assert found["class_recall"].note.startswith("worst: '7', ")


def test_shifted_colours_are_caught() -> None:
    *_, others = digits(3)
    passed = measured(others, 3)["frechet"]
    shifted = np.clip(others + np.array([0.2, 0.0, -0.2])[:, None, None], -1, 1)
    found = measured(shifted, 3)["frechet"]
    assert found.value > 5 * passed.value
    assert passed.interval is not None
    assert passed.interval[0] <= passed.floor
