"""docs/benchmarks.md: each benchmark writes its own section, with machine and versions."""

import os
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path


def header(*packages: str) -> str:
    """One line: date, processor, cores, versions."""
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, {os.cpu_count()} cores; {versions}."


def processor() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "unknown processor"


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
