"""Docstrings say what a thing is or does: none is a clause that only continues its name."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
CLAUSES = {
    *("What", "Whatever", "Whether", "Of", "That", "Those"),
    *("Who", "Whoever", "So", "How", "Told"),
}
"""First words of relative clauses and fragments."""


def docstrings(tree: ast.AST) -> Iterator[str]:
    """Docstrings of modules, classes and functions, and the strings that follow an assignment."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
            for before, after in zip(node.body, node.body[1:], strict=False):
                if isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
                    value = after.value
                    if isinstance(value, ast.Constant) and isinstance(value.value, str):
                        yield value.value.strip()


@pytest.mark.parametrize(
    "package", ["aigc", "cluster", "serve", "k8s", "benchmarks", "requirements", "tests"]
)
def test_docstrings_begin_with_nouns_or_verbs(package: str) -> None:
    begins_with_a_clause = [
        f"{path.relative_to(ROOT)}: {text[:60]}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for text in docstrings(ast.parse(path.read_text()))
        if text and text.split()[0].strip(".,:;") in CLAUSES
    ]
    assert begins_with_a_clause == []


def test_check_finds_a_clause() -> None:
    tree = ast.parse('X = 1\n"""Of both."""\ndef f():\n    """What it gives."""\n')
    assert [text for text in docstrings(tree) if text] == ["Of both.", "What it gives."]
