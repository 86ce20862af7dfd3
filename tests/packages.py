"""Packages that an extra installs, and the wheel of this project."""

import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TRAINING_ONLY = {"torch", "onnx", "onnxscript", "scikit-learn", "tensorboard", "safetensors"}


ROOT = Path(__file__).parent.parent


def unpacked_wheel(folder: Path) -> Path:
    """Build the wheel from a copy of the sources; returns a folder that holds what it installs."""
    source = folder / "source"
    ignored = shutil.ignore_patterns("__pycache__")
    for package in ("aigc", "cluster", "serve", "k8s"):
        shutil.copytree(ROOT / package, source / package, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", str(folder), str(source)], check=True, timeout=120)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def closure(*extras: str) -> set[str]:
    """Every package that `pip install 'aigc[extras]'` brings, by the metadata of what is here."""
    seen: set[tuple[str, str]] = set()
    queue = [("aigc", extra) for extra in ("", *extras)]
    while queue:
        name, extra = queue.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            lines = requires(name) or []
        except PackageNotFoundError:
            continue  # an environment marker of another platform
        for requirement in map(Requirement, lines):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                needed = canonicalize_name(requirement.name)
                queue += [(needed, wanted) for wanted in ("", *requirement.extras)]
    return {name for name, _ in seen} - {"aigc", "setuptools"}  # pip freeze leaves setuptools out
