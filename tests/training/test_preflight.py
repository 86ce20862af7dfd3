"""The trial before the first batch of a new training: it finds things and leaves no trace."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aigc import data
from aigc.artifact import image_files
from aigc.config import DataConfig
from aigc.data.splits import name_held_out
from aigc.data.survey import Survey
from aigc.models import dcgan
from aigc.training.loop import TrainState
from aigc.training.preflight import rehearse
from tests.training.small_runs import BLURRED, Lazy, differing, finish, small

pytestmark = pytest.mark.process


@pytest.mark.parametrize(
    ("preset", "changes"),
    [
        ("dcgan:wgan_gp", {}),
        ("conv_vae:digits", {}),
        ("text_vae:numbers", BLURRED),
        ("fc_gan:ring", {}),
    ],
)
def test_rehearsal_leaves_training_bit_equal(preset: str, changes: dict[str, Any]) -> None:
    config = small(preset, **changes, samples=48)
    without = finish(config)
    source = data.load(config.data, config.model)
    state = TrainState(config)
    torch.rand(3)
    before = torch.get_rng_state()
    assert rehearse(config, source) == []
    assert torch.equal(torch.get_rng_state(), before)
    assert differing(without, finish(config, state)) == []


def arrays(folder: Path, channels: int, rows: int = 20) -> DataConfig:
    folder.mkdir()
    images = np.random.default_rng(0).random((rows, channels, 8, 8), np.float32) * 2 - 1
    np.savez(folder / "data.npz", images=images)
    return DataConfig(source="npz", path=str(folder / "data.npz"))


def plain(shape: tuple[int, ...]) -> dcgan.Config:
    return dcgan.Config(
        shape=shape,
        latent=4,
        num_classes=0,
        auxiliary=0.0,
        generator_widths=(8, 4),
        discriminator_widths=(4, 8),
    )


@pytest.mark.parametrize("channels", range(1, 8))
def test_rehearsal_warns_of_images_that_are_not_pictures(tmp_path: Path, channels: int) -> None:
    source = arrays(tmp_path / "data", channels)
    config = small("dcgan:digits", model=plain((channels, 8, 8)), data=source)
    said = rehearse(config, data.load(config.data, config.model))
    warning = [one for one in said if f"images of {channels} channels are not pictures" in one]
    assert len(warning) == (channels > 4)


def test_rehearsal_warns_of_missing_test_rows(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    config = small("dcgan:digits", model=plain((3, 8, 8)))
    picture = image_files.png(np.zeros((8, 8, 3), np.uint8))
    name = next(n for n in map(str, range(99)) if not name_held_out(f"{n}.png"))
    (tmp_path / "one" / f"{name}.png").write_bytes(picture)
    config = replace(config, data=DataConfig(source="folder", path=str(tmp_path / "one")))
    (said,) = rehearse(config, data.load(config.data, config.model))
    assert "`aigc evaluate`" in said


@pytest.mark.parametrize(("splits", "said"), [({"train": 9}, 1), ({"train": 9, "val": 2}, 0)])
def test_rehearsal_trusts_the_splits_of_a_survey(
    tmp_path: Path, splits: dict[str, int], said: int
) -> None:
    """Without opening them a second time."""
    config = small("dcgan:digits", model=plain((3, 8, 8)), data=arrays(tmp_path / "data", 3))
    source = data.load(config.data, config.model)
    Path(config.data.path).unlink()
    told = Told(source, Survey(splits=splits))
    assert len(rehearse(config, told)) == said


class Told(Lazy):
    """A source with a survey."""

    def __init__(self, source: Any, survey: Survey) -> None:
        super().__init__(source)
        self.survey = survey


def test_rehearsal_refuses_a_model_that_does_not_fit_the_data(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = small("fc_gan:ring")
    source = data.load(config.data, config.model)
    wrong = replace(source, samples=source.samples[:, :1])  # type: ignore[type-var]
    with pytest.raises(ValueError, match="no batch of this data can be trained on: RuntimeError"):
        rehearse(config, wrong)


def test_rehearsal_warns_of_quality_without_a_metric() -> None:
    config = small("fc_gan:ring", evaluate_interval=32)
    (said,) = rehearse(config, data.load(config.data, config.model))
    assert said == "--evaluate-interval has no effect: nothing measures the quality of vector"
