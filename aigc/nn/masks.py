"""Random masks of holes: boxes and strokes, of numbers that are drawn elsewhere.

masks(noise.uniform("mask", NUMBERS), 64, 64)       # (N, 1, 64, 64), 1 in holes
"""

import torch
from torch import Tensor

BOXES, STROKES = 2, 3
NUMBERS = 4 * BOXES + 5 * STROKES
"""Uniform numbers that a mask is made of."""
BOX = (0.08, 0.35)
"""Smallest and largest side of a box, relative to the image's."""
STROKE = (0.02, 0.08)
"""Thinnest and thickest stroke, relative to the image's smaller side."""
SMALLEST = 2.0
"""Smallest side and thickness in pixels, so that no mask is empty."""


def masks(numbers: Tensor, height: int, width: int) -> Tensor:
    """(N, NUMBERS) uniform in [0, 1) -> (N, 1, height, width), 1 in holes and 0 elsewhere.

    Two boxes and three strokes may overlap and go beyond the edges; in the mean they cover an
    eighth of an image.
    """
    y = torch.arange(height, device=numbers.device, dtype=numbers.dtype)[:, None] + 0.5
    x = torch.arange(width, device=numbers.device, dtype=numbers.dtype)[None, :] + 0.5
    drawn = numbers[:, :, None, None]
    holes = torch.zeros_like(drawn[:, 0] + y + x, dtype=torch.bool)
    for at in range(0, 4 * BOXES, 4):
        top, left, tall, wide = drawn[:, at : at + 4].unbind(1)
        half_height = (height * (BOX[0] + (BOX[1] - BOX[0]) * tall)).clamp_min(SMALLEST) / 2
        half_width = (width * (BOX[0] + (BOX[1] - BOX[0]) * wide)).clamp_min(SMALLEST) / 2
        inside = (y - height * top).abs() <= half_height
        holes = holes | (inside & ((x - width * left).abs() <= half_width))
    side = min(height, width)
    for at in range(4 * BOXES, NUMBERS, 5):
        y0, x0, y1, x1, thick = drawn[:, at : at + 5].unbind(1)
        half = (side * (STROKE[0] + (STROKE[1] - STROKE[0]) * thick)).clamp_min(SMALLEST) / 2
        holes = holes | (
            _distance(y, x, height * y0, width * x0, (y1 - y0), (x1 - x0), side) <= half
        )
    return holes[:, None].to(numbers.dtype)


def _distance(
    y: Tensor, x: Tensor, y0: Tensor, x0: Tensor, down: Tensor, across: Tensor, side: int
) -> Tensor:
    """Distance of places from a segment that begins at (y0, x0), half a side long at most."""
    down, across = side / 2 * down, side / 2 * across
    length = (down.square() + across.square()).clamp_min(1e-3)
    along = (((y - y0) * down + (x - x0) * across) / length).clamp(0, 1)
    return ((y - y0 - along * down).square() + (x - x0 - along * across).square()).sqrt()
