"""Contents of a run's folder: quality, cost, histograms, changes on resume, initial weights."""

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aigc import data
from aigc.artifact import Store
from aigc.commands.export import export
from aigc.commands.runs import summaries, table
from aigc.files import read_lines
from aigc.metrics import Distance
from aigc.models import text_vae
from aigc.training import checkpoint, reporter, run_folder
from aigc.training.loop import TrainState
from aigc.training.object_store import NullStore
from aigc.training.quality import Quality
from aigc.training.reporter import distributions
from aigc.training.run import Run, train_run
from aigc.training.run_clock import RunClock
from aigc.training.run_context import RunContext
from tests.data.rows import run as rows
from tests.data.sounds import recordings, run_of
from tests.fixtures.make import write_run
from tests.training.small_runs import begin_run, continue_run, differing, finish, inline, small

__all__ = ["inline"]
pytestmark = [pytest.mark.process, pytest.mark.usefixtures("inline")]


def reports(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_run_measures_quality_and_keeps_the_best_checkpoint(tmp_path: Path) -> None:
    intervals = {"evaluate_interval": 32, "report_interval": 32, "checkpoint_interval": 32}
    config = small("dcgan:digits", samples=128, keep_checkpoints=1, **intervals)
    run = write_run(tmp_path / "run", config)
    samples, qualities = (values.tolist() for values in run.quality())
    assert samples == [32, 64, 96, 128]
    assert len(set(qualities)) == 4
    best = run_folder.best(run.checkpoints)
    assert int(best.name) == 32 * (1 + qualities.index(min(qualities)))
    kept = {path.name for path in run_folder.checkpoint_folders(run.checkpoints)}
    assert kept == {best.name, f"{128:012d}"}
    unmeasured = write_run(tmp_path / "off", replace(config, evaluate_interval=0))
    states = [checkpoint.tensors(r.load_state()) for r in (run, unmeasured)]
    assert differing(*states) == []


def test_every_figure_of_a_doubtful_judge_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc.metrics.image.reliability_note", lambda *_: "weak judge: by chance")
    intervals = {"evaluate_interval": 32, "report_interval": 16, "checkpoint_interval": 32}
    config = small("dcgan:digits", samples=48, **intervals)
    run = write_run(tmp_path / "run", config)
    assert run.quality()[0].tolist() == [32, 48]
    (summary,) = summaries(tmp_path)
    assert "(weak judge)" in table([summary])
    # A resume reports the quality measured before, with its note.
    longer = replace(config, samples=64, evaluate_interval=0)
    continue_run(run, longer)
    assert reports(run)[-1]["quality_note"] == "weak judge: by chance"


def test_stop_saves_and_reports_without_measuring(tmp_path: Path) -> None:
    intervals = {"evaluate_interval": 16, "report_interval": 1600, "grid_interval": 1600}
    config = small("dcgan:digits", samples=1600, **intervals)
    run = begin_run(tmp_path / "run", config)
    asked = iter([True])
    assert continue_run(run, config, stop=lambda samples: next(asked)) == "stopped"
    assert run.facts()["samples"] == 16
    assert [report["samples"] for report in reports(run)] == [16]
    assert (run.folder / "grids" / f"{16:012d}.png").exists()
    assert not (run.folder / "quality.jsonl").exists()


@pytest.mark.parametrize(
    ("method", "what", "error"),
    [
        (
            "aigc.training.quality.Quality.measure",
            "the measurement of quality",
            RuntimeError("no memory"),
        ),
        ("aigc.gan.GAN.distributions", "the histograms", KeyError(5)),
        ("aigc.training.reporter.picture", "the grid of samples", OSError(28, "full")),
    ],
)
def test_failing_report_parts_are_left_out_with_one_warning(
    method: str,
    what: str,
    error: Exception,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(method, fail)
    intervals = {"evaluate_interval": 16, "report_interval": 16, "grid_interval": 16}
    config = small("dcgan:digits", samples=48, checkpoint_interval=16, **intervals)
    if "Quality" not in method:
        config = replace(config, evaluate_interval=0)
    run = write_run(tmp_path / "run", config)
    assert caplog.text.count(f"training goes on without {what}: ") == 1
    assert [report["samples"] for report in reports(run)] == [16, 32, 48]
    assert run.facts()["samples"] == 48
    assert differing(finish(config), checkpoint.tensors(run.load_state())) == []


@pytest.mark.parametrize("name", ["metrics.jsonl", "quality.jsonl", "grids"])
def test_unwritable_report_parts_are_left_out_with_one_warning(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(Quality, "measure", lambda self, model: 1.0)
    intervals = {"evaluate_interval": 16, "report_interval": 16, "grid_interval": 16}
    config = small("dcgan:digits", samples=48, **intervals)
    run = begin_run(tmp_path / "run", config)
    (run.folder / name).symlink_to(tmp_path / "absent" / name)
    continue_run(run, config)
    assert caplog.text.count("training goes on without") == 1
    assert run.facts()["samples"] == 48
    assert differing(finish(config), checkpoint.tensors(run.load_state())) == []


def test_measurements_that_a_full_disk_refused_are_recorded_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Without their lines their checkpoints would stay, and be measured again on resume."""
    monkeypatch.setattr(Quality, "measure", lambda self, model: 1.0)
    append, room = reporter.append_quality, iter([False, False, True, True, True, True])

    def full_at_first(*arguments: Any, **texts: Any) -> None:
        if not next(room):
            raise OSError(28, "No space left on device")
        append(*arguments, **texts)

    monkeypatch.setattr(reporter, "append_quality", full_at_first)
    config = small("fc_gan:ring", evaluate_interval=32, keep_checkpoints=1)
    run = write_run(tmp_path / "run", config)
    assert [line["samples"] for line in read_lines(run.folder / "quality.jsonl")] == [32, 64, 96]
    assert caplog.text.count("training goes on without the record of quality") == 1
    kept = {int(path.name) for path in run_folder.checkpoint_folders(run.checkpoints)}
    assert kept == {32, 96}


def test_quality_that_once_could_not_be_prepared_is_measured_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = iter([OSError(28, "No space left on device")])

    def prepare(self: Quality, model: Any) -> Any:
        for error in failures:
            raise error
        return lambda model: Distance(lambda rows: np.float32(2.0))(np.zeros(1))

    monkeypatch.setattr(Quality, "_prepare", prepare)
    run = write_run(tmp_path / "run", small("fc_gan:ring", evaluate_interval=32))
    lines = read_lines(run.folder / "quality.jsonl")
    assert [line["quality"] for line in lines] == [None, 2.0, 2.0]
    assert "No space left" in lines[0]["note"]


def test_failing_report_listener_does_not_end_the_run(tmp_path: Path) -> None:
    config = small("fc_gan:ring", report_interval=16)
    run = begin_run(tmp_path / "run", config)

    def publish(report: Any) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    continue_run(run, config, on_report=publish)
    assert run.facts()["samples"] == config.samples


@pytest.mark.timeout(60)
def test_slow_disk_does_not_hold_up_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = checkpoint.save

    def slowly(folder: Path, taken: checkpoint.Snapshot, keep: int) -> Path:
        time.sleep(0.1)
        return save(folder, taken, keep)

    monkeypatch.setattr(checkpoint, "save", slowly)
    monkeypatch.setattr("aigc.training.reporter.WAIT_S", 600.0)
    write_run(tmp_path / "run", small("fc_gan:ring", checkpoint_interval=16, report_interval=16))


def test_resume_accepts_data_of_a_renamed_folder(tmp_path: Path) -> None:
    config = small("fc_gan:ring")
    run = write_run(tmp_path / "run", config)
    source = data.load(config.data, config.model)
    longer = replace(config, samples=128)
    moved = replace(source, name="elsewhere")  # type: ignore[type-var]
    continue_run(run, longer, moved)
    assert run.facts()["samples"] == 128
    other = replace(source, samples=source.samples[:-1], labels=source.labels[:-1])  # type: ignore[type-var]
    with pytest.raises(ValueError, match=r"begun on data '\w+' with samples \d+, now \d+; sha256"):
        continue_run(run, replace(config, samples=160), other)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no JSON"),
        ("[]", "names no preset"),
        ('{"preset": 3}', "names no preset"),
        ('{"preset": "dcgna:digits"}', "unknown model 'dcgna'"),
        ('{"preset": "dcgan:digits"}', "does not fit this version"),
    ],
)
def test_config_names_its_damaged_file(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        Run(tmp_path).config()
    assert str(tmp_path / "config.json") in str(caught.value)


def test_quality_of_texts_is_measured_too(tmp_path: Path) -> None:
    model = text_vae.Config(latent=4, width=48, encoder_widths=(16, 16), blur=0.8)
    intervals = {"evaluate_interval": 1600, "report_interval": 1600}
    config = small("text_vae:numbers", model=model, batch=64, samples=4800, **intervals)
    qualities = write_run(tmp_path / "run", config).quality()[1]
    assert len(qualities) == 3
    assert qualities[0] > 2 * qualities[-1]  # it learns


def test_quality_of_sounds_is_measured_too(tmp_path: Path) -> None:
    config = replace(
        run_of(recordings(tmp_path / "data")), evaluate_interval=32, report_interval=32
    )
    values = write_run(tmp_path / "run", config).quality()[1].tolist()
    assert len(set(values)) == 2
    assert min(values) > 0


def test_quality_of_rows_of_several_things_is_measured_too(tmp_path: Path) -> None:
    config = rows(tmp_path / "data", missing="text", evaluate_interval=32, report_interval=32)
    values = write_run(tmp_path / "run", config).quality()[1].tolist()
    assert len(set(values)) == 2
    assert min(values) > 0


def test_run_warns_if_nothing_measures_its_quality(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = write_run(
        tmp_path / "run", small("fc_gan:ring", evaluate_interval=32, report_interval=32)
    )
    assert "quality/frechet" not in reports(run)[-1]["values"]
    assert caplog.text.count("quality is not measured of data with labels that are vector") == 1


@pytest.mark.parametrize(("floor", "ramp", "says"), [(0.0, 0, 1), (4.0, 20_000, 0)])
def test_collapsed_latent_is_warned_of_once(
    floor: float, ramp: int, says: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Real training: a KL term at full weight from the start drives the latent out of use."""
    model = text_vae.Config(
        latent=4, width=48, encoder_widths=(16, 16), kl_floor=floor, kl_ramp=ramp
    )
    config = small("text_vae:numbers", model=model, batch=64, samples=3200, report_interval=800)
    run = write_run(tmp_path / "run", config)
    assert caplog.text.count("posterior collapse: KL 0.") == says
    values = reports(run)[-1]["values"]
    assert (values["elbo/kl"] < 0.1) == (values["elbo/active_units"] < 1) == bool(says)


def test_cost_is_workers_times_hours_times_price(tmp_path: Path) -> None:
    config = small("fc_gan:ring", report_interval=48, price_per_worker_hour=3600.0)
    run = write_run(tmp_path / "run", config)
    last = reports(run)[-1]
    assert last["host"]["cost"] == pytest.approx(last["wall_seconds"], abs=0.05)
    assert run.facts()["cost"] == pytest.approx(last["host"]["cost"], abs=0.05)
    clock = RunClock({"worker_seconds": 100.0, "wall_seconds": 60.0}, 2)
    assert clock.worker_seconds() == pytest.approx(100, abs=0.1)
    assert clock.wall_seconds() == pytest.approx(60, abs=0.1)


@pytest.mark.parametrize("writable", [True, False])
def test_checkpoint_age_counts_from_the_last_published_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    monkeypatch.setattr(checkpoint, "PAUSE_S", 0.01)
    config = small("fc_gan:ring", checkpoint_interval=32, report_interval=32, samples=96)
    run = begin_run(tmp_path / "run", config)
    ages: list[float] = []

    class Store(NullStore):
        def publish(self, path: Path, check: Callable[[], None] = lambda: None) -> None:
            if not writable:
                raise OSError("the store is away")

    def stop(samples: int) -> bool:
        time.sleep(0.1)
        return False

    try:
        train_run(
            RunContext(
                store=Store(run.folder),
                on_report=lambda report: ages.append(report.host["checkpoint_age_s"]),
                stop=stop,
            ),
            config,
            data.load(config.data, config.model),
        )
    except OSError:
        assert not writable
    assert (ages[-1] > ages[0] + 0.1) != writable


def test_resume_notes_a_changed_learning_rate(tmp_path: Path) -> None:
    config = small("fc_gan:ring")
    run = write_run(tmp_path / "run", config)
    hot = replace(config.model.generator_optimizer, learning_rate=0.5)
    changed = replace(config, model=replace(config.model, generator_optimizer=hot), samples=128)
    run.check_resume(changed)
    run.create(changed)
    continue_run(run, changed)
    (entry,) = (entry for entry in run.history() if "event" in entry)
    assert entry["event"] == "config"
    assert entry["changed"]["model.generator_optimizer.learning_rate"] == [1e-3, 0.5]
    assert entry["changed"]["samples"] == [96, 128]
    assert [start["samples"] for start in run.starts()] == [0, 96]
    assert run.facts()["samples"] == 128
    betas = replace(hot, betas=(0.0, 0.9))
    other = replace(config, model=replace(config.model, generator_optimizer=betas))
    with pytest.raises(ValueError, match=r"model.generator_optimizer.betas"):
        run.check_resume(other)


def test_resume_in_another_environment_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small("fc_gan:ring")
    run = write_run(tmp_path / "run", config)
    longer = replace(config, samples=128)
    continue_run(run, longer)
    assert "no longer bit-exact" not in caplog.text
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        continue_run(run, replace(config, samples=160))
    finally:
        torch.set_num_threads(threads)
    assert f"no longer bit-exact: {{'threads': ({threads}, {threads + 1})}}" in caplog.text


def test_init_from_loads_the_weights_of_a_run(tmp_path: Path) -> None:
    config = small("dcgan:digits")
    first = write_run(tmp_path / "first", config)
    served = first.load_state().ema_model().state_dict()
    fine = replace(config, init_from=str(first.folder), samples=16, seed=5)
    state = TrainState(fine)
    from aigc.training.run import load_initial_weights

    load_initial_weights(state, str(first.folder))
    assert all(torch.equal(served[name], value) for name, value in state.model.state_dict().items())
    assert state.samples == 0
    second = write_run(tmp_path / "second", fine)
    assert second.facts()["samples"] == 16
    plain = write_run(tmp_path / "plain", replace(fine, init_from=""))
    states = [checkpoint.tensors(r.load_state()) for r in (second, plain)]
    assert differing(*states)
    wider = replace(config, model=replace(config.model, latent=8))
    with pytest.raises(ValueError, match=r"is of another model .*layers.0.weight differs"):
        load_initial_weights(TrainState(wider), str(first.folder))


def test_init_from_loads_the_weights_of_an_artifact(tmp_path: Path) -> None:
    from aigc.training.run import load_initial_weights

    config = small("dcgan:digits")
    run = write_run(tmp_path / "run", config)
    store = Store(tmp_path / "store")
    bare = export(run, name="bare", store=store)
    with pytest.raises(ValueError, match=r"bare@1 carries no weights .* --weights"):
        load_initial_weights(TrainState(config), bare)
    full = export(run, name="full", store=store, weights=True)
    a, b = TrainState(config), TrainState(config)
    load_initial_weights(a, full)
    load_initial_weights(b, str(run.folder))
    assert differing(checkpoint.tensors(a), checkpoint.tensors(b)) == []


def test_histograms_show_the_discriminators_logits_and_change_nothing() -> None:
    config = small("dcgan:digits")
    state, source = TrainState(config), data.load(config.data, config.model)
    before = checkpoint.snapshot(state, {}).tensors
    found = distributions(config, state, source)
    assert set(found) == {"discriminator/real", "discriminator/fake"}
    assert all(value.shape == (64,) for value in found.values())
    assert differing(before, checkpoint.tensors(state)) == []
    assert state.model.training
