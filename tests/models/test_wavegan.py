"""Phase shuffle: what moves, by how much, and that only training sees it."""

import pytest
import torch

from aigc.models import wavegan
from aigc.models.wavegan import phase_shuffle
from aigc.rng import BatchRNG

SMALL = wavegan.Config(latent=8, widths=(16, 8), shape=(1, 256))


def test_phase_shuffle_shifts_rows_and_mirrors_ends() -> None:
    x = torch.arange(6.0).expand(3, 2, 6)
    moved = phase_shuffle(x, torch.tensor([0, 2, -1]), 2)
    assert moved[0, 0].tolist() == [0, 1, 2, 3, 4, 5]
    assert moved[1, 1].tolist() == [2, 3, 4, 5, 4, 3]
    assert moved[2, 0].tolist() == [1, 0, 1, 2, 3, 4]


def test_phase_shuffle_acts_in_losses_only() -> None:
    torch.manual_seed(0)
    model, x = wavegan.Model(SMALL), torch.randn(4, 1, 256)
    plain = model.discriminator(x, None)[0]
    assert torch.equal(plain, model.discriminator(x, None)[0])

    def shuffled(samples: int) -> torch.Tensor:
        with model.discriminator.shuffled(BatchRNG(0, samples, 4, 0, 4, x)):
            return model.discriminator(x, None)[0]

    assert torch.equal(shuffled(0), shuffled(0))
    assert not torch.equal(shuffled(0), shuffled(64))
    assert not torch.allclose(shuffled(0), plain)
    assert torch.equal(plain, model.discriminator(x, None)[0]), "it stays shuffled"


def test_phase_shuffle_depends_on_the_row_not_the_worker() -> None:
    torch.manual_seed(0)
    model, x = wavegan.Model(SMALL), torch.randn(4, 1, 256)
    with model.discriminator.shuffled(BatchRNG(0, 0, 4, 0, 4, x)):
        whole = model.discriminator(x, None)[0]
    with model.discriminator.shuffled(BatchRNG(0, 0, 4, 2, 4, x)):
        part = model.discriminator(x[2:], None)[0]
    assert torch.allclose(whole[2:], part, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"shape": (1, 100)}, "must be a multiple of 16"),
        ({"shape": (2, 256)}, "a sound of one channel"),
        ({"shuffle": 64}, "shuffle must be >= 0 and less than"),
        ({"widths": ()}, "cannot be reached by 0 widths"),
    ],
)
def test_impossible_configs_are_refused(changes: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        wavegan.Config(**({"latent": 8, "widths": (16, 8), "shape": (1, 256)} | changes))
