"""`aigc data`: what is there is said, and the command that it suggests trains on it."""

import io
import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from PIL import Image

from aigc import data
from aigc.artifact import audio_files
from aigc.commands.inspect_data import command, named
from aigc.config import DataConfig
from aigc.data_report import suggestion
from aigc.data_report.picture import COLUMNS, GAP
from aigc.data_report.report import Inspected, Report, inspect
from aigc.data_report.table import table
from cluster.train import command as train
from tests.data import found, rows
from tests.data.pictures import CLASSES, KINDS, TEST, TRAIN, pictures, write
from tests.data.sounds import recordings
from tests.data.tiny import idx, lines


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def mnist(folder: Path) -> DataConfig:
    for split, n in (("train", 12), ("t10k", 6)):
        idx(folder, split, n, zipped=True)
    return DataConfig(source="idx", path=str(folder))


def vectors(folder: Path) -> DataConfig:
    random = np.random.default_rng(0)
    np.savez(folder / "v.npz", samples=random.normal(0, 3, (60, 5)), labels=np.arange(60) % 2)
    return DataConfig(source="npz", path=str(folder / "v.npz"))


def float_pictures(folder: Path) -> DataConfig:
    random = np.random.default_rng(0)
    np.savez(folder / "f.npz", images=random.uniform(-1, 1, (40, 3, 16, 12)).astype(np.float32))
    return DataConfig(source="npz", path=str(folder / "f.npz"))


def unlabelled(folder: Path) -> DataConfig:
    for number, (content, _) in enumerate(pictures("train") * 2):
        (folder / f"{number}.png").write_bytes(content)
    return DataConfig(source="folder", path=str(folder))


SETS: dict[str, Callable[[Path], DataConfig]] = {
    **{kind: lambda folder, kind=kind: write(kind, folder) for kind in KINDS},  # type: ignore[misc]
    "idx": mnist,
    "text": lines,
    "audio": lambda folder: recordings(folder, 5),
    "paired": rows.written,
    "vectors": vectors,
    "float pictures": float_pictures,
    "unlabelled": unlabelled,
}


