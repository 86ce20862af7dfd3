"""`aigc check-data SOURCE [PATH] --for MODEL[:PRESET]`: a data source held to the contract.

aigc check-data ./stars.py /data/stars --for ./resgan.py:small
aigc check-data ring --shape 2
"""

from dataclasses import dataclass, field, replace
from typing import Annotated

import tyro

from aigc import models
from aigc.config import DataConfig, ModelConfig, require
from aigc.files import expanded
from aigc.testing.contract import run, summary
from aigc.testing.source_contract import source_checks


@dataclass(frozen=True, kw_only=True)
class Options:
    """Hold a data source to the contract of the training loop, for the rows that a model takes."""

    where: tyro.conf.Positional[tuple[str, ...]]
    """SOURCE [PATH]: the source's name, file or module, and its data if it reads any."""
    config: Annotated[DataConfig, tyro.conf.arg(name="")] = field(default_factory=DataConfig)
    model: Annotated[str, tyro.conf.arg(name="for", metavar="MODEL[:PRESET]")] = ""
    """Model whose rows the source is to give."""
    shape: tuple[int, ...] = ()
    """Shape of a row, such as 3 64 64, instead of a model's."""
    num_classes: int = -1
    """Number of classes that are conditioned on, instead of a model's."""
    only: tuple[str, ...] = ()
    """Names of the checks to run, with those that they build on; by default all."""

    def __post_init__(self) -> None:
        require(len(self.where) in (1, 2), f"give SOURCE [PATH], got {' '.join(self.where)!r}")
        require(
            bool(self.model or self.shape),
            "say which rows a model takes: --for MODEL[:PRESET], or --shape such as 3 64 64",
        )


def command(argv: list[str]) -> int:
    """Say what a data source lacks for training, resuming and evaluation."""
    # Errors of sources name the flags of `aigc train`.
    renamed = {"--data.": "--", "--model.shape": "--shape", "--model.num-classes": "--num-classes"}
    for flag, own in renamed.items():
        argv = [word.replace(flag, own, 1) for word in argv]
    options = tyro.cli(Options, args=argv, prog="aigc check-data", description=Options.__doc__)
    model = models.preset(options.model).model if options.model else ModelConfig()
    if options.shape:
        model = replace(model, shape=options.shape)
    if options.num_classes >= 0:
        model = replace(model, num_classes=options.num_classes)
    source, path = (*options.where, options.config.path)[:2]
    config = replace(options.config, source=source, path=expanded(path))
    print(f"{source} for rows of shape {model.shape}", flush=True)
    outcomes = run(source_checks(config, model, options.only))
    print(summary(outcomes))
    return 1 if any(outcome.status == "failed" for outcome in outcomes) else 0
