"""Rules that end a run: decisions, refusals, the same decision on resume, and what follows."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

from aigc import data
from aigc.artifact import Artifact, Store
from aigc.commands.export import export
from aigc.commands.runs import summaries, table
from aigc.files import read_lines
from aigc.training import checkpoint, run_folder
from aigc.training.preflight import check_rules
from aigc.training.quality import Quality
from aigc.training.stopping import check, decide
from tests.training.small_runs import begin_run, continue_run, differing, inline, small

__all__ = ["inline"]
pytestmark = pytest.mark.process

FALLING = {16: 9.0, 32: 5.0, 48: 6.0, 64: 5.5, 80: 4.0, 96: 4.0, 112: 3.0}


@pytest.mark.parametrize(
    ("until", "patience", "decided"),
    [
        ("", 0, None),
        ("quality<=5", 0, (32, 32)),
        ("frechet/cnn64 <= 4.5", 0, (80, 80)),
        ("quality<=1", 0, None),
        ("", 2, (64, 32)),
        ("", 3, None),
        ("quality<=4", 2, (64, 32)),
        ("psnr>=-3.5", 0, (112, 112)),
        ("quality<=2e0", 1, (48, 32)),
    ],
)
def test_first_measurement_that_a_rule_applies_to_decides(
    until: str, patience: int, decided: tuple[int, int] | None
) -> None:
    config = small("fc_gan:ring", until=until, patience=patience)
    found = decide(config, FALLING)
    assert (found and (found.samples, found.best)) == decided
    # Nothing that came later changes the decision: a resumed run takes the same.
    for known in range(len(FALLING)):
        early = decide(config, dict(sorted(FALLING.items())[: known + 1]))
        assert early in (None, found)


@pytest.mark.parametrize(
    "until", ["5", "quality", "quality<5", "quality==5", "quality<=five", "<=5"]
)
def test_until_of_another_form_is_refused(until: str) -> None:
    with pytest.raises(ValueError, match=r"until must be a metric, <= or >=, and a number.*got"):
        small("fc_gan:ring", until=until)


@pytest.mark.parametrize(
    ("rules", "metric", "said"),
    [
        ({"until": "quality<=5", "evaluate_interval": 0}, "x", "until needs measurements"),
        ({"patience": 2, "evaluate_interval": 0}, "x", "patience needs measurements"),
        ({"until": "quality<=5"}, "", "no quality is measured of this data"),
        ({"until": "frechet/cnn46<=5"}, "frechet/cnn64", "did you mean 'frechet/cnn64'"),
        ({"until": "recall/cnn64>=1"}, "frechet/cnn64", "does not measure it during training"),
        ({"until": "frechet/cnn64>=5"}, "frechet/cnn64", "better when it is lower; give .*<=5"),
        ({"until": "psnr<=25"}, "negative_psnr", "better when it is higher; give psnr>=25"),
        ({"until": "quality>=25"}, "negative_psnr", "better when it is lower"),
    ],
)
def test_rules_that_can_never_apply_are_refused(
    rules: dict[str, Any], metric: str, said: str
) -> None:
    config = small("fc_gan:ring", **({"evaluate_interval": 16} | rules))
    with pytest.raises(ValueError, match=said):
        check(config, metric)


def test_names_are_those_of_the_data() -> None:
    config = small("dcgan:digits", evaluate_interval=16, until="frechet/cnn64<=5")
    source = data.load(config.data, config.model)
    check_rules(config, source)
    with pytest.raises(ValueError, match="but 'frechet/rotation64'"):
        check_rules(config, replace(source, classes=()))  # type: ignore[type-var]


@pytest.mark.usefixtures("inline")
def test_rule_ends_the_run_and_its_best_checkpoint_is_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Uninterrupted, and stopped in between: the same decision and the same bits."""
    monkeypatch.setattr(Quality, "measure", lambda self, model: quality_of(model))
    first: dict[bytes, float] = {}

    def quality_of(model: nn.Module) -> float:
        """9, 5, 6, 7, ... in the order in which states are first seen."""
        key = b"".join(p.detach().numpy().tobytes() for p in model.parameters())
        return first.setdefault(key, {0: 9.0, 1: 5.0}.get(len(first), 4.0 + len(first)))

    intervals = {"evaluate_interval": 32, "checkpoint_interval": 16, "keep_checkpoints": 1}
    config = small("fc_gan:ring", samples=3200, patience=2, **intervals)
    runs = [begin_run(tmp_path / name, config) for name in ("whole", "stopped")]
    assert continue_run(runs[0], config) == "done"
    asked = iter([False] * 4)
    assert continue_run(runs[1], config, stop=lambda samples: next(asked, True)) == "stopped"
    assert runs[1].facts()["samples"] < 128
    assert continue_run(runs[1], config) == "done"
    for run in runs:
        lines = read_lines(run.folder / "quality.jsonl")
        assert [(x["samples"], x["quality"]) for x in lines if x["quality"] is not None] == [
            (32, 9.0),
            (64, 5.0),
            (96, 6.0),
            (128, 7.0),
        ]
        rule = run_folder.ended_by_rule(run.folder)
        assert rule is not None
        assert (rule["samples"], rule["best"], rule["rule"]) == (128, 64, "patience 2")
        assert run.result() == run.checkpoints / f"{64:012d}"
        assert int(run.facts()["samples"]) < 3200
        assert run_folder.unmeasured(run.checkpoints) == []
    states = [checkpoint.tensors(run.load_state(run.result())) for run in runs]
    assert differing(*states) == []
    assert caplog.text.count("no better in 2 measurements since; the best checkpoint is of 64") == 2
    summary = summaries(tmp_path)[0]
    assert (summary.state, summary.rule, summary.quality_samples) == ("done", "patience 2", 64)
    assert "done: patience 2" in table([summary])
    # Without the rule the run goes on, and is a run like any other.
    longer = replace(
        config, patience=0, evaluate_interval=0, samples=runs[0].facts()["samples"] + 32
    )
    continue_run(runs[0], longer)
    assert run_folder.ended_by_rule(runs[0].folder) is None
    assert runs[0].result() == run_folder.newest(runs[0].checkpoints)


@pytest.mark.usefixtures("inline")
def test_export_takes_the_best_checkpoint_of_a_run_that_a_rule_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Quality, "measure", lambda self, model: 1.0)
    config = small("fc_gan:ring", samples=3200, evaluate_interval=32, until="quality<=1")
    run = begin_run(tmp_path / "run", config)
    assert continue_run(run, config) == "done"
    artifact = Artifact.open(export(run, name="best", store=Store(tmp_path / "store")))
    assert artifact.manifest.training is not None
    assert artifact.manifest.training.samples == 32
