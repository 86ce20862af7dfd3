"""Rows that are pieces of recordings: all of every recording, once, as loud as it is."""

import io
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from aigc import data
from aigc.artifact import TensorSpec, audio_files, user_inputs
from aigc.artifact.preprocessing import AUDIO, AUDIO_KEPT, default_for
from aigc.config import DataConfig, ModelConfig
from aigc.data import CorruptRow
from aigc.data.recordings import recordings as whole_recordings
from aigc.data.sources.audio import Pieces
from aigc.data.stretches import starts, whole
from tests.data.sounds import CLASSES, recordings
from tests.data.test_stretches import announcing

SIZE = 500
MODEL = ModelConfig(shape=(1, SIZE))


def written(folder: Path, lengths: list[int], rate_hz: int = 8000) -> DataConfig:
    """Noise of growing loudness, a file for each length; the last is the test split."""
    generator = np.random.default_rng(0)
    for number, length in enumerate(lengths):
        level = 300 * (number + 1)
        samples = generator.integers(-level, level, (length, 1)).astype(np.int16)
        (folder / f"{number}.wav").write_bytes(audio_files.wav(samples, rate_hz))
    (folder / "testing_list.txt").write_text(f"{len(lengths) - 1}.wav")
    return DataConfig(source="audio", path=str(folder), pieces=True, memory_mb=0)


def opened(config: DataConfig, model: ModelConfig = MODEL) -> Pieces:
    source = data.load(config, model)
    assert isinstance(source, Pieces)
    return source


@pytest.mark.parametrize(
    ("length", "expected"),
    [(0, [0]), (1, [0]), (500, [0]), (501, [0, 1]), (1000, [0, 500]), (1200, [0, 500, 700])],
)
def test_starts_cover_a_recording_to_its_end(length: int, expected: list[int]) -> None:
    assert starts(length, SIZE).tolist() == expected


@pytest.mark.parametrize("rate_hz", [8000, 44_100])
def test_pieces_hold_every_sample_of_every_recording(rate_hz: int, tmp_path: Path) -> None:
    config = written(tmp_path, [9000, 300, 2500, 12_345, 700], rate_hz)
    source = opened(config)
    assert [name for name, _ in source.files] == ["0.wav", "1.wav", "2.wav", "3.wav"]
    covered = {
        path: np.full(len(whole(path, 8000, 60)), np.nan, np.float32)
        for path in sorted(tmp_path.glob("[0-3].wav"))
    }
    for row in range(len(source)):
        sample, start = source.read(row)[0], int(source.starts[row])
        assert sample.shape == (1, SIZE)
        wave = covered[source.path_of(row)]
        part = wave[start : start + SIZE]
        part[:] = sample[0, : len(part)]
        assert not sample[0, len(part) :].any()
        assert len(part) == SIZE or len(wave) < SIZE
    for path, wave in covered.items():
        assert wave.tobytes() == whole(path, 8000, 60).tobytes()


def test_pieces_keep_loudness_and_silence_at_the_beginning(tmp_path: Path) -> None:
    config = written(tmp_path, [900, 900, 900])
    quiet, loud = (np.abs(opened(config).read(row)[0]).max() for row in (0, 2))
    assert loud == pytest.approx(2 * quiet, rel=0.05)
    samples = np.zeros((900, 1), np.int16)
    samples[400:450] = 1000
    (tmp_path / "0.wav").write_bytes(audio_files.wav(samples, 8000))
    sample = opened(config).read(0)[0][0]
    assert np.flatnonzero(sample).tolist() == [*range(400, 450)]
    assert sample[420] == np.float32(1000 / 32767)


def test_pieces_of_a_recording_are_in_one_split_and_all_are_counted(tmp_path: Path) -> None:
    config = replace(recordings(tmp_path), pieces=True)
    model = ModelConfig(shape=(1, 200), num_classes=2)
    train, test = (data.load(config, model, split) for split in ("train", "test"))
    names = [{name for name, _ in one.origin.files} for one in (train, test)]  # type: ignore[attr-defined]
    assert not names[0] & names[1]
    assert sum(map(len, names)) == 40
    assert (len(train), len(test)) == (3 * len(names[0]), 3 * len(names[1]))
    assert train.survey.splits == {"train": len(train), "held out": len(test)}
    assert train.survey.labels is not None
    for row in range(len(train)):
        name = Path(train.origin.path_of(row)).parent.name  # type: ignore[attr-defined]
        assert train.read(row)[1] == CLASSES.index(name) == train.survey.labels[row]


def test_rows_are_the_same_read_in_any_order_and_from_memory(tmp_path: Path) -> None:
    config = written(tmp_path, [9000, 300, 2500, 700])
    source = opened(config)
    forward = [source.read(row)[0].tobytes() for row in range(len(source))]
    assert [source.read(row)[0].tobytes() for row in source.order(3, 1)] == [
        forward[row] for row in source.order(3, 1)
    ]
    held = data.load(replace(config, memory_mb=100), MODEL)
    assert [held.read(row)[0].tobytes() for row in range(len(held))] == forward
    assert held.order(3, 1).tolist() == source.order(3, 1).tolist()
    assert held.fingerprint() == source.fingerprint()


