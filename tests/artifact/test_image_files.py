"""Arrays <-> PNG, grids and npy: decode(encode(x)) == x, and garbage is refused."""

import io
import json
import struct
import warnings
import zlib
from dataclasses import asdict, replace
from typing import Any
from xml.etree import ElementTree

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageSequence, PngImagePlugin

from aigc.artifact.image_files import (
    PROVENANCE_KEY,
    SOURCE_TYPE,
    Provenance,
    animation,
    difference,
    grid,
    jpeg,
    npy,
    png,
    read_image,
    read_png,
    tile,
    to_uint8,
    webp,
)
from tests.artifact.hostile import chunk

PIXELS = hnp.arrays(
    np.uint8,
    st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4)),
)
MADE_BY = Provenance(
    artifact="digits@3", digest="ab" * 32, signature="sample", seed=2**63 - 1, index=7, label=3
)

GRIDS_AND_INTERPOLATIONS = (
    "labels",
    "columns",
    "to_seed",
    "to_label",
    "given",
    "settings",
    "sizes",
)


@given(image=PIXELS, seed=st.integers(0, 2**63 - 1), label=st.none() | st.integers(0, 9))
def test_png_round_trips_pixels_and_provenance(
    image: np.ndarray, seed: int, label: int | None
) -> None:
    made_by = replace(MADE_BY, seed=seed, label=label)
    pixels, found = read_png(png(image, made_by))
    assert pixels.dtype == np.uint8
    assert np.array_equal(pixels, image)
    assert found == made_by


@pytest.mark.process
@given(image=PIXELS, label=st.none() | st.integers(0, 9), name=st.text(max_size=20))
def test_lossless_webp_round_trips_pixels_and_provenance(
    image: np.ndarray, label: int | None, name: str
) -> None:
    made_by = replace(MADE_BY, label=label, signature=name)
    pixels, found = read_image(webp(image, made_by))
    assert difference(pixels, image) == 0
    assert found == made_by


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_large_images_round_trip(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (90, 80, channels), np.uint8)
    pixels, found = read_png(png(image, MADE_BY))
    assert np.array_equal(pixels, image)
    assert found == MADE_BY
    assert Image.open(io.BytesIO(png(image))).mode == ["L", "LA", "RGB", "RGBA"][channels - 1]


@pytest.mark.parametrize("side", [4, 90])
@pytest.mark.parametrize("channels", [5, 7])
def test_encoders_refuse_impossible_channel_counts(channels: int, side: int) -> None:
    image = np.zeros((side, side, channels), np.uint8)
    for encode in (png, webp, jpeg, lambda x: animation(x[None], "gif", 50)):
        with pytest.raises(ValueError, match=rf"3 \(RGB\) or 4 \(RGBA\) channels, got {channels}"):
            encode(image)
    assert grid(image[None]).shape == image.shape


@pytest.mark.parametrize("channels", [2, 4])
def test_jpeg_refuses_alpha(channels: int) -> None:
    with pytest.raises(ValueError, match="JPEG has no transparency"):
        jpeg(np.zeros((4, 4, channels), np.uint8))


def test_jpeg_keeps_provenance_and_nearly_its_pixels() -> None:
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    for image in (ramp, np.concatenate([ramp, ramp[::-1], ramp.swapaxes(0, 1)], -1)):
        pixels, found = read_image(jpeg(image, MADE_BY))
        assert pixels.shape == image.shape
        assert found == MADE_BY
        near = difference(pixels, image)
        assert near <= 4


@pytest.mark.parametrize("encode", [webp, jpeg])
def test_lower_quality_takes_fewer_bytes(encode: Any) -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    sizes = [len(encode(image, MADE_BY, quality)) for quality in (0, 30, 60, 100)]
    assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("encode", [png, webp, jpeg])
def test_image_without_provenance_has_none(encode: Any) -> None:
    assert read_image(encode(np.zeros((2, 2, 1), np.uint8)))[1] is None


@pytest.mark.parametrize("encode", [webp, jpeg])
def test_xmp_marks_algorithmic_media(encode: Any) -> None:
    data = encode(np.zeros((2, 2, 3), np.uint8), replace(MADE_BY, signature="<\"&'>"))
    xmp = Image.open(io.BytesIO(data)).info["xmp"].decode()
    packet = ElementTree.fromstring(xmp)
    (said,) = packet.iter("{http://www.w3.org/1999/02/22-rdf-syntax-ns#}Description")
    iptc = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"
    assert said.attrib[iptc] == SOURCE_TYPE
    assert json.loads(said.attrib["{urn:aigc:1.0/}provenance"])["signature"] == "<\"&'>"


