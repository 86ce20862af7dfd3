"""`aigc evaluate --features --metrics --neighbours`: names, refusals, table, manifest, picture."""

import shutil
from pathlib import Path

import pytest

from aigc.artifact import Artifact
from aigc.artifact.image_files import read_png
from aigc.commands.evaluate import Options, command
from tests.feature_networks import graph, own_network

pytestmark = pytest.mark.process


def test_named_metrics_under_a_network_go_into_table_manifest_and_card(
    sealed: Path, tmp_path: Path, session_cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = tmp_path / "tiny"
    shutil.copytree(sealed, copy)
    network, picture = str(own_network(tmp_path)), tmp_path / "near.png"
    given = ["--features", network, "--metrics", "kid", "prdc", "ppl", "-n", "60", "--write"]
    assert command([str(copy), *given, "--neighbours", str(picture)]) == 0
    lines = capsys.readouterr().err.splitlines()
    head, *rows = lines[1:]
    assert head.split()[1:] == ["value", "95", "%", "real", "vs", "real", "better"]
    names = [row.split("/")[0] for row in rows]
    assert names == ["kid", "recall", "precision", "density", "coverage", "path_length"]
    metrics = Artifact.open(copy).manifest.metrics
    name = rows[0].split()[0]
    assert name.startswith("kid/small@")
    assert metrics[f"{name}/low"] < metrics[name] < metrics[f"{name}/high"]
    assert f"{name}/real" in metrics
    card = (copy / "README.md").read_text()
    assert "| metric | value | real data | 95 % |" in card
    assert f"| {name} | {metrics[name]:.4g} | " in card
    assert f"{name}/low" not in card
    drawn, _ = read_png(picture.read_bytes())
    assert drawn.shape == (16 * 10 - 2, 3 * 10 - 2, 1)


def test_networks_stand_beside_the_judge_unless_metrics_are_named(
    sealed: Path, tmp_path: Path, session_cache: None, capsys: pytest.CaptureFixture[str]
) -> None:
    network = str(graph(tmp_path / "net.onnx"))
    assert command([str(sealed), "--features", network, "-n", "60"]) == 0
    rows = [line.split()[0] for line in capsys.readouterr().err.splitlines()[2:]]
    kinds = [(row.split("/")[0], row.split("/")[1].split("@")[0]) for row in rows]
    measured = ["frechet", "recall", "precision"]
    assert kinds == [
        ("judge", "cnn64"),
        ("accuracy", "cnn64"),
        *((name, "cnn64") for name in measured),
        *((name, "net") for name in measured),
    ]


def test_mistakes_show_before_anything_is_computed(
    sealed: Path, written: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"net\.onnx is for metrics of pictures by name, and"):
        Options(artifact="x", features=("net.onnx",), metrics=("./own.py",))
    with pytest.raises(ValueError, match="--neighbours is for metrics of pictures by name"):
        Options(artifact="x", neighbours="n.png", metrics=("text",))
    with pytest.raises(ValueError, match=r"there is no file none\.onnx"):
        command([str(sealed), "--features", "none.onnx"])
    with pytest.raises(ValueError, match="is not there; create it first"):
        command([str(sealed), "--neighbours", str(tmp_path / "none" / "n.png")])
    with pytest.raises(ValueError, match=r"draws no pictures to show .*; leave out"):
        command([str(written), "--neighbours", str(tmp_path / "n.png")])
    with pytest.raises(ValueError, match="unknown metric 'kids'"):
        command([str(sealed), "--metrics", "kids"])
