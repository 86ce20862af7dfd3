"""A file is recreated from its provenance and compared with the original."""

from dataclasses import replace

import numpy as np
import pytest

from aigc.artifact import Signature, TensorSpec, audio_files, image_files
from aigc.artifact.image_files import Provenance
from aigc.artifact.recreate import check_columns, read_file

PROVENANCE = Provenance(artifact="tiny@1", digest="ab", signature="sample", seed=7, index=0)
IMAGE = TensorSpec(name="image", kind="image", dtype="float32", shape=(1, 4, 4), range=(-1, 1))
SOUND = TensorSpec(
    name="audio", kind="audio", dtype="float32", shape=(1, 8), range=(-1, 1), sample_rate_hz=8000
)


def signature(*outputs: TensorSpec) -> Signature:
    return Signature(graph="sample.onnx", inputs=(), outputs=outputs)


def test_pixels_must_be_equal_whatever_the_level() -> None:
    pixels = np.arange(16, dtype=np.uint8).reshape(4, 4, 1)
    file = read_file(image_files.png(pixels, PROVENANCE))
    assert file.provenance == PROVENANCE
    assert file.output(signature(SOUND, IMAGE)) == IMAGE
    same = file.compare(pixels[None], signature(IMAGE), "tolerance")
    assert (same.equal, same.describe()) == (True, "every pixel is equal")
    near = file.compare(pixels[None] + np.uint8(1), signature(IMAGE), "tolerance")
    assert (near.equal, near.describe()) == (False, "a pixel differs by 1 of 255 levels")
    other = file.compare(pixels[None, :2], signature(IMAGE), "bit")
    assert (other.equal, other.describe()) == (False, "its size differs")


def test_samples_may_differ_by_the_tolerance_of_the_artifact() -> None:
    samples = np.arange(8, dtype=np.int16).reshape(8, 1)
    file = read_file(audio_files.wav(samples, 8000, PROVENANCE))
    assert file.output(signature(IMAGE, SOUND)) == SOUND
    two = np.stack([samples[:4], samples[4:]])
    assert file.compare(two, signature(SOUND), "bit").describe() == "every sample is equal"
    near = [file.compare(two + np.int16(1), signature(SOUND), level) for level in ("bit", "uint8")]
    assert [one.equal for one in near] == [False, True]
    assert near[0].describe() == "a sample differs by 1 of 65534 levels"
    assert near[1].describe() == "every sample is within 1 of 65534 levels"


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
