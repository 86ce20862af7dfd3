"""User inputs of an artifact are converted as rows of training data, bit for bit."""

import io
import math
import struct
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from aigc import data
from aigc.artifact import TensorSpec, audio_files, clips, user_inputs
from aigc.artifact.image_files import to_uint8
from aigc.artifact.preprocessing import default_for
from aigc.artifact.vocabulary import Vocabulary
from aigc.config import DataConfig, ModelConfig
from aigc.data import CorruptRow, Dataset, scaled, sounds
from aigc.data.pictures import decode
from aigc.data.sources import text
from tests.data.files import (
    CODINGS,
    COLOURS,
    DEEP,
    ORIENTATION,
    PALETTE,
    PICTURES,
    encoded,
    noise,
    turned,
    wav,
    waves,
)
from tests.data.pictures import png


def spec(kind: Any, shape: tuple[int, ...], **more: Any) -> TensorSpec:
    """An input as it is exported."""
    return TensorSpec(
        name=kind, kind=kind, dtype="float32", shape=shape, preprocessing=default_for(kind), **more
    )


def image_spec(*shape: int) -> TensorSpec:
    return spec("image", shape, range=(-1.0, 1.0))


def audio_spec() -> TensorSpec:
    return spec("audio", (1, 300), range=(-1.0, 1.0), sample_rate_hz=8000)


SIZES = ((16, 12), (40, 31), (64, 90))
"""Smaller than the pictures, the same, larger."""


@pytest.mark.parametrize("name", PICTURES)
def test_served_picture_equals_its_training_row(name: str) -> None:
    for shape in product((1, 2, 3, 4), *zip(*SIZES, strict=True)):
        row = scaled(decode(PICTURES[name], shape, "x"))
        found = user_inputs.read_input(image_spec(*shape), PICTURES[name])
        assert (found.dtype, found.shape) == (np.float32, shape)
        assert found.tobytes() == row.tobytes(), shape


TIFFS = {
    "I": Image.fromarray(noise(40, 31, high=65536, dtype=np.int32)),
    "I;16": DEEP,
    "CMYK": COLOURS.convert("CMYK"),
    "1": COLOURS.convert("1"),
}


@pytest.mark.parametrize("name", [*PICTURES, *(f"TIFF {mode}" for mode in TIFFS), "GIF", "BMP"])
def test_rows_of_old_sources_are_unchanged(name: str) -> None:
    kind, _, mode = name.partition(" ")
    file = PICTURES.get(name) or encoded(TIFFS.get(mode, PALETTE), kind.lower())
    for channels, mode in ((1, "L"), (3, "RGB"), (4, "RGBA")):
        for height, width in SIZES:
            image: Any = Image.open(io.BytesIO(file))
            image.draft(None, (2 * max(height, width), 2 * max(height, width)))
            image = ImageOps.exif_transpose(image)
            if image.mode.startswith("I"):
                image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
            has_alpha = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
            if mode != "RGBA" and has_alpha:
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            image = image.convert(mode)
            if image.size != (width, height):
                image = ImageOps.fit(image, (width, height), Image.Resampling.BICUBIC)
            wanted = np.asarray(image, np.uint8).reshape(height, width, channels)
            found = decode(file, (channels, height, width), "x")
            assert found.tobytes() == wanted.transpose(2, 0, 1).tobytes()


def test_exif_orientation_applies_in_training_and_serving() -> None:
    rows = {
        user_inputs.read_input(image_spec(3, 40, 31), turned(way, "png")).tobytes()
        for way in range(1, 9)
    }
    assert len(rows) == 8
    upright = user_inputs.read_input(image_spec(3, 40, 31), turned(1, "png"))
    lying = encoded(COLOURS.transpose(Image.Transpose.ROTATE_90), exif=_exif(6))
    assert np.array_equal(user_inputs.read_input(image_spec(3, 40, 31), lying), upright)


def _exif(way: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ORIENTATION] = way
    return exif


@pytest.mark.parametrize(
    ("name", "channels", "wanted"),
    [("clear", 3, 255), ("clear", 1, 255), ("grey clear", 3, 255), ("deep", 1, 128)],
)
def test_transparency_is_white_and_16_bits_are_scaled(
    name: str, channels: int, wanted: int
) -> None:
    pictures = {
        "clear": Image.new("RGBA", (8, 8), (0, 0, 0, 0)),
        "grey clear": Image.new("LA", (8, 8), (0, 0)),
        "deep": Image.fromarray(np.full((8, 8), 32896, np.uint16)),
    }
    found = user_inputs.read_input(image_spec(channels, 8, 8), encoded(pictures[name]))
    assert (to_uint8(found[None], -1, 1) == wanted).all()


@pytest.mark.parametrize("source", ["digits", "idx"])
def test_generated_row_survives_its_png(source: str, tmp_path: Path) -> None:
    """Bit for bit where it has 256 levels; digits has 17, of which PNG knows the nearest."""
    if source == "idx":
        _write_idx(tmp_path, noise(4, 8, 8))
    config = DataConfig(source=source, path=str(tmp_path) if source == "idx" else "")
    rows = data.load(config, ModelConfig(shape=(1, 8, 8)), "train")
    for number in range(4):
        row, _ = rows.read(number)
        levels = to_uint8(row[None], -1, 1)
        found = user_inputs.read_input(image_spec(1, 8, 8), png(levels[0, ..., 0]))
        assert np.array_equal(to_uint8(found[None], -1, 1), levels)
        if source == "idx":
            assert found.tobytes() == row.tobytes()


