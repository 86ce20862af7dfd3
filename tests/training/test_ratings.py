"""Measurements that arrive late: whose they are, and what is kept for them."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aigc import data
from aigc.commands.runs import summaries, table
from aigc.files import read_lines
from aigc.training import run_folder
from aigc.training.object_store import NullStore
from aigc.training.quality import Quality
from aigc.training.run import Run, train_run
from aigc.training.run_context import RunContext, RunReport
from tests.training.small_runs import begin_run, continue_run, inline, small

__all__ = ["inline"]
pytestmark = [pytest.mark.process, pytest.mark.usefixtures("inline")]


def reports(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_checkpoints_kept_for_their_measurement_go_from_the_store_too(tmp_path: Path) -> None:
    config = small("dcgan:digits", samples=96, keep_checkpoints=1, evaluate_interval=32)
    run = begin_run(tmp_path / "run", config)
    left: list[list[str]] = []

    class Store(NullStore):
        def prune(self, keep: Iterable[str]) -> None:
            left.append(sorted(keep))

    source = data.load(config.data, config.model)
    train_run(RunContext(store=Store(run.folder)), config, source)
    best = run_folder.best(run.checkpoints)
    assert best is not None
    assert left in ([], [sorted({best.name, f"{96:012d}"})])
    assert {path.name for path in run.checkpoints.iterdir()} == {best.name, f"{96:012d}"}


def test_reports_name_the_state_of_the_quality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = iter([5.0, float("nan"), 7.0])
    monkeypatch.setattr(Quality, "measure", lambda self, model: next(found))
    intervals = {"evaluate_interval": 32, "report_interval": 16, "checkpoint_interval": 48}
    config = small("fc_gan:ring", samples=96, **intervals)
    run = begin_run(tmp_path / "run", config)
    watched: list[RunReport] = []
    continue_run(run, config, on_report=watched.append)
    # The last one arrives after the last report, which whoever watches then gets again.
    assert (watched[-1].values["quality/frechet"], watched[-1].quality_samples) == (7.0, 96)
    for report in watched[:-1]:
        known = report.values.get("quality/frechet")
        assert (known, report.quality_samples) in [(None, None), (5.0, 32)]
        assert known is None or report.samples > 32
    assert run_folder.best(run.checkpoints) == run.checkpoints / f"{32:012d}"
    (summary,) = summaries(tmp_path)
    assert (summary.best_quality, summary.quality_samples) == (5.0, 32)
    assert "5 at 32" in table([summary])
    assert read_lines(run.folder / "quality.jsonl")[1] == {
        "samples": 64,
        "quality": None,
        "note": "it is nan",
    }
    # A resume goes on with the last one, which was measured after its checkpoint was written.
    longer = replace(config, samples=112, evaluate_interval=0)
    continue_run(run, longer)
    assert (reports(run)[-1]["samples"], reports(run)[-1]["quality_samples"]) == (112, 96)
