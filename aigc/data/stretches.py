"""Parts of recordings, as loud as they were recorded: read by seeking, whatever their length.

    with opened(file) as recording:
        wave = recording.mono(0, recording.rate_hz)      # the first second, (n,) float32 in [-1, 1]

    stretch(path, start, 8192, 8000)   # 8192 samples of the recording at 8 kHz, bit for bit those
                                       # of the whole recording brought to that rate

Nothing is cut off, scaled or trimmed. Floats beyond 1 are clipped; values that are not finite are
refused.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.audio_files import MAX_SAMPLES, MissingLibrary, check_count, flac_file, of_flac
from aigc.artifact.resampling import needed, polyphase
from aigc.artifact.sound_chunks import Layout, check, decoded, layout
from aigc.data.cache import keep, looked_up
from aigc.data.content import File
from aigc.data.headers import flac_facts

BLOCK = 1 << 18
"""Samples per channel that levels() holds at once."""
SILENT_DBFS = -60.0
"""Peak in decibels of full scale below which a recording counts as silent."""
CLIPPED_RUN = 3
"""Neighbouring samples of one channel at the same end of the scale from which they count as
clipped."""
FLAC_HEAD = 26
"""Bytes of a FLAC that tell its rate and length."""
FLAC_BLOCK, FLAC_BLOCK_BYTES = 65_535, 10
"""Most samples per channel of a block of a FLAC, and fewer bytes than any block has (RFC 9639,
9.1 and 9.2): frame header, a constant subframe and checksums."""
MAX_LENGTH = 1 << 32
"""Most samples per channel of a recording at the rate that it is brought to: a day at 48 kHz."""
MAX_RAISE = 64
"""Most times by which the rate of a recording is raised."""
LENGTHS = "lengths-1"
"""Kind of the cached lengths; another number for another rule."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """A recording in an open file."""

    rate_hz: int
    channels: int
    length: int
    """Samples per channel."""
    file: Any
    """The open file, or the library's object of a FLAC."""
    form: Layout | None
    """None of a FLAC."""
    full_scale: float
    """Largest value that read() gives."""

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Samples start..stop of every channel at the recording's rate: (channels, n) in [-1, 1].

        Raises ValueError where they are not there, or not finite.
        """
        if self.form is None:
            found = of_flac(self._flac(start, stop))
        else:
            found = decoded(self._body(start, stop), self.form, "limited")
        if found.shape[1] != stop - start:
            raise ValueError(
                f"it is cut off: {stop} samples announced, {start + found.shape[1]} there"
            )
        return found

    def exceeds(self, start: int, stop: int) -> bool:
        """True if floats among samples start..stop are beyond 1, where read() clips them."""
        if self.form is None or self.form.coding != "float":
            return False
        values = np.frombuffer(self._body(start, stop), f"{self.form.order}f{self.form.bits // 8}")
        return bool((np.abs(values) > 1).any())

    def _body(self, start: int, stop: int) -> bytes:
        """Bytes of whole samples of every channel, fewer where the file ends before."""
        assert self.form is not None
        self.file.seek(self.form.start + start * self.form.block)
        body: bytes = self.file.read((stop - start) * self.form.block)
        return body[: len(body) // self.form.block * self.form.block]

    def _flac(self, start: int, stop: int) -> NDArray[np.int16]:
        """(n, channels), fewer than asked for where the file ends before."""
        try:
            self.file.seek(start)
            rows: NDArray[np.int16] = self.file.read(stop - start, dtype="int16", always_2d=True)
        except RuntimeError as error:  # of the library, which speaks of its own functions
            raise ValueError(
                f"it is cut off or damaged: of {self.length} samples announced, those from"
                f" {start} on cannot be read"
            ) from error
        return rows

    def mono(self, start: int, stop: int) -> NDArray[np.float32]:
        """read() with its channels averaged: (n,)."""
        return np.asarray(self.read(start, stop).mean(0), np.float32)


@contextmanager
def opened(file: BinaryIO) -> Iterator[Opened]:
    """A WAV, AIFF or FLAC that can be sought in. Raises ValueError for others, also within the
    context, and for a FLAC that does not state its length."""
    size = file.seek(0, 2)
    file.seek(0)
    head = file.read(FLAC_HEAD)
    if not head.startswith(b"fLaC"):
        form = layout(file)
        facts = {"rate_hz": form.rate_hz, "channels": form.channels, "length": form.length}
        yield Opened(**facts, file=file, form=form, full_scale=form.full_scale)
        return
    rate_hz, channels, length = _flac(head, size)
    file.seek(0)
    facts = {"rate_hz": rate_hz, "channels": channels, "length": length}
    with flac_file(file) as flac:
        yield Opened(**facts, file=flac, form=None, full_scale=_flac_full_scale(head))


class Length(NamedTuple):
    """Rate and length of a recording."""

    rate_hz: int
    length: int
    """Samples per channel."""

    def at(self, to_hz: int) -> int:
        """Samples at another rate. Raises ValueError for more than MAX_LENGTH, and for a rate that
        is raised more than MAX_RAISE times."""
        if to_hz > MAX_RAISE * self.rate_hz:
            raise ValueError(
                f"its rate of {self.rate_hz} Hz is too low to be brought to {to_hz} Hz, at most"
                f" {MAX_RAISE} times as many; set a lower data.sample_rate_hz, or correct the rate"
                " in the file"
            )
        count = -(-self.length * to_hz // self.rate_hz)
        if count > MAX_LENGTH:
            raise ValueError(
                f"it is too long: {count} samples at {to_hz} Hz, at most {MAX_LENGTH} are taken;"
                " split it into several files"
            )
        return count


def length_of(path: Path) -> Length:
    """Read from the heads of a file's chunks; the last sample of a FLAC must be there, too.

    Raises ValueError, or OSError, for other files.
    """
    with path.open("rb") as file, opened(file) as recording:
        if recording.form is None:  # whose head says nothing of what is there
            recording.read(recording.length - 1, recording.length)
        return Length(recording.rate_hz, recording.length)


def starts(length: int, size: int) -> NDArray[np.int64]:
    """First samples of the pieces of `size` that cover a recording: (n,) ascending, n > 0."""
    found = np.arange(0, max(length, 1), size)
    found[-1] = max(0, min(int(found[-1]), length - size))
    return found


def lengths_of(files: Sequence[File]) -> list[Length | None]:
    """Rates and lengths of recordings, read once and then known from the listing; None of those
    that cannot be read, which reading their rows says.

    Nothing is kept where the reason is not in a file's content, such as a disk that does not
    answer or a library that is not installed.
    """
    from tqdm import tqdm

    passing: list[str] = []

    def of(file: File) -> list[int] | None:
        assert file.path is not None
        try:
            return [*length_of(Path(file.path))]
        except (OSError, MissingLibrary):
            passing.append(file.name)
        except ValueError:
            pass
        return None

    settled = all(file.settled for file in files)
    facts = [[file.name, *file.facts()] for file in files] if settled else []
    known = looked_up(LENGTHS, facts) if settled else None
    if known is None:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            lengths = pool.map(of, files)
            known = [*tqdm(lengths, "reading lengths", len(files), delay=2, leave=False)]
        if settled and not passing:
            keep(LENGTHS, facts, known)
    return [Length(*one) if one else None for one in known]


def stretch(path: Path, start: int, length: int, to_hz: int) -> NDArray[np.float32]:
    """Samples start..start + length of a recording at a rate, its channels averaged: (length,)
    float32 in [-1, 1], fewer where it ends before.

    No more of the file is decoded than they depend on. Raises ValueError and OSError.
    """
    with path.open("rb") as file, opened(file) as recording:
        return _part(recording, start, length, to_hz)


def whole(path: Path, to_hz: int, max_s: float) -> NDArray[np.float32]:
    """All of a recording, as stretch() reads it. Raises ValueError for more than `max_s` seconds,
    or more than MAX_SAMPLES over its channels or at `to_hz`, before any is decoded."""
    with path.open("rb") as file, opened(file) as recording:
        seconds = recording.length / recording.rate_hz
        if seconds > max_s:
            raise ValueError(
                f"its {seconds:.4g} s are too long; at most {max_s:g} s are taken: raise max_s, or"
                " split the file"
            )
        check_count(recording.length * recording.channels, MAX_SAMPLES)
        length = Length(recording.rate_hz, recording.length).at(to_hz)
        check_count(length, MAX_SAMPLES, f" at {to_hz} Hz")
        return _part(recording, 0, length, to_hz)


def _part(recording: Opened, start: int, length: int, to_hz: int) -> NDArray[np.float32]:
    rate_hz = recording.rate_hz
    if not recording.length:
        raise ValueError("it holds no samples")
    stop = min(start + length, Length(rate_hz, recording.length).at(to_hz))
    first, last, offset = needed(start, stop, rate_hz, to_hz, recording.length)
    wave = polyphase(recording.mono(first, last), rate_hz, to_hz)
    return wave[offset : offset + stop - start].clip(-1, 1)


class Levels(NamedTuple):
    """Loudness of a recording at its own rate, over all channels."""

    peak: float
    """Largest absolute value, in [0, 1]."""
    clipped: float
    """Share of the samples that lie in runs of CLIPPED_RUN or more at full scale; 0 of a recording
    that is scaled because it exceeds 1."""

    @property
    def silent(self) -> bool:
        """True below SILENT_DBFS."""
        return self.peak < 10 ** (SILENT_DBFS / 20)


def levels(recording: Opened, overload: Literal["scaled", "limited"] = "limited") -> Levels:
    """Levels of a recording, a block at a time, as it is read with an overload (see
    AudioPreprocessing). Raises ValueError where it cannot be decoded."""
    peak, clipped, scaled = 0.0, 0, False
    top = recording.full_scale
    keep = CLIPPED_RUN - 1
    before = np.zeros((recording.channels, keep), np.int8)
    in_run = np.zeros((recording.channels, 1), np.bool_)
    for start in range(0, recording.length, BLOCK):
        block = recording.read(start, min(start + BLOCK, recording.length))
        peak = max(peak, float(np.abs(block).max()))
        scaled = scaled or (overload == "scaled" and recording.exceeds(start, start + BLOCK))
        ends = (block >= top).astype(np.int8) - (block <= -top).astype(np.int8)
        ends = np.concatenate([before, ends], 1)
        # True where a sample and those before it are at one end of the scale.
        num_ends = ends.shape[1] - keep
        runs = ends[:, keep:] != 0
        for back in range(1, CLIPPED_RUN):
            runs &= ends[:, keep:] == ends[:, keep - back : keep - back + num_ends]
        known = np.concatenate([in_run, runs], 1)
        begun = known[:, 1:] & ~known[:, :-1]  # of which the samples before are part, too
        clipped += int(runs.sum()) + keep * int(begun.sum())
        before, in_run = ends[:, -keep:], runs[:, -1:]
    count = recording.length * recording.channels
    return Levels(peak, clipped / count if count and not scaled else 0.0)


def _flac(head: bytes, size: int) -> tuple[int, int, int]:
    """Rate, channels and samples of each of a FLAC of `size` bytes. Raises ValueError."""
    if len(head) < FLAC_HEAD:
        raise ValueError("not a FLAC that can be read: its head is cut off")
    rate_hz, channels, length = flac_facts(head)
    check(channels, rate_hz)
    if not length:
        raise ValueError("a FLAC that states no length, or holds no samples; encode it again")
    most = size // FLAC_BLOCK_BYTES * FLAC_BLOCK
    if length > most:
        raise ValueError(
            f"it is cut off: {length} samples announced, at most {most} fit into its {size} bytes"
        )
    return rate_hz, channels, length


def _flac_full_scale(head: bytes) -> float:
    """Largest value of a FLAC, whose samples the library gives as the upper bits of 16."""
    bits = (int.from_bytes(head[18:26], "big") >> 36 & 31) + 1
    free = max(0, 16 - bits)
    return float(of_flac(np.array([[32767 >> free << free]], np.int16))[0, 0])
