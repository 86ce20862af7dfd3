"""`.venv-bench`: what only peers need, beside the project's own torch, numpy and Ray."""

import json
import subprocess
import sys
import sysconfig
from pathlib import Path

FOLDER = Path(".venv-bench")
PACKAGES = ("pythae", "lightning", "litserve")


def python() -> str:
    """Its interpreter; the environment is made on first use, as far as the packages install.

    It reads this environment's packages through a .pth file, and constraints.txt binds pip: the
    peers run on the very torch that ours runs on.
    """
    interpreter, ready = FOLDER / "bin" / "python", FOLDER / "ready"
    if not ready.exists() or ready.read_text().split() != [*PACKAGES]:
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(FOLDER)], check=True)
        (FOLDER / ".gitignore").write_text("*\n")
        site = next(FOLDER.glob("lib/python*/site-packages"))
        (site / "project.pth").write_text(sysconfig.get_path("purelib") + "\n")
        for package in PACKAGES:
            pip = [str(interpreter), "-m", "pip", "install", "--quiet", "-c", "constraints.txt"]
            subprocess.run([*pip, package], check=False)
        ready.write_text("\n".join(PACKAGES))
    return str(interpreter)


def versions() -> dict[str, str]:
    """Version of each package that is there and imports, by name."""
    found = {}
    for package in PACKAGES:
        ask = f"import {package}, json, importlib.metadata as m; print(json.dumps(m.version"
        run = subprocess.run(
            [python(), "-c", f"{ask}({package!r})))"], capture_output=True, text=True
        )
        if run.returncode == 0:
            found[package] = str(json.loads(run.stdout.splitlines()[-1]))
    return found