def test_fingerprint_covers_pieces_their_length_and_the_content(tmp_path: Path) -> None:
    config = written(tmp_path, [9000, 300, 2500, 700])
    prints = [
        opened(config).fingerprint(),
        opened(config, ModelConfig(shape=(1, 499))).fingerprint(),
        data.load(replace(config, pieces=False), MODEL).fingerprint(),
    ]
    assert opened(config).fingerprint() == prints[0]
    samples = np.ones((9000, 1), np.int16)
    (tmp_path / "0.wav").write_bytes(audio_files.wav(samples, 8000))
    prints.append(opened(config).fingerprint())
    assert len({one["sha256"] for one in prints}) == 4
    assert [one.get("level") for one in prints] == ["kept", "kept", None, "kept"]


def test_fingerprint_differs_also_where_every_recording_is_one_piece(tmp_path: Path) -> None:
    config = written(tmp_path, [400, 300, 200])
    pieces, beginnings = (data.load(replace(config, pieces=p), MODEL) for p in (True, False))
    assert len(pieces) == len(beginnings)
    assert pieces.fingerprint()["sha256"] != beginnings.fingerprint()["sha256"]


def test_unreadable_recording_is_a_corrupt_row_by_name(tmp_path: Path) -> None:
    config = written(tmp_path, [900, 900, 900])
    (tmp_path / "0.wav").write_bytes(b"RIFF")
    source = opened(config)
    assert len(source) == 1 + 2
    with pytest.raises(CorruptRow, match=r"0\.wav is no whole sound: not a WAV, AIFF or FLAC"):
        source.read(0)
    (tmp_path / "1.wav").unlink()  # while a run goes on
    with pytest.raises(CorruptRow, match=r"1\.wav cannot be read: No such file"):
        source.read(1)
    skipping = replace(config, on_error="skip")
    (tmp_path / "1.wav").write_bytes(audio_files.wav(np.ones((900, 1), np.int16), 8000))
    sample, _, reason = data.read(opened(skipping), 0, "skip")
    assert "0.wav" in str(reason)
    assert sample.any()


def test_pieces_have_no_effect_on_other_sources(caplog: pytest.LogCaptureFixture) -> None:
    data.load(DataConfig(pieces=True), ModelConfig(shape=(1, 28, 28)))
    assert "data.pieces has no effect: digits has no such choice" in caplog.text


def served() -> TensorSpec:
    """Input of an artifact that was trained on pieces."""
    reading = default_for("audio", kept=True)
    assert reading == AUDIO_KEPT
    assert default_for("audio") == AUDIO
    return TensorSpec(
        name="audio",
        kind="audio",
        dtype="float32",
        shape=(1, SIZE),
        range=(-1.0, 1.0),
        sample_rate_hz=8000,
        preprocessing=reading,
    )


