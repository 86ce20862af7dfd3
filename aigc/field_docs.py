"""Docstrings of the fields of dataclasses, as they stand below each field in the source."""

import ast
import inspect
import re
import textwrap
from functools import cache
from itertools import pairwise


@cache
def field_docs(kind: type) -> dict[str, str]:
    """Docstring by field, in one line each, of a dataclass and the classes that it inherits from.

    Fields without a docstring, and classes without a source, are left out.
    """
    docs: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(each)))
        except (OSError, TypeError, SyntaxError):
            continue
        body = getattr(tree.body[0], "body", [])
        for field, below in pairwise(body):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                text = below.value if isinstance(below, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    docs[field.target.id] = " ".join(text.value.split())
    return docs


def first_sentence(text: str) -> str:
    """A text up to the first full stop that ends a sentence."""
    end = re.search(r"(?<!\bal)\. (?=[A-Z0-9`'\"])", text)
    return text[: end.start() + 1] if end else text
