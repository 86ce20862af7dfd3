"""The peers that need nothing beyond the project still train, and reports keep to their section."""

import math
from pathlib import Path

import pytest
import torch

from aigc import models
from benchmarks.bench_quality import Course, ratio, summary
from benchmarks.peers import examples_loop, examples_networks, steady, task, torch_loop, vae_loop
from benchmarks.report import spread, verdict, write_section

pytestmark = pytest.mark.process


@pytest.mark.parametrize("loop", [torch_loop, examples_loop])
def test_gan_loops_train(loop: object) -> None:
    speed = loop.main("dcgan:digits", 4, 1)  # type: ignore[attr-defined]
    assert math.isfinite(speed)
    assert speed > 0


def test_the_vae_loop_trains() -> None:
    speed = vae_loop.main("conv_vae:digits", 4, 1)
    assert math.isfinite(speed)
    assert speed > 0


def test_the_vae_loop_has_the_objective_of_the_preset() -> None:
    from aigc.nn.losses import bernoulli_log_likelihood, gaussian_kl

    generator = torch.Generator().manual_seed(0)
    logits, x = torch.randn(2, 5, 1, 4, 4, generator=generator)
    mu, logvar = torch.randn(2, 5, 3, generator=generator)
    x = x.tanh()
    expected = gaussian_kl(mu, logvar) - bernoulli_log_likelihood(logits, (x + 1) / 2)
    assert torch.allclose(vae_loop.negative_elbo(logits, x, mu, logvar), expected.mean())


@pytest.mark.parametrize("preset", ["dcgan:digits", "conv_vae:digits"])
def test_peers_have_the_same_networks_of_plain_layers(preset: str) -> None:
    config, network = task.start(preset, 1)
    torch.manual_seed(0)
    ours = models.build(config).train()
    leaves = [layer for layer in network.modules() if not [*layer.children()]]
    assert all(type(leaf).__module__.startswith("torch.nn") for leaf in leaves)
    assert network.state_dict().keys() == ours.state_dict().keys()
    assert all(map(torch.equal, network.state_dict().values(), ours.state_dict().values()))
    z, label = torch.randn(3, config.model.latent), torch.arange(3)
    decoder = "decoder" if preset.startswith("conv_vae") else "generator"
    got, expected = getattr(network, decoder)(z, label), getattr(ours, decoder)(z, label)
    assert torch.allclose(got, expected, atol=1e-5)


def test_the_recipe_trains_its_own_networks() -> None:
    torch.manual_seed(0)
    generator, discriminator = examples_networks.Generator(), examples_networks.Discriminator()
    networks = (generator, discriminator)
    before = [[p.clone() for p in network.parameters()] for network in networks]
    optimizers = tuple(torch.optim.Adam(network.parameters(), 2e-4) for network in networks)
    recipe = examples_loop.Recipe(*networks, optimizers, examples_networks.LATENT)
    real, label = torch.rand(8, 1, 28, 28) * 2 - 1, torch.arange(8)
    for _ in range(4):
        values = recipe.step(real, label)
    assert all(map(math.isfinite, values.values()))
    for network, old in zip(networks, before, strict=True):
        assert all(not torch.equal(p, q) for p, q in zip(network.parameters(), old, strict=True))


def test_only_the_last_half_of_the_batches_is_timed() -> None:
    clock = steady.Steady(batches=5, batch=10)
    assert [clock.tick() for _ in range(5)] == [False] * 4 + [True]
    clock.begun, clock.ended = 1.0, 3.0
    assert clock.samples_per_second == 3 * 10 / 2


def test_a_section_replaces_its_like_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "docs" / "benchmarks.md"
    write_section(path, "a", "first a")
    write_section(path, "ab", "the b")
    path.write_text(path.read_text() + "\nwritten by hand\n")
    before = path.read_text()
    write_section(path, "a", "second a")
    assert path.read_text() == before.replace("first a", "second a")
    write_section(path, "ab", "another b")
    assert path.read_text() == before.replace("first a", "second a").replace("the b", "another b")


def test_a_bar_is_met_by_the_median() -> None:
    assert spread([3.0, 1.0, 2.0]) == "2.00 (1.00 to 3.00)"
    assert verdict([0.5, 1.0, 2.0], 1.0) == "≥ 1: met"
    assert verdict([0.5, 0.9, 2.0], 1.0) == "≥ 1: not met"
    assert verdict([0.5, 0.9, 2.0], 1.0, "lower") == "≤ 1: met"
    assert verdict([1.0], None) == "no bar"


def test_a_quality_that_was_not_reached_gives_a_bound_or_nothing() -> None:
    def course(seconds: float, reached: bool) -> Course:
        ended = Course.__new__(Course)  # a run that is over: nothing is trained or judged here
        ended.seconds, ended.reached = seconds, seconds if reached else None
        return ended

    good, late, never = course(30, True), course(60, True), course(300, False)
    assert ratio(good, late) == "0.50"
    assert ratio(good, never) == "≤ 0.10"
    assert ratio(never, late) == "≥ 5.00"
    assert ratio(never, never) == "unknown"
    assert summary([(never, never)]) == "Lower is better. No ratio: neither side got there in time."
    assert "0.30 (0.10 to 0.50), seeds: 2 of 3; bounds" in summary(
        [(good, late), (good, never), (never, never)]
    )
    assert summary([(good, never)]).endswith("in time: 1.")
