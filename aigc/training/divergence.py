"""Detection of divergence: losses that are not finite, exploding gradients, collapsed models."""

import math
from collections.abc import Callable

EXPLOSION = 1000.0
"""Ratio of a gradient norm to its running geometric mean from which on it counts as exploding."""
EXPLOSION_BATCHES = 3
"""Batches in a row with exploding gradients that count as divergence."""
WARMUP_BATCHES = 100
"""Batches that the running mean needs before it is compared with."""
COLLAPSE_BATCHES = 500
"""Batches in a row with a collapsed model (GenerativeModel.collapsed) that count as divergence."""
_MEMORY = 0.02


class Diverged(ArithmeticError):
    """Training cannot recover by going on; the last good checkpoint is whole."""


class NonFiniteLoss(Diverged):
    """A loss or a gradient became NaN or infinite; the optimizer step was not taken."""


class DivergenceMonitor:
    """Checks the losses and metrics of every batch, the same on all workers.

    monitor = DivergenceMonitor(model.collapsed)
    monitor.observe(samples, {"generator/loss": 0.7, "generator/gradient_norm": 2.1})
    """

    def __init__(self, collapsed: Callable[[dict[str, float]], str] = lambda values: "") -> None:
        self._collapsed = collapsed
        self._collapses = 0
        self._norms: dict[str, tuple[float, int, int]] = {}

    def observe(self, samples: int, values: dict[str, float]) -> None:
        """Check the `phase/name` values of the batch that began at `samples`. Raises Diverged."""
        bad = next((name for name, value in values.items() if not math.isfinite(value)), None)
        if bad is not None:
            phase = bad.partition("/")[0]
            own = {k: v for k, v in values.items() if k.startswith(f"{phase}/")}
            raise NonFiniteLoss(
                f"loss of phase {phase!r} is not finite after {samples} samples: {own};"
                " lower the learning rate or choose another objective"
            )
        for name, value in values.items():
            if name.endswith("/gradient_norm"):
                self._explosion(samples, name.partition("/")[0], value)
        reason = self._collapsed(values)
        self._collapses = self._collapses + 1 if reason else 0
        if self._collapses >= COLLAPSE_BATCHES:
            raise Diverged(
                f"in {COLLAPSE_BATCHES} batches in a row, after {samples} samples: {reason}"
            )

    def _explosion(self, samples: int, phase: str, norm: float) -> None:
        """Compare a gradient norm with the mean of those before it that did not vanish.

        A discriminator with the hinge loss that tells all samples apart has gradients of zero, for
        many batches; the first ordinary one after them is no explosion.
        """
        if norm == 0:
            return
        log, limit = math.log(norm), math.log(EXPLOSION)
        mean, seen, high = self._norms.get(phase, (log, 0, 0))
        if seen >= WARMUP_BATCHES and log < mean - limit:
            return
        high = high + 1 if seen >= WARMUP_BATCHES and log > mean + limit else 0
        if high >= EXPLOSION_BATCHES:
            raise Diverged(
                f"gradient norm of phase {phase!r} is {norm:.3g} after {samples} samples, its"
                f" running mean is {math.exp(mean):.3g}; lower the learning rate"
            )
        if not high:
            mean += (log - mean) * max(_MEMORY, 1 / (seen + 1))
        self._norms[phase] = (mean, seen + 1, high)