def _write_idx(folder: Path, images: NDArray[np.uint8]) -> None:
    labels = np.arange(len(images), dtype=np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        head = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"train-{name}-ubyte").write_bytes(head + array.tobytes())


@pytest.mark.parametrize("kind", ["gif", "bmp", "tiff"])
def test_undecodable_mode_is_refused_and_its_png_is_read(
    kind: str,
) -> None:
    file = encoded(PALETTE, kind)
    with pytest.raises(ValueError, match=f"it is a {kind.upper()}; save it as PNG"):
        user_inputs.read_input(image_spec(3, 16, 12), file)
    row = scaled(decode(file, (3, 16, 12), "x"))
    saved = encoded(Image.open(io.BytesIO(file)))
    assert user_inputs.read_input(image_spec(3, 16, 12), saved).tobytes() == row.tobytes()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[0, 255]], np.int32), "32-bit.* 0 to 255 would be black as 16 bits; save it"),
        (np.array([[0, 70_000]], np.int32), "32-bit integers.* 0 to 70000 exceed 16 bits; save it"),
        (np.array([[-1, 300]], np.int32), "32-bit integers.* -1 to 300 exceed 16 bits; save it"),
        (np.array([[0.5, 2]], np.float32), "floating point.* 0.5 to 2; save it with 8 or 16 bits"),
    ],
)
def test_ambiguous_integer_levels_are_refused(values: NDArray[Any], said: str) -> None:
    file = encoded(Image.fromarray(values), "tiff")
    with pytest.raises(CorruptRow, match=f"a.tif is no whole picture: its pixels are {said}"):
        decode(file, (1, 4, 4), "a.tif")


@pytest.mark.parametrize("values", [[0, 0], [0, 256], [1000, 65535]])
def test_int32_levels_within_16_bits_are_scaled_as_uint16(values: list[int]) -> None:
    wide, narrow = (np.array([values] * 2, dtype) for dtype in (np.int32, np.uint16))
    rows = [
        decode(encoded(Image.fromarray(array), "tiff"), (1, 2, 2), "x") for array in (wide, narrow)
    ]
    assert np.array_equal(*rows)
    assert np.array_equal(rows[0][0], narrow >> 8)


RATES = (8000, 11025, 16000, 44100, 48000, 96000, 12345)


@pytest.mark.parametrize("coding", CODINGS)
def test_served_sound_equals_its_training_row(coding: str) -> None:
    for rate_hz, channels in product(RATES, (1, 2, 5)):
        file = CODINGS[coding](waves(channels), rate_hz)
        row = sounds.decode(file, (1, 300), 8000, "x")
        found = user_inputs.read_input(audio_spec(), file)
        assert (found.dtype, found.shape) == (np.float32, (1, 300))
        assert found.tobytes() == row.tobytes(), (rate_hz, channels)
        assert np.abs(found).max() == pytest.approx(clips.PEAK)


def test_flac_row_equals_its_wav_row() -> None:
    pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    samples = np.rint(waves(2) * 32767).astype(np.int16)
    rows = {
        user_inputs.read_input(audio_spec(), write(samples, 44100)).tobytes()
        for write in (audio_files.wav, audio_files.flac)
    }
    rows.add(sounds.decode(audio_files.flac(samples, 44100), (1, 300), 8000, "x").tobytes())
    assert len(rows) == 1