@pytest.mark.parametrize(
    ("form", "channels"), [("apng", 1), ("apng", 2), ("apng", 3), ("apng", 4), ("gif", 1)]
)
def test_animation_round_trips_its_frames(form: Any, channels: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (5, 6, 4, channels), np.uint8)
    data = animation(frames, form, 50, MADE_BY)
    moving = Image.open(io.BytesIO(data))
    colours = "RGB" if channels in (1, 3) else "RGBA"
    found = [np.asarray(f.convert(colours)) for f in ImageSequence.Iterator(moving)]
    assert len(found) == 5
    assert all(difference(a, b) == 0 for a, b in zip(found, frames, strict=True))
    assert moving.info["duration"] == 50
    if form == "gif":
        assert msgspec.json.decode(moving.info["comment"], type=Provenance) == MADE_BY
    else:
        assert moving.text[PROVENANCE_KEY] == MADE_BY.text()
        with pytest.raises(ValueError, match="an animation of 5 frames"):
            read_png(data)


def test_gif_keeps_transparency() -> None:
    frames = np.random.default_rng(0).choice(np.array([0, 255], np.uint8), (5, 6, 4, 2))
    moving = Image.open(io.BytesIO(animation(frames, "gif", 50)))
    found = [np.asarray(f.convert("RGBA"))[..., 3] for f in ImageSequence.Iterator(moving)]
    assert np.array_equal(found, frames[..., 1])


def test_provenance_takes_numpy_numbers() -> None:
    numbers = {"seed": np.int64(7), "index": np.uint8(0), "label": np.array(3), "n": np.int32(1)}
    made_by = replace(MADE_BY, **numbers, labels=(np.int64(1),), settings={"t": np.float32(0.5)})
    plain = replace(MADE_BY, seed=7, index=0, label=3, labels=(1,), settings={"t": 0.5})
    assert made_by.text() == plain.text()


def test_provenance_holds_layout_and_request() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 3, 1), np.uint8)
    assert np.array_equal(tile(images[:1], MADE_BY), images[0])
    of_grid = replace(MADE_BY, label=None, n=6, labels=(1, 2, 3, 4), columns=2)
    assert np.array_equal(tile(images, of_grid), grid(images, 2))
    assert of_grid.asked() == [1, 2, 3, 4, 1, 2]
    assert (MADE_BY.asked(), replace(MADE_BY, label=None).asked()) == (3, None)


def test_difference_is_in_levels_for_any_mode() -> None:
    grey = np.full((2, 3, 1), 7, np.uint8)
    assert difference(grey, grey.repeat(3, -1)) == 0
    assert difference(grey, np.full((2, 3, 3), 255, np.uint8)) == 248
    assert difference(np.full((2, 3, 3), 255, np.uint8), grey) == 248
    assert difference(grey, grey[:1]) is None
    opaque = np.concatenate([grey, np.full_like(grey, 255)], -1)
    assert difference(opaque, grey.repeat(3, -1)) == difference(grey, opaque) == 0
    assert difference(opaque, np.concatenate([grey.repeat(3, -1), opaque[..., 1:] - 9], -1)) == 9


def test_encoding_is_deterministic() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(8, 8, 1)
    assert png(image, MADE_BY) == png(image.copy(), MADE_BY)
    assert png(image, MADE_BY) != png(image, replace(MADE_BY, index=8))


def test_png_marks_algorithmic_media() -> None:
    data = png(np.zeros((2, 2, 3), np.uint8), MADE_BY)
    text = Image.open(io.BytesIO(data)).text[PROVENANCE_KEY]
    said = {k: v for k, v in asdict(MADE_BY).items() if k not in GRIDS_AND_INTERPOLATIONS}
    assert json.loads(text) == said  # what only a grid or an interpolation has is left out
    assert json.loads(text)["digital_source_type"] == SOURCE_TYPE


def with_text(text: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(PROVENANCE_KEY, text)
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 2), np.uint8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def changed(**fields: Any) -> str:
    return json.dumps(asdict(MADE_BY) | fields)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        "3",
        "null",
        '{"artifact": "digits@1"}',
        "[" * 20_000,
        changed(seed="one"),
        changed(digest=5),
        changed(artifact=None),
        changed(label="three"),
    ],
)
def test_foreign_text_under_our_key_is_ignored(text: str) -> None:
    pixels, made_by = read_png(with_text(text))
    assert pixels.shape == (2, 2, 1)
    assert made_by is None


def test_provenance_with_unknown_fields_is_read() -> None:
    assert read_png(with_text(changed(watermark="yes")))[1] == MADE_BY


@pytest.mark.parametrize("data", [b"", b"no picture", b"\x89PNG\r\n\x1a\n", b"GIF89a" + b"\0" * 99])
def test_read_refuses_other_files(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a PNG"):
        read_png(data)


def test_read_raises_only_its_own_error_for_damaged_files() -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (9, 9, 3), np.uint8)
    for encode in (png, webp, jpeg):
        whole = encode(pixels, MADE_BY)
        for length in range(len(whole)):
            _refused_or_read(whole[:length])
        for _ in range(1000):
            broken = bytearray(whole)
            for offset in random.integers(0, len(whole), 3):
                broken[offset] = random.integers(256)
            _refused_or_read(bytes(broken))


