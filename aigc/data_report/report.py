"""The report of `aigc data`: a data set opened, counted, and tried row by row."""

import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.vocabulary import Vocabulary
from aigc.config import DataConfig, TrainConfig
from aigc.data import Dataset, Source, Split
from aigc.data.examined import FIRST, Examined, across, examine, spread
from aigc.data.opened import Opened, open_splits, suited
from aigc.data.survey import Recorded
from aigc.data.waiting import waiting
from aigc.data_report import suggestion
from aigc.data_report.facts import as_json, labels_of, survey_of

QUICK = 1000
"""Rows of a split that a quick report looks at."""
MOST = 200_000
"""Rows of a split that are decoded."""
SIZES = 10
"""Sizes of pictures that are named."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """The object that `aigc data --json` prints. Splits are train and test, which is held out."""

    source: str
    path: str
    guessed: str
    """The reason for a source that was guessed; empty where it was named."""
    name: str
    shapes: dict[str, tuple[int, ...]]
    """Shapes of the suggested model's samples, by modality."""
    rows: dict[str, int]
    splits: dict[str, int]
    """Rows by the data's own names of splits, unused ones included; empty without names."""
    classes: list[dict[str, Any]]
    """name, train, test: rows of each class; None if unknown without reading all rows."""
    parts: dict[str, dict[str, int]] | None = None
    """Rows of each split that have an image, a text, a sound, where rows are of several."""
    pictures: dict[str, Any] | None = None
    """modes and sizes ([width, height, count]), commonest first, the number of different sizes,
    smallest and largest, animated."""
    pieces: bool
    """True if rows are pieces of recordings."""
    sounds: dict[str, Any] | None = None
    """rates_hz and channels with counts; total_s, shortest_s, median_s, longest_s of those tried;
    sample_rate_hz that they are brought to; of a model that takes row_s seconds, longer: number of
    those that are longer, left_out_s: seconds of them beyond that, by length. heard: number of
    those that were decoded; silent and clipped of them: count, first names, in clipped with the
    share of samples (limits in aigc/data/stretches.py); None where none was decoded. Of pieces,
    recordings: count, and tried, at most as many as rows; unread: count and first reasons of those
    tried that cannot be read, or not to their end."""
    texts: dict[str, Any] | None = None
    """shortest, median and longest in characters; characters; tokens of the vocabulary."""
    values: list[float] | None = None
    """Smallest and largest, of rows of floats."""
    left_out: list[dict[str, Any]] = field(default_factory=list)
    """reason, count, first names."""
    tried: dict[str, int]
    """Rows that were examined, by split."""
    decoded: bool
    """True if rows were decoded and compared, false if only headers were read."""
    unreadable: dict[str, Any]
    """count; first: why, of the first few."""
    duplicates: dict[str, Any] | None = None
    """train, test: rows that are equal to an earlier one of the split; across: those of test that
    are in train; first: pairs of names. None where rows were not compared."""
    fingerprint: dict[str, Any] | None
    """Fingerprint of the training split, as a resumed run compares it; None if quick."""
    index_s: float
    """Seconds until the rows were known."""
    notes: list[str]
    suggestion: str
    """Command that trains on it; empty where no preset takes such rows."""

    def to_json(self) -> dict[str, Any]:
        """The report as JSON builtins."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Inspected:
    """A data set and the report on it."""

    sources: dict[Split, Source]
    examined: dict[Split, Examined]
    report: Report
    run: TrainConfig | None
    """The run that is suggested."""


def inspect(
    config: DataConfig,
    *,
    guessed: str = "",
    shape: tuple[int, ...] = (),
    quick: bool = False,
    most: int = MOST,
) -> Inspected:
    """Open a data set and try its rows: `most` of a split, or the headers of QUICK with `quick`.

    `shape` is that of a model, in place of one that suits the data. Raises ValueError where
    training would refuse the data, CorruptRow where hardly a row can be read.
    """
    begun = time.perf_counter()
    # Reading what lies at a path has bars of its own.
    with nullcontext() if config.path else waiting(f"opening {config.source}"):
        opened = open_splits(config, shape, hashed=not quick)
    sources, notes = opened.sources, [*opened.notes]
    index_s = round(time.perf_counter() - begun, 3)
    examined = {
        split: examine(
            source, spread(len(source), QUICK if quick else most), split, whole=not quick
        )
        for split, source in sources.items()
    }
    if any(each.num_unreadable for each in examined.values()):
        config = replace(config, on_error="skip")
    train = sources["train"]
    survey = survey_of(train)
    shapes = suited(config, train, examined["train"], shape)
    own = None if shape else suggestion.preset_of(config)
    run = replace(own, data=config) if own else _suggested(config, opened, shapes)
    if run is None:
        notes.append(
            f"no preset takes rows of {_describe(shapes)}: pictures are (C, H, W), sounds"
            " (1, samples), vectors (features,), so an axis of length 1 may have to be added"
        )
    report = Report(
        source=config.source,
        path=config.path,
        guessed=guessed,
        name=train.name,
        shapes=shapes,
        rows={split: len(source) for split, source in sources.items()},
        splits=dict(survey.splits),
        classes=_classes(sources, examined),
        parts=_parts(examined),
        pictures=_pictures(examined),
        pieces=config.pieces,
        sounds=_sounds(examined, config, shapes),
        texts=_texts(sources, examined),
        values=None if "audio" in shapes else _values(examined),
        left_out=[as_json(left) for left in survey.left_out],
        tried={split: each.tried for split, each in examined.items()},
        decoded=not quick,
        unreadable={
            "count": sum(each.num_unreadable for each in examined.values()),
            "first": [why for each in examined.values() for why in each.unreadable][:FIRST],
        },
        duplicates=None if quick else _duplicates(examined),
        fingerprint=None if quick else train.fingerprint(),
        index_s=index_s,
        notes=[*survey.notes, *notes],
        suggestion=suggestion.train_command(run) if run else "",
    )
    return Inspected(sources=sources, examined=examined, report=report, run=run)


def _suggested(
    config: DataConfig, opened: Opened, shapes: dict[str, tuple[int, ...]]
) -> TrainConfig | None:
    train = opened.sources["train"]
    wanted = suggestion.Wanted(
        shapes=shapes,
        num_classes=len(train.classes) if opened.conditional else 0,
        num_tokens=len(getattr(train, "vocabulary", ())),
    )
    return suggestion.suggested(config, wanted)


def labels(inspected: Inspected, split: Split) -> NDArray[np.int64]:
    """(N,) the labels of a split's rows; -1 where not known."""
    known = labels_of(inspected.sources[split])
    return inspected.examined[split].labels if known is None else known