FORMS = (
    *(("WAV", subtype) for subtype in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE")),
    *(("AIFF", subtype) for subtype in ("PCM_S8", "PCM_U8", "PCM_16", "PCM_24", "FLOAT", "DOUBLE")),
    *(("FLAC", subtype) for subtype in ("PCM_S8", "PCM_16", "PCM_24")),
)


def encoded(values: np.ndarray, rate_hz: int, form: str, subtype: str) -> bytes:
    library = pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    buffer = io.BytesIO()
    library.write(buffer, values, rate_hz, subtype, format=form)
    return buffer.getvalue()


@pytest.mark.parametrize("rate_hz", [8000, 11_025])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("form", "subtype"), FORMS)
def test_pieces_of_every_coding_are_those_of_the_whole_and_served_alike(
    form: str, subtype: str, channels: int, rate_hz: int, tmp_path: Path
) -> None:
    config = written(tmp_path, [9000, 300, 700])
    loudest = 1.6 if subtype in ("FLOAT", "DOUBLE") else 1  # floats are clipped
    values = np.random.default_rng(channels).uniform(-loudest, loudest, (2600, channels))
    path = tmp_path / f"0.{form.lower()}"
    (tmp_path / "0.wav").unlink()
    path.write_bytes(encoded(values, rate_hz, form, subtype))
    source = opened(config)
    rows = [row for row in range(len(source)) if source.path_of(row) == path]
    assert len(rows) == len(starts(-(-2600 * 8000 // rate_hz), SIZE))
    wave = whole(path, 8000, 60)
    for row in rows:
        start = int(source.starts[row])
        assert source.read(row)[0].tobytes() == wave[start : start + SIZE].tobytes()
    found = user_inputs.read_input(served(), path.read_bytes())
    assert found.tobytes() == source.read(rows[0])[0].tobytes()
    assert np.abs(found).max() > 0.5


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("form", ["WAV", "AIFF"])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_values_that_are_not_finite_are_refused_in_training_and_serving(
    odd: float, form: str, subtype: str, tmp_path: Path
) -> None:
    config = written(tmp_path, [900, 300, 700])
    values = np.full((900, 2), 0.1)
    values[70, 1] = odd
    (tmp_path / "0.wav").write_bytes(encoded(values, 8000, form, subtype))
    source = opened(config)
    with pytest.raises(CorruptRow, match="values that are not finite"):
        source.read(0)
    assert (source.read(1)[0] == np.float32(0.1)).all()  # which does not depend on them
    with pytest.raises(ValueError, match="values that are not finite"):
        user_inputs.read_input(served(), (tmp_path / "0.wav").read_bytes())


FLAC = ("FLAC", "PCM_16")
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, (20_000, 1))
HARMED: dict[str, tuple[Callable[[], bytes], str]] = {
    "flac of 42 bytes": (
        lambda: announcing(encoded(NOISE, 8000, *FLAC), 2**36 - 1)[:42],
        "cut off",
    ),
    "flac of too many": (lambda: announcing(encoded(NOISE, 8000, *FLAC), 10**8), "cut off"),
    "flac cut off": (lambda: encoded(NOISE, 8000, *FLAC)[:9000], "cut off"),
    "wav of 1 Hz": (
        lambda: audio_files.wav(np.ones((20_000, 1), np.int16), 1),
        "rate of 1 Hz is too low",
    ),
    "aiff of 2 Hz": (
        lambda: encoded(NOISE, 2, "AIFF", "PCM_16"),
        "rate of 2 Hz is too low",
    ),
}


@pytest.mark.parametrize("harm", HARMED)
def test_harmed_recording_is_one_row_that_is_refused_and_its_name_is_noted(
    harm: str, tmp_path: Path
) -> None:
    config = written(tmp_path, [900, 900, 900])
    content, reason = HARMED[harm]
    (tmp_path / "0.wav").write_bytes(content())
    source = opened(config)
    assert len(source) == 1 + 2
    with pytest.raises(CorruptRow, match=reason) as refused:
        source.read(0)
    assert "psf" not in str(refused.value)
    assert source.survey.sounds is not None
    assert source.survey.sounds.recordings == 1
    [note] = [note for note in source.survey.notes if "length cannot be read" in note]
    assert note.endswith("1 (0.wav)")
    sample, _, skipped = data.read(opened(replace(config, on_error="skip")), 0, "skip")
    assert sample.any()
    assert "0.wav" in str(skipped)


def test_recording_that_is_mended_while_a_run_goes_on_is_still_refused(tmp_path: Path) -> None:
    config = written(tmp_path, [900, 900, 900])
    content = (tmp_path / "0.wav").read_bytes()
    (tmp_path / "0.wav").write_bytes(content[:-1])
    source = opened(config)
    (tmp_path / "0.wav").write_bytes(content)
    with pytest.raises(CorruptRow, match="could not be read when the data were opened"):
        source.read(0)  # the others of its rows are not there
    assert len(opened(config)) == 4


def test_recordings_with_lengths_have_no_note(tmp_path: Path) -> None:
    config = written(tmp_path, [900, 300, 700])
    for pieces in (True, False):
        survey = data.load(replace(config, pieces=pieces), MODEL).survey
        assert not [note for note in survey.notes if "length" in note]
    (tmp_path / "1.wav").write_bytes(b"RIFF")
    survey = data.load(replace(config, pieces=False), MODEL).survey
    assert [note for note in survey.notes if note.endswith("1 (1.wav)")]


def test_whole_recordings_come_by_split_at_the_rate_and_level(tmp_path: Path) -> None:
    config = written(tmp_path, [9000, 300, 2500], 16_000)
    found = [*whole_recordings(config, "train")]
    assert [one.name for one in found] == ["0.wav", "1.wav"]
    assert [one.wave.shape for one in found] == [(4500,), (150,)]
    assert [one.name for one in whole_recordings(replace(config, pieces=False), "test")] == [
        "2.wav"
    ]
    same = [*whole_recordings(replace(config, sample_rate_hz=16_000), "train")]
    for one in same:
        stored = audio_files.read_sound((tmp_path / one.name).read_bytes()).samples[0]
        assert (one.wave.dtype, one.label) == (np.float32, None)
        assert one.wave.tobytes() == stored.tobytes()


def test_whole_recordings_have_the_names_of_their_classes(tmp_path: Path) -> None:
    for one in whole_recordings(recordings(tmp_path, 4), "train"):
        assert one.label == Path(one.name).parent.name


def test_whole_recordings_that_are_long_or_broken_stop_or_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = written(tmp_path, [9000, 300, 2500])
    with pytest.raises(CorruptRow, match=r"0\.wav .* its 1\.125 s are too long; at most 1 s"):
        [*whole_recordings(config, "train", max_s=1)]
    with caplog.at_level(logging.WARNING):
        found = [*whole_recordings(replace(config, on_error="skip"), "train", max_s=1)]
    assert [one.name for one in found] == ["1.wav"]
    assert "0.wav cannot be taken whole" in caplog.text
    with pytest.raises(ValueError, match="data 'digits' has no recordings to take whole"):
        whole_recordings(DataConfig(), "test")
