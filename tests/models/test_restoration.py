"""Upscaler, inpainter and denoiser: what they are given, and that tiles of them equal the whole."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from aigc import models
from aigc.commands.calibration_data import data_inputs
from aigc.config import OptimizerConfig
from aigc.metrics import classic_fill, degradation, non_local_means
from aigc.metrics.similarity import psnr
from aigc.models import inpainter
from aigc.nn.image_to_image import Bicubic, crops, reduced
from aigc.nn.masks import NUMBERS, masks
from aigc.restoration import Restoration
from aigc.rng import BatchRNG
from aigc.sealing.graph_runner import runner
from aigc.sealing.onnx_export import write_graphs
from aigc.sealing.tile_proof import proven_tile
from tests.metrics.test_similarity import pictures
from tests.small_models import smaller
from tests.training.test_image_to_image import pictures as picture_files

PRESETS = ["upscaler:x2", "upscaler:x4", "inpainter:holes", "denoiser:gaussian"]
"""Presets that differ in more than their losses."""


def rng(rows: int) -> BatchRNG:
    return BatchRNG(0, 0, rows, 0, rows, torch.zeros(()))


def drawn(preset: str) -> Restoration:
    """A small model with weights that are drawn, those that begin as zeros included."""
    torch.manual_seed(0)
    model = models.build(smaller(models.preset(preset)))
    assert isinstance(model, Restoration)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return model.eval()


@pytest.mark.parametrize("preset", PRESETS)
def test_tiles_equal_the_whole_bit_for_bit(preset: str, tmp_path: Path) -> None:
    ((name, part),) = drawn(preset).exports().items()
    write_graphs({name: part}, tmp_path)
    run = runner((tmp_path / part.signature.graph).read_bytes(), part.signature, None)(1)
    tile = proven_tile(name, part.signature, run)
    assert tile.max_abs == 0
    assert min(tile.overlap.values()) > 0


@pytest.mark.parametrize("factor", [2, 4])
def test_training_reduces_and_enlarges_as_evaluation(factor: int) -> None:
    images = torch.rand(2, 3, 40, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1
    small = degradation.resized(images.numpy(), (40 // factor, 48 // factor))
    np.testing.assert_allclose(reduced(images, factor).numpy(), small, atol=1e-6)
    large = degradation.resized(small, (40, 48))
    ours = Bicubic(3, factor)(torch.from_numpy(small)).clamp(-1, 1).numpy()
    edge = 2 * factor  # Pillow leaves out what is beyond the image
    inner = np.s_[:, :, edge:-edge, edge:-edge]
    np.testing.assert_allclose(ours[inner], large[inner], atol=1e-5)


def test_crops_are_squares_of_their_own_row() -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1) + torch.arange(64.0).view(8, 8) / 100
    found = crops(images, 4, rng(6))
    assert found.shape == (6, 1, 4, 4)
    for row, image, crop in zip(range(6), images, found, strict=True):
        assert set(crop.flatten().tolist()) <= set(image.flatten().tolist()), row
        steps = sorted({round(abs(d), 2) for d in crop[0].diff(dim=1).flatten().tolist()})
        assert steps in ([0.01], [0.08])  # neighbours stay neighbours
    assert torch.equal(crops(images, 4, rng(6)), found)
    assert crops(images, 64, rng(6)).shape == images.shape


def test_masks_cover_an_eighth_in_the_mean_and_are_never_empty() -> None:
    numbers = torch.rand(500, NUMBERS, generator=torch.Generator().manual_seed(0))
    found = masks(numbers, 64, 64)
    assert set(found.unique().tolist()) == {0.0, 1.0}
    assert found.mean().item() == pytest.approx(0.12, abs=0.01)
    assert found.amax((1, 2, 3)).min() == 1
    assert masks(numbers, 8, 40).amax((1, 2, 3)).min() == 1


def test_pixels_that_are_not_to_be_filled_stay_as_they_are() -> None:
    part = drawn("inpainter:holes").exports()["inpaint"]
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    mask = masks(torch.rand(2, NUMBERS), 16, 16)
    made: Tensor = part.module(image, mask)
    kept = (mask < 0.5).expand_as(image)
    assert torch.equal(made[kept], image[kept])
    assert not torch.equal(made[~kept], image[~kept])
    other = torch.where(kept, image, torch.ones(()))
    assert torch.equal(part.module(other, mask), made)  # what lies in a hole has no effect


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("samples", "judged"), [(0, False), (99, False), (100, True)])
def test_discriminator_judges_from_its_weight_on(preset: str, samples: int, judged: bool) -> None:
    config = smaller(models.preset(preset))
    changes = {"adversarial_weight": "0:0 50%:0.5:step", "discriminator_widths": (4, 8)}
    model = models.build(replace(config, model=replace(config.model, **changes)))  # type: ignore[arg-type]
    assert isinstance(model, Restoration)
    images = torch.rand(5, *model.config.shape) * 2 - 1
    noise = BatchRNG(0, samples, 5, 0, 5, torch.zeros(()), total=200)
    shared = model.prepare({"image": images}, noise, {"restoration"})
    assert (shared.made is not None) == judged
    if shared.made is not None:
        torch.testing.assert_close(shared.made, model.network(*shared.given))
    loss, _ = model.loss("discriminator", {"image": images}, noise, shared)
    assert bool(loss > 0) == judged
    sums = model.batch_sums({"image": images}, noise, shared)
    assert sums["judged"] == 5 * judged
    model.update(sums)
    _, metrics = model.loss("restoration", {"image": images}, noise, shared)
    assert ("adversarial" in metrics) == judged
    if judged:
        # Both losses then change the last convolution alike much.
        assert metrics["balance"] > 0
        assert shared.made is not None
        real, made, weight = shared.real, shared.made, model.network.last.weight
        parts = (made - real).abs().mean(), metrics["balance"] * model.judge.judgement(made)  # type: ignore[union-attr]
        one, other = (torch.autograd.grad(part, weight, retain_graph=True)[0] for part in parts)
        torch.testing.assert_close(one.norm(), other.norm(), rtol=0.02, atol=0)


def test_smooth_fill_of_a_constant_is_the_constant() -> None:
    holes = masks(torch.rand(3, NUMBERS), 32, 32)
    filled = inpainter.smooth_fill(torch.full((3, 3, 32, 32), 0.25), holes, inpainter.Config())
    torch.testing.assert_close(filled, torch.full_like(filled, 0.25))


@pytest.mark.parametrize("side", [20, 56, 120])
def test_smooth_fill_reaches_the_middle_of_large_holes(side: int) -> None:
    holes = torch.zeros(1, 1, 160, 160)
    holes[:, :, 20 : 20 + side, 20 : 20 + side] = 1
    x = torch.full((1, 3, 160, 160), -0.75) + 0.05 * torch.rand(1, 3, 160, 160)
    filled = inpainter.smooth_fill(x * (1 - holes), holes, inpainter.Config())
    assert filled.max() < -0.65
    assert torch.equal(filled[(holes == 0).expand_as(x)], x[(holes == 0).expand_as(x)])


# scikit-image 0.26.0 on the same arrays: inpaint_biharmonic((a + 1) / 2, mask), and
# denoise_nl_means((a + 1) / 2, patch_size=5, patch_distance=6, h=0.8 * s, sigma=s,
# fast_mode=False), as PSNR against the clear image.
def test_classic_methods_are_those_of_scikit_image() -> None:
    clear, noisy = pictures(0.2)
    hole: NDArray[np.float32] = np.zeros((1, 1, 24, 32), np.float32)
    hole[:, :, 5:13, 7:16] = hole[:, :, 18:, 28:] = 1
    filled = classic_fill.biharmonic(clear * (1 - hole), hole)
    assert psnr(filled, clear, hole) == pytest.approx(23.8903, abs=0.01)
    np.testing.assert_array_equal(filled[hole.repeat(3, 1) == 0], clear[hole.repeat(3, 1) == 0])
    made = non_local_means.denoised(noisy, 0.2)
    assert psnr(made, clear) == pytest.approx(26.2224, abs=0.01)


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("upscaler:x2", {"crop": 5}, "crop: heights and widths must be multiples of 2 from 8 on"),
        ("inpainter:holes", {"shape": (3, 30, 32)}, "shape: heights and widths must be multiples"),
        ("denoiser:gaussian", {"noise": (60.0, 50.0)}, "noise must be 0 <= low <= high <= 255"),
        ("upscaler:x2", {"adversarial_weight": -1.0}, "adversarial_weight must be >= 0"),
        (
            "upscaler:x2",
            {"shape": (3, 8, 8), "adversarial_weight": 0.5, "discriminator_widths": (8,) * 5},
            r"discriminator_widths \(8, 8, 8, 8, 8\) for pictures of \(3, 8, 8\)",
        ),
        (
            "upscaler:x2",
            {
                "adversarial_weight": "0:0 50%:1:step",
                "discriminator_optimizer": OptimizerConfig(weight_decay=0.01),
            },
            "weight_decay of 0.01 would change the network all the same",
        ),
        ("inpainter:holes", {"windows": (4,)}, "windows must be odd numbers > 0"),
        ("denoiser:gaussian", {"num_classes": 2}, "no use for labels; set num_classes 0"),
        ("denoiser:gaussian", {"largest": 8}, r"largest must be >= 32 for pictures of \(3, 64, 64"),
    ],
)
def test_impossible_configs_are_refused(
    preset: str, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(models.preset(preset).model, **changes)  # type: ignore[arg-type]


def test_calibration_takes_masks_and_reductions_of_the_data(tmp_path: Path) -> None:
    folder = picture_files(tmp_path / "data")
    for preset, shapes in {
        "inpainter:holes": {"image": (5, 3, 16, 16), "mask": (5, 1, 16, 16)},
        "upscaler:x2": {"image": (5, 3, 8, 8)},
    }.items():
        config = smaller(models.preset(preset))
        config = replace(config, data=replace(config.data, path=str(folder)))
        ((_, part),) = models.build(config).exports().items()
        given = data_inputs(config).read(part.signature, 5)
        assert {name: rows.shape for name, rows in given.items()} == shapes
        for spec in part.signature.inputs:
            low, high = spec.range or (0, 0)
            assert low <= given[spec.name].min() < given[spec.name].max() <= high
