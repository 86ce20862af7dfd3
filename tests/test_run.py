"""What a run's folder says of it: quality, cost, histograms, what was changed, where it began."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from aigc import checkpoint, data
from aigc.artifact import Store
from aigc.config import TrainConfig
from aigc.export import export
from aigc.models import text_vae
from aigc.reporter import Since, distributions
from aigc.run import Run, work
from aigc.train import Alone, TrainState
from tests.data.rows import run as rows
from tests.data.sounds import recordings, run_of
from tests.test_train import differing, small

pytestmark = pytest.mark.process


def trained(folder: Path, config: TrainConfig) -> Run:
    run = Run(folder)
    run.create(config)
    work(run, config, data.load(config.data, config.model), Alone())
    return run


def reports(run: Run) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]


def test_quality_is_measured_and_the_best_checkpoint_stays(tmp_path: Path) -> None:
    intervals = {"evaluate_interval": 32, "report_interval": 32, "checkpoint_interval": 32}
    config = small("dcgan:digits", samples=128, keep_checkpoints=1, **intervals)
    run = trained(tmp_path / "run", config)
    qualities = [report["values"]["quality/frechet"] for report in reports(run)]
    assert len(set(qualities)) == 4
    best = checkpoint.best(run.checkpoints)
    assert best is not None
    assert int(best.name) == 32 * (1 + qualities.index(min(qualities)))
    unmeasured = trained(tmp_path / "off", replace(config, evaluate_interval=0))
    states = [checkpoint.tensors(r.trained()) for r in (run, unmeasured)]
    assert differing(*states) == []


def test_quality_of_texts_is_measured_too(tmp_path: Path) -> None:
    model = text_vae.Config(latent=4, width=48, encoder_widths=(16, 16), blur=0.8)
    intervals = {"evaluate_interval": 1600, "report_interval": 1600}
    config = small("text_vae:numbers", model=model, batch=64, samples=4800, **intervals)
    qualities = [
        report["values"]["quality/frechet"] for report in reports(trained(tmp_path / "run", config))
    ]
    assert len(qualities) == 3
    assert qualities[0] > 2 * qualities[-1]  # it learns


def test_quality_of_sounds_is_measured_too(tmp_path: Path) -> None:
    config = replace(
        run_of(recordings(tmp_path / "data")), evaluate_interval=32, report_interval=32
    )
    values = [report["values"] for report in reports(trained(tmp_path / "run", config))]
    assert len({found["quality/frechet"] for found in values}) == 2
    assert all(found["quality/frechet"] > 0 for found in values)


def test_quality_of_rows_of_several_things_is_measured_too(tmp_path: Path) -> None:
    config = rows(tmp_path / "data", missing="text", evaluate_interval=32, report_interval=32)
    values = [report["values"] for report in reports(trained(tmp_path / "run", config))]
    assert len({found["quality/frechet"] for found in values}) == 2
    assert all(found["quality/frechet"] > 0 for found in values)


def test_a_run_that_nothing_judges_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = trained(tmp_path / "run", small("fc_gan:ring", evaluate_interval=32, report_interval=32))
    assert "quality/frechet" not in reports(run)[-1]["values"]
    assert caplog.text.count("quality is not measured of data with labels that are vector") == 1


@pytest.mark.parametrize(("floor", "ramp", "says"), [(0.0, 0, 1), (4.0, 20_000, 0)])
def test_a_latent_that_collapses_is_warned_of_once_and_a_healthy_one_is_not(
    floor: float, ramp: int, says: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Real training: a KL term at full weight from the start drives the latent out of use."""
    model = text_vae.Config(
        latent=4, width=48, encoder_widths=(16, 16), kl_floor=floor, kl_ramp=ramp
    )
    config = small("text_vae:numbers", model=model, batch=64, samples=3200, report_interval=800)
    run = trained(tmp_path / "run", config)
    assert caplog.text.count("posterior collapse: KL 0.") == says
    values = reports(run)[-1]["values"]
    assert (values["elbo/kl"] < 0.1) == (values["elbo/active_units"] < 1) == bool(says)


