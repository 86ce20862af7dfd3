"""`aigc serve` against FastAPI, LitServe, plain Ray Serve and bare session.run.

    python -m benchmarks.bench_serving                      # about 25 minutes on a quiet machine
    python -m benchmarks.bench_serving --only mix --rounds 1

Each section writes its own part of docs/benchmarks.md. Wants wrk.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import tyro

from aigc.artifact import Artifact
from benchmarks import serving_limits, serving_protocols, serving_speed
from benchmarks.artifacts import untrained
from benchmarks.report import write_section

SECTIONS: dict[str, Callable[[str, int], str]] = {
    "speed": serving_speed.speed,
    "large": serving_speed.large,
    "mix": serving_speed.mix,
    "two": serving_speed.two,
    "formats": serving_protocols.formats,
    "protocols": serving_protocols.protocols,
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
    """Sections; all by default: speed, large, mix, two, formats, protocols, start, overload."""
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


if __name__ == "__main__":
    main()
