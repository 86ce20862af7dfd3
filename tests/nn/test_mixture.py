"""Mixture: its density and its draws agree with torch.distributions."""

import torch

from aigc.nn.mixture import Mixture


def test_density_and_draws_are_those_of_the_mixture() -> None:
    torch.manual_seed(0)
    mixture = Mixture(2, 3).double()
    torch.nn.init.normal_(mixture.logits)
    expected = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=mixture.logits),
        torch.distributions.Independent(
            torch.distributions.Normal(mixture.means, mixture.logstds.exp()), 1
        ),
    )
    points = torch.randn(9, 2).double()
    assert torch.allclose(mixture.log_prob(points), expected.log_prob(points))
    eps = torch.randn(20_000, 2).double()
    samples = mixture(eps, torch.rand(20_000, 1).double())
    assert torch.allclose(samples.mean(0), expected.mean, atol=0.05)
    assert torch.allclose(samples.var(0), expected.variance, atol=0.08)
    # The last number below 1 still selects a component.
    assert mixture(eps[:1], torch.full((1, 1), 1 - 2**-24).double()).isfinite().all()
