"""A few short tones as files, a folder per class."""

from pathlib import Path

import numpy as np

from aigc.artifact import sound
from aigc.config import DataConfig

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
            (folder / name / f"{i:03}.wav").write_bytes(sound.wav(samples, rate_hz))
    return DataConfig(source="audio", path=str(folder))
