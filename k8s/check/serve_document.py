"""serveConfigV2: a text in a RayService that only Ray reads."""

from collections.abc import Iterator, Mapping
from typing import Any

from k8s.check.objects import Object, tables, word
from k8s.check.strict import documents

PATH = "spec.serveConfigV2"
OURS = ("serve.app:build", "serve.app.build")
"""import_path of this project's own application."""


def parsed(owner: Object) -> Any:
    """The config of a RayService, None if it has none. Raises ValueError if it cannot be read."""
    text = word(owner.spec, "serveConfigV2")
    return next(documents(text), None) if text else None


def document(owner: Object) -> Mapping[str, Any]:
    """The config of a RayService; an empty one where there is none that can be read."""
    try:
        found = parsed(owner)
    except ValueError:
        return {}
    return found if isinstance(found, Mapping) else {}


def applications(owner: Object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, application) of a RayService."""
    for index, each in tables(document(owner), "applications"):
        yield f"{PATH}.applications[{index}]", each


def deployments(owner: Object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(path, deployment) of all applications of a RayService."""
    for path, application in applications(owner):
        for index, each in tables(application, "deployments"):
            yield f"{path}.deployments[{index}]", each
