"""Where `aigc train` takes its config from: a preset, a file, or another run."""

import json
import re
from pathlib import Path

import pytest

from aigc import recipe
from aigc.training.run import Run
from cluster import train
from cluster.base_config import base_config

pytestmark = pytest.mark.process

TINY = ("--samples", "64", "--threads", "1", "--report-interval", "0", "--grid-interval", "0")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a finished run of batch 32, `first`."""
    monkeypatch.chdir(tmp_path)
    flags = ["--name", "first", "--batch", "32", "--seed", "5"]
    assert train.command(["fc_gan:ring", *TINY, *flags]) == 0
    return tmp_path


def test_run_resumes_by_its_name_alone(here: Path) -> None:
    assert train.command(["--resume", "first", "--samples", "128"]) == 0
    run = Run("runs/first")
    assert run.facts()["samples"] == 128
    assert run.config().batch == 32
    with pytest.raises(ValueError, match=r"cannot resume with another batch: 32 -> 64"):
        train.command(["--resume", "first", "--batch", "64"])
    with pytest.raises(ValueError, match=r"another model\.latent"):
        train.command(["--resume=first", "--model.latent", "3"])


def test_new_run_takes_the_config_of_another(here: Path) -> None:
    assert train.command(["--like", "first", "--name", "second", "--seed", "6"]) == 0
    first, second = Run("runs/first").config(), Run("runs/second").config()
    assert (second.batch, second.samples, second.seed) == (32, 64, 6)
    assert first.model == second.model
    assert train.command(["--like", "runs/first", "--name", "third", "--dry-run"]) == 0
    with pytest.raises(ValueError, match="first exists; continue it with --resume"):
        train.command(["--like", "first", "--name", "first"])


def test_flags_win_over_the_file_that_a_dry_run_saved(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ["--batch", "16", *TINY, "--dry-run", "--save", "ring.yaml"]
    assert train.command(["fc_gan:ring", *flags]) == 0
    assert not Path("runs/fc_gan-ring").exists()
    saved = recipe.read(Path("ring.yaml"))
    assert (saved.batch, saved.samples) == (16, 64)
    assert train.command(["--config", "ring.yaml", "--batch", "8", "--name", "filed"]) == 0
    config = Run("runs/filed").config()
    assert (config.batch, config.samples) == (8, 64)
    with pytest.raises(ValueError, match="cannot resume with another batch: 8 -> 16"):
        train.command(["--config", "ring.yaml", "--name", "filed", "--resume"])


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--resume", "frist"], "there is no run 'frist' in runs; did you mean 'first'?"),
        (["--resume", "first", "--name", "x"], "--resume first contradicts --name x"),
        (["--like", "elsewhere/run"], "there is no run 'run' in elsewhere: it has no runs"),
        (["--like", "first", "--config", "x.yaml"], "give --config or --like, not both"),
        (["--config", "absent.yaml"], "absent.yaml: No such file or directory"),
        (["dcgan", "--like", "first"], "dcgan contradicts --like first, which is of fc_gan:ring"),
        (["--like"], "expected one argument"),
    ],
)
def test_mistaken_reference_is_refused(argv: list[str], said: str, here: Path) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        train.command(argv)


def test_resumed_run_has_as_many_workers_as_when_it_was_started_last(here: Path) -> None:
    run = Run("runs/first")
    base = base_config(["--resume", "first"])
    assert base is not None
    assert base.workers == "0"
    with (run.folder / "history.jsonl").open("a") as file:
        file.write(json.dumps({"samples": 64, "workers": 3}) + "\n")
    base = base_config(["--resume", "first"])
    assert base is not None
    assert base.workers == "3"


def test_flags_of_model_and_data_are_recognised() -> None:
    flags = ["--model.num-classes=3", "--data.path", "x", "--model.no-batch-norm", "--batch", "3"]
    base = base_config(["dcgan:digits", *flags])
    assert base is not None
    assert base.given == {"model.num_classes", "data.path", "model.batch_norm"}
    assert base.flags == tuple(flags)