def _classes(sources: dict[Split, Source], examined: dict[Split, Examined]) -> list[dict[str, Any]]:
    names = sources["train"].classes
    counts: dict[str, list[int | None]] = {}
    for split, source in sources.items():
        known = labels_of(source)
        if known is None and examined[split].tried == len(source):
            known = examined[split].labels
            # Of a quick look at less than QUICK rows: headers have no labels.
            known = None if len(known) and (known < 0).all() else known
        counts[split] = [None] * len(names)
        if known is not None:
            counts[split] = np.bincount(known[known >= 0], minlength=len(names)).tolist()
    return [
        {"name": name, **{split: counts[split][label] for split in counts}}
        for label, name in enumerate(names)
    ]


def _pictures(examined: dict[Split, Examined]) -> dict[str, Any] | None:
    headers = sum((each.pictures for each in examined.values()), Counter())
    if not headers:
        return None
    modes: Counter[str] = Counter()
    sizes: Counter[tuple[int, int]] = Counter()
    for header, count in headers.items():
        modes[header.mode] += count
        sizes[header.width, header.height] += count
    by_area = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return {
        "modes": dict(modes.most_common()),
        "sizes": [[*size, count] for size, count in sizes.most_common(SIZES)],
        "different_sizes": len(sizes),
        "smallest": list(by_area[0]),
        "largest": list(by_area[-1]),
        "animated": sum(count for header, count in headers.items() if header.animated),
    }


