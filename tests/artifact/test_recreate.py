"""A file is recreated from its provenance and compared with the original."""

from dataclasses import replace

import numpy as np
import pytest
from msgspec import UNSET

from aigc.artifact import Manifest, Signature, TensorSpec, audio_files, image_files
from aigc.artifact.image_files import Provenance
from aigc.artifact.manifest import Level, Reproducibility
from aigc.artifact.precision import Precision, PrecisionLoss, ReducedPrecision
from aigc.artifact.recreate import check_columns, read_file
from tests import manifests

PROVENANCE = Provenance(artifact="tiny@1", digest="ab", signature="sample", seed=7, index=0)
IMAGE = TensorSpec(name="image", kind="image", dtype="float32", shape=(1, 4, 4), range=(-1, 1))
SOUND = TensorSpec(
    name="audio", kind="audio", dtype="float32", shape=(1, 8), range=(-1, 1), sample_rate_hz=8000
)

LEVELS: tuple[Level, ...] = ("bit", "uint8", "tolerance")


def measured(level: Level, max_abs: float = 0.0) -> Reproducibility:
    return Reproducibility(level=level, max_abs=max_abs)


def signature(*outputs: TensorSpec) -> Signature:
    return Signature(graph="sample.onnx", inputs=(), outputs=outputs)


def manifest(output: TensorSpec, precision: ReducedPrecision | None = None) -> Manifest:
    """A manifest, with a loss of 0.01 if it is of reduced precision."""
    loss = PrecisionLoss(max_abs=0.01, mean_loss=0, uint8_mismatch=0, uint8_max=1, samples=1)
    reduced = UNSET if precision is None else Precision(name=precision, loss={"sample": loss})
    return manifests.manifest({"sample": signature(output)}, precision=reduced)


def test_pixels_must_be_equal_whatever_the_level() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    file = read_file(image_files.png(pixels, PROVENANCE))
    assert file.provenance == PROVENANCE
    assert file.output(signature(SOUND, IMAGE)) == IMAGE
    same = file.compare(pixels[None], manifest(IMAGE), measured("tolerance", 0.5))
    assert (same.matches, same.describe()) == (True, "every pixel is equal")
    near = file.compare(pixels[None] + np.uint8(1), manifest(IMAGE), measured("tolerance", 0.5))
    assert (near.matches, near.describe()) == (False, "a pixel differs by 1 of 255 levels")
    other = file.compare(pixels[None, :2], manifest(IMAGE), measured("bit"))
    assert (other.matches, other.describe()) == (False, "its size differs")


def test_samples_may_differ_by_the_tolerance_of_the_artifact() -> None:
    samples = np.arange(8, dtype=np.int16).reshape(8, 1)
    file = read_file(audio_files.wav(samples, 8000, PROVENANCE))
    assert file.output(signature(IMAGE, SOUND)) == SOUND
    two = np.stack([samples[:4], samples[4:]])
    assert file.compare(two, manifest(SOUND), measured("bit")).describe() == "every sample is equal"
    levels = measured("bit"), measured("tolerance", 1e-4)
    near = [file.compare(two + np.int16(1), manifest(SOUND), level) for level in levels]
    assert [one.matches for one in near] == [False, True]
    assert near[0].describe() == "a sample differs by 1 of 65534 levels"
    assert near[1].describe() == (
        "every sample is within 1 of 65534 levels, and the tolerance here is 66"
    )


@pytest.mark.parametrize("precision", ["float16", "int8", "int8-conv"])
def test_reduced_precision_may_differ_by_twice_what_references_do_here(
    precision: ReducedPrecision,
) -> None:
    pixels = np.full((4, 4, 1), 100, np.uint8)
    samples = np.full((8, 1), 100, np.int16)
    image = read_file(image_files.png(pixels, PROVENANCE))
    sound = read_file(audio_files.wav(samples, 8000, PROVENANCE))
    reduced = manifest(IMAGE, precision), manifest(SOUND, precision)

    def allowed(level: Level, max_abs: float) -> tuple[int, int]:
        here = measured(level, max_abs)
        found = image.compare(pixels[None], reduced[0], here).allowed
        return found, sound.compare(samples[None], reduced[1], here).allowed

    exact = precision == "int8"  # whose arithmetic is that of float32
    assert allowed("bit", 0) == (0, 0)
    assert allowed("uint8", 0.004)[0] == 0
    assert allowed("tolerance", 0.0001) == (0 if exact else 1, int(0.002 * 32767) + 1)
    assert allowed("tolerance", 0.004) == (0 if exact else 3, int(0.008 * 32767) + 1)
    assert allowed("tolerance", 0.1) == (0 if exact else 3, 32767 // 64 + 1)  # the most


def test_a_file_whose_every_value_differs_is_not_within_the_tolerance() -> None:
    here = measured("tolerance", 0.1)
    pixels = np.full((4, 4, 1), 100, np.uint8)
    image = read_file(image_files.png(pixels, PROVENANCE))
    near = pixels.copy()
    near[0] += 3
    found = image.compare(near[None], manifest(IMAGE, "float16"), here)
    assert (found.matches, found.mean) == (True, 0.75)
    assert found.describe() == (
        "every pixel is within 3 of 255 levels, and the tolerance here is 3"
    )
    near[1] += 1
    found = image.compare(near[None], manifest(IMAGE, "float16"), here)
    assert not found.matches
    assert found.describe() == (
        "pixels differ by 1 of 255 levels on average, and at most 0.75 is within the tolerance here"
    )
    tone = np.int16(500) * np.array([[1], [-1]] * 4, np.int16)
    sound = read_file(audio_files.wav(np.zeros((8, 1), np.int16), 8000, PROVENANCE))
    assert not sound.compare(tone[None], manifest(SOUND, "float16"), here).matches


def test_rejects_a_signature_without_such_an_output() -> None:
    image = read_file(image_files.png(np.zeros((4, 4, 1), np.uint8), PROVENANCE))
    with pytest.raises(ValueError, match=r"^gives no image$"):
        image.output(signature(SOUND))
    sound = read_file(audio_files.wav(np.zeros((8, 1), np.int16), 16000, PROVENANCE))
    with pytest.raises(ValueError, match=r"^gives no sound$"):
        sound.output(signature(IMAGE))
    with pytest.raises(ValueError, match=r"^gives no sound of 16000 Hz$"):
        sound.output(signature(SOUND))


@pytest.mark.parametrize("columns", [-1, 3, 10**12])
def test_rejects_columns_that_a_grid_cannot_have(columns: int) -> None:
    check_columns(replace(PROVENANCE, n=2, columns=2))
    with pytest.raises(ValueError, match=f"a grid of 2 has no {columns} columns"):
        check_columns(replace(PROVENANCE, n=2, columns=columns))
