"""YAML in which a key that stands twice is an error: plain YAML takes the last in silence."""

from collections.abc import Iterator
from typing import Any

import yaml

_MERGE = "tag:yaml.org,2002:merge"
_VALUE = "tag:yaml.org,2002:value"


class _Strict(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        own = [key for key, _ in node.value if key.tag != _MERGE]
        keys = [self.construct_object(key, deep=True) for key in own]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            line = node.start_mark.line + 1
            raise ValueError(f"key {twice!r} stands twice in the mapping at line {line}")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


# A lone `=` has a type of its own in YAML 1.1, which nobody means and PyYAML cannot read.
_Strict.add_constructor(_VALUE, lambda loader, node: loader.construct_scalar(node))


def documents(text: str) -> Iterator[Any]:
    """Every document of a YAML or JSON text. Raises ValueError saying what is wrong, and where."""
    try:
        yield from yaml.load_all(text, _Strict)  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML: {' '.join(str(error).split())}") from None
