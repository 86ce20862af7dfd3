"""Pictures from outside: what each choice of a reading does, and what is not let in."""

import io
import warnings

import msgspec
import numpy as np
import pytest
from PIL import Image

from aigc.artifact import picture
from aigc.artifact.preprocessing import IMAGE, LEGACY_IMAGE, ImagePreprocessing


def png(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "png", **options)
    return buffer.getvalue()


HALF = Image.fromarray(np.repeat(np.array([[0, 255]], np.uint8), 4, 0).repeat(8, 1))
"""16 wide, 4 high: black to the left, white to the right."""


@pytest.mark.parametrize(
    ("change", "image", "wanted"),
    [
        ({"fit": "crop"}, HALF, [[0, 255], [0, 255]]),
        ({"fit": "pad"}, Image.new("L", (16, 4), 255).resize((2, 1)), [[255, 255], [0, 0]]),
        ({"transparency": "white"}, Image.new("RGBA", (2, 2), (9, 9, 9, 0)), [[255] * 2] * 2),
        ({"transparency": "ignored"}, Image.new("RGBA", (2, 2), (9, 9, 9, 0)), [[9] * 2] * 2),
        ({"depth": "scaled"}, Image.new("I;16", (2, 2), 900), [[3] * 2] * 2),
        ({"depth": "clipped"}, Image.new("I;16", (2, 2), 900), [[255] * 2] * 2),
    ],
)
def test_preprocessing_fields_take_effect(
    change: dict[str, str], image: Image.Image, wanted: list[list[int]]
) -> None:
    reading = msgspec.structs.replace(IMAGE, **change)
    found = picture.read(png(image), (1, 2, 2), reading, 1000)
    if change == {"fit": "crop"}:
        found = np.where(found < 128, 0, 255)
    assert found[0].tolist() == wanted


def test_exif_and_frames_follow_preprocessing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 3
    row = Image.fromarray(np.array([[0, 255]], np.uint8))
    turned = png(row, exif=exif)
    assert picture.read(turned, (1, 1, 2), IMAGE, 10)[0].tolist() == [[255, 0]]
    assert picture.read(turned, (1, 1, 2), LEGACY_IMAGE, 10)[0].tolist() == [[0, 255]]
    moving = png(row, save_all=True, append_images=[row.transpose(Image.Transpose.ROTATE_180)])
    assert picture.read(moving, (1, 1, 2), IMAGE, 10)[0].tolist() == [[0, 255]]
    with pytest.raises(ValueError, match="an animation of 2 frames"):
        picture.read(moving, (1, 1, 2), LEGACY_IMAGE, 10)


@pytest.mark.parametrize("reading", [IMAGE, LEGACY_IMAGE], ids=["now", "before"])
def test_pixels_are_counted_before_decoding(reading: ImagePreprocessing) -> None:
    data = png(HALF)[:45]  # its pixels are not there
    with pytest.raises(ValueError, match="16 x 4 pixels are too many"):
        picture.read(data, (1, 2, 2), reading, 63)
    with pytest.raises(ValueError, match="not a PNG or WEBP or JPEG that can be read"):
        picture.read(data, (1, 2, 2), reading, 64)


@pytest.mark.parametrize(("channels", "mode"), picture.MODES.items())
@pytest.mark.parametrize("reading", [IMAGE, LEGACY_IMAGE], ids=["now", "before"])
def test_picture_of_the_model_size_keeps_every_level(
    channels: int, mode: str, reading: ImagePreprocessing
) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (5, 7, channels), np.uint8)
    image = Image.fromarray(levels[..., 0] if channels == 1 else levels)
    assert image.mode == mode
    found = picture.read(png(image), (channels, 5, 7), reading, 35)
    assert np.array_equal(found, levels.transpose(2, 0, 1))


def test_impossible_channel_counts_are_refused() -> None:
    with pytest.raises(ValueError, match="wants 5 channels, pictures have 1 to 4"):
        picture.read(png(HALF), (5, 2, 2), IMAGE, 1000)


def test_decode_raises_only_its_own_error_for_damaged_files() -> None:
    """EXIF and XMP may be damaged too; they are read only if the orientation counts."""
    random = np.random.default_rng(0)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a description" * 9
    image = Image.fromarray(random.integers(0, 256, (9, 8, 3), np.uint8))
    refused = 0
    for kind in ("png", "webp", "jpeg"):
        buffer = io.BytesIO()
        image.save(buffer, kind, exif=exif)
        whole = buffer.getvalue()
        for _ in range(400):
            broken = bytearray(whole)
            for offset in random.integers(0, len(whole), 4):
                broken[offset] = random.integers(256)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow's, of EXIF that it cannot follow
                try:
                    found = picture.read(bytes(broken), (4, 6, 6), IMAGE, 10_000)
                except ValueError:
                    refused += 1
                else:
                    assert (found.shape, found.dtype) == ((4, 6, 6), np.uint8)
    assert 0 < refused < 1200
