"""`aigc serve` against FastAPI, LitServe, plain Ray Serve and bare session.run.

    python -m tests.bench.bench_serving                      # about 20 minutes on a quiet machine
    python -m tests.bench.bench_serving --only mix --rounds 1

Each section writes its own part of docs/benchmarks.md. Wants wrk.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from aigc.artifact import Artifact
from tests.bench import serving_limits, serving_speed
from tests.bench.report import write_section

SECTIONS: dict[str, Callable[[str, int], str]] = {
    "speed": serving_speed.speed,
    "mix": serving_speed.mix,
    "two": serving_speed.two,
    "formats": serving_speed.formats,
    "protocols": serving_speed.protocols,
    "start": serving_limits.start,
    "overload": serving_limits.overload,
}
"""name -> (artifact, rounds) -> text."""


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Speed of serving."""

    artifact: str = ""
    """A class-conditional artifact called digits; by default an untrained dcgan:digits."""
    only: tuple[str, ...] = ()
    """Sections; all by default: speed, mix, two, formats, protocols, start, overload."""
    rounds: int = 7
    out: Path = Path("docs/benchmarks.md")

    def __post_init__(self) -> None:
        unknown = [name for name in self.only if name not in SECTIONS]
        if unknown:
            raise ValueError(f"unknown section {unknown[0]!r}; there are: {', '.join(SECTIONS)}")


def main() -> None:
    config = tyro.cli(BenchConfig)
    uri = Artifact.open(config.artifact or untrained(), verify=False).uri
    for name in config.only or SECTIONS:
        print(name, file=sys.stderr)
        section = "serving" if name == "speed" else f"serving-{name}"
        write_section(config.out, section, SECTIONS[name](uri, config.rounds))
    print(config.out)


def untrained() -> str:
    """A sealed `digits` with the networks of dcgan:digits; speed does not ask for training."""
    storage = tempfile.mkdtemp()
    command = [sys.executable, "-m", "aigc.cli"]
    train = ["train", "dcgan:digits", "--samples", "64", "--storage", storage, "--name", "run"]
    export = ["export", f"{storage}/run", "--name", "digits", "--out", f"{storage}/store"]
    for arguments in (train, export):
        subprocess.run([*command, *arguments], check=True, capture_output=True)
    return f"{storage}/store/digits"


if __name__ == "__main__":
    main()
