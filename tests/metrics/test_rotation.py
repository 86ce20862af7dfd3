"""Pictures without labels, judged: what is worse than real ones scores worse, whatever it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from aigc import data
from aigc.config import DataConfig, ModelConfig
from aigc.data import Dataset
from aigc.metrics import image
from aigc.metrics.neighbours import in_manifold
from aigc.metrics.rotation import Rotations

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("session_cache")]


@pytest.fixture(scope="module")
def digits() -> tuple[Dataset, Dataset]:
    """Both splits; a distance gets no labels."""
    train, test = (
        data.whole(data.load(DataConfig(), ModelConfig(shape=(1, 8, 8)), split))
        for split in ("train", "test")
    )
    return train, test


def unlabelled(dataset: Dataset) -> Dataset:
    return replace(dataset, classes=(), labels=np.zeros_like(dataset.labels))


def test_worse_pictures_score_worse(digits: tuple[Dataset, Dataset]) -> None:
    train, test = digits
    random = np.random.default_rng(0)
    distance = image.distance(unlabelled(train))
    assert distance is not None
    real = test.samples
    floor = distance(real)
    rows = len(real)

    def without(*labels: int) -> np.ndarray:
        left = real[~np.isin(test.labels, labels)]
        return left[np.arange(rows) % len(left)]

    shuffled = np.stack([random.permutation(one.ravel()).reshape(one.shape) for one in real])
    noise = random.normal(0, 0.3, real.shape).astype(np.float32)
    scores = {
        name: distance(np.asarray(made, np.float32)) / floor
        for name, made in {
            "a class less": without(0),
            "half of the classes": without(0, 2, 4, 6, 8),
            "one class": without(*range(1, 10)),
            "twenty pictures": real[np.arange(rows) % 20],
            "blurred": gaussian_filter(real, (0, 0, 0.7, 0.7)),
            "blurred more": gaussian_filter(real, (0, 0, 1.5, 1.5)),
            "noisy": (real + noise).clip(-1, 1),
            "shuffled": shuffled,
            "the mean": np.repeat(real.mean(0, keepdims=True), rows, 0),
        }.items()
    }
    assert scores.pop("a class less") > 1.3, scores
    assert min(scores.values()) > 5, scores
    ordered = ("half of the classes", "one class"), ("blurred", "blurred more")
    for names in ordered:
        found = [scores[name] for name in names]
        assert found == sorted(found), scores


def test_precision_and_recall_detect_missing_modes(digits: tuple[Dataset, Dataset]) -> None:
    train, test = digits
    rotations = Rotations.trained_on(unlabelled(train))
    known, seen = (rotations.features(x) for x in (train.samples, test.samples))
    few = seen[test.labels == 1]
    assert in_manifold(seen, few).mean() < 0.6 < 0.9 < in_manifold(seen, known).mean()
    assert in_manifold(few, known).mean() > 0.8
    noise = np.random.default_rng(0).uniform(-1, 1, test.samples.shape).astype(np.float32)
    assert in_manifold(rotations.features(noise), known).mean() < 0.2


def test_rotation_judge_learns_without_labels(
    digits: tuple[Dataset, Dataset],
) -> None:
    train, test = digits
    rotations = Rotations.trained_on(unlabelled(train))
    right = rotations.correct(test.samples)
    assert right.shape == (len(test),)
    assert right.mean() > 0.9
    turned = np.rot90(test.samples, 1, (2, 3)).copy()
    assert rotations.correct(turned).mean() < 0.1


@pytest.mark.parametrize("shape", [(3, 12, 8), (2, 4, 10)])
def test_pictures_need_not_be_square(shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    samples = random.uniform(-1, 1, (8, *shape)).astype(np.float32)
    made = Dataset(name="wide", samples=samples, labels=np.zeros(8, np.int64), classes=())
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    rotations = Rotations.trained_on(made)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert rotations.features(samples).shape == (8, 64)
    assert rotations.correct(samples).shape == (8,)


@pytest.mark.parametrize(
    ("rows", "says"), [(500, "weak judge: right of"), (100, "is untested: 10")]
)
def test_weak_rotation_judge_is_doubtful_during_training(
    rows: int, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Noise looks the same from all sides."""
    noise = np.random.default_rng(0).uniform(-1, 1, (rows, 1, 8, 8)).astype(np.float32)
    made = Dataset(name="noise", samples=noise, labels=np.zeros(rows, np.int64), classes=())
    assert image.distance(made) is not None
    assert caplog.text.count(f"quality, frechet/rotation64: the judge {says}") == (rows == 100)
    assert caplog.text.count(f"quality, frechet/rotation64: {says}") == (rows == 500)
