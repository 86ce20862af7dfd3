"""Short report on data, which every run prints, keeps beside its config and passes to artifacts.

It needs the source alone and reads no rows.

report = facts(config.data, source)
print("\\n".join(lines(report)), file=sys.stderr)
write_facts(run.folder, report)
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aigc.config import DataConfig
from aigc.data import Dataset, Source
from aigc.data.survey import LeftOut, Survey
from aigc.display import printable
from aigc.files import read_json, write

log = logging.getLogger(__name__)

FILE = "data.json"
"""Name of the file in a run's folder."""
MAX_LINES = 8
MAX_NAMES = 5
SHOWN = 3
"""Number of names of left out files on a terminal."""
MAX_WIDTH = 300
"""Maximum characters of a line; names of files may be long."""


def survey_of(source: Source) -> Survey:
    """Survey of a source, or of the source that it was read into memory from; empty without one."""
    for one in (source, getattr(source, "origin", None)):
        survey = getattr(one, "survey", None)
        if isinstance(survey, Survey):
            return survey
    return Survey()


def labels_of(source: Source) -> NDArray[np.int64] | None:
    """(N,) labels of a source's rows, if they are known without reading the rows."""
    labels = survey_of(source).labels
    if labels is not None and len(labels) == len(source):
        return labels
    return source.labels if isinstance(source, Dataset) else None


def facts(config: DataConfig, source: Source) -> dict[str, Any]:
    """Facts as JSON builtins.

    Keys: source, path, name, rows, splits, classes with their counts (None where they are not known
    without reading rows), sounds (fields of Recorded, and pieces) where rows are recordings, values
    of floats held in memory, left_out, notes, replaced.
    """
    survey = survey_of(source)
    labels = labels_of(source)
    counts: Sequence[int | None] = [None] * len(source.classes)
    if labels is not None:
        counts = np.bincount(labels[labels >= 0], minlength=len(counts)).tolist()
    values = None
    if (
        isinstance(source, Dataset)
        and not source.sample_rate_hz
        and (source.samples.dtype.kind == "f" and source.samples.size)
    ):
        values = [float(source.samples.min()), float(source.samples.max())]
    return {
        "source": config.source,
        "path": config.path,
        "name": source.name,
        "rows": len(source),
        "splits": dict(survey.splits),
        "classes": [
            {"name": name, "rows": count}
            for name, count in zip(source.classes, counts, strict=False)
        ],
        "sounds": survey.sounds and asdict(survey.sounds) | {"pieces": config.pieces},
        "values": values,
        "left_out": [as_json(left) for left in survey.left_out],
        "notes": list(survey.notes),
        "replaced": len(getattr(source, "skipped", ())),
    }


def as_json(left: LeftOut) -> dict[str, Any]:
    """The entry as JSON builtins."""
    return {"reason": left.reason, "count": left.count, "first": list(left.first[:MAX_NAMES])}


def lines(report: dict[str, Any]) -> list[str]:
    """Facts as at most MAX_LINES lines for a terminal; `aigc data` shows the rest."""
    path = f" {report['path']}" if report["path"] else ""
    splits = ", ".join(f"{name} {count:,}" for name, count in report["splits"].items())
    text = [
        f"data: {report['name']} (source {report['source']}{path}), {report['rows']:,} rows to"
        f" train on{f'; in the data: {splits}' if splits else ''}"
    ]
    text += _classes(report["classes"])
    text += _sounds(report.get("sounds"))
    if report["values"]:
        low, high = report["values"]
        text.append(f"values: {low:.4g} to {high:.4g}")
    text += [f"left out: {left_out(one)}" for one in report["left_out"]]
    text += [f"note: {note}" for note in report["notes"]]
    if report["replaced"]:
        text.append(f"rows that cannot be read: {report['replaced']:,}, each given to the next")
    if len(text) > MAX_LINES:
        more = len(text) - MAX_LINES + 1
        text[MAX_LINES - 1 :] = [f"and {more} lines more: aigc data {report['source']}{path}"]
    text = [printable(line) for line in text]
    return [line if len(line) <= MAX_WIDTH else f"{line[: MAX_WIDTH - 1]}…" for line in text]


def left_out(one: dict[str, Any]) -> str:
    """One line: `files with a suffix that is not read (.mp3): 12 (a.mp3, b.mp3, ...)`."""
    first = ", ".join(one["first"][:SHOWN])
    more = ", ..." if one["count"] > min(SHOWN, len(one["first"])) and first else ""
    return f"{one['reason']}: {one['count']:,}{f' ({first}{more})' if first else ''}"


def between(counts: Sequence[int]) -> str:
    """A range in words: `5 to 9 rows each`."""
    low, high = min(counts), max(counts)
    return f"{low:,} rows each" if low == high else f"{low:,} to {high:,} rows each"


def _classes(classes: list[dict[str, Any]]) -> list[str]:
    if not classes:
        return ["classes: none, rows have no labels"]
    names = ", ".join(one["name"] for one in classes[:MAX_NAMES])
    more = ", ..." if len(classes) > MAX_NAMES else ""
    counts = [one["rows"] for one in classes if one["rows"] is not None]
    size = f", {between(counts)}" if counts else ""
    text = [f"classes: {len(classes):,} ({names}{more}){size}"]
    empty = [one["name"] for one in classes if one["rows"] == 0]
    if empty:
        more = ", ..." if len(empty) > MAX_NAMES else ""
        text.append(
            f"classes without a row to train on: {len(empty):,}"
            f" ({', '.join(empty[:MAX_NAMES])}{more})"
        )
    return text


def _sounds(sounds: dict[str, Any] | None) -> list[str]:
    if not sounds:
        return []
    told = f"sounds: {sounds['recordings']:,} recordings, {duration(sounds['seconds'])} in all"
    if sounds["pieces"]:
        return [f"{told}, in pieces of {sounds['row_s']:.2f} s"]
    if not sounds["left_out_s"]:
        return [told]
    share = sounds["left_out_s"] / sounds["seconds"]
    return [
        f"{told}; {sounds['longer']:,} are longer than the {sounds['row_s']:.2f} s of a row, so"
        f" that {share:.1%} of the sound is in none: --data.pieces takes all"
    ]


def duration(seconds: float) -> str:
    """A length in words: `12.3 s`, `4.5 min`, `1.5 h`."""
    if seconds < 120:
        return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def write_facts(folder: Path, report: dict[str, Any]) -> None:
    """Write facts() into a run's folder; a failure is only logged."""
    try:
        write(folder / FILE, (json.dumps(report, indent=1) + "\n").encode())
    except OSError as error:
        log.warning("%s is not written: %s", folder / FILE, error)


def read_facts(folder: Path) -> dict[str, Any]:
    """{"report": facts} as write_facts() wrote them; {} for runs that began without them."""
    document = read_json(folder / FILE)
    return {} if document is None else {"report": document}
