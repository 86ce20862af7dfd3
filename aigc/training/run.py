"""A run: its folder, and the training that fills it."""

import datetime
import json
import logging
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load
from torch import Tensor

from aigc import models, own_code
from aigc.artifact import Artifact
from aigc.artifact.manifest import WEIGHTS
from aigc.artifact.store import filesystem, store_errors
from aigc.config import TrainConfig, require
from aigc.data import Source
from aigc.data_report import facts as data_facts
from aigc.files import append_line, expanded, read_lines, read_text, write
from aigc.own_code.code_files import NAME
from aigc.training import checkpoint, run_code, run_folder
from aigc.training.dataloader import Stream
from aigc.training.loop import (
    Diverged,
    Outcome,
    ProcessGroup,
    SingleProcess,
    TrainState,
    train,
)
from aigc.training.malloc import keep_freed_memory
from aigc.training.object_store import ObjectStore, is_remote, local_folder
from aigc.training.quality_log import QUALITY, read_quality
from aigc.training.reporter import (
    NullReporter,
    Reporter,
    periodic_actions,
)
from aigc.training.run_clock import RunClock, start_record
from aigc.training.run_context import RunContext
from aigc.training.run_folder import CHECKPOINTS, CONFIG, HISTORY, METRICS
from aigc.training.step import barrier

MAX_ROLLBACKS = 5
"""Largest number of rollbacks to the same checkpoint; each halves the learning rates."""

Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Samples seen and values: (n,) each."""

log = logging.getLogger(__name__)


class Run:
    """A run's folder.

    run = aigc.Run("runs/fc_gan-mlp")
    samples, loss = run.curves()["generator/loss"]
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.checkpoints = self.folder / CHECKPOINTS

    @classmethod
    def open(cls, reference: str) -> "Run":
        """Open a run by its folder, or by its URI on an object store, from which it is copied.

        The copy has a folder of its own: `aigc train` on this machine may be working in the other.
        """
        reference = expanded(reference)
        if not is_remote(reference):
            return cls(reference)
        store = ObjectStore(reference, local_folder(reference, "looks"))
        store.pull()
        run = cls(store.folder)
        for pruned in run.checkpoints.glob("*.unpublished"):
            shutil.rmtree(pruned)
        return run

    @property
    def exists(self) -> bool:
        """True once a run was begun here."""
        return (self.folder / CONFIG).exists()

    def create(self, config: TrainConfig) -> None:
        """Create the folder and write its config; changes of a run's config go into its history."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.exists:
            old, new = self.config(installed=False).flat(), config.flat()
            changed = {k: [old.get(k), v] for k, v in new.items() if old.get(k) != v}
            changed |= run_code.changed(self.document(), config)
            if changed:
                self.note({"event": "config", "changed": changed})
        run_code.write(self.folder, config)
        text = json.dumps(config.to_json() | own_code.record(config), indent=1) + "\n"
        write(self.folder / CONFIG, text.encode())

    def document(self) -> dict[str, Any]:
        """Contents of config.json. Raises ValueError without one."""
        path = self.folder / CONFIG
        try:
            document = json.loads(read_text(path))
        except (FileNotFoundError, NotADirectoryError):
            raise ValueError(f"{self.folder} is not a run: it has no config.json") from None
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is damaged: no JSON: {error}") from None
        if not isinstance(document, dict) or not isinstance(document.get("preset"), str):
            raise ValueError(f"{path} is damaged: it names no preset")
        return document

    def config(self, *, installed: bool = True) -> TrainConfig:
        """Config that the run was begun or last resumed with; code of a user's is the run's own.

        Raises ValueError without one and, with `installed`, if a module of the run is another here.
        """
        path, document = self.folder / CONFIG, self.document()
        try:
            run_code.read(self.folder, document, installed=installed)
            model = models.load(document["preset"].partition(":")[0])
            return TrainConfig.from_json(document, model.Config)
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from error

    def history(self) -> list[dict[str, Any]]:
        """Entries of history.jsonl, oldest first."""
        return read_lines(self.folder / HISTORY)

    def starts(self) -> list[dict[str, Any]]:
        """Starts of the workers in the history."""
        return [entry for entry in self.history() if "event" not in entry]

    def note(self, entry: dict[str, Any]) -> None:
        """Append to history.jsonl."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        append_line(self.folder / HISTORY, {"time": now} | entry)

    def metrics(self) -> list[dict[str, Any]]:
        """Lines of metrics.jsonl, oldest first: samples, samples_per_second, wall_seconds, values
        (losses and metrics by `phase/name`), host and quality_samples. Raises ValueError without a
        run."""
        self._check_exists()
        return read_lines(self.folder / METRICS)

    def curves(self) -> dict[str, Curve]:
        """Every loss and metric over the run: two (n,) float64 arrays, samples seen and values, for
        `plt.plot(*curve)`.

        Reports that lack a value are left out of its curve. Raises ValueError without a run.
        """
        points: dict[str, list[tuple[float, float]]] = {}
        for line in self.metrics():
            for name, value in line.get("values", {}).items():
                points.setdefault(name, []).append((line["samples"], value))
        return {name: _curve(pairs) for name, pairs in sorted(points.items())}

    def quality(self) -> Curve:
        """Frechet distance to real samples as it was measured during training (lower is better):
        two (n,) float64 arrays, samples seen and values. Raises ValueError without a run."""
        self._check_exists()
        return _curve(sorted(read_quality(self.folder).items()))

    def _check_exists(self) -> None:
        require(self.exists, f"{self.folder} is not a run: it has no config.json")

    def __repr__(self) -> str:
        return f"<aigc.Run {self.folder}>"

    def check_resume(self, config: TrainConfig, *, new_code: bool = False) -> None:
        """Raise ValueError naming the fields that may not change on resume but did, or the code
        that changed unless it may: `new_code`."""
        if not new_code:
            run_code.check_same(self.folder, self.document(), config)
        old, new = self.config(installed=False).fixed(), config.fixed()
        changed = [
            f"{k}: {old.get(k)!r} -> {new.get(k)!r}"
            for k in old
            if old[k] != new.get(k) and not (new_code and _same_file(old[k], new.get(k)))
        ]
        if changed:
            raise ValueError(
                f"{self.folder} cannot resume with another {'; '.join(changed)};"
                " give the old values or another --name"
            )

    def facts(self, path: Path | None = None) -> dict[str, Any]:
        """Samples, data, environment and cost, by trainer.json of a checkpoint, the newest by
        default. Raises ValueError without a checkpoint."""
        return run_folder.trainer(path or self._newest())

    def result(self) -> Path:
        """Checkpoint that is the result of the run: the best one if a rule ended it, else the
        newest. Raises ValueError without a checkpoint."""
        rule = run_folder.ended_by_rule(self.folder)
        if rule is not None:
            path = self.checkpoints / f"{rule['best']:012d}"
            reason = run_folder.invalid(path)
            require(reason is None, f"{path}, the best checkpoint of the run, is broken: {reason}")
            return path
        return self._newest()

    def load_state(self, path: Path | None = None) -> TrainState:
        """State of a checkpoint, the newest by default. Raises ValueError without a checkpoint."""
        path = path or self._newest()
        state = TrainState(self.config(), "cpu")
        checkpoint.load(path, state)
        return state

    def _newest(self) -> Path:
        path = run_folder.newest(self.checkpoints)
        if path is None:
            raise ValueError(f"{self.folder} has no whole checkpoint yet; train it first")
        return path


