"""`aigc check-model MODEL[:PRESET]`: a model held to the contract, a line per check.

aigc check-model ./resgan.py                       every preset
aigc check-model ./resgan.py:small --only gradients parity --model.widths 16 8
"""

import sys
from dataclasses import dataclass
from typing import Annotated

import tyro

from aigc.config import TrainConfig
from aigc.testing.contract import run, summary
from aigc.testing.model_contract import CONTRACT, presets
from aigc.testing.model_contract import checks as checks_of_model

USAGE = "aigc check-model MODEL[:PRESET] [--only CHECK ...] [--model.FIELD VALUE ...]"


@dataclass(frozen=True, kw_only=True)
class Options:
    """Hold a model to the contract of the training loop and the export; train nothing."""

    config: Annotated[TrainConfig, tyro.conf.arg(name="")]
    only: tuple[str, ...] = ()
    """Names of the checks to run, with those that they build on; by default all."""


def command(argv: list[str]) -> int:
    """Say what a model lacks for training, resuming, export, seeds and GPUs."""
    if not argv or argv[0].startswith("-"):
        asked = bool(argv) and argv[0] in ("-h", "--help")
        print(_usage(), file=sys.stdout if asked else sys.stderr)
        return 0 if asked else 2
    outcomes = []
    for name, config in presets(argv[0]).items():
        options = tyro.cli(
            Options,
            default=Options(config=config),
            args=argv[1:],
            prog=f"aigc check-model {argv[0]}",
            description=Options.__doc__,
        )
        checks = checks_of_model(options.config, options.only, name)
        print(name, flush=True)
        outcomes += run(checks)
    print(summary(outcomes))
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0


def _usage() -> str:
    """Usage with the names of the checks."""
    lines = [f"  {f.__name__:<24} {(f.__doc__ or '').partition(chr(10))[0]}" for f in CONTRACT]
    return "\n".join([f"usage: {USAGE}", "", "checks:", *lines])
