"""Imported artifacts evaluated on data that the caller names."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aigc.artifact import Artifact
from aigc.commands.evaluate import command, evaluate
from aigc.metrics import first_samples
from aigc.sealing import seal
from tests.sealing.foreign import generator, upscaler, vocoder

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("session_cache")]

CLASSES = ("bright", "dark", "half")


def pictures(folder: Path, classes: tuple[str, ...], size: int, mode: str, each: int = 40) -> str:
    """A folder of random PNGs for each class, which differ in their brightness."""
    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(each):
            shape = (size, size, len(mode)) if len(mode) > 1 else (size, size)
            levels = rng.integers(80 * k, 80 * k + 80, shape).astype(np.uint8)
            Image.fromarray(levels, mode).resize((size, size)).save(folder / name / f"{i}.png")
    return str(folder)


def test_generator_is_judged_on_given_data(tmp_path: Path) -> None:
    uri = seal(generator(tmp_path / "g.onnx"), name="g", store=tmp_path / "s", classes=CLASSES)
    data = pictures(tmp_path / "data", CLASSES, 8, "L")
    assert command([uri, "--data", data, "-n", "60", "--write"]) == 0
    metrics = Artifact.open(uri).manifest.metrics
    assert {name.partition("/")[0] for name in metrics} >= {"accuracy", "frechet"}
    artifact = Artifact.open(uri)
    with pytest.raises(ValueError, match=r"g@1 is imported, .* names no data; give .*--data"):
        evaluate(artifact)
    other = pictures(tmp_path / "other", ("a", "b", "c"), 8, "L", each=2)
    with pytest.raises(ValueError, match="has the classes bright, dark, half, the data a, b, c"):
        evaluate(artifact, path=other)
    fewer = pictures(tmp_path / "fewer", ("a", "b"), 8, "L", each=2)
    with pytest.raises(ValueError, match=r"num_classes is 3, data .* has 2 classes"):
        evaluate(artifact, path=fewer)


def test_upscaler_is_compared_with_bicubic_interpolation(tmp_path: Path) -> None:
    uri = seal(upscaler(tmp_path / "u.onnx"), name="u", store=tmp_path / "s", range="0..1")
    data = pictures(tmp_path / "data", ("",), 16, "RGB")
    psnr, _, bicubic, _ = found = [*evaluate(Artifact.open(uri), path=data, n=8)]
    assert [each.name for each in found] == ["psnr", "ssim", "psnr/bicubic", "ssim/bicubic"]
    assert 0 < psnr.value < 40
    assert abs(psnr.value - bicubic.value) < 6  # repetition of pixels is a poor upscaler


def test_what_nothing_judges_is_said(tmp_path: Path) -> None:
    uri = seal(vocoder(tmp_path / "v.onnx"), name="v", store=tmp_path / "s", sample_rate=8000)
    with pytest.raises(ValueError, match="v@1: no signature is drawn from a seed or makes images"):
        evaluate(Artifact.open(uri), path=str(tmp_path))


def test_samples_of_other_ranges_are_compared_in_that_of_the_data(tmp_path: Path) -> None:
    path = generator(tmp_path / "g.onnx")
    plain, wide = (
        Artifact.open(seal(path, name="g", store=tmp_path / "s", range={"image": span}))
        for span in ("-1..1", "-2..2")
    )
    a, labels = first_samples(plain, 6, 0)
    b, _ = first_samples(wide, 6, 0)
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 0, 1, 2]
    np.testing.assert_allclose(b, a / 2, atol=1e-6)
