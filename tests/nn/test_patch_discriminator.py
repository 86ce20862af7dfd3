"""The judge of patches: its losses, its time, and the balance of two gradients."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from aigc.nn.patch_discriminator import PatchDiscriminator, PatchJudge

ROWS = 6


def judge() -> PatchJudge:
    torch.manual_seed(0)
    return PatchJudge(3, (4, 8)).double().eval()


def pictures(seed: int) -> Tensor:
    return torch.rand(ROWS, 3, 16, 24, generator=torch.Generator().manual_seed(seed)).double()


def test_logits_are_those_of_patches() -> None:
    """A patch far away does not matter."""
    network = PatchDiscriminator(3, (4, 8)).eval()
    x = torch.rand(1, 3, 32, 64)
    other = x.clone()
    other[..., 48:] = 0
    a, b = network(x), network(other)
    assert a.shape[:2] == (1, 1)
    assert torch.equal(a[..., :8], b[..., :8])
    assert not torch.equal(a, b)


def test_hinge_loss_by_hand() -> None:
    one, real, made = judge(), pictures(1), pictures(2)
    loss, metrics = one.loss(real, made)
    on_real, on_made = one.discriminator(real), one.discriminator(made)
    assert torch.allclose(loss, F.relu(1 - on_real).mean() + F.relu(1 + on_made).mean())
    assert torch.allclose(metrics["real"], on_real.mean())
    assert torch.allclose(one.judgement(made), -on_made.mean())


def test_before_its_time_nothing_is_learnt() -> None:
    one = judge()
    loss, metrics = one.loss(pictures(1), None)
    gradients = torch.autograd.grad(loss, list(one.discriminator.parameters()))
    assert (float(loss.detach()), metrics) == (0.0, {})
    assert not any(gradient.any() for gradient in gradients)


@pytest.mark.parametrize("cuts", [(0, ROWS), (0, 1, 4, ROWS)])
def test_balance_is_the_ratio_of_the_gradients_of_the_whole_batch(cuts: tuple[int, ...]) -> None:
    """Esser et al. 2021, eq. 7, by hand; the sums of parts give the same."""
    one, x, features = judge(), pictures(1), pictures(2)
    weight = torch.full((3, 3, 1, 1), 0.3, dtype=torch.float64, requires_grad=True)

    def compared(rows: slice) -> tuple[Tensor, Tensor]:
        made = F.conv2d(features[rows], weight)
        return made, (made - x[rows]).abs().mean()

    made, loss = compared(slice(None))
    (first,) = torch.autograd.grad(loss, weight, retain_graph=True)
    (second,) = torch.autograd.grad(one.judgement(made), weight)
    total: dict[str, Tensor] = {}
    for a, b in pairwise(cuts):
        rows = slice(a, b)
        with torch.no_grad():
            part = one.sums(features[rows], lambda _, rows=rows: compared(rows), weight)  # type: ignore[misc]
        total = {name: total.get(name, 0) + value for name, value in part.items()}
    one.update(total)
    assert torch.allclose(one.balance, first.norm() / (second.norm() + 1e-4))
    before = one.balance.clone()
    one.update(one.sums(None, lambda _: compared(slice(None)), weight))
    assert torch.equal(one.balance, before)
