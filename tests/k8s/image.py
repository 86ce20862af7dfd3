"""The Dockerfile's packages, in an environment of this machine.

python = build(folder, "serve")      # as `--target serve` would, without an image
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path

from tests.k8s.rendered import K8S, ROOT

DOCKERFILE = K8S / "images" / "Dockerfile"


def stages() -> dict[str, str]:
    """The text of each stage by its name."""
    parts = re.split(r"^(?=FROM )", DOCKERFILE.read_text(), flags=re.MULTILINE)[1:]
    return {part.split()[3]: part for part in parts}


def build(folder: Path, target: str) -> Path:
    """Copy and run what the stage of a target copies and runs; its interpreter.

    Commands other than pip, and the stage that it starts from, are left to the real builder, but
    for what both targets copy first.
    """
    source, environment = folder / "src", folder / "venv"
    source.mkdir(parents=True)
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    for line in (stages()["build"] + stages()[f"build-{target}"]).splitlines():
        instruction, _, rest = line.partition(" ")
        if instruction == "COPY":
            *names, at = rest.split()
            for name in names:
                _copy(ROOT / name, (source / at / name) if at.endswith("/") else source / at)
        elif instruction == "RUN" and rest.startswith("pip "):
            command = f"{environment}/bin/python -m {rest}"
            subprocess.run(["sh", "-euc", command], cwd=source, check=True, stdout=sys.stderr)
    return environment / "bin" / "python"


def _copy(what: Path, to: Path) -> None:
    if what.is_dir():
        shutil.copytree(what, to, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(what, to)
