"""Runs of models that draw nothing from a seed: of images they make images, or numbers."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from aigc import models
from aigc.artifact import Artifact
from aigc.artifact.image_files import read_png
from aigc.artifact.manifest import Signature
from aigc.artifact.sampling_inputs import Arrays
from aigc.artifact.store import Store
from aigc.commands.evaluate import command as evaluate
from aigc.commands.evaluate import evaluate_on
from aigc.commands.export import export
from aigc.commands.real_data import real_data
from aigc.commands.sample import command as sample
from aigc.config import DataConfig, TrainConfig
from aigc.data import Dataset, load, scaled, whole
from aigc.feature_network import FeatureNetwork
from aigc.metrics.degradation import resized
from aigc.metrics.frechet import frechet
from aigc.metrics.restoration import restored
from aigc.model import Export
from aigc.models import upscaler
from aigc.nn.image_to_image import image_spec
from aigc.nn.tensor_specs import vector_spec
from aigc.testing import check_model
from aigc.training.held_out import HeldOut
from aigc.training.preflight import rehearse
from aigc.training.quality import Quality
from aigc.training.quality_log import last_metric, read_quality
from tests.fixtures.make import write_run

pytestmark = pytest.mark.process


def pictures(folder: Path, size: int = 16) -> Path:
    """Smooth pictures in colour, forty to train on and twelve to test with."""
    y, x = np.mgrid[0:size, 0:size] / size
    for split, count in (("train", 40), ("test", 12)):
        (folder / split).mkdir(parents=True)
        for i in range(count):
            waves = [np.sin(3 * x + i + c) * np.cos(5 * y - i * c) for c in range(3)]
            levels = (127.5 * (1 + np.stack(waves, 2))).astype(np.uint8)
            Image.fromarray(levels).save(folder / split / f"{i}.png")
    return folder


def run_of(folder: Path, **changes: object) -> TrainConfig:
    config = models.preset("upscaler:x2")
    model = replace(config.model, shape=(3, 16, 16), width=8, blocks=1, crop=16, largest=24)  # type: ignore[call-arg]
    config = replace(config, model=model, data=DataConfig(source="folder", path=str(folder)))
    intervals = {"evaluate_interval": 32, "grid_interval": 32, "report_interval": 32}
    return replace(config, **{"samples": 64, "batch": 16, **intervals, **changes})  # type: ignore[arg-type]


def of_edges() -> FeatureNetwork:
    """A network whose features are differences of neighbours."""

    def maps(images: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return [np.concatenate([np.diff(images[:, :, 1:], axis=3), images[:, :, 1:, 1:]], 1)]

    def features(images: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.abs(np.diff(images, axis=3)).mean((2, 3))  # type: ignore[no-any-return]

    return FeatureNetwork(name="edges@0", sha256="", run=features, run_maps=maps)


def test_run_is_judged_shown_exported_and_sampled(tmp_path: Path) -> None:
    config = run_of(pictures(tmp_path / "data"))
    assert rehearse(config, load(config.data, config.model)) == []
    run = write_run(tmp_path / "run", config)
    quality = read_quality(run.folder)
    assert [*quality] == [32, 64]
    assert quality[64] < quality[32] < -20  # minus PSNR: lower is better
    assert last_metric(run.folder) == "negative_psnr"
    grids = sorted((run.folder / "grids").iterdir())
    shown, _ = read_png(grids[-1].read_bytes())
    assert shown.shape == (3 * 18 - 2, 10 * 18 - 2, 3)  # input, output and original
    uri = export(run, name="up", store=Store(tmp_path / "store"))
    picture = tmp_path / "side.png"
    assert evaluate([uri, "-n", "12", "--write", "--picture", str(picture)]) == 0
    artifact = Artifact.open(uri)
    metrics = artifact.manifest.metrics
    assert [*metrics] == ["psnr", "ssim", "psnr/bicubic", "ssim/bicubic"]
    assert metrics["psnr"] == pytest.approx(-quality[64], abs=0.01)  # of the same rows
    assert read_png(picture.read_bytes())[0].shape == (4 * 18 - 2, 10 * 18 - 2, 3)
    seen = evaluate_on(artifact, real_data(artifact), 12, 0, (), [of_edges()])
    names = [metric.name for metric in seen]
    assert names[2:4] == ["perceptual/edges@0", "frechet/edges@0"]
    assert names[6:] == ["perceptual/edges@0/bicubic", "frechet/edges@0/bicubic"]
    own, bicubic = (metric.value for metric in seen if metric.name.startswith("frechet"))
    test = scaled(whole(load(config.data, config.model, "test")).samples)
    enlarged = resized(resized(test, (8, 8)), (16, 16))
    expected = frechet(of_edges().features(test), of_edges().features(enlarged))
    assert bicubic == pytest.approx(expected, rel=0.02)  # edges are extended otherwise
    assert own != pytest.approx(bicubic, rel=0.02)
    card = (Path(uri) / "README.md").read_text()
    assert "A model for restoration (`upscaler:x2`)" in card
    assert '.run("upscale", {"image": image})' in card
    assert artifact.verify()["upscale"].level in ("bit", "uint8", "tolerance")
    file = str(tmp_path / "data" / "test" / "0.png")
    assert sample([uri, "-n", "1", "--inputs", "image", file, "--out", str(tmp_path / "out")]) == 0
    sizes = {read_png(path.read_bytes())[0].shape for path in (tmp_path / "out").glob("*.png")}
    assert (32, 32, 3) in sizes


def test_best_checkpoint_is_that_of_the_highest_psnr(tmp_path: Path) -> None:
    config = run_of(
        pictures(tmp_path / "data"),
        samples=160,
        checkpoint_interval=32,
        keep_checkpoints=1,
    )
    optimizer = replace(config.model.optimizer, learning_rate="0:1e-3 96:1e-3 97:1:step")  # type: ignore[attr-defined]
    config = replace(config, model=replace(config.model, optimizer=optimizer), ema_half_life=0)  # type: ignore[call-arg]
    run = write_run(tmp_path / "run", config)
    quality = read_quality(run.folder)
    best = min(quality, key=quality.__getitem__)
    assert best < 160
    assert quality[best] < quality[160]
    assert {int(path.name) for path in run.checkpoints.iterdir()} >= {best, 160}


def test_held_out_rows_are_of_all_classes_of_sorted_data(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.repeat(np.arange(3), 100)
    samples = labels.astype(np.uint8)[:, None, None, None] * np.ones((1, 3, 16, 16), np.uint8)
    test = Dataset(name="sorted", samples=samples, labels=labels, classes=("a", "b", "c"))
    monkeypatch.setattr("aigc.data.load", lambda *_: test)
    held_out = HeldOut(models.preset("upscaler:x2"), test)
    assert len(held_out.images()) == 128
    assert len(np.unique(held_out.images())) == len(np.unique(held_out.images(10))) == 3
    np.testing.assert_array_equal(held_out.images(10), held_out.images()[:10])


def test_degradations_are_made_one_by_one_and_only_of_images_of_the_size() -> None:
    image = replace(image_spec("x", 3), shape=(3, 12, 12))
    signature = Signature(graph="d.onnx", inputs=(image,), outputs=(replace(image, name="y"),))
    real, runs = np.zeros((2, 3, 12, 12), np.float32), []

    def run(given: Arrays) -> Arrays:
        runs.append(given)
        return {"y": given["x"]}

    found = restored("denoise", signature, real, run)
    assert [next(found).trial.name, len(runs)] == ["sigma25", 1]
    assert [each.trial.name for each in found] == ["sigma15", "sigma50"]
    with pytest.raises(ValueError, match=r"'denoise' makes images of \(3, 12, 12\) and cannot be"):
        next(restored("denoise", signature, real[:, :, :6], run))


class Encoder(nn.Module):
    def __init__(self, model: upscaler.Model) -> None:
        super().__init__()
        self.first = model.network.first

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.first(image).mean((2, 3))  # type: ignore[no-any-return]


class OnlyFeatures(upscaler.Model):
    """A model that makes numbers of an image, and nothing else."""

    def exports(self) -> dict[str, Export]:
        image = super().exports()["upscale"].signature.inputs[0]
        fixed = replace(image, shape=(3, 8, 8))
        features = vector_spec("features", self.config.width)
        signature = Signature(graph="encoder.onnx", inputs=(fixed,), outputs=(features,))
        return {"encode": Export(module=Encoder(self), signature=signature)}


def test_model_of_features_alone_trains_and_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upscaler, "Model", OnlyFeatures)
    config = run_of(pictures(tmp_path / "data"))
    source = load(config.data, config.model)
    (warning,) = rehearse(config, source)
    assert "--evaluate-interval has no effect: no signature is drawn from a seed" in warning
    check_model(config, only=("signatures", "seeds_kept", "average", "accelerator", "parity"))
    assert Quality(config, source).measure(models.build(config).eval()) is None
    # The process that measures does not see the class that stands in for the upscaler's.
    run = write_run(tmp_path / "run", replace(config, evaluate_interval=0))
    assert not (run.folder / "grids").exists()
    artifact = Artifact.open(export(run, name="encoder", store=Store(tmp_path / "store")))
    assert artifact.verify()["encode"]
    with pytest.raises(ValueError, match="no signature is drawn from a seed or makes images"):
        evaluate([artifact.uri])
