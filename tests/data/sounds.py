"""A few short tones as files, a folder per class."""

from pathlib import Path

import numpy as np

from aigc.artifact import Store, audio_files
from aigc.commands.export import export
from aigc.config import DataConfig, TrainConfig
from aigc.models import spectrogram_gan

CLASSES = ("down", "up")
SHAPE = (1, 512)


def tone(hz: float, n: int = 600, rate_hz: int = 8000, channels: int = 1) -> np.ndarray:
    """(n, channels) int16: a sine at half of full scale."""
    wave = 0.5 * np.sin(2 * np.pi * hz * np.arange(n) / rate_hz)
    return np.repeat(np.rint(wave * 32767).astype(np.int16)[:, None], channels, 1)


def recordings(folder: Path, count: int = 20) -> DataConfig:
    """`count` WAV files of each class, each of another pitch; every third at 16 kHz in stereo."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            rate_hz, channels = (16000, 2) if i % 3 == 2 else (8000, 1)
            samples = tone(200 + 10 * i + 1000 * label, 600 * rate_hz // 8000, rate_hz, channels)
            (folder / name / f"{i:03}.wav").write_bytes(audio_files.wav(samples, rate_hz))
    return DataConfig(source="audio", path=str(folder))


def run_of(data: DataConfig) -> TrainConfig:
    """A tiny conditional model of sound, trained for a moment."""
    return TrainConfig(
        preset="spectrogram_gan:spoken_digits",
        model=spectrogram_gan.Config(
            shape=SHAPE,
            window=64,
            hop=16,
            latent=4,
            num_classes=2,
            style=4,
            generator_widths=(8, 8),
            discriminator_widths=(8, 8),
        ),
        data=data,
        samples=64,
        batch=16,
        report_interval=0,
        grid_interval=0,
        checkpoint_interval=0,
        threads=1,
    )


def sealed(folder: Path) -> str:
    """The artifact of such a run on recordings. Returns its URI."""
    from tests.fixtures.make import write_run

    run = run_of(recordings(folder / "data"))
    return export(write_run(folder / "run", run), name="tones", store=Store(folder / "store"))
