"""Reads the recordings of a split whole and as loud as they are, for measures of quality.

for one in recordings(config.data, "test"):
    one.wave            # (samples,) float32 in [-1, 1] at config.data.sample_rate_hz
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from aigc.config import DataConfig
from aigc.data import Split, stopping
from aigc.data.hashing import unhashed
from aigc.data.sources import audio
from aigc.data.stretches import whole

MOST_S = 600.0
"""Seconds of the longest recording that is taken whole by default."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recording in memory."""

    name: str
    """Relative to the folder of the data."""
    label: str | None
    """Its class; None without classes."""
    wave: NDArray[np.float32]
    """(samples,) in [-1, 1], its channels averaged; nothing is cut off or scaled."""


def recordings(config: DataConfig, split: Split, max_s: float = MOST_S) -> Iterator[Recording]:
    """The recordings of a split of source audio in the order of their names, one at a time, at
    `config.sample_rate_hz`.

    Raises ValueError for another source; CorruptRow for one that cannot be read or is longer than
    `max_s` seconds, which under `on_error skip` is passed over with a warning instead.
    """
    if config.source != "audio":
        raise ValueError(
            f"data {config.source!r} has no recordings to take whole; take source audio, a folder"
            " of sounds"
        )
    with unhashed():
        source = audio.load(replace(config, pieces=False), (1, 1), split, conditional=False)
    return _read(config, source, max_s)


def _read(config: DataConfig, source: audio.Recordings, max_s: float) -> Iterator[Recording]:
    for name, label in source.files:
        path = source.folder / name
        try:
            wave = whole(path, config.sample_rate_hz, max_s)
        except (OSError, ValueError) as error:
            reason = f"{path} cannot be taken whole: {error}"
            if config.on_error == "stop":
                raise stopping(reason) from error
            log.warning("%s; it is passed over", reason)
            continue
        yield Recording(name=name, label=label, wave=wave)
