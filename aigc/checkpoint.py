"""Training state <-> folder.

    <run>/checkpoints/<samples>/
        state.safetensors    weights, averaged weights, optimizer moments, buffers
        trainer.json         samples seen, data, versions, wall seconds, quality
        certificate.json     sha256 of both and of each part of the state; written last

A folder counts as a checkpoint when its certificate matches. The newest one that does is where a
run resumes.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from aigc.state import TrainState
from aigc.step import like_in_memory
from aigc.storage import CERTIFICATE, sha256

STATE, TRAINER = "state.safetensors", "trainer.json"

ATTEMPTS = 4
PAUSE_S = 0.5
"""Before the second attempt to write twice as long, and so on."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A training state at one moment, on the CPU, shared with nobody."""

    tensors: dict[str, Tensor]
    trainer: dict[str, Any]
    """Contents of trainer.json."""


def tensors(state: TrainState) -> dict[str, Tensor]:
    """Every tensor of a training state by name, on the CPU."""
    named = {f"model/{k}": v for k, v in state.model.state_dict().items()}
    named |= {f"average/{k}": v for k, v in state.average.state_dict().items()}
    for phase, optimizer in zip(state.phases, state.optimizers, strict=True):
        for index, moments in optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                named[f"optimizer/{phase.name}/{index}/{name}"] = value
    return {name: value.detach().cpu().contiguous() for name, value in named.items()}


def restore(state: TrainState, named: dict[str, Tensor]) -> None:
    """Put tensors back. Raises ValueError if they are those of another model."""
    try:
        state.model.load_state_dict(_below(named, "model/"))
        state.average.load_state_dict(_below(named, "average/"))
    except RuntimeError as error:
        raise ValueError(f"checkpoint is of another model: {error}") from error
    for phase, optimizer in zip(state.phases, state.optimizers, strict=True):
        parameters = list(phase.module.parameters())
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _below(named, f"optimizer/{phase.name}/").items():
            index, _, key = name.partition("/")
            if value.dim():
                value = like_in_memory(value, parameters[int(index)])
            moments.setdefault(int(index), {})[key] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})


