"""Training on real Ray: equal to one process, and honest about what it cannot do."""

import shutil
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from aigc.models.multimodal_vae import Config
from aigc.training.run import Run
from tests.cluster.runs import DIGITS, TOTAL, finish, start, state
from tests.data.rows import TINY, written
from tests.data.test_sources import idx

pytestmark = pytest.mark.cluster


def test_two_workers_are_one_up_to_rounding_in_float64(tmp_path: Path) -> None:
    flags = ["fc_gan:mlp", "--precision", "float64", "--batch", "16", "--samples", "400"]
    flags += ["--threads", "1", "--report-interval", "16", "--grid-interval", "0"]
    one, two = (start(tmp_path, f"on{n}", *flags, "--workers", n) for n in ("0", "2"))
    finish(one)
    finish(two)
    a, b = state(Run(tmp_path / "on0")), state(Run(tmp_path / "on2"))
    assert a["model/generator.layers.0.weight"].dtype == torch.float64
    worst = max(float((a[name].double() - b[name].double()).abs().max()) for name in a)
    assert 0 < worst < 1e-9  # 25 batches; not 0: the sums are added in another order


def test_texts_resume_bit_equal_on_two_workers(tmp_path: Path) -> None:
    """With all that is random in a text model: its noise is by row, whoever has the row."""
    flags = ["text_vae:numbers", "--workers", "2", "--threads", "1", "--report-interval", "640"]
    flags += ["--model.blur", "0.8", "--model.dropout", "0.3", "--model.word-dropout", "0.1"]
    flags += ["--model.width", "48", "--samples", "1280", "--checkpoint-interval", "640"]
    finish(start(tmp_path, "whole", *flags))
    whole = Run(tmp_path / "whole")
    again = Run(shutil.copytree(whole.folder, tmp_path / "again"))
    shutil.rmtree(max(again.checkpoints.iterdir()))
    _, stderr = finish(start(tmp_path, "again", *flags, "--resume"))
    assert "no longer bit-exact" not in stderr
    assert [start["samples"] for start in again.starts()] == [0, 640]
    assert again.facts()["workers"] == 2
    one, other = state(whole), state(again)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_two_workers_train_on_rows_with_missing_parts(tmp_path: Path) -> None:
    data = written(tmp_path / "data", "audio")
    flags = ["multimodal_vae:digits3", "--data.source", "paired", "--data.path", data.path]
    flags += ["--data.sample-rate-hz", str(data.sample_rate_hz), "--precision", "float64"]
    for field in fields(TINY):
        value = getattr(TINY, field.name)
        if field.init and isinstance(value, int | tuple) and value != getattr(Config(), field.name):
            values = value if isinstance(value, tuple) else (value,)
            flags += [f"--model.{field.name.replace('_', '-')}", *map(str, values)]
    flags += ["--batch", "16", "--samples", "160", "--threads", "1"]
    one, two = (start(tmp_path, f"on{n}", *flags, "--workers", n) for n in ("0", "2"))
    finish(one)
    finish(two)
    a, b = state(Run(tmp_path / "on0")), state(Run(tmp_path / "on2"))
    # Squares of large gradients are moments, too: errors are relative to what is above 1.
    worst = max(
        float(((a[name] - b[name]).double().abs() / (1 + a[name].double().abs())).max())
        for name in a
    )
    assert 0 < worst < 1e-9


def test_a_loss_that_is_not_finite_ends_the_run_without_a_retry(tmp_path: Path) -> None:
    rates = [f"--model.{side}-optimizer.learning-rate" for side in ("generator", "discriminator")]
    flags = ["fc_gan:ring", "--workers", "2", "--model.objective", "least_squares"]
    flags += [flag for rate in rates for flag in (rate, "100")]
    process = start(tmp_path, "run", *flags, "--checkpoint-interval", "64", "--samples", "6400")
    _, stderr = finish(process, status=1)
    assert "loss of phase 'discriminator' is not finite after 64 samples" in stderr
    assert "Traceback" not in stderr
    run = Run(tmp_path / "run")
    assert len(run.starts()) == 1
    assert run.facts()["samples"] == 64


def test_an_existing_run_is_refused_without_resume(undisturbed: Run) -> None:
    storage = undisturbed.folder.parent
    _, stderr = finish(start(storage, "run", *DIGITS), status=1)
    assert "exists; continue it with --resume or give another --name" in stderr
    _, stderr = finish(start(storage, "run", *DIGITS, "--resume", "--batch", "32"), status=1)
    assert "cannot resume with another batch: 64 -> 32" in stderr


def test_an_error_that_stays_ends_the_run_after_three_starts(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    (run.folder / "history.jsonl").mkdir(parents=True)
    _, stderr = finish(start(tmp_path, "run", "fc_gan:ring", "--workers", "2"), status=1)
    assert stderr.count("workers restarted from 0 samples") == 2
    assert "3 starts in a row came no further than 0 samples; the last one ended with" in stderr
    assert "IsADirectoryError" in stderr
    assert "Traceback" not in stderr


def test_workers_that_no_machine_can_hold_are_refused(tmp_path: Path) -> None:
    flags = ["fc_gan:ring", "--workers", "2", "--device", "cuda"]
    if torch.cuda.device_count() > 1:
        pytest.skip("this machine has a GPU for each")
    _, stderr = finish(start(tmp_path, "run", *flags), status=1)
    assert "2 workers want 1 CPU and 1 GPU each, which leaves room for" in stderr
    assert "--device cpu" in stderr
    assert not Run(tmp_path / "run").exists


def test_data_by_a_relative_path_are_found_by_the_workers(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    idx(tmp_path / "pictures", "train", 12)
    flags = ["fc_gan:mlp", "--data.source", "idx", "--data.path", "pictures", "--batch", "4"]
    flags += ["--model.num-classes", "3", "--samples", "8", "--workers", "1"]
    stdout, _ = finish(start(tmp_path / "runs", "run", *flags, directory=tmp_path))
    assert stdout.splitlines()[-1] == "runs/run"


def test_warnings_of_the_workers_reach_the_driver(undisturbed: Run, tmp_path: Path) -> None:
    run = Run(shutil.copytree(undisturbed.folder, tmp_path / "run"))
    newest = max(run.checkpoints.iterdir())
    (newest / "trainer.json").write_text("{}")
    flags = [flag if flag != "2" else "1" for flag in DIGITS]
    _, stderr = finish(start(tmp_path, "run", *flags, "--resume"))
    assert f"checkpoint {newest} is passed over" in stderr
    assert "no longer bit-exact: {'workers': (2, 1)}" in stderr
    assert run.facts()["samples"] == TOTAL
