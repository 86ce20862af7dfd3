"""The examples of README.md and docs/, rewritten for another server than the one they show."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
SHOWN = "http://127.0.0.1:8000"
NEEDS_MORE = (
    '"codebook"',
    '"resgan"',
    "model=digits3",
    '"spoken"',
    "numbers",
    '"words"',
    "/metrics",
)
"""Marks of commands that need other models, or metrics of several processes; demos run those."""


def python_examples(url: str) -> dict[str, str]:
    """Programs that ask a server for digits, by page and number of the block."""
    programs = {}
    for where, block in _blocks("python"):
        if '"digits"' not in block or "8000" not in block:
            continue
        # A sound needs another model.
        program = block.partition("with client.audio")[0].replace(SHOWN, url)
        program = program.replace('"127.0.0.1:8000"', f'"{url.removeprefix("http://")}"')
        programs[where] = program.replace("api_key=key", 'api_key="any"')
    return programs


def curl_examples(url: str) -> dict[str, str]:
    """curl commands that ask a server for digits, by page, block and line."""
    commands = {}
    for where, block in _blocks("bash"):
        lines = block.replace("\\\n", " ").splitlines()
        for number, line in enumerate(lines):
            command = line.partition("  #")[0].strip()
            if command.startswith("curl ") and not any(mark in command for mark in NEEDS_MORE):
                commands[f"{where}, line {number}"] = command.replace(SHOWN, url)
    return commands


def _blocks(language: str) -> list[tuple[str, str]]:
    """Code blocks as (page and number, text)."""
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [
        (f"{page.name}, block {number}", block)
        for page in pages
        for number, block in enumerate(
            re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)
        )
    ]
