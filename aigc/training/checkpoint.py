"""Training state <-> folder of a checkpoint, see aigc/training/run_folder.py."""

import hashlib
import json
import logging
import os
import platform
import shutil
import threading
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

from aigc.files import sha256
from aigc.training.run_folder import (
    CERTIFICATE,
    STATE,
    TRAINER,
    checkpoint_folders,
    invalid,
    is_checkpoint,
    is_left_over,
    rated,
    trainer,
    unmeasured,
)
from aigc.training.state import TrainState
from aigc.training.step import like_in_memory

ATTEMPTS = 4
PAUSE_S = 0.5
"""Half the pause before the second attempt to write; doubled for each further one."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Copy of a training state on the CPU."""

    tensors: dict[str, Tensor]
    trainer: dict[str, Any]
    """Contents of trainer.json."""


def tensors(state: TrainState) -> dict[str, Tensor]:
    """Every tensor of a training state by name, on the CPU."""
    named = {f"model/{k}": v for k, v in state.model.state_dict().items()}
    named |= {f"average/{k}": v for k, v in state.ema.state_dict().items()}
    for phase, optimizer in zip(state.phases, state.optimizers, strict=True):
        for index, moments in optimizer.state_dict()["state"].items():
            for name, value in moments.items():
                named[f"optimizer/{phase.name}/{index}/{name}"] = value
    return {name: value.detach().cpu().contiguous() for name, value in named.items()}


def restore(state: TrainState, named: dict[str, Tensor]) -> None:
    """Load tensors into a state. Raises ValueError if they belong to another model."""
    try:
        state.model.load_state_dict(_strip_prefix(named, "model/"))
        state.ema.load_state_dict(_strip_prefix(named, "average/"))
    except RuntimeError as error:
        raise ValueError(f"checkpoint is of another model: {error}") from error
    for phase, optimizer in zip(state.phases, state.optimizers, strict=True):
        parameters = list(phase.module.parameters())
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _strip_prefix(named, f"optimizer/{phase.name}/").items():
            index, _, key = name.partition("/")
            if value.dim():
                value = like_in_memory(value, parameters[int(index)])
            moments.setdefault(int(index), {})[key] = value
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": moments, "param_groups": groups})


def environment() -> dict[str, Any]:
    """Versions and settings that bit-exactness depends on, besides the config."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": platform.machine(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def snapshot(state: TrainState, facts: dict[str, Any]) -> Snapshot:
    """Copy a state; `facts` go into trainer.json beside the counters."""
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
        if is_checkpoint(target):
            shutil.rmtree(target, ignore_errors=True)  # an invalid checkpoint of the same name
        elif target.exists():
            target.rename(folder / f"{target.name}.foreign")
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync_to_disk(folder)
    try:
        prune(folder, keep)
    except OSError as error:  # the new checkpoint is whole all the same
        log.warning("old checkpoints in %s stay: %s", folder, error)
    return target


def _write_state(path: Path, named: dict[str, Tensor]) -> None:
    try:
        save_file(named, path)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error
    path.chmod(0o644)  # safetensors makes it readable for its owner only


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
    """Delete all but the newest `keep`, the one of the best quality, and those whose quality is
    still to be measured; returns those deleted."""
    there = checkpoint_folders(folder)
    kept = {*there[:keep], *(path for _, path in rated(folder)[:1]), *unmeasured(folder)}
    gone = [path for path in there if path not in kept and not path.is_symlink()]
    for path in gone:
        shutil.rmtree(path)
    return gone


def tidy(folder: Path, samples: int) -> None:
    """Delete what killed writers left, and set aside checkpoints beyond `samples` as broken.

    Broken ones are renamed, not deleted, for inspection. Only the writer of a run may call this.
    """
    for path in filter(is_left_over, folder.glob(".*.tmp")):
        shutil.rmtree(path, ignore_errors=True)
    for path in checkpoint_folders(folder):
        if int(path.name) > samples:
            aside = path.with_name(f"{path.name}.broken")
            shutil.rmtree(aside, ignore_errors=True)
            path.rename(aside)


def load(path: Path, state: TrainState) -> dict[str, Any]:
    """Restore a state from a checkpoint; returns trainer.json.

    Raises ValueError if the checkpoint is broken or of another model.
    """
    reason = invalid(path)
    if reason is not None:
        raise ValueError(f"checkpoint {path} is broken: {reason}")
    facts = trainer(path)
    named = load_file(path / STATE)
    parts = json.loads((path / CERTIFICATE).read_text()).get("parts", {})
    hashes = fingerprints(named) if parts else {}
    if parts != hashes:
        altered = sorted(name for name in parts if parts[name] != hashes.get(name))
        raise ValueError(f"checkpoint {path} is broken: {', '.join(altered)} was altered")
    restore(state, named)
    state.samples, state.batches = facts["samples"], facts["batches"]
    state.rate_scale = facts.get("rate_scale", 1.0)
    return facts


class Writer:
    """Writes snapshots in a thread while training goes on.

    A write that fails is repeated; after `ATTEMPTS` it is given up with a warning, and the run
    goes on to the next checkpoint. `close` waits, and raises if the last one was given up.
    `after` is called in the thread with every checkpoint once it is whole on the disk.
    """

    def __init__(self, folder: Path, keep: int, after: Callable[[Path], None]) -> None:
        self.failures = 0
        """Failed attempts, including those of checkpoints that a later attempt wrote."""
        self._folder, self._keep, self._after = folder, keep, after
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._last: Future[None] | None = None
        self._on_disk = threading.Event()

    def finish(self) -> None:
        """Wait until the previous snapshot is written, or given up, and `after` has returned."""
        if self._last is not None:
            self._last.exception()

    def put(self, taken: Snapshot) -> None:
        """Write a snapshot, once the previous one is finished."""
        self.finish()
        self._on_disk.clear()
        self._last = self._thread.submit(self._write, taken)

    def wait(self) -> None:
        """Wait until the last snapshot is whole on the disk, or given up; `after` may still run."""
        if self._last is not None:
            self._on_disk.wait()

    def close(self) -> None:
        """Wait for the last snapshot. Raises OSError if it could not be written."""
        self._thread.shutdown()
        if self._last is not None:
            self._last.result()

    def _write(self, taken: Snapshot) -> None:
        try:
            self._try(taken)
        finally:
            self._on_disk.set()

    def _try(self, taken: Snapshot) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                path = save(self._folder, taken, self._keep)
                self._on_disk.set()
                self._after(path)
                return
            except OSError as error:
                self.failures += 1
                samples = taken.trainer["samples"]
                log.warning("checkpoint %d was not written (%d): %s", samples, attempt, error)
                if attempt == ATTEMPTS:
                    raise
                time.sleep(PAUSE_S * 2**attempt)


def _strip_prefix(named: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in named.items() if k.startswith(prefix)}


def _sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
