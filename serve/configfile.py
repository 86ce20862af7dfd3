"""The YAML file of `aigc serve --config`: read strictly, so that no typo goes unnoticed.

    host: 0.0.0.0
    keys: keys.toml
    pools:
      default: {artifacts: [artifacts/digits@1], replicas: 1..4}
      large:
        artifacts: [artifacts/faces]
        replicas: 0..2
        mode: latency
        memory: 4GiB

Paths are relative to the file.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import yaml

from serve.settings import PoolSettings, parse_pools, refuse_unknown


class _Strict(yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which a key that stands twice is an error: plain YAML takes the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice is not None:
            line = node.start_mark.line + 1
            raise ValueError(f"option {twice!r} stands twice below line {line}")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep=deep)
        return mapping


def options(file: Path, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a file, by name, `pools` among them.

    `kinds`: what else there may be, and of which type. Raises ValueError with the file's name, the
    path of the option at fault, and what there is.
    """
    try:
        document = yaml.load(file.read_text(), _Strict)  # a SafeLoader
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is no YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    try:
        return _checked(document, kinds, file.parent)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def _checked(document: Any, kinds: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    if not isinstance(document, Mapping):
        raise ValueError("a file of options by name is expected, pools among them")
    refuse_unknown(document, ("pools", *kinds), "")
    pools = parse_pools(document.get("pools"))
    found = {}
    for name, value in document.items():
        if name != "pools":
            try:
                found[name] = msgspec.convert(value, kinds[name])
            except msgspec.ValidationError as error:
                raise ValueError(f"{name}: {error}") from None
    if found.get("keys"):
        found["keys"] = str(folder / found["keys"])
    return {**found, "pools": {name: _located(pool, folder) for name, pool in pools.items()}}


def _located(pool: PoolSettings, folder: Path) -> PoolSettings:
    artifacts = (uri if "://" in uri else str(folder / uri) for uri in pool.artifacts)
    return replace(pool, artifacts=tuple(artifacts))
