"""A run is a folder.

<storage>/<run>/
    config.json      fully resolved
    history.jsonl    every start of its workers: when, from which sample, how many, on what;
                     and what was changed on resume, and every rollback
    metrics.jsonl    losses and metrics by samples seen
    grids/           pictures by samples seen, a column per class
    checkpoints/     see aigc/checkpoint.py
    events.*         TensorBoard
"""

import datetime
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from aigc import checkpoint, models
from aigc.artifact import codecs
from aigc.config import TrainConfig
from aigc.data import Source
from aigc.feed import Stream
from aigc.initial import start_from
from aigc.memory import keep_freed_memory
from aigc.reporter import Report, Reporter, Since, cut_back, start_line
from aigc.storage import Mirror, is_remote, local_folder
from aigc.train import Diverged, Outcome, Sync, TrainState, train

__all__ = ["Report", "Run", "cut_back", "work"]

MAX_ROLLBACKS = 5
"""From the same checkpoint; each halves the learning rates."""

log = logging.getLogger(__name__)


class Run:
    """A run's folder.

    run = Run("runs/digits"); run.create(config); run.resume_or_start(...)
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.checkpoints = self.folder / "checkpoints"

    @classmethod
    def open(cls, reference: str) -> "Run":
        """A run by its folder, or by its URI on an object store, which is brought here.

        Not to where `aigc train` of this machine may be working on it.
        """
        if not is_remote(reference):
            return cls(reference)
        mirror = Mirror(reference, local_folder(reference, "looks"))
        mirror.pull()
        run = cls(mirror.local)
        for pruned in run.checkpoints.glob("*.unpublished"):
            shutil.rmtree(pruned)
        return run

    @property
    def exists(self) -> bool:
        """Whether a run was begun here."""
        return (self.folder / "config.json").exists()

    def create(self, config: TrainConfig) -> None:
        """Make the folder and write its config; what that changes of a run is noted."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.exists:
            old, new = self.config().flat(), config.flat()
            changed = {k: [old.get(k), v] for k, v in new.items() if old.get(k) != v}
            if changed:
                self.note({"event": "config", "changed": changed})
        text = json.dumps(config.to_json(), indent=1) + "\n"
        codecs.write(self.folder / "config.json", text.encode())

    def config(self) -> TrainConfig:
        """The config that the run was begun or last resumed with. Raises ValueError if none."""
        try:
            document = json.loads((self.folder / "config.json").read_text())
        except FileNotFoundError:
            raise ValueError(f"{self.folder} is no run: it holds no config.json") from None
        model = models.load(str(document["preset"]).partition(":")[0])
        return TrainConfig.from_json(document, model.Config)

    def history(self) -> list[dict[str, Any]]:
        """history.jsonl, oldest first; a half-written last line is left out."""
        path = self.folder / "history.jsonl"
        entries = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                entries.append(json.loads(line))
            except ValueError:
                continue
        return entries

    def starts(self) -> list[dict[str, Any]]:
        """The starts of the workers in the history."""
        return [entry for entry in self.history() if "event" not in entry]

    def note(self, entry: dict[str, Any]) -> None:
        """Append to history.jsonl."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with (self.folder / "history.jsonl").open("a") as file:
            file.write(json.dumps({"time": now} | entry) + "\n")

    def check_resume(self, config: TrainConfig) -> None:
        """Raise ValueError naming the fields that may not change on resume but did."""
        old, new = self.config().fixed(), config.fixed()
        changed = [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in old if old[k] != new.get(k)]
        if changed:
            raise ValueError(
                f"{self.folder} cannot resume with another {'; '.join(changed)};"
                " give the old values or another --name"
            )

    def facts(self) -> dict[str, Any]:
        """trainer.json of the newest checkpoint. Raises ValueError if there is none."""
        return json.loads((self._newest() / checkpoint.TRAINER).read_text())  # type: ignore[no-any-return]

    def trained(self) -> TrainState:
        """The state of the newest checkpoint. Raises ValueError if there is none."""
        path = self._newest()
        state = TrainState(self.config(), "cpu")
        checkpoint.load(path, state)
        return state

    def _newest(self) -> Path:
        path = checkpoint.newest(self.checkpoints)
        if path is None:
            raise ValueError(f"{self.folder} has no whole checkpoint yet; train it first")
        return path


def work(
    run: Run,
    config: TrainConfig,
    source: Source,
    sync: Sync,
    publish: Callable[[Report], None] = lambda report: None,
    stop: Callable[[int], bool] = lambda samples: False,
    device: torch.device | str = "cpu",
    *,
    stream: Stream | None = None,
    written: Callable[[Path], None] = lambda checkpoint: None,
    lost_samples: int = 0,
) -> Outcome:
    """Train one worker's share of a run from its newest checkpoint on; rank 0 writes the folder.

    `written` hears of every whole checkpoint, in the thread that wrote it. `lost_samples` is the
    work that the restart before cost. Raises Diverged; ValueError if the run was begun on other
    data; OSError if the last checkpoint cannot be written.
    """
    keep_freed_memory()
    tries, at = 0, None
    while True:
        state = TrainState(config, device)
        facts = _begin(run, config, source, sync, state)
        if at is not None:
            tries = tries + 1 if state.samples == at else 1
        at = state.samples
        since = Since(facts, sync.world)
        since.rollbacks = facts.get("rollbacks", 0) + tries
        if tries:
            state.rate_scale *= 0.5**tries
        if sync.rank == 0:
            checkpoint.tidy(run.checkpoints, state.samples)
            cut_back(run.folder / "metrics.jsonl", state.samples)
            run.note(start_line(state.samples, sync.world, lost_samples))
            lost_samples = 0  # a rollback loses none of that again
            starts = run.starts()
            since.restarts = len(starts) - 1
            since.lost_samples = sum(start.get("work_lost_samples", 0) for start in starts)
        reporter = Reporter(run.folder, config, source, sync, since, publish, written)
        try:
            return train(config, state, source, reporter.events(), sync, stop, stream)
        except Diverged as error:
            if config.on_divergence == "stop" or tries >= MAX_ROLLBACKS:
                reporter.close()
                sync.sum(_nothing(state))  # who raises first may end the others' writing
                raise
            log.warning("%s; going back to the last checkpoint with half the learning rate", error)
            if sync.rank == 0:
                run.note({"event": "rollback", "at": state.samples, "reason": str(error)})
        finally:
            reporter.close()


def _begin(
    run: Run, config: TrainConfig, source: Source, sync: Sync, state: TrainState
) -> dict[str, Any]:
    """Load the newest checkpoint, or what the run starts from; returns trainer.json or {}."""
    # Everybody looks once rank 0 has written what it was writing.
    sync.sum(_nothing(state))
    found = checkpoint.newest(run.checkpoints)
    if found is None:
        if config.init_from:
            start_from(state, config.init_from)
        return {}
    facts = checkpoint.load(found, state)
    _check_same(facts, source, sync)
    return facts


def _nothing(state: TrainState) -> torch.Tensor:
    """To be added up by all: a barrier."""
    return torch.zeros(1, device=next(state.model.parameters()).device)


def _check_same(facts: dict[str, Any], source: Source, sync: Sync) -> None:
    found = source.fingerprint()
    if facts["data"] != found:
        raise ValueError(
            f"the run was begun on data {facts['data']}, got {found};"
            " resume with the same data or train under another --name"
        )
    old = facts["environment"] | {"workers": facts["workers"]}
    new = checkpoint.environment() | {"workers": sync.world}
    changed = {key: (old.get(key), new[key]) for key in new if old.get(key) != new[key]}
    if changed and sync.rank == 0:
        log.warning("resumed, but no longer bit-exact: %s", changed)
