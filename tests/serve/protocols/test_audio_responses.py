"""Sounds in the native protocol: as files, in JSON and line by line, each with what made it."""

import base64
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from aigc.artifact import Artifact, audio_files
from aigc.commands.sample import command as sample_command
from serve.settings import Limits, Settings
from tests.serve.listening import Listening, listening


@pytest.fixture(scope="module")
def served(
    voices: str, store: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Listening]:
    metrics_dir = str(tmp_path_factory.mktemp("metrics"))
    limits = Limits(max_n=20, max_batch=4, max_values=400 * 10)
    with listening(
        Settings(metrics_dir=metrics_dir, limits=limits), voices, f"{store}/tiny@1"
    ) as s:
        yield s


def post(served: Listening, **fields: Any) -> httpx.Response:
    return httpx.post(f"{served.url}/v1/samples", json={"model": "voices", "seed": 7, **fields})


@pytest.mark.parametrize("form", ["json", "ndjson"])
def test_every_sample_is_a_wav_that_says_what_made_it(
    served: Listening, voices: str, form: str
) -> None:
    answer = post(served, n=6, first_index=2, label=1, format=form)
    lines = answer.json()["samples"] if form == "json" else map(json.loads, answer.iter_lines())
    samples = list(lines)
    artifact = Artifact.open(voices)
    waves = artifact.sample(seed=7, n=6, first_index=2, label=1)["sound"]
    for index, (sample, wave) in enumerate(zip(samples, waves, strict=True), 2):
        assert set(sample) == {"index", "label", "audio"}
        found = audio_files.read_sound(base64.b64decode(sample["audio"]))
        assert np.array_equal(audio_files.to_pcm16(found.samples), audio_files.to_pcm16(wave))
        assert found.provenance is not None
        assert (found.provenance.index, found.provenance.digest) == (
            index,
            artifact.manifest.digest,
        )


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_one_sample_is_one_file(served: Listening, form: str) -> None:
    if form == "flac":
        pytest.importorskip("soundfile")
    answer = post(served, format=form, first_index=3)
    assert answer.headers["content-type"] == f"audio/{form}"
    (whole,) = post(served, first_index=3).json()["samples"]
    found, other = (
        audio_files.read_sound(answer.content),
        audio_files.read_sound(base64.b64decode(whole["audio"])),
    )
    assert np.array_equal(found.samples, other.samples)
    assert found.provenance == other.provenance


def test_an_array_is_the_waveform_itself(served: Listening, voices: str) -> None:
    answer = post(served, n=3, format="npy")
    found = np.load(io.BytesIO(answer.content))
    assert np.array_equal(found, Artifact.open(voices).sample(seed=7, n=3)["sound"])


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"format": "wav", "n": 2}, "format_needs_one_sample"),
        ({"format": "png"}, "format_needs_image"),
        ({"format": "grid", "n": 2}, "format_needs_image"),
        ({"format": "wav", "model": "tiny"}, "format_needs_sound"),
        ({"n": 11}, "n_out_of_range"),  # half a second is what max_values allows
    ],
)
def test_formats_that_a_sound_cannot_have_are_refused(
    served: Listening, fields: dict[str, Any], code: str
) -> None:
    answer = post(served, **fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == code


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_the_command_writes_the_same_sounds_from_a_server_and_from_the_artifact(
    served: Listening, voices: str, tmp_path: Path, form: str
) -> None:
    if form == "flac":
        pytest.importorskip("soundfile")
    options = ["-n", "3", "--seed", "7", "--label", "1", "--format", form]
    here, there = tmp_path / "here", tmp_path / "there"
    assert sample_command([voices, *options, "--out", str(here)]) == 0
    assert sample_command([served.url, *options, "--model", "voices", "--out", str(there)]) == 0
    files = sorted(path.name for path in here.iterdir())
    assert files == [f"voices-1-seed7-{i}.{form}" for i in range(3)]
    for name in files:
        assert (here / name).read_bytes() == (there / name).read_bytes(), name
