"""Products of experts, mixtures and flows are the densities that they say they are."""

import torch

from aigc.density import Flow, Mixture, product


def test_experts_are_multiplied_as_densities_are() -> None:
    """Its logarithm is, up to a constant, the sum of those of the experts that are given."""
    torch.manual_seed(0)
    experts = [(torch.randn(2, 3).double(), torch.randn(2, 3).double()) for _ in range(3)]
    given = torch.tensor([[1.0, 0, 1], [0, 0, 0]]).double()
    mu, logvar = product(experts, given)
    assert torch.equal(mu[1], torch.zeros(3).double())
    assert torch.equal(logvar[1], torch.zeros(3).double())
    points = torch.randn(7, 3).double()
    found = torch.distributions.Normal(mu[0], (0.5 * logvar[0]).exp()).log_prob(points)
    wanted = torch.distributions.Normal(0.0, 1.0).log_prob(points)
    for k in (0, 2):
        m, v = experts[k]
        wanted = wanted + torch.distributions.Normal(m[0], (0.5 * v[0]).exp()).log_prob(points)
    difference = found - wanted
    assert torch.allclose(difference, difference[:1].expand_as(difference))


def test_a_flow_goes_both_ways_and_its_density_is_that_of_what_it_makes() -> None:
    torch.manual_seed(0)
    flow = Flow(5, 2, 3, 8).double()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    eps, s = torch.randn(1, 5).double(), torch.randn(1, 2).double()
    u = flow(eps, s)
    jacobian = torch.autograd.functional.jacobian(lambda e: flow(e, s)[0], eps)[:, 0]
    wanted = (
        torch.distributions.Normal(0.0, 1.0).log_prob(eps).sum()
        - torch.logdet(jacobian.abs() if False else jacobian @ jacobian.T) / 2
    )
    assert torch.allclose(flow.log_prob(u, s)[0], wanted)


def test_a_mixture_draws_from_what_it_says() -> None:
    torch.manual_seed(0)
    mixture = Mixture(2, 3).double()
    torch.nn.init.normal_(mixture.logits)
    own = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(logits=mixture.logits),
        torch.distributions.Independent(
            torch.distributions.Normal(mixture.means, mixture.logstds.exp()), 1
        ),
    )
    points = torch.randn(9, 2).double()
    assert torch.allclose(mixture.log_prob(points), own.log_prob(points))
    eps = torch.randn(20_000, 2).double()
    drawn = mixture(eps, torch.rand(20_000, 1).double())
    assert torch.allclose(drawn.mean(0), own.mean, atol=0.05)
    assert torch.allclose(drawn.var(0), own.variance, atol=0.08)
    # The last number below 1 still chooses a component.
    assert mixture(eps[:1], torch.full((1, 1), 1 - 2**-24).double()).isfinite().all()