def test_cost_is_workers_times_hours_times_price(tmp_path: Path) -> None:
    config = small("fc_gan:ring", report_interval=48, price_per_worker_hour=3600.0)
    run = trained(tmp_path / "run", config)
    last = reports(run)[-1]
    assert last["host"]["cost"] == pytest.approx(last["wall_seconds"], abs=0.05)
    assert run.facts()["cost"] >= last["host"]["cost"]
    since = Since({"worker_seconds": 100.0, "wall_seconds": 60.0}, 2)
    assert since.worker_seconds(2) == pytest.approx(100, abs=0.1)
    assert since.wall_seconds() == pytest.approx(60, abs=0.1)


@pytest.mark.parametrize("writable", [True, False])
def test_a_checkpoint_that_could_not_be_written_makes_the_last_no_younger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    monkeypatch.setattr(checkpoint, "PAUSE_S", 0.01)
    config = small("fc_gan:ring", checkpoint_interval=32, report_interval=32, samples=96)
    run = Run(tmp_path / "run")
    run.create(config)
    ages: list[float] = []

    def written(path: Path) -> None:
        if not writable:
            raise OSError("the store is away")

    def stop(samples: int) -> bool:
        time.sleep(0.1)
        return False

    try:
        work(
            run,
            config,
            data.load(config.data, config.model),
            Alone(),
            publish=lambda report: ages.append(report.host["checkpoint_age_s"]),
            stop=stop,
            written=written,
        )
    except OSError:
        assert not writable
    assert (ages[-1] > ages[0] + 0.1) != writable


def test_a_learning_rate_may_change_on_resume_and_is_noted(tmp_path: Path) -> None:
    config = small("fc_gan:ring")
    run = trained(tmp_path / "run", config)
    hot = replace(config.model.generator_optimizer, learning_rate=0.5)
    changed = replace(config, model=replace(config.model, generator_optimizer=hot), samples=128)
    run.check_resume(changed)
    run.create(changed)
    work(run, changed, data.load(config.data, config.model), Alone())
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


def test_a_resume_elsewhere_warns_that_it_is_no_longer_exact(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = small("fc_gan:ring")
    run = trained(tmp_path / "run", config)
    longer = replace(config, samples=128)
    work(run, longer, data.load(config.data, config.model), Alone())
    assert "no longer bit-exact" not in caplog.text
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        work(run, replace(config, samples=160), data.load(config.data, config.model), Alone())
    finally:
        torch.set_num_threads(threads)
    assert f"no longer bit-exact: {{'threads': ({threads}, {threads + 1})}}" in caplog.text


def test_a_run_starts_from_the_weights_of_another(tmp_path: Path) -> None:
    config = small("dcgan:digits")
    first = trained(tmp_path / "first", config)
    served = first.trained().served().state_dict()
    fine = replace(config, init_from=str(first.folder), samples=16, seed=5)
    state = TrainState(fine)
    from aigc.initial import start_from

    start_from(state, str(first.folder))
    assert all(torch.equal(served[name], value) for name, value in state.model.state_dict().items())
    assert state.samples == 0
    second = trained(tmp_path / "second", fine)
    assert second.facts()["samples"] == 16
    plain = trained(tmp_path / "plain", replace(fine, init_from=""))
    states = [checkpoint.tensors(r.trained()) for r in (second, plain)]
    assert differing(*states)
    wider = replace(config, model=replace(config.model, latent=8))
    with pytest.raises(ValueError, match=r"is of another model .*layers.0.weight differs"):
        start_from(TrainState(wider), str(first.folder))


def test_a_run_starts_from_an_artifact_that_carries_weights(tmp_path: Path) -> None:
    from aigc.initial import start_from

    config = small("dcgan:digits")
    run = trained(tmp_path / "run", config)
    store = Store(tmp_path / "store")
    bare = export(run, name="bare", store=store)
    with pytest.raises(ValueError, match=r"bare@1 carries no weights .* --weights"):
        start_from(TrainState(config), bare)
    full = export(run, name="full", store=store, weights=True)
    a, b = TrainState(config), TrainState(config)
    start_from(a, full)
    start_from(b, str(run.folder))
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
