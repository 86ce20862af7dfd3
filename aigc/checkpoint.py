"""Training state <-> folder.

    <run>/checkpoints/<samples>/
        state.safetensors    weights, averaged weights, optimizer moments, buffers
        trainer.json         samples seen, config fingerprint, data, versions, wall seconds
        certificate.json     sha256 of both; written last

A folder counts as a checkpoint when its certificate matches. The newest one that does is where a
run resumes.
"""

import hashlib
import json
import logging
import os
import platform
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from aigc.train import TrainState

STATE, TRAINER, CERTIFICATE = "state.safetensors", "trainer.json", "certificate.json"

log = logging.getLogger(__name__)


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
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _below(named, f"optimizer/{phase.name}/").items():
            index, _, key = name.partition("/")
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


def save(folder: Path, state: TrainState, facts: dict[str, Any], keep: int) -> Path:
    """Write `<folder>/<samples>` whole or not at all, then drop all but the newest `keep`.

    `facts` goes into trainer.json beside the counters.
    """
    target = folder / f"{state.samples:012d}"
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    save_file(tensors(state), temporary / STATE)
    (temporary / STATE).chmod(0o644)  # safetensors keeps it to its owner
    counters = {"samples": state.samples, "batches": state.batches}
    (temporary / TRAINER).write_text(json.dumps(counters | facts, indent=1))
    hashes = {name: _sha256(temporary / name) for name in (STATE, TRAINER)}
    (temporary / CERTIFICATE).write_text(json.dumps(hashes, indent=1))
    for path in temporary.iterdir():
        _sync_to_disk(path)
    shutil.rmtree(target, ignore_errors=True)  # an invalid one of the same name
    temporary.rename(target)
    _sync_to_disk(folder)
    for old in _numbered(folder)[keep:]:
        shutil.rmtree(old)
    return target


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
        altered = [n for n in (STATE, TRAINER) if certificate.get(n) != _sha256(path / n)]
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
    restore(state, load_file(path / STATE))
    state.samples, state.batches = facts["samples"], facts["batches"]
    return facts


def _below(named: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}


def _numbered(folder: Path) -> list[Path]:
    """Checkpoint folders, newest first."""
    if not folder.is_dir():
        return []
    return sorted((p for p in folder.iterdir() if p.name.isdigit()), reverse=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
