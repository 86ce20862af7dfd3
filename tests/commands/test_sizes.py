"""`aigc sample --size` and `aigc verify` of an artifact with free axes, here and on a server."""

import json
from pathlib import Path

import pytest

from aigc.artifact import ArtifactError
from aigc.artifact.folder import SealedFolder
from aigc.artifact.image_files import read_png
from aigc.artifact.manifest import digest
from aigc.artifact.trial import Bounds, try_out
from aigc.commands import sample, verify
from serve.settings import Settings
from tests.serve.listening import listening

SIZE = ["-n", "3", "--seed", "7", "--label", "1", "--size", "22x24"]


def pictures(source: str, out: Path, *flags: str) -> dict[str, bytes]:
    assert sample.command([source, *flags, "--out", str(out)]) == 0
    return {path.name: path.read_bytes() for path in sorted(out.glob("free-1-seed7-?.png"))}


def test_size_gives_the_same_files_from_an_artifact_and_from_a_server(
    free: Path, tmp_path: Path
) -> None:
    here = pictures(str(free), tmp_path / "here", *SIZE)
    by_axis = pictures(str(free), tmp_path / "axes", *SIZE[:-2], "--sizes", "h", "12", "w", "11")
    metrics = tmp_path / "metrics"
    metrics.mkdir()
    with listening(Settings(metrics_dir=str(metrics)), str(free)) as served:
        there = pictures(served.url, tmp_path / "there", *SIZE)
    assert len(here) == 3
    assert here == by_axis == there
    assert read_png(here["free-1-seed7-0.png"])[0].shape == (24, 22, 1)


def test_verify_says_the_size_and_recreates_the_file(
    free: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pictures(str(free), tmp_path, *SIZE)
    capsys.readouterr()
    assert verify.command([str(tmp_path / "free-1-seed7-2.png"), "--artifact", str(free)]) == 0
    said = capsys.readouterr()
    assert "size h 12, size w 11" in said.out
    assert "recreated: every pixel is equal" in said.err


def test_size_of_a_sound_is_refused(free: Path) -> None:
    flags = [str(free), "--signature", "hum", "--size", "22x24"]
    with pytest.raises(ValueError, match="--size has no effect: signature 'hum' gives no image"):
        sample.command(flags)


@pytest.mark.process
def test_a_trial_refuses_what_only_the_largest_size_takes(free: Path) -> None:
    folder = SealedFolder.open(str(free))
    contents = folder.contents(*folder.graphs())
    bounds = Bounds(memory_bytes=256 << 20, seconds=120)
    try_out(folder.manifest_bytes, contents, bounds)
    grown = folder.manifest_bytes.replace(b'"max": 12', b'"max": 9000')
    with pytest.raises(ArtifactError, match="takes more than the 256 MiB of memory that it may"):
        try_out(_resealed(grown), contents, bounds)


def _resealed(data: bytes) -> bytes:
    document = json.loads(data)
    return json.dumps({**document, "digest": digest(document)}).encode()
