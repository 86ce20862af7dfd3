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
from torch import Tensor

from aigc import checkpoint, data, models
from aigc.config import TrainConfig
from aigc.feed import as_input
from aigc.models import text_vae
from aigc.noise import Noise
from aigc.run import Run, cut_back, work
from aigc.train import Alone, Event, NonFiniteLoss, TrainState, train

pytestmark = pytest.mark.process

BATCHES = 6
"""Batches of a whole run here: more than WGAN-GP's five discriminator steps."""


def small(preset: str, **changes: Any) -> TrainConfig:
    """A preset cut down to a few small batches."""
    config = models.preset(preset)
    changes = {"batch": 16, "samples": 16 * BATCHES, "checkpoint_interval": 0} | changes
    return replace(config, **({"report_interval": 0, "grid_interval": 0} | changes))


BLURRED = {"model": text_vae.Config(width=48, blur=0.8, dropout=0.3, word_dropout=0.1)}


def finish(config: TrainConfig, state: TrainState | None = None) -> dict[str, Tensor]:
    """Every tensor of the training state at the end of a run."""
    state = state or TrainState(config)
    assert train(config, state, data.load(config.data, config.model)) == "done"
    return checkpoint.tensors(state)


def differing(a: dict[str, Tensor], b: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that are not bit-equal."""
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def resumed(config: TrainConfig, folder: Path, at: int) -> dict[str, Tensor]:
    """Train `at` batches, checkpoint, load into a fresh state, train to the end."""
    first = TrainState(config)
    source, last = data.load(config.data, config.model), config.batch * (at - 1)
    assert train(config, first, source, stop=lambda samples: samples >= last) == "stopped"
    assert first.samples == config.batch * at
    path = checkpoint.save(folder, checkpoint.snapshot(first, {"wall_seconds": 0}), keep=1)
    again = TrainState(config)
    with torch.no_grad():
        for parameter in again.model.parameters():  # nothing may survive but the checkpoint
            parameter.fill_(0.1)
    checkpoint.load(path, again)
    return finish(config, again)


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
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_one(
    preset: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    config = small(preset, **changes)
    assert differing(finish(config), resumed(config, tmp_path, at=3)) == []


def test_the_same_run_twice_is_bit_equal_and_another_seed_is_not() -> None:
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
    monkeypatch.setattr(Noise, "_seeded", lambda self, purpose: generator)

    def start_in_a_new_process(state: TrainState, config: TrainConfig) -> None:
        generator.manual_seed(0)
        start(state, config)

    monkeypatch.setattr(TrainState, "__init__", start_in_a_new_process)


@pytest.mark.parametrize(
    "forget", [forget_moments, forget_average, forget_cursor, forget_noise_key]
)
def test_resume_is_not_exact_once_a_part_of_the_state_is_forgotten(
    forget: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small("dcgan:digits")
    forget(monkeypatch)
    whole = finish(config)  # one process loses nothing
    assert differing(whole, resumed(config, tmp_path, at=3))


def test_a_new_process_resumes_bit_equal(tmp_path: Path) -> None:
    flags = ["--batch", "16", "--report-interval", "32", "--grid-interval", "48", "--threads", "1"]
    common = [sys.executable, "-m", "aigc.cli", "train", "dcgan:digits", *flags]
    common += ["--storage", str(tmp_path), "--checkpoint-interval", "0"]

    def run(*options: str) -> None:
        subprocess.run([*common, *options], check=True, capture_output=True, timeout=120)

    run("--name", "whole", "--samples", "128")
    run("--name", "parts", "--samples", "64")
    run("--name", "parts", "--samples", "128", "--resume")
    whole, parts = Run(tmp_path / "whole"), Run(tmp_path / "parts")
    states = [checkpoint.tensors(r.trained()) for r in (whole, parts)]
    assert differing(*states) == []
    assert [s["samples"] for s in parts.starts()] == [0, 64]
    lines = [
        [(r["samples"], r["values"]) for r in map(json.loads, path.read_text().splitlines())]
        for path in (whole.folder / "metrics.jsonl", parts.folder / "metrics.jsonl")
    ]
    assert lines[0] == lines[1]
    assert (parts.folder / "grids" / "000000000128.png").exists()


def test_grids_and_reports_change_nothing(tmp_path: Path) -> None:
    config = small("dcgan:digits")
    busy = replace(config, report_interval=16, grid_interval=32, checkpoint_interval=16)
    run = Run(tmp_path / "busy")
    run.create(busy)
    work(run, busy, data.load(busy.data, busy.model), Alone())
    assert differing(finish(config), checkpoint.tensors(run.trained())) == []
    assert len(list((run.folder / "grids").iterdir())) == BATCHES / 2
    assert len((run.folder / "metrics.jsonl").read_text().splitlines()) == BATCHES
    assert len(list(run.checkpoints.iterdir())) == busy.keep_checkpoints


class Half:
    """The gradients of one of two workers, weighted by its share, kept to be added by hand."""

    def __init__(self, rank: int) -> None:
        self.rank, self.world = rank, 2
        self.seen: list[Tensor] = []

    def sum(self, flat: Tensor) -> None:
        self.seen.append(flat.clone())

    def broadcast(self, tensors: Any) -> None:
        pass


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
def test_gradients_and_losses_of_two_workers_add_up_to_those_of_one(
    preset: str, changes: dict[str, Any], precision: str, allowed: float
) -> None:
    changes = changes | {"precision": precision, "batch": 15, "samples": 15}  # shares of 7 and 8
    config = small(preset, **changes)
    dataset = data.load(config.data, config.model)
    halves = [Half(0), Half(1)]
    for half in halves:
        state = TrainState(config)
        train(config, state, dataset, sync=half)
    whole = TrainState(config)
    noise = Noise(config.seed, 0, 15, 0, 15, next(whole.model.parameters()))
    index = torch.from_numpy(data.rows(config.seed, 0, 15, len(dataset)))
    samples = torch.from_numpy(dataset.samples)[index]
    batch = {
        config.model.modality: as_input(samples, next(whole.model.parameters())),
        "label": torch.from_numpy(dataset.labels)[index],
    }
    shared = whole.model.prepare(batch, noise, {p.name for p in whole.phases})
    phase = whole.phases[0]  # later phases follow a step that differs by rounding already
    loss, _ = whole.model.loss(phase.name, batch, noise, shared)
    gradients = torch.autograd.grad(loss, list(phase.module.parameters()))
    expected = torch.cat([*(g.flatten() for g in gradients), loss.detach()[None]])
    added = (halves[0].seen[0] + halves[1].seen[0])[: len(expected)]
    assert (added - expected).abs().max() <= allowed * expected.abs().max()


def test_a_loss_that_is_not_finite_stops_before_the_step_and_says_where(tmp_path: Path) -> None:
    config = small("fc_gan:mlp", checkpoint_interval=32, samples=160)
    run = Run(tmp_path / "run")
    run.create(config)
    dataset = data.load(config.data, config.model)
    work(run, replace(config, samples=64), dataset, Alone())
    before = checkpoint.tensors(run.trained())
    broken = replace(dataset, samples=dataset.samples * float("nan"))
    state = run.trained()
    with pytest.raises(NonFiniteLoss, match=r"'discriminator' is not finite after 64 samples"):
        train(config, state, broken)
    assert differing(before, checkpoint.tensors(state)) == []  # no step was taken
    with pytest.raises(ValueError, match="begun on data"):
        work(run, config, broken, Alone())  # and other data is refused on resume
    assert run.facts()["samples"] == 64


def test_a_run_that_turns_not_finite_keeps_its_last_checkpoint(tmp_path: Path) -> None:
    config = small("fc_gan:mlp", checkpoint_interval=16, samples=1600)
    dataset = data.load(config.data, config.model)
    dataset.samples[data.rows(config.seed, 40, 41, len(dataset))] = float("nan")
    run = Run(tmp_path / "run")
    run.create(config)
    with pytest.raises(NonFiniteLoss, match="after 32 samples"):
        work(run, config, dataset, Alone())
    assert run.facts()["samples"] == 32


def test_a_broken_newest_checkpoint_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small("fc_gan:ring", checkpoint_interval=32, samples=96)
    run = Run(tmp_path / "run")
    run.create(config)
    work(run, config, data.load(config.data, config.model), Alone())
    newest = checkpoint.newest(run.checkpoints)
    assert newest is not None
    assert newest.name == f"{96:012d}"
    file = newest / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert run.facts()["samples"] == 64
    assert "passed over" in caplog.text
    work(run, config, data.load(config.data, config.model), Alone())
    assert checkpoint.newest(run.checkpoints) == newest  # written again, whole


def test_stop_ends_after_the_batch_with_a_checkpoint(tmp_path: Path) -> None:
    config = small("fc_gan:ring", samples=1600)
    run = Run(tmp_path / "run")
    run.create(config)
    asked = iter([False, False, True])
    dataset = data.load(config.data, config.model)
    assert work(run, config, dataset, Alone(), stop=lambda samples: next(asked)) == "stopped"
    assert run.facts()["samples"] == 48


def test_events_fire_at_their_interval_with_means_since_the_last() -> None:
    config = small("fc_gan:ring", samples=80)
    seen: list[tuple[int, dict[str, float]]] = []
    single: list[float] = []
    events = [
        Event(32, lambda state, values: seen.append((state.samples, values))),
        Event(16, lambda state, values: single.append(values["generator/loss"])),
    ]
    train(config, TrainState(config), data.load(config.data, config.model), events)
    assert [samples for samples, _ in seen] == [32, 64, 80]
    assert seen[0][1]["generator/loss"] == pytest.approx(sum(single[:2]) / 2)
    assert seen[2][1]["generator/loss"] == pytest.approx(single[4])


def test_the_average_follows_the_weights_with_its_half_life() -> None:
    config = small("fc_gan:ring")
    state = TrainState(config)
    old = {k: v.clone() for k, v in state.average.state_dict().items()}
    with torch.no_grad():
        for parameter in state.model.generator.parameters():
            parameter += 1
    state.samples = 10**9
    state.update_average(half_life=32, warmup=1.0, batch=32)
    for name, value in state.average.state_dict().items():
        assert torch.allclose(value, old[name] + 0.5)
    state.samples = 0
    state.update_average(half_life=32, warmup=1.0, batch=32)
    new = state.model.averaged().state_dict()
    assert all(torch.equal(value, new[k]) for k, value in state.average.state_dict().items())


def test_a_changed_model_is_refused_on_resume_by_name_of_the_field(tmp_path: Path) -> None:
    config = small("fc_gan:ring")
    run = Run(tmp_path / "run")
    run.create(config)
    with pytest.raises(ValueError, match=r"another batch: 16 -> 32.*give the old values"):
        run.check_resume(replace(config, batch=32))
    run.check_resume(replace(config, samples=10**6, checkpoint_interval=10))


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"samples": 1}\n{"samples": 2}\n{"samples": 3}\n{"sampl')
    cut_back(path, 2)
    assert path.read_text() == '{"samples": 1}\n{"samples": 2}\n'
