"""How a long run shows itself: a bar on a terminal, plain lines elsewhere; always on stderr."""

import sys
import time
from typing import Any

from tqdm import tqdm

from aigc.run import Report

SMOOTHING = 0.3
"""Weight of the newest report in the speed that the bar shows."""


class Progress:
    """Samples seen, samples/s, time left, losses and quality of a run.

    progress = Progress(config.samples, initial=samples seen before this start)
    work(..., publish=progress.show)
    progress.close()
    """

    def __init__(self, samples: int, initial: int = 0) -> None:
        self.total = samples
        self._last = 0.0
        self._bar: _Bar | None = None
        if sys.stderr.isatty():
            self._bar = _Bar(
                total=samples,
                initial=initial,
                unit=" samples",
                unit_scale=True,
                dynamic_ncols=True,
            )

    def show(self, report: Report) -> None:
        """Take in a report; off a terminal at most a line every five seconds, and the last."""
        values = report.values.items()
        shown = {k: f"{v:.3f}" for k, v in values if k.endswith("/loss")}
        shown |= {k.partition("/")[2]: f"{v:.4g}" for k, v in values if k.startswith("quality/")}
        if self._bar is not None:
            self._bar.show(report, shown)
            return
        now = time.monotonic()
        if now - self._last < 5 and report.samples < self.total:
            return
        self._last = now
        left = max(0, self.total - report.samples) / max(report.samples_per_second, 1e-9)
        print(
            f"{report.samples:>10,} of {self.total:,} samples  {report.samples_per_second:,.0f}/s "
            f" {left:.0f} s left  " + "  ".join(f"{k} {v}" for k, v in shown.items()),
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Leave the bar as it is and end the line."""
        if self._bar is not None:
            self._bar.close()


class _Bar(tqdm):  # type: ignore[misc]
    """A bar whose speed, and so the time left, comes from the reports.

    tqdm's own clock would count the start of the workers, and what they trained before a restart.
    """

    speed: float | None = None

    @property
    def format_dict(self) -> dict[str, Any]:
        return {**super().format_dict, "rate": self.speed}

    def show(self, report: Report, shown: dict[str, str]) -> None:
        new = report.samples_per_second
        self.speed = new if self.speed is None else self.speed + SMOOTHING * (new - self.speed)
        self.set_postfix(shown, refresh=False)
        self.n = report.samples  # not update(): a restart goes back to a checkpoint
        self.refresh()
