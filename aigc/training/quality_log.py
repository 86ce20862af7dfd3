"""Quality measured during training: quality.jsonl of a run, a line per measurement.

A checkpoint is written before its quality is measured, and never changes afterwards: its rating is
the line with its samples, null with a note if it could not be measured. `measure` in its
trainer.json says that it is to be measured. `quality` there is the last measurement that had
arrived before it, of the state after `quality_samples` samples.
"""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

from aigc.files import append_line, read_lines

QUALITY = "quality.jsonl"


def append_quality(
    run: Path, samples: int, quality: float | None, note: str = "", *, metric: str = ""
) -> None:
    """Append the quality of the state after `samples`, and the reason to doubt it if there is one.

    None with the reason if it was not measured. `metric` is its name. Raises OSError, and then
    appends nothing.
    """
    entry: dict[str, Any] = {"samples": samples, "quality": quality}
    texts = {"metric": metric, "note": note}
    append_line(run / QUALITY, entry | {key: text for key, text in texts.items() if text})


def last_note(run: Path) -> str:
    """Reason to doubt the last quality measured; empty if there is none."""
    notes = [entry.get("note", "") for entry in _entries(run) if is_quality(entry.get("quality"))]
    return str(notes[-1]) if notes else ""


def last_metric(run: Path) -> str:
    """Name of the last quality measured; empty if there is none, or an earlier version wrote it."""
    names = [entry["metric"] for entry in _entries(run) if entry.get("metric")]
    return str(names[-1]) if names else ""


def read_quality(run: Path) -> dict[int, float]:
    """Quality by samples seen, in the order of measurement; malformed lines are left out."""
    return {
        entry["samples"]: float(entry["quality"])
        for entry in _entries(run)
        if isinstance(entry.get("samples"), int) and is_quality(entry.get("quality"))
    }


def answered(run: Path) -> set[int]:
    """Samples of the states that were measured or could not be."""
    return {entry["samples"] for entry in _entries(run) if isinstance(entry.get("samples"), int)}


def _entries(run: Path) -> list[dict[str, Any]]:
    """Whole lines of quality.jsonl; [] if it cannot be read."""
    with suppress(OSError):
        return read_lines(run / QUALITY)
    return []


def own_quality(checkpoint: Path, facts: dict[str, Any], known: dict[int, float]) -> float | None:
    """Quality of a checkpoint's own state; None if it was never measured.

    `facts` is its trainer.json, `known` the result of read_quality(). In a trainer.json without
    `quality_samples`, as earlier versions wrote it, `quality` is that of its own samples.
    """
    samples, quality = int(checkpoint.name), facts.get("quality")
    if samples in known:
        return known[samples]
    own = facts.get("quality_samples", samples) == samples
    return float(quality) if own and is_quality(quality) else None  # type: ignore[arg-type]


def is_quality(value: Any) -> bool:
    """True of a finite number; other values cannot be compared."""
    return isinstance(value, int | float) and math.isfinite(value)