def environment() -> dict[str, Any]:
    """What bit-exactness depends on besides the config."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def snapshot(state: TrainState, facts: dict[str, Any]) -> Snapshot:
    """A copy of the state as it is now; `facts` go into trainer.json beside the counters."""
    counters = {
        "samples": state.samples,
        "batches": state.batches,
        "rate_scale": state.rate_scale,
    }
    contiguous = torch.contiguous_format
    copies = {k: v.clone(memory_format=contiguous) for k, v in tensors(state).items()}
    return Snapshot(tensors=copies, trainer=counters | facts)


def save(folder: Path, taken: Snapshot, keep: int) -> Path:
    """Write `<folder>/<samples>` whole or not at all, then prune. Raises OSError."""
    target = folder / f"{taken.trainer['samples']:012d}"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        _write_state(temporary / STATE, taken.tensors)
        (temporary / TRAINER).write_text(json.dumps(taken.trainer, indent=1))
        certificate = {name: sha256(temporary / name) for name in (STATE, TRAINER)}
        parts = fingerprints(taken.tensors)
        (temporary / CERTIFICATE).write_text(json.dumps(certificate | {"parts": parts}, indent=1))
        for path in temporary.iterdir():
            _sync_to_disk(path)
        shutil.rmtree(target, ignore_errors=True)  # an invalid one of the same name
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_to_disk(folder)
    prune(folder, keep)
    return target


def _write_state(path: Path, named: dict[str, Tensor]) -> None:
    try:
        save_file(named, path)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    path.chmod(0o644)  # safetensors keeps it to its owner


def fingerprints(named: dict[str, Tensor]) -> dict[str, str]:
    """sha256 of the model, the average and each optimizer: equal states have equal hashes."""
    hashes: dict[str, Any] = {}
    for name in sorted(named):
        depth = 2 if name.startswith("optimizer/") else 1
        digest = hashes.setdefault("/".join(name.split("/")[:depth]), hashlib.sha256())
        digest.update(name.encode())
        digest.update(named[name].numpy().tobytes())
    return {part: digest.hexdigest() for part, digest in hashes.items()}


def prune(folder: Path, keep: int) -> list[Path]:
    """Drop all but the newest `keep` and the one of the best quality. Returns what went."""
    there = _numbered(folder)
    rated = [(quality, path) for path in there if (quality := _quality(path)) is not None]
    kept = {*there[:keep], *(path for _, path in sorted(rated)[:1])}
    gone = [path for path in there if path not in kept]
    for path in gone:
        shutil.rmtree(path)
    return gone


def tidy(folder: Path, samples: int) -> None:
    """Clear away what killed writers left, and what is newer than `samples` and so is broken.

    Broken ones are renamed, not deleted: somebody may want to look. For the one writer of a run.
    """
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True)
    for path in _numbered(folder):
        if int(path.name) > samples:
            aside = path.with_name(f"{path.name}.broken")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def best(folder: Path) -> Path | None:
    """The whole checkpoint of the best quality; None if none was measured."""
    rated = [(q, p) for p in _numbered(folder) if (q := _quality(p)) is not None]
    return next((p for _, p in sorted(rated) if invalid(p) is None), None)


def _quality(path: Path) -> float | None:
    try:
        value = json.loads((path / TRAINER).read_text()).get("quality")
    except (OSError, ValueError):
        return None
    return value if isinstance(value, float) else None


def newest(folder: Path) -> Path | None:
    """The newest checkpoint whose certificate matches; None if there is none.

    Broken ones are passed over with a warning.
    """
    for path in _numbered(folder):
        reason = invalid(path)
        if reason is None:
            return path
        log.warning("checkpoint %s is passed over: %s", path, reason)
    return None


def invalid(path: Path) -> str | None:
    """Why a folder is no whole checkpoint; None if it is one."""
    try:
        certificate = json.loads((path / CERTIFICATE).read_text())
        altered = [n for n in (STATE, TRAINER) if certificate.get(n) != sha256(path / n)]
    except (OSError, ValueError, AttributeError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{', '.join(altered)} does not match the certificate" if altered else None


def load(path: Path, state: TrainState) -> dict[str, Any]:
    """Restore a state from a checkpoint; returns trainer.json.

    Raises ValueError if the checkpoint is broken or of another model.
    """
    reason = invalid(path)
    if reason is not None:
        raise ValueError(f"checkpoint {path} is broken: {reason}")
    facts: dict[str, Any] = json.loads((path / TRAINER).read_text())
    named = load_file(path / STATE)
    parts = json.loads((path / CERTIFICATE).read_text()).get("parts", {})
    found = fingerprints(named) if parts else {}
    if parts != found:
        altered = sorted(name for name in parts if parts[name] != found.get(name))
        raise ValueError(f"checkpoint {path} is broken: {', '.join(altered)} was altered")
    restore(state, named)
    state.samples, state.batches = facts["samples"], facts["batches"]
    state.rate_scale = facts.get("rate_scale", 1.0)
    return facts


class Writer:
    """Writes snapshots in a thread of its own, so that training goes on meanwhile.

    A write that fails is tried again; after `ATTEMPTS` it is given up with a warning, and the
    run goes on to the next checkpoint. `close` waits, and raises if the last one was given up.
    """

    def __init__(self, folder: Path, keep: int, after: Callable[[Path], None]) -> None:
        self.failures = 0
        """Writes that failed, those that went well at a later attempt included."""
        self._folder, self._keep, self._after = folder, keep, after
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None

    def put(self, taken: Snapshot) -> None:
        """Hand over a snapshot. Waits for the one before, so that at most one is in memory."""
        if self._last is not None:
            self._last.exception()
        self._last = self._thread.submit(self._write, taken)

    def close(self) -> None:
        """Wait for the last snapshot. Raises OSError if it could not be written."""
        self._thread.shutdown()
        if self._last is not None:
            self._last.result()

    def _write(self, taken: Snapshot) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                self._after(save(self._folder, taken, self._keep))
                return
            except OSError as error:
                self.failures += 1
                samples = taken.trainer["samples"]
                log.warning("checkpoint %d was not written (%d): %s", samples, attempt, error)
                if attempt == ATTEMPTS:
                    raise
                time.sleep(PAUSE_S * 2**attempt)


def _below(named: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}


def _numbered(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.name.isdigit()), reverse=True)


def _sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
