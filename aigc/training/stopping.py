"""Rules that end a run by its quality: --until a bound is met, or --patience runs out.

A decision is a function of the measurements in their order, so a resumed run takes the same one.
The run trains on while they are made: what it trained beyond the decision is not part of its
result.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aigc.config import TrainConfig, require
from aigc.config.until import Until
from aigc.suggest import alternatives

QUALITY = "quality"
"""Name of whatever --evaluate-interval measures."""
NEGATIVE = "negative_"
"""Prefix of a metric that is better when it is higher, measured with a minus sign."""


@dataclass(frozen=True)
class Decision:
    """The end of a run by a rule."""

    samples: int
    """Samples seen by the state whose measurement decided."""
    best: int
    """Samples seen by the best state up to it."""
    rule: str
    """The rule, such as `until frechet/cnn64<=5`."""
    reason: str


def decide(
    config: TrainConfig, measured: Mapping[int, float], metric: str = QUALITY
) -> Decision | None:
    """The first decision of a config's rules about qualities by samples seen; None to go on.

    Lower is better. A state that could not be measured counts for nothing.
    """
    until = Until.parse(config.until) if config.until else None
    best, without = -1, 0
    for samples, quality in sorted(measured.items()):
        if best < 0 or quality < measured[best]:
            best, without = samples, 0
        else:
            without += 1
        if until and until.met(quality):
            reason = f"{metric} is {quality:.4g} after {samples:,} samples"
            return Decision(samples, best, f"until {until}", reason)
        if config.patience and without >= config.patience:
            reason = (
                f"{metric} was best after {best:,} samples, {measured[best]:.4g}, and no better in"
                f" {without} measurements since"
            )
            return Decision(samples, best, f"patience {config.patience}", reason)
    return None


def check(config: TrainConfig, metric: str) -> None:
    """Raise ValueError if the rules can never apply to a run whose quality is `metric`; empty if
    nothing measures it."""
    if not config.until and not config.patience:
        return
    rule = "until" if config.until else "patience"
    require(
        config.evaluate_interval > 0,
        f"{rule} needs measurements of quality; give --evaluate-interval, in samples",
    )
    require(metric != "", f"{rule} has nothing to go by: no quality is measured of this data")
    if not config.until:
        return
    until = Until.parse(config.until)
    higher = metric.startswith(NEGATIVE)
    plain = metric.removeprefix(NEGATIVE)
    known: Sequence[str] = (metric, QUALITY, *([plain] if higher else []))
    require(
        until.name in known,
        f"until {until.name!r}: this run does not measure it during training, but {metric!r}"
        f"{alternatives(until.name, known)}",
    )
    better = "higher" if higher and until.name == plain else "lower"
    wanted = ">=" if better == "higher" else "<="
    require(
        until.operator == wanted,
        f"until {until}: {until.name} is better when it is {better}; give"
        f" {until.name}{wanted}{until.value:g}",
    )
