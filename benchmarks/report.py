"""docs/benchmarks.md: each benchmark writes its own section, with machine and versions."""

import os
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


def header(*packages: str, **others: str) -> str:
    """One line: date, processor, cores, versions; `others` are versions of other environments."""
    found = {package: version(package) for package in packages} | others
    versions = ", ".join(f"{package} {number}" for package, number in found.items())
    return f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {os.cpu_count()} cores; {versions}."


def processor() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


def spread(values: Sequence[float], digits: int = 2) -> str:
    """`median (min to max)`."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def verdict(values: Sequence[float], bar: float | None, better: str = "higher") -> str:
    """The median beside its bar, in words; a report, which fails nothing."""
    if bar is None:
        return "no bar"
    middle = statistics.median(values)
    met = middle >= bar if better == "higher" else middle <= bar
    return f"{'≥' if better == 'higher' else '≤'} {bar:g}: {'met' if met else 'not met'}"


def write_section(path: Path, name: str, section: str) -> None:
    """Replace the section between the markers of `name`, or append it."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    text = path.read_text() if path.exists() else "# Benchmarks\n"
    block = f"{begin}\n{section}\n{end}"
    if begin in text:
        head, rest = text.split(begin, 1)
        text = head + block + rest.split(end, 1)[1]
    else:
        text = f"{text.rstrip()}\n\n{block}\n"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
