"""A search: its folder, the states of its trials, and its result. Knows nothing of Ray.

<storage>/<name>/
    search.json       what is searched: config, points of the trials, budget, rungs
    trials/<number>/  a run each, see aigc/training/run_folder.py
        trial.json    how the trial ended
    best.yaml         config of the best trial, for `aigc train --config`
"""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from aigc import models, recipe
from aigc.config import TrainConfig, require
from aigc.files import read_json, write
from aigc.suggest import alternatives
from aigc.training import run_folder
from aigc.training.quality_log import last_metric, read_quality
from aigc.training.run import Run
from cluster.search_space import changed

SEARCH, TRIALS, TRIAL, BEST = "search.json", "trials", "trial.json", "best.yaml"

Ended = Literal["done", "halved", "failed", ""]
"""End of a trial: it had its budget, others did better at a rung, an error; "" of one to go on."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Fields, points, budget and rungs of a search."""

    preset: str
    """MODEL:PRESET of all trials."""
    over: tuple[str, ...]
    """The words of --over."""
    points: list[dict[str, Any]]
    """Values of the fields by trial; the first trial changes nothing."""
    samples: int
    """Budget of a trial."""
    reduction: int
    """A share of 1 / reduction of the trials goes on beyond each rung."""
    first_rung: int
    """Samples seen at the first rung."""

    @property
    def rungs(self) -> list[int]:
        """Samples seen when quality is measured: rungs, and the end."""
        found, rung = [], self.first_rung
        while rung < self.samples:
            found.append(rung)
            rung *= self.reduction
        return [*found, self.samples]


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A trial as its folder has it."""

    number: int
    point: dict[str, Any]
    ended: Ended
    reason: str
    """Reason of the failure of a trial that failed."""
    qualities: dict[int, float]
    """By samples seen."""

    @property
    def samples(self) -> int:
        """Samples seen at the last measurement."""
        return max(self.qualities, default=0)

    @property
    def quality(self) -> float | None:
        """The last quality measured."""
        return self.qualities[self.samples] if self.qualities else None


class Search:
    """The folder of a search."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def find(cls, storage: Path, name: str) -> "Search":
        """A search by its name. Raises ValueError, with the names of those that there are."""
        search = cls(storage / name)
        if not (search.folder / SEARCH).exists():
            there = sorted(path.parent.name for path in storage.glob(f"*/{SEARCH}"))
            hint = alternatives(name, there) if there else ": it has no searches"
            raise ValueError(f"there is no search {name!r} in {storage}{hint}")
        return search

    def create(self, plan: Plan, config: TrainConfig) -> None:
        """Create the folder and the runs of its trials. Raises ValueError if it exists."""
        require(
            not (self.folder / SEARCH).exists(),
            f"{self.folder} exists; continue it with --resume {self.folder.name}, or give another"
            " --name",
        )
        for number, point in enumerate(plan.points):
            Run(self.trial_folder(number)).create(trial_config(config, point, plan.samples))
        recipe_of = self.folder / "base.json"
        write(recipe_of, (json.dumps(config.to_json()) + "\n").encode())
        write(self.folder / SEARCH, (json.dumps(asdict(plan), indent=1) + "\n").encode())

    def plan(self) -> Plan:
        """The plan. Raises ValueError if the file is damaged."""
        document = read_json(self.folder / SEARCH)
        try:
            assert document is not None
            return Plan(**document | {"over": tuple(document["over"])})
        except (AssertionError, KeyError, TypeError):
            raise ValueError(f"{self.folder / SEARCH} is damaged; begin another search") from None

    def config(self) -> TrainConfig:
        """The config that the points change, as it was given."""
        Run(self.trial_folder(0)).config()  # makes code of a user's known
        document = json.loads((self.folder / "base.json").read_text())
        model = models.load(document["preset"].partition(":")[0])
        return TrainConfig.from_json(document, model.Config)

    def trial_folder(self, number: int) -> Path:
        """Folder of a trial's run."""
        return self.folder / TRIALS / f"{number:03d}"

    def trials(self) -> list[Trial]:
        """The trials in the order of their numbers."""
        found = []
        for number, point in enumerate(self.plan().points):
            folder = self.trial_folder(number)
            ended = read_json(folder / TRIAL) or {}
            found.append(
                Trial(
                    number=number,
                    point=point,
                    ended=ended.get("ended", ""),
                    reason=ended.get("reason", ""),
                    qualities=read_quality(folder),
                )
            )
        return found

    def end(self, number: int, ended: Ended, reason: str = "") -> None:
        """Note how a trial ended."""
        document = {"ended": ended} | ({"reason": reason} if reason else {})
        write(self.trial_folder(number) / TRIAL, (json.dumps(document) + "\n").encode())

    def ranked(self) -> list[Trial]:
        """The trials by their last quality, the best first; failed ones last."""
        return sorted(
            self.trials(),
            key=lambda trial: (
                trial.ended == "failed",
                trial.quality if trial.quality is not None else float("inf"),
                trial.number,
            ),
        )

    def write_best(self) -> Path | None:
        """Write the config of the best trial as YAML; None if none was measured."""
        best = self.ranked()[0]
        if best.quality is None:
            return None
        plan = self.plan()
        config = replace(changed(self.config(), best.point), samples=plan.samples)
        file = self.folder / BEST
        file.unlink(missing_ok=True)
        recipe.write(file, config)
        return file

    def metric(self) -> str:
        """Name of the quality that was measured."""
        names = [last_metric(self.trial_folder(trial.number)) for trial in self.trials()]
        return next(filter(None, names), "quality")

    def table(self) -> str:
        """The trials as aligned columns, the best first."""
        fields = list(dict.fromkeys(name for point in self.plan().points for name in point))
        base = self.config().flat()
        heads = _shortened(fields)
        rows = [("trial", self.metric(), "samples", "ended", *heads, "folder")]
        for trial in self.ranked():
            quality = "-" if trial.quality is None else f"{trial.quality:.4g}"
            values = [_shown(trial.point.get(name, base.get(name))) for name in fields]
            ended = trial.ended or "to go on"
            where = str(Path(TRIALS) / self.trial_folder(trial.number).name)
            rows.append((str(trial.number), quality, f"{trial.samples:,}", ended, *values, where))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                f"{cell:>{width}}" if 0 < at < 3 else f"{cell:<{width}}"
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in rows
        ]
        failed = [trial for trial in self.trials() if trial.ended == "failed"]
        return "\n".join([*lines, *(f"trial {t.number} failed: {t.reason}" for t in failed)])


def trial_config(config: TrainConfig, point: dict[str, Any], samples: int) -> TrainConfig:
    """Config of a trial's run; the search measures its quality, and ends it."""
    return replace(
        changed(config, point),
        samples=samples,
        threads=config.threads or 1,
        evaluate_interval=0,
        grid_interval=0,
        keep_checkpoints=1,
        until="",
        patience=0,
    )


def at_rung(folder: Path, rung: int, batch: int) -> int | None:
    """Samples of the measurement at a rung: the first whole batch at or beyond it; None if it is
    still to be made."""
    samples = -(-rung // batch) * batch
    return samples if samples in read_quality(folder) else None


def newest_samples(folder: Path) -> int:
    """Samples seen in the newest whole checkpoint of a trial."""
    newest = run_folder.newest(folder / run_folder.CHECKPOINTS)
    return int(newest.name) if newest else 0


def _shortened(names: list[str]) -> list[str]:
    """The names without the parts before that they need not to differ."""
    parts = 1
    while len({tuple(name.split(".")[-parts:]) for name in names}) < len(names):
        parts += 1
    return [".".join(name.split(".")[-parts:]) for name in names]


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else f"{value}"