@pytest.fixture(scope="module", params=[*SETS, "ring", "numbers", "digits"])
def inspected(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Inspected:
    make = SETS.get(request.param)
    config = make(tmp_path_factory.mktemp("data")) if make else DataConfig(source=request.param)
    return inspect(config)


def said(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """Run the command; returns its stdout."""
    capsys.readouterr()
    assert command([*argv]) == 0
    return capsys.readouterr().out


def report_of(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said(capsys, *argv, "--json"))
    return found


def size_of(file: Path) -> tuple[int, int]:
    """(width, height) of a PNG."""
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        return picture.size


def test_the_suggested_command_dry_runs_and_its_run_sees_the_same_rows(
    inspected: Inspected, capsys: pytest.CaptureFixture[str]
) -> None:
    report, run = inspected.report, inspected.run
    assert run is not None
    program, verb, *argv = shlex.split(report.suggestion)
    assert (program, verb) == ("aigc", "train")
    assert train([*argv, "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert f"data: {report.name} (source {report.source}" in shown
    for split in ("train", "test"):
        assert len(data.load(run.data, run.model, split)) == report.rows[split]
    source = data.load(run.data, run.model)
    assert source.classes == tuple(one["name"] for one in report.classes)
    assert run.model.num_classes in (len(source.classes), 0)


@pytest.mark.parametrize(
    ("source", "preset"),
    [
        ("digits", "dcgan:digits"),
        ("ring", "fc_gan:ring"),
        ("numbers", "text_vae:numbers"),
        ("surnames", "text_vae:names"),
        ("spoken_digits", "spectrogram_gan:spoken_digits"),
        ("digits3", "multimodal_vae:digits3"),
    ],
)
def test_report_suggests_the_preset_of_a_source_without_files(source: str, preset: str) -> None:
    run = suggestion.preset_of(DataConfig(source=source))
    assert run is not None
    assert suggestion.train_command(run) == f"aigc train {preset}"


def test_report_reads_every_row_and_counts_classes(inspected: Inspected) -> None:
    report = inspected.report
    assert report.tried == report.rows
    assert report.decoded
    assert report.unreadable == {"count": 0, "first": []}
    for split, count in report.rows.items():
        if report.classes:
            assert sum(one[split] for one in report.classes) == count
    known = [report.pictures, report.sounds, report.texts, report.values]
    assert any(one is not None for one in known)
    assert report.fingerprint == inspected.sources["train"].fingerprint()


def test_report_is_valid_json_and_fits_a_terminal(
    inspected: Inspected,
) -> None:
    report = inspected.report
    document = json.loads(json.dumps(report.to_json()))
    assert msgspec.convert(document, Report).to_json() == report.to_json()
    *shown, suggestion = table(report).splitlines()
    assert suggestion == report.suggestion
    for line in shown:
        assert len(line) <= 100 or " " not in line.strip() or report.path in line, line
        assert line == line.rstrip()


@pytest.mark.parametrize("kind", KINDS)
def test_report_reads_modes_and_sizes_from_headers(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write(kind, tmp_path)
    report = report_of(capsys, config.path)
    assert report["source"] == kind
    assert report["guessed"]
    assert report["rows"] == {"train": TRAIN, "test": TEST}
    assert report["pictures"] == {
        "modes": {"RGB": TRAIN + TEST},
        "sizes": [[6, 8, TRAIN + TEST]],
        "different_sizes": 1,
        "smallest": [6, 8],
        "largest": [6, 8],
        "animated": 0,
    }
    names = ("0", "1", "2") if kind in ("parquet", "webdataset") else CLASSES
    assert report["classes"] == [
        {"name": name, "train": 5 if label == 0 else 4, "test": 2}
        for label, name in enumerate(names)
    ]
    assert report["duplicates"] == {"train": 0, "test": 0, "across": 0, "first": []}


@pytest.mark.parametrize("kind", KINDS)
def test_report_finds_duplicates_within_and_across_splits(kind: str, tmp_path: Path) -> None:
    train_rows, test_rows = pictures("train"), pictures("test")
    train_rows += [train_rows[3], train_rows[3]]
    test_rows += [train_rows[5], train_rows[6], test_rows[0]]
    report = inspect(write(kind, tmp_path, {"train": train_rows, "test": test_rows})).report
    assert {k: report.duplicates[k] for k in ("train", "test", "across")} == {
        "train": 2,
        "test": 1,
        "across": 2,
    }
    first, second = report.duplicates["first"][0]
    assert first != second
    assert "held out and trained on as well: 2" in table(report)


@pytest.mark.parametrize("kind", ["folder", "hf", "parquet", "webdataset"])
def test_report_names_corrupt_rows_and_suggests_skip(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = pictures("train")
    broken[4] = (broken[4][0][:60], broken[4][1])
    config = write(kind, tmp_path, {"train": broken, "test": pictures("test")})
    report = inspect(config).report
    assert report.unreadable["count"] == 1
    (why,) = report.unreadable["first"]
    assert "is no whole picture" in why
    if kind == "folder":
        assert why.startswith("train/dog/004.png is")
    else:
        assert str(tmp_path) in why
    assert "--data.on-error skip" in report.suggestion
    assert train([*shlex.split(report.suggestion)[2:], "--dry-run"]) == 0


def test_report_names_a_class_without_rows(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found.pets(tmp_path)
    shown = " ".join(said(capsys, str(tmp_path)).split())
    assert "without a row to train on" in shown
    assert "sphynx" in shown


def test_suggested_shape_fits_modes_sizes_and_transparency(tmp_path: Path) -> None:
    def shape_of(name: str, *modes: str, size: tuple[int, int] = (30, 20)) -> Any:
        for number, mode in enumerate(modes * 10):
            content = found.encoded(found.photo(number, *size, mode=mode), "PNG")
            found.put(tmp_path / name / f"{number}.png", content)
        return inspect(DataConfig(source="folder", path=str(tmp_path / name))).report.shapes

    assert shape_of("grey", "L") == {"image": (1, 20, 32)}
    assert shape_of("clear", "RGBA", "RGBA", "RGB") == {"image": (4, 20, 32)}
    assert shape_of("mixed", "L", "RGB", "RGBA") == {"image": (3, 20, 32)}
    assert shape_of("large", "RGB", size=(640, 480)) == {"image": (3, 64, 64)}
    assert shape_of("tiny", "RGB", size=(3, 2)) == {"image": (3, 8, 8)}


def test_shape_option_overrides_the_suggestion(tmp_path: Path) -> None:
    config = write("folder", tmp_path)
    report = inspect(config, shape=(1, 16, 16)).report
    assert "--model.shape 1 16 16" in report.suggestion


def test_suggested_command_holds_the_data_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recordings(tmp_path, 5)
    report = report_of(capsys, config.path, "--sample-rate-hz", "4000", "--memory-mb", "7")
    assert report["sounds"] == {
        "rates_hz": {"8000": 8, "16000": 2},
        "channels": {"1": 8, "2": 2},
        "total_s": 0.75,
        "shortest_s": 0.075,
        "median_s": 0.075,
        "longest_s": 0.075,
        "sample_rate_hz": 4000,
        "row_s": 1.024,
        "longer": 0,
        "left_out_s": 0.0,
        "heard": 10,
        "silent": {"count": 0, "first": []},
        "clipped": {"count": 0, "first": []},
    }
    assert "--data.memory-mb 7" in report["suggestion"]
    assert "--data.sample-rate-hz 4000" in report["suggestion"]


def test_report_tells_silence_clipping_and_sound_in_no_row(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recordings(tmp_path, 5)
    loud = np.zeros((4000, 1), np.int16)
    loud[100:110] = 32767
    (tmp_path / "up" / "000.wav").write_bytes(audio_files.wav(loud, 8000))
    (tmp_path / "down" / "000.wav").write_bytes(audio_files.wav(loud // 2000, 8000))
    for flags in ([], ["--pieces"]):
        sounds = report_of(capsys, config.path, "--shape", "1", "300", *flags)["sounds"]
        assert sounds["heard"] == 10
        assert sounds["silent"] == {"count": 1, "first": ["down/000.wav"]}
        assert sounds["clipped"] == {"count": 1, "first": [["up/000.wav", 10 / 4000]]}
        assert sounds["total_s"] == 1.6
        assert sounds["left_out_s"] == (0 if flags else pytest.approx(1.6 - 10 * 300 / 8000))
    shown = said(capsys, config.path, "--shape", "1", "300")
    assert "silent, peak below -60 dBFS: 1 (down/000.wav)" in shown
    assert "3 or more neighbouring samples at full scale: 1 (up/000.wav: 0.25%)" in shown
    assert "10 longer than the 0.04 s of a row, so that 1.23 s are in none, 76.6% of the" in shown
    taken = said(capsys, config.path, "--shape", "1", "4096", "--pieces")
    assert "longer than" not in taken
    assert "taken whole, in pieces of 0.51 s, as loud as they are" in taken
    assert "--data.pieces" in taken.splitlines()[-1]
    quick = said(capsys, config.path, "--quick")
    assert "silence and clipping are not looked for: leave out --quick" in quick


def test_report_on_pieces_counts_recordings_once(tmp_path: Path) -> None:
    config = replace(recordings(tmp_path, 5), pieces=True)
    report = inspect(config, shape=(1, 200)).report
    assert sum(report.rows.values()) == 30
    assert report.sounds is not None
    assert report.sounds["rates_hz"] == {"8000": 8, "16000": 2}
    assert report.sounds["recordings"] == {"count": 10, "tried": 10}
    assert report.sounds["unread"] == {"count": 0, "first": []}
    assert report.pieces
    assert inspect(config).report.shapes == {"audio": (1, 4096)}


@pytest.mark.parametrize("pieces", [2, 3, 7])
def test_report_on_some_pieces_tells_of_as_many_recordings(pieces: int, tmp_path: Path) -> None:
    config = replace(recordings(tmp_path, 5), pieces=True)
    shape = 1, 600 // pieces
    some = inspect(config, shape=shape, most=4).report
    assert some.tried == {"train": 4, "test": 4}
    assert some.sounds is not None
    assert some.sounds["recordings"] == {"count": 10, "tried": 6}
    assert some.sounds["heard"] == sum(some.sounds["rates_hz"].values()) == 6
    assert "this is said of 6 recordings that were tried, of 10" in table(some)
    every = inspect(config, shape=shape, most=8).report.sounds
    assert every is not None
    assert every["heard"] == sum(every["rates_hz"].values()) == 10
    quick = inspect(config, shape=shape, quick=True).report.sounds
    assert quick is not None
    assert quick["rates_hz"] == {"8000": 8, "16000": 2}
    assert quick["total_s"] == 0.75


@pytest.mark.parametrize("quick", [False, True])
@pytest.mark.parametrize("suffix", ["wav", "flac"])
def test_report_names_recordings_that_cannot_be_read_to_their_end(
    suffix: str, quick: bool, tmp_path: Path
) -> None:
    config = replace(recordings(tmp_path, 5), pieces=True)
    (tmp_path / "up" / "003.wav").unlink()
    if suffix == "flac":
        pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    encode = {"wav": audio_files.wav, "flac": audio_files.flac}[suffix]
    noise = np.random.default_rng(0).integers(-999, 999, (9000, 1)).astype(np.int16)
    (tmp_path / "up" / f"003.{suffix}").write_bytes(encode(noise, 8000)[:-2])
    report = inspect(config, shape=(1, 200), quick=quick).report
    assert report.sounds is not None
    assert report.sounds["unread"]["count"] == 1
    [reason] = report.sounds["unread"]["first"]
    assert reason.startswith(f"up/003.{suffix}: ")
    assert "is cut off" in reason
    assert sum(report.sounds["rates_hz"].values()) == 9
    assert report.sounds["total_s"] == 0.675
    shown = table(report)
    assert "recordings that cannot be read to their end: 1" in shown
    assert any("length cannot be read" in note for note in report.notes)


@pytest.mark.parametrize("level", [0, 1, -700])
def test_pauses_in_pieces_are_no_duplicates(level: int, tmp_path: Path) -> None:
    config = replace(recordings(tmp_path, 5), pieces=True)
    generator = np.random.default_rng(0)
    for label in ("up", "down"):
        for number in range(5):
            samples = np.full((1000, 1), level, np.int16)
            samples[:200] = generator.integers(-999, 999, (200, 1))
            if (label, number) == ("up", 4):  # a real one, which is still found
                samples[200:400] = samples[:200]
            (tmp_path / label / f"{number:03}.wav").write_bytes(audio_files.wav(samples, 8000))
    duplicates = inspect(config, shape=(1, 200)).report.duplicates
    assert duplicates is not None
    assert duplicates["train"] + duplicates["test"] == 1
    assert duplicates["across"] == 0
    assert "up/004.wav from 0.03 s" in duplicates["first"][0][0]


def test_report_has_lengths_and_characters_of_texts(tmp_path: Path) -> None:
    report = inspect(lines(tmp_path)).report
    assert report.texts == {
        "shortest": 1,
        "median": 3.0,
        "longest": 3,
        "characters": "abc",
        "tokens": 4,
    }
    assert report.shapes == {"text": (4,)}


def test_report_counts_parts_of_records(tmp_path: Path) -> None:
    report = inspect(rows.written(tmp_path, missing="audio")).report
    assert report.parts == {
        "train": {"image": 4, "text": 4, "audio": 3},
        "test": {"image": 2, "text": 2, "audio": 1},
    }
    assert report.pictures["modes"] == {"L": 6}
    assert report.sounds["rates_hz"] == {"4000": 4}
    assert (report.texts["shortest"], report.texts["characters"]) == (3, "enotw")
    assert f"\n    aigc data folder {report.path}\n" in table(report)


def test_report_says_if_no_preset_takes_the_rows(tmp_path: Path) -> None:
    images = np.random.default_rng(0).uniform(-1, 1, (60, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "hw.npz", images=images)
    found_in = inspect(DataConfig(source="npz", path=str(tmp_path / "hw.npz")))
    assert found_in.run is None
    assert found_in.report.suggestion == ""
    assert "pictures are (C, H, W)" in found_in.report.notes[-1]
    assert "To train on it" not in table(found_in.report)


def test_report_has_the_range_of_floats(tmp_path: Path) -> None:
    images = np.linspace(-0.5, 1, 40 * 64, dtype=np.float32).reshape(40, 1, 8, 8)
    np.savez(tmp_path / "u.npz", images=images)
    report = inspect(DataConfig(source="npz", path=str(tmp_path / "u.npz"))).report
    assert report.values == [-0.5, 1.0]


def test_ambiguous_range_is_required_and_goes_into_the_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "u.npz", images=np.linspace(0, 1, 40 * 64).reshape(40, 1, 8, 8))
    with pytest.raises(ValueError, match=r"--data\.range 0\.\.1"):
        command([str(tmp_path / "u.npz")])
    report = report_of(capsys, str(tmp_path / "u.npz"), "--data.range", "0..1")
    assert report["values"] == [0.0, 1.0]
    assert "--data.range 0..1" in report["suggestion"]
    assert train([*shlex.split(report["suggestion"])[2:], "--dry-run"]) == 0


def test_quick_report_reads_headers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aigc.data_report.report.QUICK", 5)
    config = write("folder", tmp_path)
    report = inspect(config, quick=True).report
    assert report.tried == {"train": 5, "test": 5}
    assert not report.decoded
    assert report.duplicates is None
    assert report.fingerprint is None
    assert report.pictures["modes"] == {"RGB": 10}
    shown = table(report)
    assert "none of 10 rows that were looked at by their headers alone, of 19" in shown
    assert "not looked for: leave out --quick" in shown


def test_quick_report_opens_only_examined_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aigc.data_report.report.QUICK", 5)
    config = write("folder", tmp_path)
    opened: set[str] = set()
    watching = True

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and event == "open" and str(arguments[0]).startswith(str(tmp_path)):
            opened.add(str(arguments[0]))

    sys.addaudithook(note)  # stays, and does nothing after this test
    inspect(config, quick=True)
    assert len(opened) == 10
    inspect(config)
    watching = False
    assert len(opened) == TRAIN + TEST


def test_picture_of_a_quick_report_has_its_classes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write("folder", tmp_path / "data")
    said(capsys, config.path, "--quick", "--picture", str(tmp_path / "rows.png"))
    assert size_of(tmp_path / "rows.png")[1] == 3 * (64 + GAP) - GAP


def test_report_examines_evenly_spread_rows(tmp_path: Path) -> None:
    report = inspect(write("npz", tmp_path), most=4).report
    assert report.tried == {"train": 4, "test": 4}
    assert "none of 8 rows that were tried, of 19" in table(report)


def test_picture_has_a_line_per_class(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write("folder", tmp_path / "data")
    file = tmp_path / "rows.png"
    said(capsys, config.path, "--picture", str(file), "--shape", "3", "8", "8")
    drawn = Image.open(file)
    assert drawn.format == "PNG"
    tile = 64
    assert drawn.height == 3 * (tile + GAP) - GAP
    left = drawn.width - (COLUMNS * (tile + GAP) - GAP)
    assert left > 0  # the names of the classes
    pixels = np.asarray(drawn)
    run = inspect(config, shape=(3, 8, 8)).run
    source = data.load(run.data, run.model)
    for label in range(3):
        rows_of = [row for row in range(len(source)) if source.read(row)[1] == label]
        for column in range(COLUMNS):
            y, x = label * (tile + GAP), left + column * (tile + GAP)
            shown = pixels[y : y + tile, x : x + tile]
            if column >= len(rows_of):
                assert (shown == 255).all()
                continue
            sample = source.read(rows_of[column])[0].transpose(1, 2, 0)
            assert (shown == sample.repeat(8, 0).repeat(8, 1)).all()


def test_picture_without_classes_is_a_square(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    config = unlabelled(tmp_path / "data")
    said(capsys, config.path, "--picture", str(tmp_path / "rows.png"))
    count = inspect(config).report.rows["train"]
    lines_of = -(-count // COLUMNS)
    expected = COLUMNS * (64 + GAP) - GAP, lines_of * (64 + GAP) - GAP
    assert size_of(tmp_path / "rows.png") == expected


def test_picture_shows_transparency_on_a_chequered_ground(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    for number in range(20):
        clear = Image.new("RGBA", (64, 64), (255, 0, 0, 0))
        clear.paste((0, 0, 255, 255), (0, 0, 64, 32))
        clear.putpixel((63, 63), (number, 0, 0, 0))
        clear.save(tmp_path / "data" / f"{number}.png")
    said(capsys, str(tmp_path / "data"), "--picture", str(tmp_path / "rows.png"))
    pixels = np.asarray(Image.open(tmp_path / "rows.png").convert("RGB"))
    assert (pixels[:32, :64] == (0, 0, 255)).all()
    assert {tuple(p) for p in pixels[40:62, :62].reshape(-1, 3)} == {(204,) * 3, (255,) * 3}


def test_picture_shows_sounds_as_spectrograms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recordings(tmp_path / "data", 5)
    said(capsys, config.path, "--picture", str(tmp_path / "rows.png"))
    assert size_of(tmp_path / "rows.png")[1] == 2 * (192 + GAP) - GAP  # of 384 samples, 48 ms


def test_picture_of_texts_is_refused(tmp_path: Path) -> None:
    config = lines(tmp_path)
    with pytest.raises(ValueError, match="leave out --picture"):
        command([config.path, "--picture", str(tmp_path / "x.png")])
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "name the folder, file or URI"),
        (["a", "b", "c"], "one source and one path"),
        (["gone"], "there is nothing at 'gone'"),
        (["folder"], "aigc data folder PATH"),
        (["foldr", "x"], "did you mean 'folder'?"),
        (["folder", "gone"], "is none"),
    ],
)
def test_data_command_answers_mistakes_in_one_sentence(
    argv: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(message)):
        command(argv)


def test_ambiguous_source_or_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    empty = DataConfig(source="")
    assert named(("ring",), empty)[0].source == "ring"
    (tmp_path / "ring").mkdir()
    with pytest.raises(ValueError, match=r"say `aigc data \./ring`"):
        named(("ring",), empty)
    assert named((), DataConfig(source="ring"))[0].source == "ring"


def test_suggested_command_quotes_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write("folder", tmp_path / "my 'photos' $HOME")
    report = inspect(config).report
    assert train([*shlex.split(report.suggestion)[2:], "--dry-run"]) == 0


def test_table_escapes_unprintable_names(tmp_path: Path) -> None:
    report = inspect(write("folder", tmp_path)).report
    strange = replace(report, classes=[{"name": "caf\udce9\x1b[2J", "train": 1, "test": 1}])
    assert "caf\\udce9\\x1b[2J" in table(strange)


def test_data_command_takes_the_flags_of_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write("folder", tmp_path)
    flags = ["--data.path", config.path, "--data.source", "folder", "--model.shape", "1", "8", "8"]
    report = report_of(capsys, *flags)
    assert report["shapes"] == {"image": [1, 8, 8]}


def test_missing_test_split_is_a_note(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(pictures("train")[0][0])
    (tmp_path / "c.png").write_bytes(pictures("train")[1][0])
    report = inspect(DataConfig(source="folder", path=str(tmp_path))).report
    assert report.rows == {"train": 2}
    assert any("nothing is held out" in note for note in report.notes)
    assert io.StringIO(table(report)).readline().startswith("data")