@pytest.mark.parametrize("rate_hz", RATES)
def test_sound_rows_equal_scipys(rate_hz: int) -> None:
    signal = pytest.importorskip("scipy.signal")
    file = CODINGS["16 bits"](waves(2), rate_hz)
    wave = audio_files.read_sound(file).samples.mean(0)
    if rate_hz != 8000:
        shared = math.gcd(rate_hz, 8000)
        moved = signal.resample_poly(wave.astype(np.float64), 8000 // shared, rate_hz // shared)
        wave = np.asarray(moved, np.float32)
    row = sounds.decode(file, (1, 300), 8000, "x")
    assert row.tobytes() == clips.fitted(wave, 8000, 300)[None].tobytes()


def test_peak_at_the_end_scales_training_and_serving() -> None:
    quiet = np.concatenate([0.005 * waves(1, 8000), waves(1, 8000)])
    file = CODINGS["16 bits"](quiet, 16000)
    row = sounds.decode(file, (1, 300), 8000, "x")
    found = user_inputs.read_input(audio_spec(), file)
    assert found.tobytes() == row.tobytes()


def test_sound_beyond_full_scale_is_scaled_not_clipped() -> None:
    quiet, loud = (CODINGS["float"](gain * waves(2), 16000) for gain in (1, 50))
    rows = [sounds.decode(file, (1, 300), 8000, "x") for file in (quiet, loud)]
    assert np.allclose(*rows, atol=1e-6)
    assert (np.abs(rows[1]) > 0.999 * clips.PEAK).sum() < 5


@pytest.mark.parametrize(
    ("file", "said"),
    [
        (wav(np.array([[0.5], [np.nan]], "<f4"), 8000, 32, True), "values that are not finite"),
        (wav(np.array([[0.5], [-np.inf]], "<f8"), 8000, 64, True), "values that are not finite"),
        (wav(np.zeros((0, 1), "<i2"), 8000, 16), "it holds no samples"),
        (wav(np.zeros((0, 2), "<f4"), 8000, 32, True), "it holds no samples"),
        (wav(np.zeros((2_000_000, 1), np.uint8), 1, 8), "16000000000 samples at 8000 Hz are too"),
    ],
)
def test_sound_without_a_training_row_is_refused(file: bytes, said: str) -> None:
    with pytest.raises(CorruptRow, match=rf"a\.wav is no whole sound: .*{said}"):
        sounds.decode(file, (1, 300), 8000, "a.wav")
    with pytest.raises(ValueError, match=f"audio 'audio' cannot be read: .*{said}"):
        user_inputs.read_input(audio_spec(), file)


TEXTS = {
    "plain": b"seven up",
    "mark of byte order": "\ufeffseven up".encode(),
    "CR LF": b"seven up\r\n",
    "both": "\ufeffseven up\r\n".encode(),
    "blanks": b"\t seven up \n\n",
}


@pytest.mark.parametrize("name", TEXTS)
def test_served_text_equals_its_training_row(name: str, tmp_path: Path) -> None:
    (tmp_path / "0.txt").write_bytes(TEXTS[name])
    (tmp_path / "1.txt").write_bytes("\ufeffeleven\r\nnine\r".encode())
    config = DataConfig(source="text", path=str(tmp_path))
    train, test = text.load(config, (9,), "train"), text.load(config, (9,), "test")
    vocabulary = Vocabulary(train.vocabulary)
    rows = {line: row for part in (train, test) for line, row in _by_text(part)}
    assert rows.keys() == {"seven up", "eleven", "nine"}
    given = TensorSpec(
        name="text",
        kind="text",
        dtype="int64",
        shape=(9,),
        range=(0, len(vocabulary) - 1),
        vocabulary=vocabulary.pieces,
        preprocessing=default_for("text"),
    )
    found = user_inputs.read_input(given, TEXTS[name].decode())
    assert found.tobytes() == rows["seven up"].tobytes()


def _by_text(source: Dataset) -> list[tuple[str, NDArray[Any]]]:
    texts = Vocabulary(source.vocabulary).texts(source.samples)
    return list(zip(texts, source.samples, strict=True))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("shape", [(1, 16, 12), (3, 16, 12), (3, 40, 31)], ids=str)
@pytest.mark.parametrize("name", PICTURES)
def test_old_artifact_reads_pictures_as_before(name: str, shape: tuple[int, ...]) -> None:
    older = replace(image_spec(*shape), preprocessing=msgspec.UNSET)
    image = Image.open(io.BytesIO(PICTURES[name]))
    if getattr(image, "n_frames", 1) > 1:
        with pytest.raises(ValueError, match="an animation of 2 frames; take a single image"):
            user_inputs.read_input(older, PICTURES[name])
        return
    channels, height, width = shape
    pixels = np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    image = Image.fromarray(pixels).convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        image = ImageOps.pad(image, (width, height), Image.Resampling.LANCZOS, color=0)
    levels = np.asarray(image, np.float32).reshape(height, width, channels).transpose(2, 0, 1)
    wanted = np.ascontiguousarray(-1.0 + levels * np.float32(2 / 255), np.float32)
    assert user_inputs.read_input(older, PICTURES[name]).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("rate_hz", [8000, 44100])
@pytest.mark.parametrize("coding", CODINGS)
def test_old_artifact_reads_sounds_as_before(coding: str, rate_hz: int) -> None:
    older = replace(audio_spec(), preprocessing=msgspec.UNSET)
    file = CODINGS[coding](waves(2), rate_hz)
    wave = audio_files.read_sound(file, overload="clipped").samples.mean(0)
    part = clips.heard(wave, rate_hz, 8000, 300)
    wanted = clips.fitted(clips.resampled(part, rate_hz, 8000), 8000, 300)[None]
    assert user_inputs.read_input(older, file).tobytes() == wanted.tobytes()
    nothing = wav(np.zeros((0, 2), "<f4"), rate_hz, 32, True)
    assert not user_inputs.read_input(older, nothing).any()


def test_old_artifact_reads_texts_unchanged() -> None:
    older = TensorSpec(
        name="text",
        kind="text",
        dtype="int64",
        shape=(4,),
        range=(0, 4),
        vocabulary=("", "a", " ", "\r", "\ufeff"),
    )
    assert user_inputs.read_input(older, "\ufeff a\r"[1:]).tolist() == [2, 1, 3, 0]
    assert user_inputs.read_input(older, "\ufeffa").tolist() == [4, 1, 0, 0]
