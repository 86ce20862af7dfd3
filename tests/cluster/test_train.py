"""Training on real Ray: equal to one process, and honest about what it cannot do."""

from dataclasses import fields
from pathlib import Path

import pytest

from aigc.models.multimodal_vae import Config
from aigc.training.run import Run
from cluster import train
from tests.cluster.runs import finish, start, state
from tests.data.rows import TINY, written
from tests.own_files import GAN, write

pytestmark = pytest.mark.cluster


def test_two_workers_equal_one_on_rows_with_missing_parts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = written(tmp_path / "data", "audio")
    monkeypatch.chdir(tmp_path)  # the workers of Ray Train have a working folder of their own
    flags = ["multimodal_vae:digits3", "--data.source", "paired", "--data.path", "data"]
    flags += ["--data.sample-rate-hz", str(data.sample_rate_hz), "--precision", "float64"]
    for field in fields(TINY):
        value = getattr(TINY, field.name)
        if field.init and isinstance(value, int | tuple) and value != getattr(Config(), field.name):
            values = value if isinstance(value, tuple) else (value,)
            flags += [f"--model.{field.name.replace('_', '-')}", *map(str, values)]
    flags += ["--batch", "16", "--samples", "160", "--threads", "1"]
    two = start(Path("runs"), "two", *flags, "--workers", "2")
    assert train.command([*flags, "--storage", "runs", "--name", "one"]) == 0
    stdout, _ = finish(two)
    assert stdout.splitlines()[-1] == "runs/two"
    a, b = state(Run(tmp_path / "runs" / "one")), state(Run(tmp_path / "runs" / "two"))
    # Squares of large gradients are moments, too: errors are relative to what is above 1.
    worst = max(
        float(((a[name] - b[name]).double().abs() / (1 + a[name].double().abs())).max())
        for name in a
    )
    assert 0 < worst < 1e-9


def test_loss_that_is_not_finite_ends_the_run_without_a_retry(tmp_path: Path) -> None:
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


def test_error_that_stays_ends_the_run_after_three_starts(tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    (run.folder / "history.jsonl").mkdir(parents=True)
    _, stderr = finish(start(tmp_path, "run", "fc_gan:ring", "--workers", "1"), status=1)
    assert stderr.count("workers restarted from 0 samples") == 2
    assert "3 starts in a row came no further than 0 samples; the last one ended with" in stderr
    assert "IsADirectoryError" in stderr
    assert "Traceback" not in stderr


def test_code_of_a_user_is_read_from_the_run_and_its_errors_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fails = GAN.replace(
        "class Model(GAN):",
        "class Odd(ValueError):\n    pass\n\n\nclass Model(GAN):\n"
        "    def loss(self, phase, batch, noise, shared):\n"
        "        if noise.samples == 64:\n"
        '            raise Odd("no more")\n'
        "        return super().loss(phase, batch, noise, shared)\n",
    )
    write(tmp_path, fails)
    process = start(Path("runs"), "run", "./points.py", "--workers", "1", "--threads", "1")
    _, stderr = finish(process, status=1)
    (copy,) = (tmp_path / "runs" / "run" / "code").iterdir()
    assert f"Odd: no more ({copy}, line " in stderr
    assert "Traceback" not in stderr
    assert len(Run(tmp_path / "runs" / "run").starts()) == 1
