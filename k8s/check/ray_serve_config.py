"""serveConfigV2, the text in a RayService that only Ray parses."""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from aigc.strict_yaml import read
from k8s.check.objects import Object, get_string, iter_mappings

PATH = "spec.serveConfigV2"
OURS = ("serve.app:build", "serve.app.build")
"""Values of import_path for this project's own application."""


def parse_serve_config(owner: Object) -> Any:
    """The config of a RayService, None if it has none. Raises ValueError if it cannot be read."""
    text = get_string(owner.spec, "serveConfigV2")
    config = _parsed(text) if text else None
    if isinstance(config, ValueError):
        raise config
    return config


@lru_cache(maxsize=64)
def _parsed(text: str) -> Any:
    """The first document, or the error of parsing it; cached, since every rule asks for it."""
    return next(read(text), None)


def serve_config(owner: Object) -> Mapping[str, Any]:
    """The config of a RayService; an empty one if it has none that can be parsed."""
    try:
        config = parse_serve_config(owner)
    except ValueError:
        return {}
    return config if isinstance(config, Mapping) else {}


def applications(owner: Object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, application) of a RayService."""
    for index, each in iter_mappings(serve_config(owner), "applications"):
        yield f"{PATH}.applications[{index}]", each


def deployments(owner: Object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, deployment) of all applications of a RayService."""
    for path, application in applications(owner):
        for index, each in iter_mappings(application, "deployments"):
            yield f"{path}.deployments[{index}]", each
