"""multimodal_vae beyond the model contract: missing modalities, terms of the loss, exact resume."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from aigc import data
from aigc.artifact import Artifact
from aigc.config import TrainConfig
from aigc.models.multimodal_vae import MODALITIES, Model
from aigc.nn.posteriors import expert_moments, product_of_experts
from aigc.rng import BatchRNG
from aigc.training import checkpoint
from aigc.training.dataloader import BatchLoader
from aigc.training.loop import TrainState, train
from aigc.training.run import Run
from tests.data.rows import TINY, run
from tests.fixtures.make import write_run
from tests.training.small_runs import Half


@pytest.fixture
def model() -> Model:
    torch.manual_seed(0)
    return Model(TINY).eval()


def batch_of(config: TrainConfig) -> dict[str, Tensor]:
    source = data.load(config.data, config.model)
    like = torch.zeros((), dtype=torch.float32)
    return next(BatchLoader(config, source, rank=0, world_size=1, start=0, like=like))


def translate(model: Model, changes: dict[str, Tensor]) -> tuple[Tensor, ...]:
    part = model.exports()["translate"]
    torch.manual_seed(1)
    inputs = {}
    for spec in part.signature.inputs:
        shape = (3, *spec.shape)
        drawn = torch.rand(shape) if spec.dtype == "float32" else torch.ones(shape).long()
        inputs[spec.name] = drawn
    inputs |= {f"{name}_given": torch.ones(3) for name in MODALITIES} | changes
    with torch.no_grad():
        return part.module(*inputs.values())  # type: ignore[no-any-return]


@pytest.mark.parametrize("missing", MODALITIES)
def test_absent_parts_have_no_influence_and_present_ones_do(model: Model, missing: str) -> None:
    flag = {f"{missing}_given": torch.tensor([0.0, 1.0, 1.0])}
    kind = torch.zeros_like if missing == "text" else torch.ones_like
    shape = TINY.shapes[missing]
    other = kind(torch.zeros(3, *shape, dtype=torch.int64 if missing == "text" else torch.float32))
    for one, changed in zip(
        translate(model, flag)[::2], translate(model, {**flag, missing: other})[::2], strict=True
    ):
        assert torch.equal(one[0], changed[0])
        assert not torch.equal(one[1], changed[1])


def test_missing_parts_change_no_loss(tmp_path: Path, model: Model) -> None:
    config = run(tmp_path, "audio")
    batch = batch_of(config)
    lacking = batch["mask/audio"] == 0
    assert lacking.any()
    filled = {**batch, "audio": torch.where(lacking[:, None, None], 0.5, batch["audio"])}
    unmasked = {**filled, "mask/audio": torch.ones_like(batch["mask/audio"])}
    found = []
    for given in (batch, filled, unmasked):
        noise = BatchRNG(0, 0, config.batch, 0, config.batch, batch["image"])
        shared = model.prepare(given, noise, {"elbo", "density"})
        found.append([model.loss(p, given, noise, shared)[0].item() for p in ("elbo", "density")])
    assert found[0] == found[1]
    assert found[0] != found[2]


def test_exported_graph_hears_what_training_hears(model: Model) -> None:
    torch.manual_seed(0)
    module = copy.deepcopy(model).exports()["translate"].module
    wave, noise = torch.rand(3, 1, TINY.samples) - 0.5, torch.randn(3, TINY.latent + 8)
    unseen = {"image_given": torch.zeros(3), "text_given": torch.zeros(3)}
    found = translate(model, {**unseen, "audio": wave, "latent": noise})
    expert = expert_moments(model.networks.shared["audio"](TINY.stft.log_magnitude(wave)))
    mu, logvar = product_of_experts([expert], torch.ones(3, 1))
    with torch.no_grad():
        s = mu + (0.5 * logvar).exp() * noise[:, : TINY.latent]
        image, text, _ = module.decode(s, noise)  # type: ignore[operator]
    assert torch.allclose(found[0], image, atol=1e-4)
    assert torch.equal(found[1], text)


def elbo(model: Model, batch: dict[str, Tensor], samples: int = 0) -> tuple[Tensor, dict]:
    n = len(batch["image"])
    noise = BatchRNG(0, samples, n, 0, n, batch["image"])
    return model.loss("elbo", batch, noise, model.prepare(batch, noise, {"elbo"}))


def test_sound_loss_is_three_views_and_its_own_kl(tmp_path: Path, model: Model) -> None:
    batch = batch_of(run(tmp_path))
    loss, found = elbo(model, batch)
    mute = Model(replace(TINY, audio_weight=0.0))
    mute.load_state_dict(model.state_dict())
    parts = sum(found[name] for name in ("kl_audio", "level", "energy", "pitch"))
    expected = TINY.audio_weight * parts
    assert (loss - elbo(mute, batch)[0]).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("name", ["image", "audio"])
def test_private_posterior_has_a_minimal_width(tmp_path: Path, model: Model, name: str) -> None:
    batch = batch_of(run(tmp_path))
    with torch.no_grad():
        bias = list(model.networks.private[name].parameters())[-1]
        bias[len(bias) // 2 :] = -100.0
    # Half a nat for each of the log variance, in each of four dimensions, beside few of the mean.
    assert elbo(model, batch)[1][f"kl_{name}"] < 4 * 0.5 * 7 + 20


@pytest.mark.process
def test_few_steps_lower_the_sound_loss(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, batch = Model(TINY), batch_of(run(tmp_path))
    optimizer = torch.optim.Adam(model.networks.parameters(), 5e-3)
    before = elbo(model, batch)[1]
    for step in range(100):
        optimizer.zero_grad()
        elbo(model, batch, step)[0].backward()
        optimizer.step()
    after = elbo(model, batch)[1]
    for name in ("level", "energy", "pitch"):
        assert after[name] < 0.5 * before[name], name


def test_resumed_run_is_bit_equal(tmp_path: Path) -> None:
    config = run(tmp_path / "data", "image", checkpoint_interval=32, grid_interval=64)
    whole = write_run(tmp_path / "whole", config)
    write_run(tmp_path / "parts", replace(config, samples=32))
    parts = write_run(tmp_path / "parts", config)
    one, other = (checkpoint.tensors(Run(r.folder).load_state()) for r in (whole, parts))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert [path.name for path in (whole.folder / "grids").iterdir()] == ["000000000064.png"]


def test_two_workers_sum_to_one(tmp_path: Path) -> None:
    config = run(tmp_path, "audio", precision="float64", batch=15, samples=15)
    source = data.load(config.data, config.model)
    halves = [Half(0), Half(1)]
    for half in halves:
        train(config, TrainState(config), source, group=half)
    alone = TrainState(config)
    like = next(alone.model.parameters())
    batch = next(BatchLoader(config, source, rank=0, world_size=1, start=0, like=like))
    noise = BatchRNG(config.seed, 0, 15, 0, 15, like)
    shared = alone.model.prepare(batch, noise, {"elbo", "density"})
    # The second phase does not follow the first one's step: it takes what was prepared before.
    for number, phase in enumerate(alone.phases):
        loss, _ = alone.model.loss(phase.name, batch, noise, shared)
        gradients = torch.autograd.grad(loss, list(phase.module.parameters()), retain_graph=True)
        expected = torch.cat([*(g.flatten() for g in gradients), loss.detach()[None]])
        added = (halves[0].seen[number] + halves[1].seen[number])[: len(expected)]
        assert (added - expected).abs().max() <= 1e-12 * expected.abs().max()


def test_rows_with_different_parts_share_a_batch(joined: Path) -> None:
    artifact = Artifact.open(joined)
    given: list[dict[str, np.ndarray]] = [
        {"text": artifact.vocabulary("translate").rows(["two"], TINY.tokens)},
        {"image": np.full((1, *TINY.shape), 0.5, np.float32)},
        {"image": np.zeros((1, *TINY.shape)), "audio": np.full((1, 1, TINY.samples), 0.1)},
    ]
    rows = [artifact.draw("translate", 3, [i], given=own) for i, own in enumerate(given)]
    together = artifact.run("translate", {k: np.concatenate([r[k] for r in rows]) for k in rows[0]})
    for i, row in enumerate(rows):
        alone = artifact.run("translate", row)
        # What is left out may be left out of the call, too.
        short = artifact.run("translate", {**given[i], "latent": row["latent"]})
        for name, value in alone.items():
            assert np.allclose(value, together[name][i : i + 1], atol=1e-5), name
            assert np.array_equal(value, short[name]), name
    with pytest.raises(ValueError, match="must have at least one of image, text, audio"):
        artifact.run("translate", {"latent": rows[0]["latent"]})
    with pytest.raises(ValueError, match=r"image_given must be in \[0, 1\], got 2"):
        artifact.run("translate", rows[1] | {"image_given": np.full(1, 2.0)})


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: replace(TINY, shape=(8, 8)), r"shape must be \(C, H, W\)"),
        (lambda: replace(TINY, private_image=1), "private_image must be > 1, got 1"),
        (lambda: replace(TINY, components=0), "components must be > 0, got 0"),
        (lambda: replace(TINY, samples=272), r"17 frames cannot be halved .* \(decoder_widths\)"),
        (
            lambda: replace(TINY, samples=128),
            r"8 frames cannot be halved 2 times with 4 seen as one \(audio_widths\)",
        ),
        (lambda: replace(TINY, level_std=0.0), "level_std must be > 0, got 0"),
        (lambda: replace(TINY, jitter=-1.0), "jitter must be >= 0, got -1"),
    ],
)
def test_impossible_configs_are_refused(build: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