def _curve(points: Iterable[tuple[float, float]]) -> Curve:
    samples, values = np.array([*points], np.float64).reshape(-1, 2).T
    return samples, values


def _same_file(old: Any, new: Any) -> bool:
    """True of two versions of a file: `resgan@3f2a1b2c3d4e:small`, of the same preset."""
    if not (isinstance(old, str) and isinstance(new, str)):
        return False
    (one, preset), (other, of_other) = map(own_code.split, (old, new))
    files = NAME.fullmatch(one), NAME.fullmatch(other)
    return preset == of_other and all(files) and files[0][1] == files[1][1]  # type: ignore[index]


def train_run(
    context: RunContext,
    config: TrainConfig,
    source: Source,
    group: ProcessGroup | None = None,
    stream: Stream | None = None,
) -> Outcome:
    """Train one worker's share of a run from its newest checkpoint on; rank 0 writes the folder.

    `group` defaults to this process alone, on the CPU. `stream` replaces the loader of `source`.
    Raises Diverged; ValueError if the run was begun on other data; OSError if the last checkpoint
    cannot be written.
    """
    keep_freed_memory()
    run, group = Run(context.folder), group or SingleProcess()
    lost_samples = context.lost_samples
    if group.rank == 0:
        data_facts.write_facts(run.folder, data_facts.facts(config.data, source))
    rollbacks, begun_at = 0, None  # rollbacks to the samples of `begun_at`
    while True:
        state = TrainState(config, group.device)
        facts = _restore(run, config, source, group, state)
        if begun_at is not None:
            rollbacks = rollbacks + 1 if state.samples == begun_at else 1
        begun_at = state.samples
        clock = RunClock(facts, group.world_size)
        clock.rollbacks = facts.get("rollbacks", 0) + rollbacks
        if rollbacks:
            state.rate_scale *= 0.5**rollbacks
        reporter: Reporter | NullReporter = NullReporter()
        if group.rank == 0:
            _note_start(run, clock, lost_samples)
            lost_samples = 0  # a rollback does not lose them again
            reporter = Reporter(context, config, source, clock)
        try:
            actions = periodic_actions(config, reporter)
            outcome = train(config, state, source, actions, group, reporter.stop, stream)
            return reporter.finish(outcome, state.samples)
        except Diverged as error:
            if config.on_divergence == "stop" or rollbacks >= MAX_ROLLBACKS:
                reporter.close()
                barrier(group)  # the first worker to raise may end the others while they write
                raise
            log.warning("%s; going back to the last checkpoint with half the learning rate", error)
            if group.rank == 0:
                with suppress(OSError):  # a full disk must not end a run that can go on
                    run.note({"event": "rollback", "at": state.samples, "reason": str(error)})
        finally:
            reporter.close()


