"""Residual networks: widths that fit the picture, and branches that begin as 0."""

import pytest
import torch

from aigc.nn.residual import Block, ResidualBlock, ResidualDownsampler, levels


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (64, [(8, 64), (16, 32), (32, 16), (32, 8), (32, 4)]),
        (28, [(8, 28), (16, 14), (32, 7)]),
        (256, [(8, 256), (16, 128), (32, 64), (32, 32), (32, 16), (32, 8), (32, 4)]),
    ],
)
def test_widths_fit_the_picture(side: int, expected: list[tuple[int, int]]) -> None:
    assert levels((3, side, side), 8, 32) == [(width, size, size) for width, size in expected]


def test_sides_that_cannot_be_halved_are_refused() -> None:
    with pytest.raises(ValueError, match=r"is halved to 25 x 25 only.*such as 64"):
        levels((3, 50, 50), 8, 32)
    with pytest.raises(ValueError, match="widest must be >= width, here 8, got 4"):
        levels((3, 64, 64), 8, 4)


@pytest.mark.parametrize("kind", ["plain", "bottleneck"])
def test_block_begins_as_the_identity(kind: Block) -> None:
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(ResidualBlock(8, kind, 4, spectral=False)(x), x)
    assert not torch.equal(ResidualBlock(8, kind, 4, spectral=True)(x), x)


@pytest.mark.parametrize("spectral", [True, False])
def test_downsampler_gives_a_vector_for_pictures_that_are_not_square(spectral: bool) -> None:
    shape = (3, 16, 24)
    sizes = levels(shape, 4, 8)
    layers = ResidualDownsampler(shape, sizes, 1, "plain", spectral)
    assert layers(torch.zeros(2, *shape)).shape == (2, layers.features)
