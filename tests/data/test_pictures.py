"""Pictures of every kind come out as the model wants them; what is no picture is named."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from aigc.data import CorruptRow
from aigc.data.pictures import decode
from tests.data.pictures import picture, png


def encoded(image: Image.Image, kind: str = "png", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def test_decode_keeps_pictures_of_the_model_size() -> None:
    assert np.array_equal(decode(png(picture(1)), (3, 8, 6), "x"), picture(1).transpose(2, 0, 1))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_decode_converts_every_mode_to_the_model_channels(mode: str, channels: int) -> None:
    if mode == "I;16":
        image = Image.fromarray(np.full((9, 7), 255 * 257, np.uint16))
    else:
        image = Image.new("RGB", (7, 9), "white").convert("RGBA" if mode == "LA" else "RGB")
        image = image.convert(mode)
    kind = "tiff" if mode == "CMYK" else "png"
    pixels = decode(encoded(image, kind), (channels, 4, 4), "x")
    assert pixels.shape == (channels, 4, 4)
    assert pixels.dtype == np.uint8
    assert (pixels == 255).all()


def test_decode_puts_transparency_on_white() -> None:
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert (decode(encoded(clear), (3, 4, 4), "x") == 255).all()
    palette = Image.new("RGB", (4, 4), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert decode(encoded(palette), (3, 4, 4), "x")[:, 0, 0].tolist() == [10, 200, 30]


def test_decode_crops_the_centre_without_distortion() -> None:
    wide = np.zeros((8, 24), np.uint8)
    wide[:, 8:16] = 255
    assert (decode(encoded(Image.fromarray(wide)), (1, 8, 8), "x") == 255).all()
    small = decode(encoded(Image.fromarray(wide)), (1, 4, 4), "x")
    assert small[0, :, 1:3].min() > 250


def test_decode_applies_exif_orientation() -> None:
    upright = np.zeros((64, 64), np.uint8)
    upright[:32] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees
    lying = Image.fromarray(np.rot90(upright))
    turned = decode(encoded(lying, "jpeg", exif=exif, quality=95), (1, 8, 8), "x")
    assert turned[0, 0].min() > 240
    assert turned[0, -1].max() < 15


def test_draft_decoding_of_large_jpegs_is_close_to_full() -> None:
    ramp = np.linspace(0, 255, 512).astype(np.uint8)[None].repeat(512, 0)
    content = encoded(Image.fromarray(ramp), "jpeg", quality=95)
    image = Image.open(io.BytesIO(content)).resize((16, 16), Image.Resampling.BICUBIC)
    difference = decode(content, (1, 16, 16), "x")[0].astype(int) - np.asarray(image).astype(int)
    assert np.abs(difference).max() <= 2


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header claims this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + chunk + end


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (png(picture(0))[:-30], "a.png is no whole picture"),
        (encoded(Image.fromarray(picture(0)), "jpeg")[:-20], "a.png is no whole picture"),
        (b"", "a.png is no whole picture"),
        (b"<html>not found</html>", "a.png is no whole picture: its format is not known"),
        (bomb(9000, 9000), "a.png has 9000 x 9000 pixels, more than 64,000,000"),
        (bomb(60000, 60000), "a.png is no whole picture: Image size"),
        (encoded(Image.new("F", (4, 4)), "tiff"), "floating point, whose range is not known"),
    ],
)
def test_decode_refuses_other_files_with_name_and_reason(content: bytes, reason: str) -> None:
    with pytest.raises(CorruptRow, match=reason):
        decode(content, (3, 8, 8), "a.png")
