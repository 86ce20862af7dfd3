"""Layout of a run's folder, and the reader of its small files. Never imports torch.

<storage>/<run>/
    config.json      fully resolved; under `code` the hashes of code of a user's
    code/            files of a user's code, see aigc/training/run_code.py
    data.json        splits of the data, classes with counts, rows that were left out
    history.jsonl    every start of the workers: time, samples seen, number of workers,
                     environment; changes of the config on resume; rollbacks; the rule
                     that ended the run
    metrics.jsonl    losses and metrics by samples seen
    quality.jsonl    quality by samples seen, see aigc/training/quality_log.py
    grids/           pictures by samples seen, a column per class
    checkpoints/<samples>/
        state.safetensors    weights, averaged weights, optimizer moments, buffers
        trainer.json         samples seen, data, versions, wall seconds, quality
        certificate.json     sha256 of both and of each part of the state; written last
    lease.json       which driver trains the run, see aigc/training/lease.py
    events.*         TensorBoard

A folder counts as a checkpoint when its certificate matches. The newest one that does is where a
run resumes.
"""

import json
import logging
import os
import re
from pathlib import Path
from typing import Any

from aigc.files import read_json, read_lines, sha256, write
from aigc.training.quality_log import QUALITY, answered, own_quality, read_quality

CONFIG, HISTORY, METRICS = "config.json", "history.jsonl", "metrics.jsonl"
CHECKPOINTS, GRIDS, LEASE = "checkpoints", "grids", "lease.json"
RAY = "ray"
"""Folder of Ray Train's own bookkeeping."""

STATE, TRAINER, CERTIFICATE = "state.safetensors", "trainer.json", "certificate.json"
PARTS = (CERTIFICATE, TRAINER, STATE)
"""Files of a checkpoint."""

SMALL = (
    CONFIG,
    HISTORY,
    METRICS,
    QUALITY,
    LEASE,
    f"{CHECKPOINTS}/*/{TRAINER}",
    f"{CHECKPOINTS}/*/{CERTIFICATE}",
)
"""Patterns of the files that show the progress of a run."""

SAMPLES = re.compile(r"[0-9]{12}|[1-9][0-9]{12,}")
"""Name of a checkpoint: samples seen. Folders with other names are not ours."""

LAST_LINE_BYTES = 65_536
"""Size of the end of metrics.jsonl that is searched for its last line."""

log = logging.getLogger(__name__)


def last_report(folder: Path) -> dict[str, Any]:
    """Last whole line of a run's metrics.jsonl; {} if there is none."""
    try:
        with (folder / METRICS).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - LAST_LINE_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return {}
    for line in reversed(lines):
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            return entry
    return {}


def truncate(path: Path, samples: int) -> None:
    """Drop the lines of a metrics.jsonl or quality.jsonl beyond `samples`, and torn ones."""
    if not path.exists():
        return
    kept = []
    for line in path.read_bytes().splitlines():
        try:
            if json.loads(line)["samples"] <= samples:
                kept.append(line + b"\n")
        except (ValueError, KeyError, TypeError):
            continue
    write(path, b"".join(kept))


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """Checkpoints of a run, torn ones included, newest first; other folders are left out."""
    folders = [path for path in checkpoints.glob("*") if is_checkpoint(path)]
    return sorted(folders, key=lambda path: int(path.name), reverse=True)


def is_checkpoint(path: Path) -> bool:
    """True of a folder named after samples seen that holds a part of a checkpoint."""
    return SAMPLES.fullmatch(path.name) is not None and any(
        (path / part).exists() for part in PARTS
    )


def is_left_over(path: Path) -> bool:
    """True of the name of a folder that a killed writer of checkpoints left."""
    name = path.name
    return name.startswith(".") and name.endswith(".tmp") and _is_samples(name[1:])


def is_set_aside(path: Path) -> bool:
    """True of the name of a broken checkpoint that was renamed."""
    return path.name.endswith(".broken") and _is_samples(path.name)


def _is_samples(name: str) -> bool:
    return SAMPLES.fullmatch(name.partition(".")[0]) is not None


def newest(checkpoints: Path) -> Path | None:
    """The newest checkpoint whose certificate matches; None if there is none.

    Broken ones are passed over with a warning.
    """
    for path in checkpoint_folders(checkpoints):
        reason = invalid(path)
        if reason is None:
            return path
        log.warning("checkpoint %s is passed over: %s", path, reason)
    return None


def invalid(path: Path) -> str | None:
    """The reason why a folder is not a whole checkpoint; None if it is one."""
    try:
        certificate = json.loads((path / CERTIFICATE).read_text())
        whole = isinstance(certificate, dict) and isinstance(certificate.get("parts", {}), dict)
        if not whole:
            return f"{CERTIFICATE} holds no hashes"
        altered = [n for n in (STATE, TRAINER) if certificate.get(n) != sha256(path / n)]
    except (OSError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{', '.join(altered)} does not match the certificate" if altered else None


def trainer(path: Path) -> dict[str, Any]:
    """trainer.json of a checkpoint. Raises ValueError naming the file if it is damaged."""
    file = path / TRAINER
    try:
        facts = json.loads(file.read_text())
        if not isinstance(facts, dict) or not facts.keys() >= {"samples", "batches"}:
            raise ValueError("it lacks samples or batches")
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}; delete the checkpoint {path}") from None
    return facts


def best(checkpoints: Path) -> Path | None:
    """The whole checkpoint of the best quality; None if none was measured."""
    return next((path for _, path in rated(checkpoints) if invalid(path) is None), None)


def rated(checkpoints: Path) -> list[tuple[float, Path]]:
    """Quality and path of the checkpoints whose own state was measured, the best first."""
    known, qualities = read_quality(checkpoints.parent), []
    for path in checkpoint_folders(checkpoints):
        facts = read_json(path / TRAINER)
        quality = None if facts is None else own_quality(path, facts, known)
        if quality is not None:
            qualities.append((quality, path))
    return sorted(qualities, key=lambda each: (each[0], int(each[1].name)))


def unmeasured(checkpoints: Path) -> list[Path]:
    """Checkpoints whose quality is still to be measured, the oldest first."""
    done = answered(checkpoints.parent)
    return [
        path
        for path in reversed(checkpoint_folders(checkpoints))
        if int(path.name) not in done and (read_json(path / TRAINER) or {}).get("measure") is True
    ]


RULE = "rule"
"""Event of history.jsonl: a run that ended by a rule, see aigc/training/stopping.py."""


def ended_by_rule(folder: Path) -> dict[str, Any] | None:
    """Entry of history.jsonl of the rule that ended a run; None if none did, or it went on since.

    It has `samples` of the deciding measurement, `best` of the best state up to it, `rule` and
    `reason`.
    """
    try:
        entries = read_lines(folder / HISTORY)
    except OSError:
        return None
    relevant = [entry for entry in entries if entry.get("event", RULE) == RULE]
    last = relevant[-1] if relevant else {}
    whole = last.get("event") == RULE and isinstance(last.get("best"), int)
    return last if whole else None
