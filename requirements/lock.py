"""Pins and hashes of everything that is installed: `make lock` after a change of dependencies.

    python requirements/lock.py [--upgrade PACKAGE]...

pyproject.toml says what is wanted and constraints.txt in which version; what neither says is taken
as it is newest, and written to constraints.txt. The files beside this one are for `pip install
--require-hashes --no-deps`: each is complete, for every platform, and its markers say what is for
which.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HERE = Path(__file__).parent
PYTHON = "3.11"
CHECKOV = ROOT / "tests" / "k8s" / "checkov.txt"
EXTRAS = {
    "dev": ("train", "serve", "s3", "hf", "tracing", "dev"),
    "serve": ("serve", "s3", "tracing"),
    "train": ("train", "s3", "hf"),
}
"""Extras of each file: this repository's own environment, and the two images."""
BUILD = ["setuptools>=77"]
"""Packages that build the project itself, and those of its dependencies that come as source."""
MORE: dict[str, list[str]] = {name: [] for name in EXTRAS}
# ray[serve] brings the dashboard, ray[train] does not, and jobs are submitted to it.
MORE["train"].append("ray[default]==2.60.0")
CUDA = re.compile(r"(nvidia|cuda)-|triton(?=\W)")
"""Packages that torch brings on Linux, unless it is one for CPUs."""
GPU = HERE / "onnxruntime-gpu.txt"
"""onnxruntime for GPUs, which the image serve-gpu has in place of onnxruntime, and the libraries of
CUDA that it loads; what else it needs, onnxruntime has brought."""
GPU_NOTE = """\
# onnxruntime-gpu keeps the version that it has here, not that of onnxruntime in constraints.txt:
# its versions come later. `make lock UPGRADE=onnxruntime-gpu` takes the newest.
"""
CPU_WHEELS = ["6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"]  # cp311 x86_64
"""PyTorch's own wheels for CPUs (+cpu) of the version in constraints.txt, which are not on PyPI.
Whoever installs another adds the hash that pip says it got."""


def locked(pins: Path, extras: tuple[str, ...], more: list[str], python: str = PYTHON) -> list[str]:
    """Each requirement with its marker and hashes, in the order of names."""
    wanted = [str(ROOT / "pyproject.toml")] if extras else []
    chosen = [word for extra in extras for word in ("--extra", extra)]
    done = subprocess.run(
        [
            *("uv", "pip", "compile", "--quiet", "--universal", "--python-version", python),
            *("--generate-hashes", "--no-header", "--no-annotate"),
            *("--constraint", str(pins), *chosen, *wanted, "-"),
        ],
        input="\n".join(more),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        cwd=ROOT,
    )
    return [part for part in re.split(r"^(?=\S)", done.stdout, flags=re.MULTILINE) if part.strip()]


def locked_gpu(pins: Path, upgrade: set[str]) -> list[str]:
    """The requirements of GPU, for Linux on x86-64."""
    (held,) = re.findall(r"^onnxruntime-gpu(==\S+)", GPU.read_text(), re.MULTILINE)
    version = "" if "onnxruntime-gpu" in upgrade else held
    where = "sys_platform == 'linux' and platform_machine == 'x86_64'"
    found = locked(pins, (), [f"onnxruntime-gpu[cuda,cudnn]{version} ; {where}"])
    return [each for each in found if CUDA.match(each) or each.startswith("onnxruntime-gpu==")]


def write(file: Path, requirements: list[str], note: str = "") -> None:
    file.write_text("# Written by `make lock`.\n" + note + "".join(requirements))


def version_of_uv() -> str:
    """The one that runs this."""
    said = subprocess.run(["uv", "--version"], check=True, capture_output=True, text=True).stdout
    return f"uv=={said.split()[1]}"


def pin(requirement: str) -> str:
    return re.split(r"[\s;\\]", requirement, maxsplit=1)[0]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="append", default=[], metavar="PACKAGE")
    upgrade = {name.lower() for name in parser.parse_args().upgrade}
    pins = ROOT / "constraints.txt"
    head, *lines = pins.read_text().splitlines()
    kept = [line for line in lines if line.partition("==")[0].lower() not in upgrade]
    pins.write_text("\n".join([head, *kept]) + "\n")
    found = {name: locked(pins, extras, MORE[name]) for name, extras in EXTRAS.items()}
    every = {pin(each) for each in found["dev"]}
    pins.write_text("\n".join([head, *sorted(every, key=str.lower)]) + "\n")
    for name, requirements in found.items():
        own = [each for each in requirements if not each.startswith("torch==")]
        write(HERE / f"{name}.txt", [each for each in own if not CUDA.match(each)])
    (torch,) = (each for each in found["dev"] if each.startswith("torch=="))
    write(HERE / "torch.txt", [torch])
    wheels = [f"    --hash=sha256:{each}" for each in CPU_WHEELS]
    write(HERE / "torch-cpu.txt", [" \\\n".join([f"{pin(torch)}+cpu", *wheels]) + "\n"])
    write(HERE / "build.txt", locked(pins, (), BUILD))
    write(HERE / "lock.txt", locked(pins, (), ["uv"] if "uv" in upgrade else [version_of_uv()]))
    write(HERE / "cuda.txt", [each for each in found["dev"] if CUDA.match(each)])
    write(GPU, locked_gpu(pins, upgrade), GPU_NOTE)
    checkov = re.findall(r"^checkov==.*?(?=\s|$)", CHECKOV.read_text(), re.MULTILINE)
    write(CHECKOV, locked(CHECKOV, (), checkov, "3.11.5"))


if __name__ == "__main__":
    sys.exit(main())
