"""Folders of recordings: splits, classes, rates, and files that are no sound."""

from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.artifact import audio_files
from aigc.config import DataConfig, ModelConfig
from aigc.data import CorruptRow
from tests.data.sounds import CLASSES, SHAPE, recordings, tone

MODEL = ModelConfig(shape=SHAPE)


def pitch_hz(sample: np.ndarray) -> float:
    spectrum = np.abs(np.fft.rfft(sample[0] * np.hanning(sample.shape[1]), 8192))
    return float(spectrum.argmax() * 8000 / 8192)


def test_recordings_keep_their_pitch_at_any_rate(tmp_path: Path) -> None:
    config = recordings(tmp_path)
    source = data.load(config, MODEL)
    for row, (name, label) in enumerate(source.origin.files):  # type: ignore[attr-defined]
        sample, index = source.read(row)
        expected = 200 + 10 * int(Path(name).stem) + 1000 * CLASSES.index(label)
        assert abs(pitch_hz(sample) - expected) < 10
        assert CLASSES[index] == label
        assert np.abs(sample).max() == pytest.approx(0.95, abs=0.01)


def test_sample_rate_is_part_of_the_fingerprint(tmp_path: Path) -> None:
    config = recordings(tmp_path)
    prints = [
        data.load(c, MODEL).fingerprint()
        for c in (config, DataConfig(source="audio", path=config.path, sample_rate_hz=4000))
    ]
    assert [p["sample_rate_hz"] for p in prints] == [8000, 4000]
    assert prints[0]["sha256"] != prints[1]["sha256"]


def test_flac_reads_like_wav(tmp_path: Path) -> None:
    pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    config = recordings(tmp_path)
    before = data.load(config, MODEL).read(0)[0]
    path = next((tmp_path / "down").glob("*.wav"))
    names = sorted(p.name for p in (tmp_path / "down").iterdir())
    for name in names:
        path = tmp_path / "down" / name
        found = audio_files.read_sound(path.read_bytes())
        written = audio_files.flac(audio_files.to_pcm16(found.samples), found.rate_hz)
        path.write_bytes(written)  # the name says wav: what counts is the content
    assert np.array_equal(data.load(config, MODEL).read(0)[0], before)


@pytest.mark.parametrize("content", [b"", b"RIFF", b"RIFF\0\0\0\0WAVEdata\0\0\0\0"])
def test_corrupt_sound_is_a_corrupt_row_with_its_path(content: bytes, tmp_path: Path) -> None:
    config = recordings(tmp_path)
    bad = tmp_path / "up" / "001.wav"
    bad.write_bytes(content)
    (tmp_path / "testing_list.txt").write_text("up/003.wav")
    with pytest.raises(CorruptRow, match=r"up/001\.wav is no whole sound: .*on-error skip"):
        data.load(config, MODEL)


def test_long_recordings_are_cut_and_silence_stays_silent(tmp_path: Path) -> None:
    config = recordings(tmp_path, 12)
    for path in (tmp_path / "up").iterdir():
        path.write_bytes(audio_files.wav(np.zeros((9000, 1), np.int16), 8000))
    source = data.load(config, MODEL)
    samples, labels = data.gather(source, range(len(source)), "stop")
    assert (samples[labels == CLASSES.index("up")] == 0).all()
    assert samples.shape[1:] == SHAPE


def test_recordings_beside_class_folders_are_refused(tmp_path: Path) -> None:
    config = recordings(tmp_path)
    (tmp_path / "loose.wav").write_bytes(audio_files.wav(tone(300), 8000))
    with pytest.raises(ValueError, match=r"beside them, such as loose\.wav"):
        data.load(config, MODEL)


@pytest.mark.parametrize(
    ("names", "written"),
    [
        ("my clip {}.wav", "up/my clip {}.wav"),
        ("{}.wav", "up\\{}.wav"),
        ("{}.wav", "./up/{}.wav  "),
        ("été {}.wav", "up/été {}.wav"),
    ],
)
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "bom"])
@pytest.mark.parametrize("end", ["\n", "\r\n"], ids=["lf", "crlf"])
def test_list_entries_match_however_they_are_written(
    names: str, written: str, mark: str, end: str, tmp_path: Path
) -> None:
    (tmp_path / "up").mkdir()
    for number in range(8):
        wave = audio_files.wav(tone(200 + number, 64), 8000)
        (tmp_path / "up" / names.format(number)).write_bytes(wave)
    listed = end.join(written.format(number) for number in range(3))
    (tmp_path / "testing_list.txt").write_bytes(f"{mark}{listed}{end}".encode())
    config = DataConfig(source="audio", path=str(tmp_path))
    model = ModelConfig(shape=(1, 64))
    assert [len(data.load(config, model, split)) for split in ("train", "test")] == [5, 3]
    assert data.load(config, model).survey.splits == {"train": 5, "testing_list.txt": 3}


def test_list_without_a_match_is_noted(tmp_path: Path) -> None:
    config = recordings(tmp_path, 8)
    (tmp_path / "testing_list.txt").write_text("up/003.wav\nup/gone.wav\ndown/Gone.wav\n")
    source = data.load(config, MODEL)
    assert len(source) == 15
    assert (
        "testing_list.txt names 2 recordings that are not there: up/gone.wav, down/Gone.wav"
        in source.survey.notes
    )
    (tmp_path / "testing_list.txt").write_text("right/0.wav\n")
    with pytest.raises(ValueError, match="names no recording of this folder, its first line is"):
        data.load(config, MODEL)
    (tmp_path / "testing_list.txt").write_bytes("café/0.wav".encode("latin-1"))
    with pytest.raises(ValueError, match=r"testing_list\.txt is not UTF-8 text.*iconv -f latin1"):
        data.load(config, MODEL)


def test_lists_of_speech_commands_name_test_and_held_out_rows(tmp_path: Path) -> None:
    config = recordings(tmp_path, 8)
    (tmp_path / "_background_noise_").mkdir()
    (tmp_path / "_background_noise_" / "hum.wav").write_bytes(audio_files.wav(tone(50), 8000))
    (tmp_path / "testing_list.txt").write_text("up/000.wav\ndown/001.wav\n")
    (tmp_path / "validation_list.txt").write_text("up/002.wav\n")
    train, test = (data.load(config, MODEL, split) for split in ("train", "test"))
    assert (len(train), len(test)) == (13, 2)
    assert test.classes == train.classes == CLASSES
    assert train.survey.splits["validation_list.txt"] == 1
    [noise] = train.survey.left_out
    assert (noise.count, noise.first) == (1, ("_background_noise_/hum.wav",))


def test_split_lists_ignore_case_and_must_leave_training_rows(tmp_path: Path) -> None:
    config, model = recordings(tmp_path, 8), MODEL
    names = sorted(path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.wav"))
    (tmp_path / "Testing_List.TXT").write_text(names[0])
    assert len(data.load(config, model, "test")) == 1
    assert not data.load(config, model).survey.left_out
    (tmp_path / "Testing_List.TXT").write_text("\n".join(names))
    with pytest.raises(ValueError, match=r"every recording .* is named by Testing_List\.TXT, so"):
        data.load(config, model)