def _restore(
    run: Run, config: TrainConfig, source: Source, group: ProcessGroup, state: TrainState
) -> dict[str, Any]:
    """Load the newest checkpoint, or the initial weights; returns trainer.json or {}."""
    barrier(group)  # rank 0 may still be writing
    path = run_folder.newest(run.checkpoints)
    if path is None:
        if config.init_from:
            load_initial_weights(state, config.init_from)
        return {}
    facts = checkpoint.load(path, state)
    _check_same(facts, source, group)
    return facts


def _note_start(run: Run, clock: RunClock, lost_samples: int) -> None:
    """Remove from the folder what is newer than the checkpoint, and note a start of the workers."""
    checkpoint.tidy(run.checkpoints, clock.samples)
    run_folder.truncate(run.folder / METRICS, clock.samples)
    run_folder.truncate(run.folder / QUALITY, clock.samples)
    clock.take_up(read_quality(run.folder))
    run.note(start_record(clock.samples, clock.workers, lost_samples))
    starts = run.starts()
    clock.restarts = len(starts) - 1
    clock.lost_samples = sum(start.get("work_lost_samples", 0) for start in starts)


def load_initial_weights(state: TrainState, reference: str) -> None:
    """Overwrite a new run's weights and their average; optimizers and counters are not changed.

    `reference` is a run (folder or URI) or an artifact (folder, STORE/NAME, STORE/NAME@VERSION).
    Raises ValueError if it holds no weights, or those of another model.
    """
    fs, path = filesystem(reference)
    with store_errors(reference):
        is_run = fs.exists(f"{path}/{CONFIG}")
    weights = _run_weights(reference) if is_run else _artifact_weights(reference)
    own = state.model.state_dict()
    odd = [name for name in own if name not in weights or weights[name].shape != own[name].shape]
    odd += [name for name in weights if name not in own]
    require(
        not odd,
        f"{reference} is of another model than this run: {odd[0] if odd else ''} differs;"
        " give the model the same sizes",
    )
    state.model.load_state_dict(weights)
    state.ema.load_state_dict(state.model.averaged().state_dict())


def _run_weights(reference: str) -> dict[str, Tensor]:
    run = Run.open(reference)
    return dict(run.load_state(run.result()).ema_model().state_dict())


def _artifact_weights(reference: str) -> dict[str, Tensor]:
    artifact = Artifact.open(reference, verify=False)
    require(
        WEIGHTS in artifact.manifest.files,
        f"{artifact.id} carries no weights to train on; export it with --weights,"
        " or start from its run",
    )
    return load(artifact.read(WEIGHTS))


def _check_same(facts: dict[str, Any], source: Source, group: ProcessGroup) -> None:
    """Raise ValueError if the data differ from those in `facts` in more than their name.

    Warns on rank 0 if the environment differs, which ends bit-exactness.
    """
    old, new = facts["data"], source.fingerprint()
    other = [
        f"{key} {_shown(old.get(key))}, now {_shown(new.get(key))}"
        for key in (old | new)
        if key != "name" and old.get(key) != new.get(key)
    ]
    if other:
        raise ValueError(
            f"the run was begun on data {old.get('name')!r} with {'; '.join(other)};"
            " resume with the same data or train under another --name"
        )
    before = facts["environment"] | {"workers": facts["workers"]}
    now = checkpoint.environment() | {"workers": group.world_size}
    changed = {key: (before.get(key), now[key]) for key in now if before.get(key) != now[key]}
    if changed and group.rank == 0:
        log.warning("resumed, but no longer bit-exact: %s", changed)


def _shown(value: Any) -> str:
    """A value of a fingerprint, cut to 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
