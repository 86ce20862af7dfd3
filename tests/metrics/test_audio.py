"""Sounds judged: real ones score their floor, untrained ones fall short."""

from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.artifact import Artifact
from aigc.artifact.image_files import read_png
from aigc.commands.evaluate import draw, evaluate
from aigc.config import DataConfig, ModelConfig
from aigc.data import Dataset
from aigc.metrics import audio
from tests.data.sounds import SHAPE, sealed

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("session_cache")]

NAMES = [
    "accuracy/cnn64",
    "accuracy/mfcc_svm",
    "frechet/log_mel",
    "diversity/log_mel",
    "harmonicity",
    "duration_s",
    "nearest/log_mel",
    "copied/log_mel",
]


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Path]:
    folder = tmp_path_factory.mktemp("tones")
    return Artifact.open(sealed(folder)), folder


def splits(folder: Path) -> tuple[Dataset, Dataset]:
    config = DataConfig(source="audio", path=str(folder / "data"))
    train, test = (
        data.whole(data.load(config, ModelConfig(shape=SHAPE), split))
        for split in ("train", "test")
    )
    return train, test


def test_evaluate_measures_sounds_and_real_sounds_score_their_floors(
    tones: tuple[Artifact, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, folder = tones
    figures = evaluate(artifact, n=50)
    found = {metric.name: metric for metric in figures}
    # The test split has one clip of each class, which have none to differ from.
    assert [left_out.name for left_out in figures.omitted] == ["diversity/log_mel"]
    assert list(found) == [name for name in NAMES if name != "diversity/log_mel"]
    assert found["accuracy/cnn64"].floor == found["accuracy/mfcc_svm"].floor == 1
    assert found["frechet/log_mel"].floor is not None
    assert found["frechet/log_mel"].value > 1.5 * found["frechet/log_mel"].floor
    train, test = splits(folder)
    # In the place of generated ones, the test clips themselves.
    monkeypatch.setattr(audio, "first_samples", lambda *_: (test.samples, test.labels))
    for metric in audio.evaluate(artifact, train, test, len(test), 0):
        assert metric.floor is not None
        assert metric.value == pytest.approx(metric.floor, rel=1e-6), metric.name


def test_sound_distance_separates_noise_and_other_pitches(
    tones: tuple[Artifact, Path],
) -> None:
    train, test = splits(tones[1])
    to_train = audio.distance(train)
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, test.samples.shape).astype(np.float32)
    floor = to_train(test.samples)
    assert to_train(train.samples) < floor
    assert to_train(noise) > 2 * floor
    assert to_train(test.samples[..., ::2].repeat(2, -1)) > 1.5 * floor


def test_sounds_of_another_class_lower_accuracy(
    tones: tuple[Artifact, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, folder = tones
    train, test = splits(folder)
    monkeypatch.setattr(audio, "first_samples", lambda *_: (test.samples, 1 - test.labels))
    found = {m.name: m.value for m in audio.evaluate(artifact, train, test, len(test), 0)}
    assert np.allclose([found["accuracy/cnn64"], found["accuracy/mfcc_svm"]], 0)


def test_copied_training_clips_are_detected(
    tones: tuple[Artifact, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    artifact, folder = tones
    train, test = splits(folder)
    n = len(test)
    monkeypatch.setattr(audio, "first_samples", lambda *_: (train.samples[:n], train.labels[:n]))
    found = {m.name: m for m in audio.evaluate(artifact, train, test, n, 0)}
    assert found["copied/log_mel"].value == 1
    assert found["nearest/log_mel"].value < 0.01 < (found["nearest/log_mel"].floor or 0)


def test_picture_shows_real_above_generated_sounds_by_class(
    tones: tuple[Artifact, Path], tmp_path: Path
) -> None:
    artifact, _ = tones
    draw(artifact, tmp_path / "drawn.png")
    drawn, _ = read_png((tmp_path / "drawn.png").read_bytes())
    height, width = 192, 64
    assert drawn.shape == (2 * height + 2, 10 * (width + 2) - 2, 1)
    # "down" has its tone below 1 kHz, "up" above; of generated ones nothing is known here.
    brightest = drawn[:height, width // 4].argmax(), drawn[:height, width + 2 + width // 4].argmax()
    assert brightest[0] > 143 > brightest[1]
