"""Crops of sounds: contiguous, uniform, and a function of the noise alone."""

import pytest
import torch

from aigc.nn.sound_crops import crops
from aigc.rng import BatchRNG


def rng(rows: int, samples: int = 0, start: int = 0, stop: int | None = None) -> BatchRNG:
    return BatchRNG(0, samples, rows, start, rows if stop is None else stop, torch.zeros(1))


def test_crop_is_a_part_of_its_own_sound_in_all_channels() -> None:
    x = torch.arange(6 * 2 * 50.0).view(6, 2, 50)
    found = crops(x, 20, rng(6))
    assert found.shape == (6, 2, 20)
    starts = found[:, 0, 0] - x[:, 0, 0]
    for row, start in enumerate(starts.long().tolist()):
        assert torch.equal(found[row], x[row, :, start : start + 20])
    assert len(set(starts.tolist())) > 1


def test_crop_depends_on_the_noise_alone_and_not_on_workers() -> None:
    x = torch.randn(8, 1, 100)
    found = crops(x, 30, rng(8))
    assert torch.equal(crops(x, 30, rng(8)), found)
    halves = [crops(x[a:b], 30, rng(8, 0, a, b)) for a, b in ((0, 4), (4, 8))]
    assert torch.equal(torch.cat(halves), found)
    assert not torch.equal(crops(x, 30, rng(8, samples=8)), found)


def test_crops_begin_anywhere_equally_often() -> None:
    rows = 20_000
    x = torch.arange(12.0).expand(rows, 1, 12)
    counts = torch.bincount(crops(x, 3, rng(rows))[:, 0, 0].long(), minlength=10)
    assert counts.shape == (10,)
    chi_squared = ((counts - rows / 10) ** 2 / (rows / 10)).sum()
    assert chi_squared < 27.9  # 9 degrees of freedom, one in a thousand


def test_crops_of_short_sounds_are_whole() -> None:
    x = torch.randn(2, 1, 16)
    assert torch.equal(crops(x, 16, rng(2)), x)
    assert torch.equal(crops(x, 99, rng(2)), x)


def test_crops_of_another_purpose_are_another_draw() -> None:
    x = torch.randn(8, 1, 100)
    found = crops(x, 30, rng(8), "second crop")
    assert torch.equal(crops(x, 30, rng(8), "second crop"), found)
    assert not torch.equal(crops(x, 30, rng(8)), found)


@pytest.mark.parametrize("rows", [1, 3, 5, 8])
@pytest.mark.parametrize("size", [30, 100])
def test_crops_refuse_noise_of_other_rows(rows: int, size: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} sounds, but noise of 4 rows"):
        crops(torch.randn(rows, 1, 100), size, rng(8, 0, 2, 6))