def _sounds(
    examined: dict[Split, Examined], config: DataConfig, shapes: dict[str, tuple[int, ...]]
) -> dict[str, Any] | None:
    seconds = np.array([one for each in examined.values() for one in each.seconds])
    if not seconds.size:
        return None
    rates: Counter[int] = Counter()
    channels: Counter[int] = Counter()
    for each in examined.values():
        for (rate_hz, num_channels), count in each.sounds.items():
            rates[rate_hz] += count
            channels[num_channels] += count
    shape = shapes.get("audio", ())
    row_s = shape[1] / config.sample_rate_hz if len(shape) == 2 else float(seconds.max())
    recorded = Recorded.of(seconds, row_s, pieces=config.pieces)
    heard = sum(each.num_heard for each in examined.values())
    silent = [name for each in examined.values() for name in each.silent]
    clipped = [[*pair] for each in examined.values() for pair in each.clipped]
    return {
        "rates_hz": {str(rate): count for rate, count in rates.most_common()},
        "channels": {str(number): count for number, count in channels.most_common()},
        "total_s": recorded.seconds,
        "shortest_s": round(float(seconds.min()), 3),
        "median_s": round(float(np.median(seconds)), 3),
        "longest_s": round(float(seconds.max()), 3),
        "sample_rate_hz": config.sample_rate_hz,
        "row_s": recorded.row_s,
        "longer": recorded.longer,
        "left_out_s": recorded.left_out_s,
        "heard": heard,
        "silent": {"count": len(silent), "first": silent[:FIRST]} if heard else None,
        "clipped": {"count": len(clipped), "first": clipped[:FIRST]} if heard else None,
        **(_recordings(examined) if config.pieces else {}),
    }


def _recordings(examined: dict[Split, Examined]) -> dict[str, Any]:
    """Number of the recordings that rows are pieces of, and those that cannot be read."""
    unread = [why for each in examined.values() for why in each.unheard]
    return {
        "recordings": {
            "count": sum(each.recordings for each in examined.values()),
            "tried": sum(each.recordings_tried for each in examined.values()),
        },
        "unread": {"count": len(unread), "first": unread[:FIRST]},
    }


def _parts(examined: dict[Split, Examined]) -> dict[str, dict[str, int]] | None:
    counts: dict[str, dict[str, int]] = {s: dict(each.parts) for s, each in examined.items()}
    return counts if any(counts.values()) else None


def _texts(sources: dict[Split, Source], examined: dict[Split, Examined]) -> dict[str, Any] | None:
    """Lengths and characters of rows in memory that are texts, or have a text among their parts."""
    pieces = getattr(sources["train"], "vocabulary", ())
    held = [source for source in sources.values() if isinstance(source, Dataset)]
    lengths = [length for each in examined.values() for length in each.texts]
    characters = set().union(*pieces)
    if pieces and held:
        vocabulary = Vocabulary(pieces)
        written = [text for source in held for text in vocabulary.texts(source.samples)]
        lengths, characters = [len(text) for text in written], set().union(*written)
    if not lengths:
        return None
    return {
        "shortest": min(lengths),
        "median": float(np.median(lengths)),
        "longest": max(lengths),
        "characters": "".join(sorted(characters)),
        "tokens": len(pieces),
    }


def _values(examined: dict[Split, Examined]) -> list[float] | None:
    if any(each.pictures or each.sounds for each in examined.values()):
        return None  # those of files are known from their kind
    lowest = min(each.lowest for each in examined.values())
    highest = max(each.highest for each in examined.values())
    return [lowest, highest] if np.isfinite(lowest) else None


def _duplicates(examined: dict[Split, Examined]) -> dict[str, Any]:
    pairs = [pair for each in examined.values() for pair in each.repeated]
    shared = across(examined["train"], examined["test"]) if "test" in examined else []
    repeated: dict[str, int] = {s: len(each.repeated) for s, each in examined.items()}
    first = [list(pair) for pair in (*shared, *pairs)[:FIRST]]
    return {**repeated, "across": len(shared), "first": first}


def _describe(shapes: dict[str, tuple[int, ...]]) -> str:
    return " and ".join(f"{name} {shape}" for name, shape in shapes.items())
