"""How a long run shows itself: a bar on a terminal, plain lines elsewhere; always on stderr."""

import sys
import time

from tqdm import tqdm

from aigc.run import Report


class Progress:
    """Samples seen, samples/s, time left and losses of a run."""

    def __init__(self, samples: int) -> None:
        self.total = samples
        self._last = 0.0
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=samples, unit=" samples", unit_scale=True, dynamic_ncols=True)

    def show(self, report: Report) -> None:
        """Take in a report; off a terminal at most a line every five seconds, and the last."""
        losses = {k: f"{v:.3f}" for k, v in report.values.items() if k.endswith("/loss")}
        if self._bar is not None:
            self._bar.update(report.samples - self._bar.n)
            self._bar.set_postfix(losses)
            return
        now = time.monotonic()
        if now - self._last < 5 and report.samples < self.total:
            return
        self._last = now
        left = max(0, self.total - report.samples) / max(report.samples_per_second, 1e-9)
        print(
            f"{report.samples:>10,} of {self.total:,} samples  {report.samples_per_second:,.0f}/s "
            f" {left:.0f} s left  " + "  ".join(f"{k} {v}" for k, v in losses.items()),
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        """Leave the bar as it is and end the line."""
        if self._bar is not None:
            self._bar.close()
