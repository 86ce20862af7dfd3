"""Data of one's own: the model's shape, classes, vocabulary and rate follow from them."""

import io
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aigc.artifact import audio_files
from aigc.training.run import Run
from cluster import train
from tests.data.sounds import tone

TINY = ("--samples", "64", "--threads", "1", "--report-interval", "0", "--grid-interval", "0")
TINY += ("--batch", "16")
pytestmark = pytest.mark.process


def picture(path: Path, mode: str, size: tuple[int, int], number: int) -> None:
    """Noise of the whole range."""
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], channels), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels.squeeze(), mode).save(buffer, "png")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())


def grey(folder: Path) -> None:
    for number in range(40):
        picture(folder / f"{number}.png", "L", (20, 20), number)


def mixed(folder: Path) -> None:
    """Several modes and sizes, most of them 24 x 16 in colour, in two classes."""
    for number in range(40):
        mode = ("RGB", "L", "RGB", "RGBA")[number % 4]
        size = (9, 31) if number % 5 == 0 else (24, 16)
        picture(folder / ("cats", "dogs")[number % 2] / f"{number}.png", mode, size, number)


def transparent(folder: Path) -> None:
    for number in range(40):
        picture(folder / "one" / f"{number}.png", "RGBA", (100, 300), number)


@pytest.mark.parametrize(
    ("make", "shape", "num_classes"),
    [
        (grey, (1, 20, 20), 0),
        (mixed, (3, 16, 24), 2),
        (transparent, (4, 64, 64), 1),
    ],
)
def test_any_folder_of_pictures_trains_as_it_stands(
    make: Callable[[Path], None],
    shape: tuple[int, ...],
    num_classes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "pictures")
    small = ["--model.generator-widths", "8", "8", "--model.discriminator-widths", "8", "8"]
    assert train.command(["dcgan", "--data.path", "pictures", *TINY, *small]) == 0
    config = Run("runs/dcgan-digits").config()
    assert config.data.source == "folder"
    assert config.model.shape == shape
    assert config.model.num_classes == num_classes
    said = capsys.readouterr().err
    assert "derived from the data: --data.source folder --model.shape" in said
    assert (
        train.command(
            ["dcgan", "--data.path", "pictures", *TINY, *small, "--resume", "--samples", "80"]
        )
        == 0
    )
    assert "derived" not in capsys.readouterr().err


def test_flags_win_over_what_is_derived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    mixed(tmp_path / "pictures")
    flags = ["--data.path", "pictures", "--model.shape", "1", "8", "8", "--dry-run"]
    flags += ["--model.num-classes", "0", "--model.auxiliary", "0"]
    assert train.command(["dcgan", *flags, "--save", "run.yaml"]) == 0
    text = Path("run.yaml").read_text()
    assert "shape: [1, 8, 8]" in text
    assert "num_classes: 0" in text
    assert "derived from the data: --data.source folder; flags" in capsys.readouterr().err


def test_vocabulary_of_texts_is_derived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words.txt").write_text("".join(f"{'ab' * (n % 5)}{n}c\n" for n in range(60)))
    flags = ["--data.path", "words.txt", "--dry-run", "--save", "run.yaml"]
    assert train.command(["text_vae", *flags]) == 0
    text = Path("run.yaml").read_text()
    assert "vocabulary: 14" in text  # ten digits, three letters, and the end
    assert "shape: [12]" in text


def test_rate_of_sounds_falls_to_that_of_the_recordings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for number in range(40):
        wave = audio_files.wav(tone(200 + 10 * number, rate_hz=4000), 4000)
        path = tmp_path / "sounds" / f"{number}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(wave)
    flags = ["--data.path", "sounds", "--dry-run", "--save", "run.yaml"]
    assert train.command(["spectrogram_gan", *flags]) == 0
    assert "sample_rate_hz: 4000" in Path("run.yaml").read_text()


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["fc_gan:ring", "--data.path", "pictures"], "fc_gan:ring draws vector, and 'pictures'"),
        (["dcgan", "--data.path", "absent"], "there is nothing at 'absent'"),
        (["dcgan", "--data.path", "empty"], "'empty' holds nothing that is read"),
        (["dcgan", "--data.source", "ring", "--data.path", "pictures"], "ring reads no files"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_a_sentence(
    flags: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    grey(tmp_path / "pictures")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=re.escape(said)):
        train.command([*flags, *TINY])
    assert not (tmp_path / "runs").exists()
