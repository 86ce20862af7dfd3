"""A set in which nothing is wrong, broken in one place at a time."""

import re
import warnings
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from k8s.check.finding import Finding
from k8s.check.manifests import Manifests
from k8s.check.rules import check

with warnings.catch_warnings():
    # Ray's own; rules import it when they are run.
    warnings.simplefilter("ignore", DeprecationWarning)
    from ray.serve.config import AutoscalingConfig

__all__ = ["AutoscalingConfig"]

WHOLE: list[dict[str, Any]] = list(
    yaml.safe_load_all((Path(__file__).parent / "whole.yaml").read_text())
)
GONE = object()
"""A value that stands for the removal of the key."""
_STEP = re.compile(r"\[(\d+)\]|\['([^']+)'\]|\.?([^.\[]+)")


@dataclass(frozen=True, kw_only=True)
class Mutation:
    """A change of one object, and the one finding that it must cause."""

    rule: str
    object: str
    """Kind/name of what is changed."""
    path: str
    """Path of the change; below spec.serveConfigV2 within its text."""
    value: Any
    found: str = ""
    """Path of the finding where it is another than what is changed."""
    by: str = ""
    """Kind/name of who is found where it is another one."""
    says: str
    """Part of the message."""
    others: bool = False
    """True if there are more findings, all of this rule with the same place."""

    def __str__(self) -> str:
        return f"{self.rule}-{self.path}"


def findings(documents: list[dict[str, Any]], *external: str) -> list[Finding]:
    """Findings of all rules on a set; no rule may be skipped."""
    found, skipped, failed = check(Manifests(documents, external))
    assert (skipped, failed) == ({}, {})
    return found


def broken(mutation: Mutation) -> list[dict[str, Any]]:
    """The set, broken."""
    return changed((mutation.object, mutation.path, mutation.value))


def changed(*changes: tuple[str, str, Any]) -> list[dict[str, Any]]:
    """The set with values replaced: (Kind/name, path, value) each."""
    documents = deepcopy(WHOLE)
    for object, path, value in changes:
        set_at(one(documents, object), path, value)
    return documents


def copied(object: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The set, and its object Kind/name, to be changed."""
    documents = deepcopy(WHOLE)
    return documents, one(documents, object)


def one(documents: list[dict[str, Any]], object: str) -> dict[str, Any]:
    """The object Kind/name of a set."""
    (found,) = named(documents, object)
    return found


def named(documents: list[dict[str, Any]], object: str) -> list[dict[str, Any]]:
    """Objects Kind/name of a set."""
    return [d for d in documents if f"{d['kind']}/{d['metadata']['name']}" == object]


def set_at(document: dict[str, Any], path: str, value: Any) -> None:
    """Set, add or (GONE) remove what stands at a path."""
    _, inside, inner = path.partition("serveConfigV2.")
    if inside:
        config = yaml.safe_load(document["spec"]["serveConfigV2"])
        set_at(config, inner, value)
        document["spec"]["serveConfigV2"] = yaml.safe_dump(config, sort_keys=False)
        return
    steps = [int(i) if i else quoted or plain for i, quoted, plain in _STEP.findall(path)]
    where: Any = document
    for step in steps[:-1]:
        where = where.setdefault(step, {}) if isinstance(where, dict) else where[step]
    if value is GONE:
        del where[steps[-1]]
    elif isinstance(where, list) and steps[-1] == len(where):
        where.append(value)
    else:
        where[steps[-1]] = value


def assert_found(mutation: Mutation) -> None:
    """Assert that a mutation causes exactly its one finding."""
    documents = broken(mutation)
    found = findings(documents)
    if mutation.others:
        found = [each for each in found if each.rule == mutation.rule]
    assert mutation.others or len(found) == 1, "\n".join(map(str, found))
    where = mutation.by or mutation.object
    (namespace,) = {d["metadata"]["namespace"] for d in named(documents, where)}
    place = (mutation.rule, where, namespace, mutation.found or mutation.path)
    assert {(e.rule, f"{e.kind}/{e.name}", e.namespace, e.path) for e in found} == {place}
    assert mutation.says in found[0].message
