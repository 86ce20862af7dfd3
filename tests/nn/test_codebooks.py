"""Codebooks: nearest codes, running means over batches in parts, dead codes, levels and draws."""

import numpy as np
import pytest
import torch
from torch import Tensor

from aigc.nn.codebooks import DECAY, Codebook, ScalarCodebook, VectorCodebook
from aigc.rng import BatchRNG

ROWS = 6


def noise(start: int = 0, stop: int = ROWS, samples: int = 0) -> BatchRNG:
    return BatchRNG(1, samples, ROWS, start, stop, torch.zeros((), dtype=torch.float64))


def vectors(codes: int = 8, width: int = 3) -> VectorCodebook:
    torch.manual_seed(0)
    book = VectorCodebook(codes, width).double()
    book.vectors.copy_(torch.randn(codes, width))
    return book


def drawn(width: int = 3, seed: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(ROWS, width, 4, 5, generator=generator, dtype=torch.float64)


def test_tokens_are_the_nearest_vectors() -> None:
    book, z = vectors(), drawn()
    rows = z.permute(0, 2, 3, 1).reshape(-1, 3)
    assert torch.equal(book.tokens(z).flatten(), torch.cdist(rows, book.vectors).argmin(1))


def test_quantised_values_pass_the_gradient_straight_through() -> None:
    for book, z in ((vectors(), drawn()), (ScalarCodebook((4, 3)), drawn(2))):
        z.requires_grad_()
        taken, tokens = book.quantise(z)
        assert torch.allclose(taken, book.vectors_of(tokens).to(taken.dtype), atol=1e-12)
        (slope,) = torch.autograd.grad(taken.sum(), z)
        assert (slope > 0).all()


def test_autocast_takes_the_same_codes() -> None:
    book, z = vectors(64).float(), drawn().float() * 0.1 + 1
    book.vectors.copy_(book.vectors * 0.1 + 1)
    with torch.autocast("cpu", torch.bfloat16):
        _, tokens = book.quantise(z)
    assert torch.equal(tokens, book.tokens(z))


def test_first_batch_takes_every_code_from_the_batch() -> None:
    book, z = vectors(), drawn()
    book.update(book.sums(z, book.tokens(z), noise()))
    rows = z.permute(0, 2, 3, 1).reshape(-1, 3)
    apart = (book.vectors[:, None] / rows - 1).abs().amax(-1).min(1).values
    assert apart.max() <= 0.01
    assert len(book.vectors.unique(dim=0)) == 8


def test_update_is_the_running_mean_of_what_takes_a_code() -> None:
    """van den Oord et al. 2017, eq. 6 to 8, by hand."""
    book, z = vectors(codes=4), drawn()
    book.update(book.sums(z, book.tokens(z), noise()))
    usage, totals = book.usage.clone(), book.totals.clone()
    z = drawn(seed=2)
    tokens = book.tokens(z).flatten()
    book.update(book.sums(z, tokens.view(ROWS, 4, 5), noise()))
    rows = z.permute(0, 2, 3, 1).reshape(-1, 3)
    for code in range(4):
        of = rows[tokens == code]
        size = DECAY * usage[code] + (1 - DECAY) * len(of) / len(rows)
        total = DECAY * totals[code] + (1 - DECAY) * of.sum(0) / len(rows)
        assert torch.allclose(book.vectors[code], total / size, atol=1e-12)


def test_dead_codes_are_moved_to_vectors_of_the_batch() -> None:
    book, z = vectors(), drawn()
    book.update(book.sums(z, book.tokens(z), noise()))
    book.vectors[3] = 100.0  # nothing takes it
    book.totals[3] = 100.0 / 8
    moved = False
    for batch in range(400):
        book.update(book.sums(z, book.tokens(z), noise(samples=batch)))
        moved |= bool(book.vectors[3].abs().max() < 10)
    assert moved
    assert book.metrics()["codes_used"] == 1


@pytest.mark.parametrize("book", [vectors(), ScalarCodebook((4, 3)).double()])
def test_sums_of_parts_are_those_of_the_batch(book: Codebook) -> None:
    z = drawn(book.width)
    tokens = book.tokens(z)
    whole = book.sums(z, tokens, noise())
    parts = [book.sums(z[a:b], tokens[a:b], noise(a, b)) for a, b in ((0, 1), (1, 4), (4, ROWS))]
    for name, value in whole.items():
        assert torch.allclose(sum(part[name] for part in parts), value, atol=1e-12), name  # type: ignore[arg-type]


def test_levels_are_numbered_without_gaps() -> None:
    book = ScalarCodebook((8, 5, 5, 5))
    every = torch.arange(book.codes)[None, :, None]
    assert book.codes == 1000
    assert torch.equal(book._numbered(book.vectors_of(every) * (book.levels // 2)), every)
    far = torch.tensor([[-50.0] * 4, [50.0] * 4])[:, :, None, None]
    assert book.tokens(far).flatten().tolist() == [0, 999]


def test_levels_of_zero_are_the_middle_ones() -> None:
    """An even number of levels has no middle; mentzer et al. shift it, so that 0 stays a level."""
    book = ScalarCodebook((8, 5))
    taken, _ = book.quantise(torch.zeros(1, 2, 1, 1))
    assert taken.flatten().tolist() == [0.0, 0.0]


@pytest.mark.parametrize("codes", [2, 3, 8, 13])
def test_draws_follow_the_usage(codes: int) -> None:
    book = VectorCodebook(codes, 2)
    book.usage.copy_(torch.rand(codes, generator=torch.Generator().manual_seed(codes)))
    book.usage[1] = 0.0
    uniform = torch.rand(2, 50, 50, generator=torch.Generator().manual_seed(1))
    shares = (book.usage.double() / book.usage.double().sum()).numpy()
    found = book.draw(uniform).numpy()
    bounds = shares.cumsum()[:-1].astype(np.float32)
    assert np.array_equal(found, np.searchsorted(bounds, uniform.numpy(), side="right"))
    assert not (found == 1).any()


def test_perplexity_counts_codes_that_are_taken_alike() -> None:
    book = VectorCodebook(8, 2)
    assert float(book.metrics()["perplexity"]) == pytest.approx(8)
    book.usage.copy_(torch.tensor([0.5, 0.5, *[0.0] * 6]))
    assert float(book.metrics()["perplexity"]) == pytest.approx(2)
    assert float(book.metrics()["codes_used"]) == 0.25
