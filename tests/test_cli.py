"""The command line: light, torch-free where it promises to be, one sentence for each mistake."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

ROOT = Path(__file__).parent.parent


def aigc(*arguments: str, path: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run a command; `path` goes first on the import path."""
    return subprocess.run(
        [sys.executable, "-m", "aigc.cli", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | ({"PYTHONPATH": str(path)} if path else {}),
        timeout=120,
    )


@pytest.fixture
def no_torch(tmp_path: Path) -> Path:
    """An import path on which torch and Ray are missing."""
    folder = tmp_path / "without"
    for name in ("torch", "ray"):
        (folder / name).mkdir(parents=True)
        lines = f"raise ModuleNotFoundError('no module {name}', name='{name}')\n"
        (folder / name / "__init__.py").write_text(lines)
    return folder


def test_help_lists_every_command_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, json; sys.argv = ['aigc', '--help']\n"
        "from aigc.cli import main\n"
        "main(); print(json.dumps(sorted(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *shown, modules = run.stdout.splitlines()
    loaded = {name.partition(".")[0] for name in json.loads(modules)}
    assert not loaded & {"torch", "ray", "numpy", "onnxruntime", "tyro", "aigc.training.loop"}
    names = ("train", "export", "evaluate", "sample", "verify", "serve", "metrics", "doctor", "k8s")
    for name in names:
        (line,) = (line for line in shown if line.startswith(f"  {name} "))
        assert len(line.split()) > 3, "every command says what it does"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["tarin"], 2, "unknown command 'tarin'"),
        (["train", "dcgna"], 1, "unknown model 'dcgna'; did you mean 'dcgan'?"),
        (["train", "dcgan:digit"], 1, "did you mean 'digits'?"),
        (["train", "dcgan", "--model.shape", "784"], 2, "shape must be (C, H, W)"),
        (["train", "dcgan", "--model.shape", "1", "30", "30"], 2, "must be multiples of 4"),
        (["export", "no/run", "--name", "x"], 1, "no/run is not a run"),
        (["sample", "no/artifact"], 1, "no artifact 'artifact' in no; there are: none"),
        (["sample", "http://127.0.0.1:9"], 1, "is `aigc serve` up?"),
        (["verify", "pyproject.toml"], 1, "not a PNG"),
        (["data", "no/where"], 1, "there is nothing at 'no/where'"),
        (["data", "--most", "0", "x"], 2, "most must be > 0"),
    ],
)
def test_mistake_is_answered_in_one_sentence(
    arguments: list[str], status: int, message: str, tmp_path: Path
) -> None:
    if arguments[0] == "verify":
        arguments = ["verify", str(ROOT / "pyproject.toml")]
    run = aigc(*arguments)
    assert run.returncode == status, run.stderr
    assert message in " ".join(run.stderr.replace("│", " ").split())
    assert "Traceback" not in run.stderr
    assert run.stdout == ""


def test_dry_run_shows_networks_and_trains_nothing(tmp_path: Path) -> None:
    run = aigc("train", "dcgan:digits", "--dry-run", "--storage", str(tmp_path / "runs"))
    assert run.returncode == 0
    assert "generator: 165,185 parameters" in run.stdout
    assert "discriminator: 437,611 parameters" in run.stdout
    assert "(N, 1, 28, 28)" in run.stdout
    assert '"samples": 192000' in run.stdout
    assert "estimated memory" in run.stdout
    assert not (tmp_path / "runs").exists()


def test_sample_and_verify_need_no_torch(sealed: Path, tmp_path: Path, no_torch: Path) -> None:
    flags = ["-n", "3", "--seed", "5", "--label", "7", "--out", str(tmp_path / "out")]
    run = aigc("sample", str(sealed), *flags, path=no_torch)
    assert run.returncode == 0, run.stderr
    folder = Path(run.stdout.splitlines()[-1])
    (png,) = folder.glob("*seed5-1.png")
    assert len(list(folder.glob("*.png"))) == 4  # three and their grid
    said = aigc("verify", str(png), "--artifact", str(sealed), path=no_torch)
    assert "seed 5, index 1, label 7" in said.stdout
    assert "every pixel is equal" in said.stderr
    replayed = aigc("verify", str(sealed), path=no_torch)
    assert "references reproduced, level bit" in replayed.stderr


def test_sample_takes_classes_by_name(sealed: Path, tmp_path: Path, no_torch: Path) -> None:
    made = []
    for label in ("7", "name:7", "index:7"):
        out = tmp_path / label.replace(":", "-")
        flags = ["-n", "2", "--seed", "5", "--label", label, "--format", "grid"]
        run = aigc("sample", str(sealed), *flags, "--out", str(out), path=no_torch)
        assert run.returncode == 0, run.stderr
        made.append(Path(run.stdout.splitlines()[-1]).read_bytes())
    assert len(set(made)) == 1
    run = aigc("sample", str(sealed), "--label", "seven", path=no_torch)
    assert run.returncode == 1
    assert "label must be a class by name or number, got 'seven'; there are 0, 1," in run.stderr


@pytest.mark.parametrize("labels", [["7"], ["1", "2", "3"], []])
def test_grid_holds_its_provenance(labels: list[str], sealed: Path, tmp_path: Path) -> None:
    flags = ["-n", "20", "--seed", "5", "--first-index", "4", "--format", "grid"]
    flags += ["--label", *labels] if labels else []
    run = aigc("sample", str(sealed), *flags, "--out", str(tmp_path))
    png = Path(run.stdout.splitlines()[-1])
    assert [png] == list(tmp_path.iterdir())
    said = aigc("verify", str(png), "--artifact", str(sealed))
    assert said.returncode == 0, said.stderr
    assert "seed 5, index 4" in said.stdout
    assert "a grid of 20" in said.stdout
    assert ("labels " + " ".join(labels) in said.stdout) == bool(labels)
    assert "every pixel is equal" in said.stderr


@pytest.mark.parametrize(
    ("arguments", "module", "requirement"),
    [
        (["serve", "x"], "psutil", "aigc"),
        (["train", "fc_gan"], "filelock", "aigc"),
        (["train", "dcgan:digits"], "torch", "aigc[train]"),
        (["k8s", "check", "x"], "yaml", "aigc[serve]"),
        (["sample", "s3://bucket/x"], "s3fs", "aigc[s3]"),
    ],
)
def test_missing_module_names_its_extra(
    arguments: list[str], module: str, requirement: str, tmp_path: Path
) -> None:
    line = f"raise ModuleNotFoundError('no module {module}', name='{module}')\n"
    (tmp_path / f"{module}.py").write_text(line)
    run = aigc(*arguments, path=tmp_path)
    assert run.returncode == 1
    assert f"needs {module}; pip install '{requirement}'" in run.stderr
    assert "Traceback" not in run.stderr


def test_run_in_this_process_needs_no_ray(tmp_path: Path) -> None:
    (tmp_path / "ray.py").write_text("raise ImportError('this machine has no Ray')\n")
    storage = ["--storage", str(tmp_path / "runs"), "--samples", "640"]
    run = aigc("train", "fc_gan:ring", *storage, path=tmp_path)
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.splitlines()[-1]).name == "fc_gan-ring"


def test_version_is_that_of_the_package() -> None:
    assert aigc("--version").stdout == f"aigc {version('aigc')}\n"


def test_doctor_reports() -> None:
    run = aigc("doctor")
    assert run.returncode == 0
    assert run.stdout.startswith(f"aigc {version('aigc')} in {ROOT / 'aigc'}")
    assert "constraints.txt" not in run.stdout
    assert "torch" in run.stdout
    assert "cores" in run.stdout
