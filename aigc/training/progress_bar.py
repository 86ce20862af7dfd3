"""Progress of a run on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from tqdm import tqdm

from aigc.training.run_context import RunReport

SMOOTHING = 0.3
"""Weight of the newest report in the average speed of the bar."""


class Progress:
    """Samples seen, samples/s, time left, losses and quality of a run.

    progress = Progress(config.samples, initial=samples seen before this start)
    train_run(RunContext(store=store, on_report=progress.show), config, source)
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

    def show(self, report: RunReport) -> None:
        """Show a report; off a terminal at most one line per five seconds, and the last."""
        values = report.values.items()
        shown = {k: f"{v:.3f}" for k, v in values if k.endswith("/loss")}
        measured = report.quality_samples
        remarks = [f"of {measured:,}"] if measured not in (None, report.samples) else []
        remarks += [report.quality_note.partition(":")[0]] if report.quality_note else []
        remark = f" ({'; '.join(remarks)})" if remarks else ""
        shown |= {
            k.partition("/")[2]: f"{v:.4g}{remark}" for k, v in values if k.startswith("quality/")
        }
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
    """A bar whose speed and remaining time come from the reports.

    tqdm's own clock would include the start of the workers, and the training before a restart.
    """

    speed: float | None = None

    @property
    def format_dict(self) -> dict[str, Any]:
        return {**super().format_dict, "rate": self.speed}

    def show(self, report: RunReport, shown: dict[str, str]) -> None:
        new = report.samples_per_second
        self.speed = new if self.speed is None else self.speed + SMOOTHING * (new - self.speed)
        self.set_postfix(shown, refresh=False)
        self.n = report.samples  # not update(): a restart goes back to a checkpoint
        self.refresh()
