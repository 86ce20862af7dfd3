"""Augmentations: what they change, by how much, and whose draws they use."""

import itertools

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from aigc.nn.augmentations import CUTOUT, KINDS, TRANSLATION, augmented
from aigc.rng import BatchRNG

ROWS = 64
DRAWN = torch.rand(ROWS, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
GRADED = torch.linspace(-1, 1, 16 * 24).reshape(1, 1, 16, 24).expand(ROWS, 1, 16, 24)


def noise(start: int = 0, stop: int = ROWS, samples: int = 0, like: Tensor = DRAWN) -> BatchRNG:
    return BatchRNG(6, samples, ROWS, start, stop, like)


def changed(kind: str, x: Tensor) -> Tensor:
    return KINDS[kind](x, noise(like=x), kind)  # type: ignore[index]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_changed_alike_in_any_part_of_the_batch(kind: str) -> None:
    whole = augmented(DRAWN, [kind], 0.7, noise(), "real")  # type: ignore[list-item]
    parts = [
        augmented(DRAWN[a:b], [kind], 0.7, noise(a, b), "real")  # type: ignore[list-item]
        for a, b in itertools.pairwise((0, 1, 20, ROWS))
    ]
    assert torch.equal(whole, torch.cat(parts))
    other = augmented(DRAWN, [kind], 0.7, noise(samples=64), "real")  # type: ignore[list-item]
    assert not torch.equal(whole, other)


@pytest.mark.parametrize("kind", KINDS)
def test_probability_is_the_share_of_changed_rows(kind: str) -> None:
    assert torch.equal(augmented(DRAWN, [kind], 0.0, noise(), "real"), DRAWN)  # type: ignore[list-item]
    x = augmented(DRAWN, [kind], 0.5, noise(), "real")  # type: ignore[list-item]
    rows = (x != DRAWN).flatten(1).any(1).float().mean().item()
    assert rows == pytest.approx(0.25 if kind == "flip" else 0.5, abs=0.15)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_equals_finite_differences(kind: str) -> None:
    x = DRAWN[:2, :, :6, :8].double().requires_grad_()
    rng = BatchRNG(5, 0, 2, 0, 2, x)
    assert gradcheck(lambda x: KINDS[kind](x, rng, kind), (x,))  # type: ignore[index]


def test_flip_mirrors_half_of_the_rows() -> None:
    x = changed("flip", DRAWN)
    same = (x == DRAWN).flatten(1).all(1)
    mirrored = (x == DRAWN.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 0.3 < same.float().mean() < 0.7


def test_translation_moves_each_row_by_whole_pixels_up_to_an_eighth() -> None:
    x = changed("translation", GRADED)
    rows, columns = round(16 * TRANSLATION), round(24 * TRANSLATION)
    found = set()
    for row in range(ROWS):
        for down, right in itertools.product(range(-rows, rows + 1), range(-columns, columns + 1)):
            moved = GRADED[row].roll((down, right), (1, 2)).clone()
            moved[:, : max(down, 0)] = moved[:, 16 + min(down, 0) :] = 0
            moved[:, :, : max(right, 0)] = moved[:, :, 24 + min(right, 0) :] = 0
            if torch.equal(moved, x[row]):
                found.add((down, right))
                break
        else:
            pytest.fail(f"row {row} is no shifted picture")
    assert {down for down, _ in found} == set(range(-rows, rows + 1))
    assert {right for _, right in found} == set(range(-columns, columns + 1))


def test_cutout_greys_one_rectangle_of_half_the_size_or_less_at_the_edge() -> None:
    x = changed("cutout", torch.ones(ROWS, 2, 16, 24))
    hole = x == 0
    assert torch.equal(x, (~hole).float())
    assert torch.equal(hole[:, 0], hole[:, 1])
    tall, wide = hole[:, 0].any(2).sum(1), hole[:, 0].any(1).sum(1)
    assert torch.equal(hole[:, 0].sum((1, 2)), tall * wide)  # a rectangle
    assert tall.max() == 16 * CUTOUT
    assert wide.max() == 24 * CUTOUT
    assert tall.min() >= 16 * CUTOUT / 2
    assert wide.min() >= 24 * CUTOUT / 2


def test_colour_moves_brightness_saturation_and_contrast_alone() -> None:
    x = changed("colour", GRADED)
    # A grey ramp stays one: its mean moves by up to 0.5, its slope changes by up to half.
    mean = x.mean((1, 2, 3)) - GRADED.mean((1, 2, 3))
    assert mean.abs().max() <= 0.5
    slope = (x[:, 0, 0, 1] - x[:, 0, 0, 0]) / (GRADED[:, 0, 0, 1] - GRADED[:, 0, 0, 0])
    assert 0.5 <= slope.min() < 0.7
    assert 1.3 < slope.max() <= 1.5 * (1 + 1e-4)
    shades = changed("colour", DRAWN)
    spread = (shades - shades.mean(1, keepdim=True)).std((1, 2, 3))
    spread = spread / (DRAWN - DRAWN.mean(1, keepdim=True)).std((1, 2, 3)) / slope
    assert 0 <= spread.min() < 0.3
    assert 1.7 < spread.max() <= 2 * (1 + 1e-4)