def _refused_or_read(data: bytes) -> None:
    try:
        pixels, _ = read_image(data)
    except ValueError as error:
        said = str(error)
    else:
        assert (pixels.ndim, pixels.dtype) == (3, np.uint8)
        return
    assert " object at " not in said


@pytest.mark.parametrize("mode", ["1", "P", "I;16"])
def test_png_of_another_mode_is_read_as_rgb(mode: str) -> None:
    buffer = io.BytesIO()
    Image.new(mode, (3, 2), 1).save(buffer, "PNG")
    pixels, _ = read_png(buffer.getvalue())
    assert (pixels.shape, pixels.dtype) == ((2, 3, 3), np.uint8)


@pytest.mark.parametrize("side", [8_001, 12_000, 30_000, 2**31 - 1])
def test_read_refuses_too_many_pixels_before_decoding(side: int) -> None:
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    body = zlib.compress(b"\0" * 1000)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ValueError, match=r"too many|exceeds"):
            read_png(bomb + chunk(b"IEND", b""))


def test_pixel_limit_may_be_lowered() -> None:
    data = png(np.zeros((4, 5, 1), np.uint8))
    assert read_image(data, 20)[0].shape == (4, 5, 1)
    with pytest.raises(ValueError, match="5 x 4 pixels are too many"):
        read_image(data, 19)


def test_text_chunk_bomb_is_refused() -> None:
    header = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    text = b"aigc\0\1\0\0\0" + zlib.compress(b"x" * 50_000_000)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"iTXt", text)
    bomb += chunk(b"IDAT", zlib.compress(b"\0\0")) + chunk(b"IEND", b"")
    _refused_or_read(bomb)


def test_uint8_rounds_and_clips() -> None:
    levels = np.arange(256, dtype=np.float64)
    for offset in (-0.49, 0.0, 0.49):
        x = ((levels + offset) / 255 * 2 - 1).astype(np.float32).reshape(1, 1, 1, 256)
        assert to_uint8(x, -1, 1).ravel().tolist() == list(range(256)), offset
    ends = np.array([-np.inf, -7, -1, 1, 7, np.inf], np.float32).reshape(1, 1, 1, 6)
    assert to_uint8(ends, -1, 1).ravel().tolist() == [0, 0, 0, 255, 255, 255]


def test_levels_survive_scaling_and_back() -> None:
    for low, high in ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0)):
        levels = np.arange(256, dtype=np.float32).reshape(1, 1, 16, 16)
        x = (levels / 255 * (high - low) + low).astype(np.float32)
        assert np.array_equal(to_uint8(x, low, high)[0, ..., 0], levels[0, 0])


def test_uint8_moves_channels_last_and_copies() -> None:
    x = np.linspace(-1, 1, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
    before = x.copy()
    pixels = to_uint8(x, -1, 1)
    assert pixels.shape == (2, 4, 5, 3)
    assert pixels.flags.c_contiguous
    assert np.array_equal(x, before)
    assert pixels[1, 2, 3, 0] == to_uint8(x[1:2, 0:1, 2:3, 3:4], -1, 1).item()


@pytest.mark.parametrize(("n", "columns", "rows", "wide"), [(7, 3, 3, 3), (9, None, 3, 3)])
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
def test_grid_places_images_row_by_row_two_pixels_apart(
    n: int, columns: int | None, rows: int, wide: int, channels: int
) -> None:
    images = np.random.default_rng(0).integers(1, 256, (n, 4, 5, channels), np.uint8)
    canvas = grid(images, columns)
    assert canvas.shape == (rows * 6 - 2, wide * 7 - 2, channels)
    rest = canvas.copy()
    for i, image in enumerate(images):
        y, x = i // wide * 6, i % wide * 7
        assert np.array_equal(canvas[y : y + 4, x : x + 5], image)
        rest[y : y + 4, x : x + 5] = 0
    assert not rest.any(), "something was drawn between the images"


def test_grid_of_one_is_the_image() -> None:
    image = np.full((1, 3, 3, 1), 9, np.uint8)
    assert np.array_equal(grid(image), image[0])


@given(hnp.arrays(st.sampled_from([np.float32, np.int64, np.uint8]), hnp.array_shapes()))
def test_npy_round_trips(array: np.ndarray) -> None:
    again = np.load(io.BytesIO(npy(array)), allow_pickle=False)
    assert again.dtype == array.dtype
    assert again.tobytes() == array.tobytes()
    assert again.shape == array.shape
