"""Headers say what decoding would, without decoding."""

import io

import numpy as np
import pytest
from PIL import Image

from aigc.artifact import audio_files
from aigc.data.headers import picture_header, sound_header
from tests.data.found import encoded, photo
from tests.data.sounds import tone


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16", "CMYK"])
def test_picture_header_has_size_and_mode(mode: str) -> None:
    if mode == "I;16":
        picture = Image.fromarray(np.zeros((40, 50), np.uint16))
    else:
        picture = photo(1).convert(mode)
    form = "TIFF" if mode == "CMYK" else "PNG"
    header = picture_header(encoded(picture, form))
    assert (header.width, header.height, header.mode) == (50, 40, mode)
    assert header.transparent == (mode in ("LA", "RGBA"))
    assert header.grey == (mode in ("1", "L", "LA", "I;16"))
    assert not header.animated


def test_picture_header_knows_transparent_palettes() -> None:
    picture = photo(1).convert("P")
    header = picture_header(encoded(picture, "PNG", transparency=0))
    assert header.mode == "P with transparency"
    assert header.transparent


@pytest.mark.parametrize("orientation", range(1, 9))
def test_picture_header_size_follows_exif(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    header = picture_header(encoded(photo(1), "JPEG", exif=exif))
    assert (header.width, header.height) == ((40, 50) if orientation > 4 else (50, 40))


def test_picture_header_counts_frames() -> None:
    frames = encoded(photo(1), "GIF", save_all=True, append_images=[photo(2)])
    assert picture_header(frames).animated


def test_picture_header_reads_truncated_pictures() -> None:
    header = picture_header(encoded(photo(1, 300, 200), "PNG")[:64])
    assert (header.width, header.height) == (300, 200)


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x89PNG\r\n\x1a\n"])
def test_headers_refuse_other_files(content: bytes) -> None:
    with pytest.raises(ValueError, match="header cannot be read"):
        picture_header(content)
    with pytest.raises(ValueError, match="header cannot be read"):
        sound_header(content)


@pytest.mark.parametrize(("rate_hz", "channels"), [(8000, 1), (44_100, 2)])
@pytest.mark.parametrize("form", ["wav", "flac"])
def test_sound_header_has_rate_and_length(form: str, rate_hz: int, channels: int) -> None:
    if form == "flac":
        pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    write = {"wav": audio_files.wav, "flac": audio_files.flac}[form]
    header = sound_header(write(tone(300, 1234, rate_hz, channels), rate_hz))
    assert (header.rate_hz, header.channels) == (rate_hz, channels)
    assert header.seconds == pytest.approx(1234 / rate_hz)


def test_sound_header_of_a_truncated_wav_counts_what_is_there() -> None:
    whole = audio_files.wav(tone(300, 1000), 8000)
    assert sound_header(whole[:-1000]).seconds == pytest.approx(500 / 8000)


def test_sound_header_refuses_webp() -> None:
    content = encoded(photo(1), "WEBP")
    assert content[:4] == b"RIFF"
    assert picture_header(content).width == 50
    with pytest.raises(ValueError, match="no WAV, AIFF or FLAC"):
        sound_header(content)


def test_picture_header_reads_pictures_in_memory() -> None:
    assert picture_header(Image.open(io.BytesIO(encoded(photo(1), "PNG")))).mode == "RGB"
