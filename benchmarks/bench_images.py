"""Sizes of the images' packages, which the Dockerfile installs, in fresh environments.

python -m benchmarks.bench_images
"""

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import tyro

from benchmarks.report import header, write_section
from tests.k8s.image import build

LARGEST = 6
"""Packages that are named."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Sizes of the images' packages."""

    out: Path = Path("docs/benchmarks.md")
    """File whose section is rewritten."""


def main() -> None:
    """Install, measure, print and write."""
    bench = tyro.cli(Bench, description=Bench.__doc__)
    rows = [row(target) for target in ("serve", "train")]
    section = "\n".join(
        [
            "## Images",
            "",
            header("ray", "onnxruntime", "torch"),
            "",
            "What `k8s/images/Dockerfile` installs, in fresh environments of this machine; images"
            " are that, Debian's python:slim, bash and wget. No image was built. Training is"
            f" measured with torch {version('torch')}: the image's own, for CUDA, brings"
            " NVIDIA's libraries, which are gigabytes and were not downloaded.",
            "",
            "| image | packages | MiB | of these the largest |",
            "|---|--:|--:|---|",
            *rows,
        ]
    )
    print(section)
    write_section(bench.out, "images", section)


def row(target: str) -> str:
    """A line of the table."""
    with tempfile.TemporaryDirectory() as folder:
        # Without it pip would take the torch with CUDA.
        python = build(Path(folder), target, f"torch=={version('torch')}\n")
        listed = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(python),
            "list",
            "--format",
            "freeze",
        ]
        names = subprocess.run(listed, check=True, capture_output=True, text=True).stdout.split()
        (site,) = Path(folder).glob("venv/lib/python*/site-packages")
        sizes = sorted(((size(path), path.name) for path in site.iterdir()), reverse=True)
        most = ", ".join(f"{name} {mebibytes(each)}" for each, name in sizes[:LARGEST])
        total = mebibytes(size(Path(folder) / "venv"))
    return f"| aigc-{target} | {len(names)} | {total} | {most} |"


def size(path: Path) -> int:
    """Bytes of a file, or of all below a folder; links count nothing."""
    if path.is_symlink():
        return 0
    if path.is_file():
        return path.stat().st_size
    return sum(size(child) for child in path.iterdir())


def mebibytes(size: int) -> str:
    """In words of the table."""
    return f"{size / 2**20:,.0f}"


if __name__ == "__main__":
    main()
