"""A picture like a photograph, made of noise: clouds, ridges in haze, a lake that mirrors them.

python -m tests.photograph samples/photograph.png
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from aigc import files
from aigc.artifact.image_files import png

HEIGHT, WIDTH = 384, 512
SHORE = 250
"""First row of the lake."""
Field = NDArray[np.float64]


def photograph(seed: int = 0) -> NDArray[np.uint8]:
    """(HEIGHT, WIDTH, 3) uint8, the same for the same seed."""
    dice = np.random.default_rng(seed)
    rows = np.linspace(0, 1, SHORE)[:, None]
    clouds = np.clip(_noise(dice, (SHORE, WIDTH), 1.8) - 0.45, 0, 0.5) * 2 * (1 - rows)
    sky = _mix(np.array([0.32, 0.5, 0.78]), np.array([0.98, 0.83, 0.66]), rows * np.ones(WIDTH))
    land = _mix(sky, np.array([1.0, 0.98, 0.95]), clouds)
    for distance in (0.75, 0.45, 0.15):
        land = _ridge(dice, land, distance)
    picture = np.concatenate([land, _lake(dice, land)])
    grain = dice.normal(0, 0.012, (HEIGHT, WIDTH, 1))
    return np.asarray(np.clip((picture + grain) * 255, 0, 255).round(), np.uint8)


def _noise(dice: np.random.Generator, shape: tuple[int, int], slope: float) -> Field:
    """Noise whose amplitude falls with frequency as f ** -slope, in [0, 1]."""
    y, x = np.fft.fftfreq(shape[0])[:, None], np.fft.rfftfreq(shape[1])
    size = np.hypot(y, x)
    size[0, 0] = np.inf
    spectrum = np.fft.rfft2(dice.normal(size=shape)) * size**-slope
    made = np.fft.irfft2(spectrum, shape)
    return np.asarray((made - made.min()) / np.ptp(made))


def _mix(a: Field, b: Field, share: Field) -> Field:
    """From a to b by a share (H, W)."""
    return np.asarray(a + (b - a) * share[..., None])


def _ridge(dice: np.random.Generator, land: Field, distance: float) -> Field:
    """Land with a ridge in front: lit from the left, and in the colour of the haze by distance."""
    height = _noise(dice, (SHORE, WIDTH), 1.6)
    line = SHORE - (40 + 130 * distance) * (0.35 + 0.9 * _noise(dice, (1, WIDTH), 1.4)[0])
    light = np.clip(0.5 + 14 * np.gradient(height, axis=1), 0.15, 1)
    ground = _mix(np.array([0.1, 0.15, 0.09]), np.array([0.5, 0.5, 0.32]), light * height)
    haze = _mix(ground, np.array([0.78, 0.76, 0.78]), np.full((SHORE, WIDTH), distance))
    cover = np.clip(np.arange(SHORE)[:, None] - line + 0.5, 0, 1)
    return _mix(land, haze, cover)


def _lake(dice: np.random.Generator, land: Field) -> Field:
    """The land upside down, displaced by ripples that grow towards the viewer."""
    depth = np.arange(HEIGHT - SHORE)
    ripples = _noise(dice, (len(depth), WIDTH), 1.1) - 0.5
    near = depth[:, None] / len(depth)
    row = SHORE - 1 - depth[:, None] * SHORE / len(depth) * 0.9 + ripples * 60 * near
    column = np.arange(WIDTH) + ripples * 24 * near
    mirrored = land[
        np.clip(row, 0, SHORE - 1).astype(int), np.clip(column, 0, WIDTH - 1).astype(int)
    ]
    return _mix(mirrored, np.array([0.1, 0.2, 0.28]), 0.25 + 0.35 * near * np.ones(WIDTH))


if __name__ == "__main__":
    files.write(Path(sys.argv[1]), png(photograph()))
