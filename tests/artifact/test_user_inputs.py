"""Files and texts as people have them become what a signature takes, and nothing else does."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

from aigc.artifact import TensorSpec, audio_files, clips, image_files, user_inputs
from aigc.artifact.preprocessing import default_for

IMAGE = TensorSpec(name="image", kind="image", dtype="float32", shape=(1, 8, 6), range=(-1, 1))
AUDIO = TensorSpec(
    name="audio", kind="audio", dtype="float32", shape=(1, 200), range=(-1, 1), sample_rate_hz=8000
)
VECTOR = TensorSpec(name="vector", kind="vector", dtype="float32", shape=(2,))


def test_image_of_the_model_size_keeps_every_level() -> None:
    pixels = np.arange(48, dtype=np.uint8).reshape(8, 6, 1) * 5
    found = user_inputs.read_input(IMAGE, image_files.png(pixels))
    assert found.shape == (1, 8, 6)
    assert np.array_equal(image_files.to_uint8(found[None], -1, 1)[0], pixels)


def test_image_is_padded_to_keep_its_aspect() -> None:
    found = user_inputs.read_input(IMAGE, image_files.png(np.full((40, 10, 3), 255, np.uint8)))
    columns = found[0].mean(0)
    assert np.allclose(columns[[0, 1, 4, 5]], -1)
    assert np.allclose(columns[2:4], 1)


def test_grey_and_colour_are_converted() -> None:
    grey = image_files.png(np.full((8, 6, 1), 100, np.uint8))
    found = user_inputs.read_input(replace(IMAGE, shape=(3, 8, 6)), grey)
    assert np.allclose(found, 100 / 127.5 - 1)
    green = np.zeros((8, 6, 3), np.uint8)
    green[..., 1] = 255
    assert user_inputs.read_input(IMAGE, image_files.png(green)).mean() == pytest.approx(
        150 / 127.5 - 1
    )


def test_resampled_tone_keeps_its_pitch() -> None:
    seconds = np.arange(44100 // 10) / 44100
    wave = np.rint(0.5 * 32767 * np.sin(2 * np.pi * 500 * seconds)).astype(np.int16)
    spec = replace(AUDIO, shape=(1, 800))
    (found,) = user_inputs.read_input(spec, audio_files.wav(np.stack([wave, wave], 1), 44100))
    spectrum = np.abs(np.fft.rfft(found))
    assert np.fft.rfftfreq(800, 1 / 8000)[spectrum.argmax()] == 500
    assert np.abs(found).max() == pytest.approx(clips.PEAK)


@pytest.mark.parametrize(("rate_hz", "to_hz"), [(44100, 8000), (8000, 16000), (8000, 8000)])
def test_resampling_keeps_tones_below_both_limits(rate_hz: int, to_hz: int) -> None:
    wave = np.sin(2 * np.pi * 440 * np.arange(rate_hz) / rate_hz).astype(np.float32)
    found = clips.resampled(wave, rate_hz, to_hz)
    wanted = np.sin(2 * np.pi * 440 * np.arange(to_hz) / to_hz)
    assert np.abs(found - wanted).max() < 1e-4


def test_resampling_removes_tones_above_the_new_limit() -> None:
    wave = np.sin(2 * np.pi * 6000 * np.arange(44100) / 44100).astype(np.float32)
    assert np.abs(clips.resampled(wave, 44100, 8000)).max() < 1e-4


def test_long_recording_costs_as_much_as_its_clip() -> None:
    noise = np.random.default_rng(0).integers(-9000, 9000, (20_000, 1)).astype(np.int16)
    slow = audio_files.wav(noise, 1)  # 20,000 seconds: 160 million samples at the model's rate
    tracemalloc.start()
    found = user_inputs.read_input(AUDIO, slow)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found.shape == (1, 200)
    assert most < 5_000_000


def test_clip_of_a_long_recording_equals_that_of_the_whole() -> None:
    wave = np.zeros(441_000, np.float32)
    t = np.arange(4410) / 44100
    wave[88_200:92_610] = 0.5 * np.sin(2 * np.pi * 500 * t) * np.sin(np.pi * t * 10)
    levels = np.rint(wave * 32767).astype(np.int16)[:, None]
    (found,) = user_inputs.read_input(
        replace(AUDIO, shape=(1, 800)), audio_files.wav(levels, 44100)
    )
    whole = clips.fitted(clips.resampled(levels[:, 0] / np.float32(32767), 44100, 8000), 8000, 800)
    assert np.abs(found - whole).max() < 1e-3


def test_faint_sound_is_silence() -> None:
    faint = np.full(64, 1e-40, "<f4").tobytes()
    head = audio_files.wav_head(128, 1, 8000).replace(b"\1\0\1\0", b"\3\0\1\0", 1)
    data = head[:34] + b"\x20\0" + head[36:] + faint
    assert not user_inputs.read_input(AUDIO, data).any()


@pytest.mark.parametrize("before", [False, True])
def test_inputs_share_the_decoding_budget(before: bool) -> None:
    image, audio = (
        spec if before else replace(spec, preprocessing=default_for(spec.kind))
        for spec in (IMAGE, AUDIO)
    )
    large = image_files.png(np.zeros((4096, 4096, 1), np.uint8))
    assert user_inputs.read_input(image, large).shape == (1, 8, 6)
    with pytest.raises(ValueError, match="pixels are too many"):
        user_inputs.read_input(image, large, 2)
    minute = audio_files.wav(np.ones((1_000_000, 1), np.int16), 192_000)
    assert user_inputs.read_input(audio, minute, 11).shape == (1, 200)
    with pytest.raises(ValueError, match="samples are too many"):
        user_inputs.read_input(audio, minute, 12)


def test_sound_growing_beyond_the_limit_is_refused_before_resampling() -> None:
    slow = audio_files.wav(np.ones((20_000, 1), np.int16), 1)
    spec = replace(AUDIO, preprocessing=default_for("audio"))
    tracemalloc.start()
    with pytest.raises(ValueError, match="160000000 samples at 8000 Hz are too many; at most"):
        user_inputs.read_input(spec, slow)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 1_000_000


@pytest.mark.parametrize("value", [[1.0], [1.0, np.nan], [1.0, 1e300], "1, 2", b"12"])
def test_array_of_another_shape_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="vector 'vector' cannot be read"):
        user_inputs.read_input(VECTOR, value)  # type: ignore[arg-type]


def test_fingerprint_is_that_of_the_graph_inputs() -> None:
    rows = {"vector": np.array([[1, 2], [3, 4]], np.float32)}
    other = {"vector": np.array([[3, 4]], np.float32)}
    assert user_inputs.fingerprints(rows, 1) == user_inputs.fingerprints(other, 0)
    assert user_inputs.fingerprints(rows, 0) != user_inputs.fingerprints(rows, 1)
