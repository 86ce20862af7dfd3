"""A sound on disk says what made it, and is made again from that."""

from pathlib import Path

import numpy as np
import pytest

from aigc.artifact import Artifact, audio_files
from aigc.commands import sample, verify
from tests.data.sounds import SHAPE, sealed

pytestmark = pytest.mark.process


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> str:
    return sealed(tmp_path_factory.mktemp("tones"))


def test_sound_signature_states_its_rate_and_is_independent_of_batches(tones: str) -> None:
    artifact = Artifact.open(tones)
    spec = artifact.signature("sample").outputs[0]
    assert (spec.kind, spec.shape, spec.sample_rate_hz) == ("audio", SHAPE, 8000)
    together = artifact.sample(seed=3, n=5)["audio"]
    alone = artifact.sample(seed=3, first_index=4)["audio"]
    level = artifact.reproducibility["sample"]
    assert np.abs(together[4] - alone[0]).max() <= level.max_abs * 2


@pytest.mark.parametrize("form", ["wav", "flac"])
def test_sampled_sound_is_verified_by_its_provenance(
    form: str, tones: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if form == "flac":
        pytest.importorskip("soundfile", reason="the extra `flac` is not installed")
    flags = ["-n", "3", "--seed", "7", "--label", "1", "--format", form, "--out", str(tmp_path)]
    assert sample.command([tones, *flags]) == 0
    path = tmp_path / f"tones-1-seed7-2.{form}"
    assert len(list(tmp_path.iterdir())) == 3
    capsys.readouterr()
    assert verify.command([str(path), "--artifact", tones]) == 0
    said = capsys.readouterr()
    assert "tones@1 (" in said.out
    assert "seed 7, index 2, label 1" in said.out
    assert "made again: every sample is equal" in said.err


def test_altered_sound_is_refused(tones: str, tmp_path: Path) -> None:
    assert sample.command([tones, "-n", "1", "--seed", "7", "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*.wav")
    found = audio_files.read_sound(path.read_bytes())
    samples = audio_files.to_pcm16(found.samples)
    samples[100] += 50
    path.write_bytes(audio_files.wav(samples, found.rate_hz, found.provenance))
    with pytest.raises(ValueError, match="differs from what tones@1 makes of its seed and index"):
        verify.command([str(path), "--artifact", tones])
    path.write_bytes(audio_files.wav(samples, found.rate_hz))
    with pytest.raises(ValueError, match="carries no provenance"):
        verify.command([str(path)])


@pytest.mark.parametrize(
    "head", [b"", b"no file", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WAVE", b"fLaC"]
)
def test_other_files_are_refused_by_name(head: bytes, tmp_path: Path) -> None:
    path = tmp_path / "thing.bin"
    path.write_bytes(head + b"\0" * 20)
    with pytest.raises(ValueError, match=rf"^{path}: not a ") as raised:
        verify.command([str(path)])
    assert " object at " not in str(raised.value)
