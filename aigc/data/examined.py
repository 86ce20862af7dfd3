"""Try rows of a source one by one: headers, labels, values, duplicates, failures."""

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aigc.artifact.audio_files import is_sound
from aigc.data import CorruptRow, Source
from aigc.data.content import fetch
from aigc.data.headers import PictureHeader, SoundHeader, picture_header, sound_header
from aigc.data.pictures import Pictures
from aigc.data.sources.audio import Pieces
from aigc.data.sources.npz import FloatArrays
from aigc.data.sources.paired import MASK, Pairs
from aigc.data.stretches import Levels, Opened, levels, opened

FIRST = 5
"""Names that are given of what is counted."""
_CHUNK = 64


@dataclass(kw_only=True)
class Examined:
    """Statistics of the rows of one split that were tried."""

    tried: int = 0
    labels: NDArray[np.int64]
    """(N,) of all rows; -1 of those that were not tried or cannot be read."""
    pictures: Counter[PictureHeader] = field(default_factory=Counter)
    sounds: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of sounds by rate in Hz and channels."""
    seconds: list[float] = field(default_factory=list)
    num_heard: int = 0
    """Sounds whose levels are known: those that were decoded."""
    recordings: int = 0
    """Number of the recordings that rows are pieces of."""
    recordings_tried: int = 0
    """Number of those of them that were tried."""
    unheard: list[str] = field(default_factory=list)
    """Reasons for recordings, of which rows are pieces, whose head or samples cannot be read."""
    silent: list[str] = field(default_factory=list)
    """Names of silent ones, see aigc.data.stretches.Levels."""
    clipped: list[tuple[str, float]] = field(default_factory=list)
    """Names of those with clipped samples, and their share."""
    parts: Counter[str] = field(default_factory=Counter)
    """Rows that have it, by modality, where rows are of several."""
    texts: list[int] = field(default_factory=list)
    """Tokens of the texts in such rows."""
    lowest: float = np.inf
    highest: float = -np.inf
    """Extremes of floating-point values; of arrays, before they are scaled."""
    digests: dict[bytes, str] = field(default_factory=dict)
    """The name of the first row of each content."""
    repeated: list[tuple[str, str]] = field(default_factory=list)
    """Names of rows that are equal to an earlier one, and of that one."""
    num_unreadable: int = 0
    unreadable: list[str] = field(default_factory=list)
    """Reasons for the first few."""


@dataclass(kw_only=True)
class _Row:
    name: str
    label: int = -1
    digest: bytes = b""
    headers: list[PictureHeader | SoundHeader] = field(default_factory=list)
    levels: list[Levels] = field(default_factory=list)
    parts: tuple[str, ...] = ()
    tokens: int | None = None
    """Length of its text, where the row has other parts as well."""
    span: tuple[float, float] | None = None
    error: str = ""


def examine(source: Source, rows: NDArray[np.int64], what: str, *, whole: bool) -> Examined:
    """Try some rows, in threads, with a bar on stderr after two seconds.

    `whole` decodes them and looks for equal ones; else only headers are read where there are any.
    Of pieces, recordings are tried beside the rows: as many at most, evenly over all.
    """
    found = Examined(labels=np.full(len(source), -1, np.int64))
    _each(
        rows, lambda row: _try(source, row, whole), lambda row, facts: _add(found, row, facts), what
    )
    if isinstance(source, Pieces):
        chosen = spread(len(source.files), len(rows))
        found.recordings, found.recordings_tried = len(source.files), len(chosen)
        _each(
            chosen,
            lambda number: _hear(source, number, whole),
            lambda _, facts: _add_sounds(found, facts),
            f"{what}, recordings",
        )
    return found


def _each(
    numbers: NDArray[np.int64],
    tried: Callable[[int], _Row],
    add: Callable[[int, _Row], None],
    what: str,
) -> None:
    """Add what is tried with every number, in order; by threads, and with a bar."""
    from tqdm import tqdm

    chunks = [numbers[start : start + _CHUNK] for start in range(0, len(numbers), _CHUNK)]

    def part(chunk: NDArray[np.int64]) -> list[_Row]:
        return [tried(int(number)) for number in chunk]

    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,
        tqdm(total=len(numbers), desc=what, delay=2, leave=False) as bar,
    ):
        try:
            for chunk, facts in zip(chunks, pool.map(part, chunks), strict=True):
                for number, each in zip(chunk.tolist(), facts, strict=True):
                    add(number, each)
                bar.update(len(chunk))
        except BaseException:  # Ctrl-C does not wait for the rest, which may be a million rows
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def across(one: Examined, other: Examined) -> list[tuple[str, str]]:
    """Names of rows of `other` that `one` has as well, and their names there."""
    shared = one.digests.keys() & other.digests.keys()
    return [(other.digests[d], one.digests[d]) for d in other.digests if d in shared]


def spread(num_rows: int, most: int) -> NDArray[np.int64]:
    """Indices of at most `most` rows, evenly spaced: (n,) ascending."""
    if num_rows <= most:
        return np.arange(num_rows)
    return np.arange(most) * num_rows // most


def raw(source: Source, row: int) -> tuple[list[Any], str]:
    """The inputs that a row is decoded from (bytes, arrays, pictures; of pieces the path of their
    recording) and its name; no inputs where a source does not give them. Raises CorruptRow."""
    if isinstance(source, Pictures):
        encoded: tuple[Any, ...] = source.encoded(row)
        return [encoded[0]], _within(source, str(encoded[-1]))
    if isinstance(source, FloatArrays):
        taken: tuple[Any, ...] = source.rows.take(row)
        return [taken[0]], str(taken[-1])
    if isinstance(source, Pieces):
        path, begun_s = source.path_of(row), source.starts[row] / source.sample_rate_hz
        return [path], _within(source, f"{path} from {begun_s:.2f} s")
    files, folder = getattr(source, "files", None), getattr(source, "folder", None)
    with suppress(OSError):  # reading the row says it better
        if files is not None and isinstance(folder, Path):  # recordings, with their class
            name = str(files[row][0])
            return [(folder / name).read_bytes()], name
        files = getattr(getattr(source, "read_part", None), "files", None)
        if isinstance(source, Pairs) and files is not None:
            parts = {name: int(numbers[row]) for name, numbers in source.parts.items()}
            own = [files[number] for number in parts.values() if number >= 0]
            shown = [parts[name] for name in ("image", "audio") if parts.get(name, -1) >= 0]
            return [fetch(files[number]) for number in shown], " with ".join(
                file.name for file in own
            )
    return [], f"row {row}"


def _try(source: Source, row: int, whole: bool) -> _Row:
    """Headers of a row; with `whole`, all of it."""
    facts = _Row(name=f"row {row}")
    try:
        contents, facts.name = raw(source, row)
        for content in contents:
            with suppress(ValueError, OSError):  # reading the row says it better
                _read_header(facts, content, whole)
        sample: Any = None
        if whole or not contents:
            sample, facts.label = source.read(row)
            _look(facts, sample)
        if whole:
            single = len(contents) == 1 and not sample.dtype.names
            if not isinstance(source, Pieces):
                facts.digest = _digest(contents[0] if single else sample)
            elif np.ptp(sample) > 0:  # pauses are alike, which says nothing of their recordings
                facts.digest = _digest(sample)
    except CorruptRow as error:
        facts.error = _within(source, str(error))
    return facts


def _hear(source: Pieces, number: int, whole: bool) -> _Row:
    """Header of a recording; with `whole`, its levels."""
    path = source.folder / source.files[number][0]
    facts = _Row(name=_within(source, str(path)))
    try:
        source.check(number)
        with path.open("rb") as file, opened(file) as recording:
            seconds = recording.length / recording.rate_hz
            facts.headers.append(SoundHeader(recording.rate_hz, recording.channels, seconds))
            if whole:
                _listen(facts, recording, "limited")
    except (ValueError, OSError) as error:
        facts.error = _within(source, f"{path}: {error}")
    return facts


def _within(source: Source, text: str) -> str:
    """Text with names of files relative to the source's folder, if it has one."""
    folder = getattr(source, "folder", None)
    return text.replace(f"{folder}/", "") if isinstance(folder, Path) else text


