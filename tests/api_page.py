"""docs/api.md, from the signatures and docstrings of `import aigc`: `python -m tests.api_page`.

With --check it writes nothing and fails if the page is not what it would write.
"""

import ast
import dataclasses
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent

import aigc
from aigc.field_docs import field_docs

PAGE = Path(__file__).parent.parent / "docs" / "api.md"
ORDER = ("train", "Run", "export", "evaluate", "Artifact", "serve", "Server", "preset")
"""Names in the order of the page; the others follow."""
MEMBERS = {
    "Run": ("open", "config", "metrics", "curves", "quality", "facts", "history"),
    "Artifact": ("open", "sample", "run", "uint8", "texts", "verify"),
    "Server": ("close",),
}
"""Members of classes that are for users."""
HEAD = """# From Python

Everything that the commands do, as functions that take and return objects. Names are loaded when
they are first used: `import aigc` takes milliseconds and brings neither torch nor Ray. Types are
known to mypy and pyright. Commands say more about each option: `aigc train --help`.

This page is written by `python -m tests.api_page` from signatures and docstrings.
"""


def page() -> str:
    """The whole page."""
    names = sorted(aigc.__all__, key=lambda n: (ORDER.index(n) if n in ORDER else len(ORDER), n))
    parts = [HEAD, *_example(inspect.getdoc(aigc) or "")]
    for name in names:
        parts += _entry(f"aigc.{name}", getattr(aigc, name), 2)
        for member in MEMBERS.get(name, ()):
            parts += _entry(f"{name}.{member}", getattr(getattr(aigc, name), member), 3)
    # As `ruff format` has code blocks.
    return re.sub(r"(?<=\S) {2,}# ", "  # ", "\n".join(parts).rstrip()) + "\n"


def _example(docstring: str) -> Iterator[str]:
    """The code of the package's docstring."""
    parts = (part for part in docstring.split("\n\n") if part.startswith("    "))
    yield "```python\n" + dedent("\n\n".join(parts)) + "\n```\n"


def _entry(name: str, value: object, level: int) -> Iterator[str]:
    yield f"{'#' * level} {name}\n"
    if inspect.isroutine(value):
        yield f"```text\n{_signature(name, value)}\n```\n"
    yield from _paragraphs(inspect.getdoc(value) or "")
    if isinstance(value, type) and dataclasses.is_dataclass(value):
        yield from _fields(value)


def _signature(name: str, function: object) -> str:
    """A signature as the source has it, a parameter a line where it is long."""
    node = ast.parse(dedent(inspect.getsource(function))).body[0]  # type: ignore[arg-type]
    assert isinstance(node, ast.FunctionDef)
    arguments = node.args
    arguments.args = [each for each in arguments.args if each.arg not in ("self", "cls")]
    result = "" if node.returns is None else f" -> {ast.unparse(node.returns)}".replace("'", "")
    whole = ast.unparse(arguments).replace("'", '"')
    parts = [re.sub(r"^(\w+: .*?)=", r"\1 = ", part) for part in re.split(r", (?=\*|\w+:)", whole)]
    text = f"{name}({', '.join(parts)}){result}"
    if len(text) <= 100:
        return text
    return "\n".join([f"{name}(", *(f"    {part}," for part in parts), f"){result}"])


def _fields(kind: type) -> Iterator[str]:
    """Fields of a dataclass as a list."""
    docs = field_docs(kind)
    for field in dataclasses.fields(kind):
        yield f"- `{field.name}`: {docs.get(field.name, '')}".rstrip(": ")
    yield ""


def _paragraphs(docstring: str) -> Iterator[str]:
    """Paragraphs of a docstring; indented ones, and those that are all code, are code blocks."""
    for paragraph in docstring.split("\n\n"):
        if paragraph.startswith("    ") or _is_code(paragraph):
            yield f"```python\n{dedent(paragraph).rstrip()}\n```\n"
        else:
            yield paragraph.strip() + "\n"


def _is_code(paragraph: str) -> bool:
    """True of a paragraph of statements, as docstrings of classes show how they are used."""
    lines = paragraph.splitlines()
    return bool(lines) and all(re.match(r"[\w, ]+ = |\w+(\.\w+)*\(", line) for line in lines)


def main() -> int:
    """Write the page, or check it."""
    written = PAGE.read_text() if PAGE.exists() else ""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page())
    elif written != page():
        print(f"{PAGE} is not up to date: python -m tests.api_page", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
