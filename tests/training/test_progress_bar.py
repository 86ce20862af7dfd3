"""The bar on a real terminal, and the plain lines elsewhere."""

import fcntl
import io
import os
import pty
import struct
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest

from aigc.training.progress_bar import Progress
from aigc.training.run_context import RunReport


def report(samples: int, speed: float, **values: float) -> RunReport:
    named = {name.replace("_", "/", 1): value for name, value in values.items()}
    return RunReport(samples, speed, 60.0, named)


@contextmanager
def terminal(monkeypatch: pytest.MonkeyPatch, columns: int = 160) -> Iterator[int]:
    """Makes stderr a pseudo-terminal; gives the end to read from."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    with os.fdopen(theirs, "w") as stderr, monkeypatch.context() as patch:
        patch.setattr(sys, "stderr", stderr)
        yield ours
    os.close(ours)


def frames(ours: int) -> list[str]:
    """Frames of the bar since the last call."""
    os.set_blocking(ours, False)
    drawn = b""
    try:
        while chunk := os.read(ours, 65536):
            drawn += chunk
    except BlockingIOError:
        pass
    return [frame.strip() for frame in drawn.decode().split("\r") if frame.strip()]


def test_bar_of_a_resumed_run_shows_the_speed_of_this_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(monkeypatch) as ours:
        progress = Progress(1_000_000, initial=900_000)
        (first,) = frames(ours)
        assert first.startswith("90%")
        assert "900k/1.00M" in first
        assert "? samples/s" in first, "no speed is known before a report"

        progress.show(report(910_000, 50.0, generator_loss=0.7, quality_frechet=12.345))
        last = frames(ours)[-1]
        assert "910k/1.00M" in last
        assert "50.0 samples/s" in last, "what was trained before this start was counted"
        assert "<30:00" in last
        assert "generator/loss=0.700" in last
        assert "frechet=12.35" in last or "frechet=12.34" in last

        progress.show(report(920_000, 150.0, generator_loss=0.6))
        assert "80.0 samples/s" in frames(ours)[-1], "50 + 0.3 (150 - 50)"

        progress.close()
        (kept,) = frames(ours)
        assert "920k/1.00M" in kept


def test_bar_names_the_state_of_an_earlier_quality(capsys: pytest.CaptureFixture[str]) -> None:
    progress = Progress(1000)
    now = report(1000, 50.0, quality_frechet=12.0)
    progress.show(replace(now, quality_samples=200))
    progress.show(replace(now, quality_samples=1000))
    note = "weak judge: right of 61% of held-out real rows, 80% is wanted"
    progress.show(replace(now, quality_samples=1000, quality_note=note))
    progress.show(replace(now, quality_samples=200, quality_note=note))
    old, new, doubtful, old_and_doubtful = capsys.readouterr().err.splitlines()
    assert old.endswith("frechet 12 (of 200)")
    assert new.endswith("frechet 12")
    assert doubtful.endswith("frechet 12 (weak judge)")
    assert old_and_doubtful.endswith("frechet 12 (of 200; weak judge)")


def test_bar_goes_back_to_the_checkpoint_after_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with terminal(monkeypatch) as ours:
        progress = Progress(1000)
        progress.show(report(800, 100.0))
        progress.show(report(600, 100.0))
        last = frames(ours)[-1]
        assert last.startswith("60%")
        assert "100 samples/s" in last
        assert "<00:04" in last
        progress.close()


def test_progress_prints_lines_off_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    progress = Progress(1000, initial=500)
    progress.show(report(600, 100.0, elbo_loss=1.5))
    progress.show(report(800, 100.0, elbo_loss=1.25))
    progress.show(report(1000, 100.0, elbo_loss=1.0, quality_frechet=0.09168))
    progress.close()
    assert stderr.getvalue().splitlines() == [
        "       600 of 1,000 samples  100/s  4 s left  elbo/loss 1.500",
        "     1,000 of 1,000 samples  100/s  0 s left  elbo/loss 1.000  frechet 0.09168",
    ], "at most a line every five seconds, and the last"