def _read_header(facts: _Row, content: Any, whole: bool) -> None:
    """Note header or value range of an input; with `whole`, the levels of a sound."""
    if isinstance(content, np.ndarray):
        facts.span = float(content.min()), float(content.max())
    elif isinstance(content, Path):
        return  # a recording, which is tried beside its pieces
    elif isinstance(content, bytes) and is_sound(content[:12]):
        facts.headers.append(sound_header(content))
        if whole:
            with opened(io.BytesIO(content)) as recording:
                _listen(facts, recording, "scaled")
    else:
        facts.headers.append(picture_header(content))


def _listen(facts: _Row, recording: Opened, overload: Literal["scaled", "limited"]) -> None:
    """Note the levels of a recording, if it has any samples."""
    if recording.length:
        facts.levels.append(levels(recording, overload))


def _look(facts: _Row, sample: Any) -> None:
    """Note the parts or the value range of a decoded row."""
    if sample.dtype.names:
        flags = [name for name in sample.dtype.names if name.startswith(MASK)]
        facts.parts = tuple(flag.removeprefix(MASK) for flag in flags if sample[flag])
        if "text" in facts.parts:
            facts.tokens = int(np.count_nonzero(sample["text"]))
    elif facts.span is None and sample.dtype.kind == "f" and sample.size:
        facts.span = float(sample.min()), float(sample.max())


def _digest(content: Any) -> bytes:
    """First 16 bytes of the SHA-256 of bytes, a picture in memory, or an array."""
    if isinstance(content, Image.Image):
        content = f"{content.mode} {content.size}".encode() + content.tobytes()
    elif isinstance(content, np.ndarray):
        content = np.ascontiguousarray(content).tobytes()
    return hashlib.sha256(content).digest()[:16]


def _add(found: Examined, row: int, facts: _Row) -> None:
    found.tried += 1
    if facts.error:
        found.num_unreadable += 1
        found.unreadable += [facts.error] if len(found.unreadable) < FIRST else []
        return
    found.labels[row] = facts.label
    _add_sounds(found, facts)
    found.pictures.update(one for one in facts.headers if isinstance(one, PictureHeader))
    found.parts.update(facts.parts)
    found.texts += [] if facts.tokens is None else [facts.tokens]
    if facts.span:
        found.lowest = min(found.lowest, facts.span[0])
        found.highest = max(found.highest, facts.span[1])
    if facts.digest:
        first = found.digests.setdefault(facts.digest, facts.name)
        if first is not facts.name:
            found.repeated.append((facts.name, first))


def _add_sounds(found: Examined, facts: _Row) -> None:
    """Add rates, lengths and levels, or the reason for which a recording has none."""
    found.unheard += [facts.error] if facts.error else []
    for header in facts.headers:
        if isinstance(header, SoundHeader):
            found.sounds[header.rate_hz, header.channels] += 1
            found.seconds.append(header.seconds)
    for heard in facts.levels:
        found.num_heard += 1
        found.silent += [facts.name] if heard.silent else []
        found.clipped += [(facts.name, heard.clipped)] if heard.clipped else []


def evenly(rows: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """`count` of the rows, or all if they are fewer, evenly over them: (n,)."""
    return rows[spread(len(rows), count)]
