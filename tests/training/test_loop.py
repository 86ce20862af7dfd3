"""The loop: resume == uninterrupted, twice == twice, N workers == 1, and stops when not finite."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc import data
from aigc.config import TrainConfig
from aigc.rng import BatchRNG
from aigc.training import checkpoint, run_folder
from aigc.training.dataloader import to_model_input
from aigc.training.loop import NonFiniteLoss, PeriodicAction, TrainState, train
from aigc.training.run import Run
from cluster.train import command as train_command
from tests.fixtures.make import write_run
from tests.training.small_runs import (
    BATCHES,
    BLURRED,
    Half,
    begin_run,
    continue_run,
    differing,
    finish,
    resumed,
    small,
)

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("dcgan:digits", {}),
        ("dcgan:wgan_gp", {}),
        ("dcgan:article", {}),
        ("fc_gan:mlp", {}),
        ("conv_vae:digits", {}),
        ("text_vae:numbers", {}),
        ("text_vae:numbers", BLURRED),
    ],
)
def test_resumed_run_is_bit_equal_to_an_uninterrupted_one(
    preset: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    config = small(preset, **changes)
    assert differing(finish(config), resumed(config, tmp_path, at=3)) == []


def test_runs_of_one_seed_are_bit_equal() -> None:
    config = small("dcgan:digits")
    once = finish(config)
    assert differing(once, finish(config)) == []
    assert differing(once, finish(replace(config, seed=1)))


def forget_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.Adam, "load_state_dict", lambda self, state: None)


def forget_average(monkeypatch: pytest.MonkeyPatch) -> None:
    real = checkpoint.snapshot

    def without(state: TrainState, facts: dict[str, Any]) -> checkpoint.Snapshot:
        taken = real(state, facts)
        weights = state.model.averaged().state_dict()
        current = {f"average/{k}": v.contiguous().clone() for k, v in weights.items()}
        return replace(taken, tensors=taken.tensors | current)

    monkeypatch.setattr(checkpoint, "snapshot", without)


def forget_cursor(monkeypatch: pytest.MonkeyPatch) -> None:
    real, origin = data.rows, []

    def from_the_start(seed: int, start: int, stop: int, n: int, order: Any) -> Any:
        if start == 16 * 3:
            origin.append(start)
        shift = 16 * 3 if len(origin) > 1 else 0
        return real(seed, start - shift, stop - shift, n, order)

    monkeypatch.setattr(data, "rows", from_the_start)


def forget_noise_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """One generator that goes on from draw to draw, and is as new in every process."""
    generator, start = torch.Generator(), TrainState.__init__
    monkeypatch.setattr(BatchRNG, "_seeded", lambda self, purpose: generator)

    def start_in_a_new_process(state: TrainState, config: TrainConfig) -> None:
        generator.manual_seed(0)
        start(state, config)

    monkeypatch.setattr(TrainState, "__init__", start_in_a_new_process)


@pytest.mark.parametrize(
    "forget", [forget_moments, forget_average, forget_cursor, forget_noise_key]
)
def test_resume_needs_every_part_of_the_state(
    forget: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small("dcgan:digits")
    forget(monkeypatch)
    whole = finish(config)  # one process loses nothing
    assert differing(whole, resumed(config, tmp_path, at=3))


def test_resume_in_a_new_process_is_bit_equal(tmp_path: Path) -> None:
    flags = ["dcgan:digits", "--storage", str(tmp_path), "--threads", "1", "--batch", "16"]
    flags += ["--report-interval", "32", "--grid-interval", "48", "--checkpoint-interval", "0"]
    assert train_command([*flags, "--name", "whole", "--samples", "128"]) == 0
    parts_of = [*flags, "--name", "parts", "--samples"]
    assert train_command([*parts_of, "64"]) == 0
    new = [sys.executable, "-m", "aigc.cli", "train", *parts_of, "128", "--resume"]
    subprocess.run(new, check=True, capture_output=True, timeout=120)
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    states = [checkpoint.tensors(r.load_state()) for r in (whole, parts)]
    assert differing(*states) == []
    assert [s["samples"] for s in parts.starts()] == [0, 64]
    lines = [
        [(r["samples"], r["values"]) for r in map(json.loads, path.read_text().splitlines())]
        for path in (whole.folder / "metrics.jsonl", parts.folder / "metrics.jsonl")
    ]
    assert lines[0] == lines[1]
    assert (parts.folder / "grids" / "000000000128.png").exists()


def test_grids_and_reports_leave_training_bit_equal(tmp_path: Path) -> None:
    config = small("dcgan:digits")
    busy = replace(config, report_interval=16, grid_interval=32, checkpoint_interval=16)
    run = write_run(tmp_path / "busy", busy)
    assert differing(finish(config), checkpoint.tensors(run.load_state())) == []
    assert len(list((run.folder / "grids").iterdir())) == BATCHES / 2
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == BATCHES
    assert len(list(run.checkpoints.iterdir())) == busy.keep_checkpoints


@pytest.mark.parametrize(("precision", "allowed"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("fc_gan:mlp", {}),
        ("fc_vae:digits", {}),
        ("text_vae:numbers", {}),
        ("text_vae:numbers", BLURRED),
    ],
)
def test_gradients_of_two_workers_sum_to_those_of_one(
    preset: str, changes: dict[str, Any], precision: str, allowed: float
) -> None:
    changes = changes | {"precision": precision, "batch": 15, "samples": 15}  # shares of 7 and 8
    config = small(preset, **changes)
    dataset = data.load(config.data, config.model)
    halves = [Half(0), Half(1)]
    for half in halves:
        state = TrainState(config)
        train(config, state, dataset, group=half)
    whole = TrainState(config)
    noise = BatchRNG(config.seed, 0, 15, 0, 15, next(whole.model.parameters()))
    index = torch.from_numpy(data.rows(config.seed, 0, 15, len(dataset)))
    samples = torch.from_numpy(dataset.samples)[index]
    batch = {
        config.model.modality: to_model_input(samples, next(whole.model.parameters())),
        "label": torch.from_numpy(dataset.labels)[index],
    }
    shared = whole.model.prepare(batch, noise, {p.name for p in whole.phases})
    phase = whole.phases[0]  # later phases follow a step that differs by rounding already
    loss, _ = whole.model.loss(phase.name, batch, noise, shared)
    gradients = torch.autograd.grad(loss, list(phase.module.parameters()))
    expected = torch.cat([*(g.flatten() for g in gradients), loss.detach()[None]])
    added = (halves[0].seen[0] + halves[1].seen[0])[: len(expected)]
    assert (added - expected).abs().max() <= allowed * expected.abs().max()


def test_non_finite_loss_stops_before_the_step(tmp_path: Path) -> None:
    config = small("fc_gan:mlp", checkpoint_interval=32, samples=160)
    run = begin_run(tmp_path / "run", config)
    dataset = data.load(config.data, config.model)
    continue_run(run, replace(config, samples=64), dataset)
    before = checkpoint.tensors(run.load_state())
    broken = replace(dataset, samples=dataset.samples * float("nan"))
    state = run.load_state()
    with pytest.raises(NonFiniteLoss, match=r"'discriminator' is not finite after 64 samples"):
        train(config, state, broken)
    assert differing(before, checkpoint.tensors(state)) == []  # no step was taken
    with pytest.raises(ValueError, match="begun on data"):
        continue_run(run, config, broken)  # and other data is refused on resume
    assert run.facts()["samples"] == 64


def test_non_finite_loss_keeps_the_last_checkpoint(tmp_path: Path) -> None:
    config = small("fc_gan:mlp", checkpoint_interval=16, samples=1600)
    dataset = data.load(config.data, config.model)
    dataset.samples[data.rows(config.seed, 40, 41, len(dataset))] = float("nan")
    run = begin_run(tmp_path / "run", config)
    with pytest.raises(NonFiniteLoss, match="after 32 samples"):
        continue_run(run, config, dataset)
    assert run.facts()["samples"] == 32


def test_resume_passes_over_a_broken_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small("fc_gan:ring", checkpoint_interval=32, samples=96)
    run = write_run(tmp_path / "run", config)
    newest = run_folder.newest(run.checkpoints)
    assert newest.name == f"{96:012d}"
    file = newest / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert run.facts()["samples"] == 64
    assert "passed over" in caplog.text
    continue_run(run, config)
    assert run_folder.newest(run.checkpoints) == newest  # written again, whole


def test_stop_ends_the_run_after_the_batch_with_a_checkpoint(tmp_path: Path) -> None:
    config = small("fc_gan:ring", samples=1600)
    run = begin_run(tmp_path / "run", config)
    asked = iter([False, False, True])
    dataset = data.load(config.data, config.model)
    assert continue_run(run, config, dataset, stop=lambda samples: next(asked)) == "stopped"
    assert run.facts()["samples"] == 48


def test_periodic_actions_get_means_since_their_last_call() -> None:
    config = small("fc_gan:ring", samples=80)
    seen: list[tuple[int, dict[str, float]]] = []
    single: list[float] = []
    events = [
        PeriodicAction(32, lambda state, values: seen.append((state.samples, values))),
        PeriodicAction(16, lambda state, values: single.append(values["generator/loss"])),
    ]
    train(config, TrainState(config), data.load(config.data, config.model), events)
    assert [samples for samples, _ in seen] == [32, 64, 80]
    assert seen[0][1]["generator/loss"] == pytest.approx(sum(single[:2]) / 2)
    assert seen[2][1]["generator/loss"] == pytest.approx(single[4])


def test_ema_follows_the_weights_with_its_half_life() -> None:
    config = small("fc_gan:ring")
    state = TrainState(config)
    old = {k: v.clone() for k, v in state.ema.state_dict().items()}
    with torch.no_grad():
        for parameter in state.model.generator.parameters():
            parameter += 1
    state.samples = 10**9
    state.update_ema(half_life=32, warmup=1.0, batch=32)
    for name, value in state.ema.state_dict().items():
        assert torch.allclose(value, old[name] + 0.5)
    state.samples = 0
    state.update_ema(half_life=32, warmup=1.0, batch=32)
    new = state.model.averaged().state_dict()
    assert all(torch.equal(value, new[k]) for k, value in state.ema.state_dict().items())


def test_resume_names_the_field_that_changed(tmp_path: Path) -> None:
    config = small("fc_gan:ring")
    run = begin_run(tmp_path / "run", config)
    with pytest.raises(ValueError, match=r"another batch: 16 -> 32.*give the old values"):
        run.check_resume(replace(config, batch=32))
    run.check_resume(replace(config, samples=10**6, checkpoint_interval=10))
