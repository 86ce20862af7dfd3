"""Images of 1 to 5 channels on the whole road: trained, drawn, exported, sampled and verified."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aigc.artifact import Artifact, image_files
from aigc.artifact.image_files import read_png
from aigc.commands import sample, verify
from tests.channels import OfChannels, run_of
from tests.fixtures.make import write_run

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("session_cache")]


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_run_of_any_channels_draws_grids_where_possible(channels: int, tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        run_of(
            channels,
            tmp_path / "data",
            grid_interval=64,
            evaluate_interval=64,
            report_interval=64,
            seed=np.int64(3),
        ),
    )
    grids = sorted(path.name for path in run.folder.glob("grids/*.png"))
    assert grids == ([] if channels == 5 else ["000000000064.png", "000000000128.png"])
    assert run.load_state().samples == 128
    qualities = run.quality()[1].tolist()
    assert len({*qualities}) == 2
    assert min(qualities) > 0


@pytest.mark.parametrize(("channels", "mode"), [(2, "LA"), (4, "RGBA")])
def test_samples_of_any_channels_can_be_verified(
    channels: int,
    mode: str,
    of_channels: OfChannels,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    where = str(of_channels(channels))
    options = [where, "--out", str(tmp_path), "--seed", "5", "-n", "3"]
    assert sample.command(options) == 0
    files = [tmp_path / f"many-1-seed5-{which}.png" for which in ("0", "0..2", "1", "2")]
    assert sorted(tmp_path.iterdir()) == sorted(files)
    made = Artifact.open(where).sample(seed=5, n=3)
    pixels = Artifact.open(where).uint8("sample", made)
    assert np.array_equal(read_png(files[2].read_bytes())[0], pixels[1])
    for path in files:
        with Image.open(path) as picture:
            assert picture.mode == mode
        assert verify.command([str(path), "--artifact", where]) == 0
        assert "every pixel is equal" in capsys.readouterr().err
    altered = pixels[1].copy()
    altered[0, 0, -1] ^= 1  # nothing but its transparency
    info = read_png(files[2].read_bytes())[1]
    files[2].write_bytes(image_files.png(altered, info))
    with pytest.raises(ValueError, match="differs from what many@1 makes"):
        verify.command([str(files[2]), "--artifact", where])


def test_five_channels_are_written_as_an_array(
    of_channels: OfChannels, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(of_channels(5))
    options = [where, "--out", str(tmp_path / "out"), "--seed", "5", "-n", "3"]
    assert sample.command(options) == 0
    told = capsys.readouterr()
    path = Path(told.out.strip())
    assert path.name == "many-1-seed5-0..2.npy"
    assert "images of (5, 8, 8) are no pictures: written as npy" in told.err
    made = Artifact.open(where).sample(seed=5, n=3)["image"]
    assert np.array_equal(np.load(path), made)
    for asked in ("png", "grid"):
        with pytest.raises(ValueError, match=f"{asked} holds 1 to 4 channels, .* of 5; take npy"):
            sample.command([*options, "--format", asked])
    assert sample.command([*options, "--format", "json"]) == 0
    document = json.loads(Path(capsys.readouterr().out.strip()).read_text())
    assert np.array_equal(np.array(document["samples"], np.float32), made)
    assert "samples.png" not in (Path(where) / "README.md").read_text()
