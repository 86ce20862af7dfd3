"""Findings of rules."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

from aigc.suggest import did_you_mean
from k8s.check.objects import Object


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A mistake: the object, the path in it, and one sentence with the problem and the remedy."""

    kind: str
    namespace: str
    name: str
    path: str
    """Path in the object: spec.serveConfigV2.applications[0].deployments[0].max_ongoing_request."""
    message: str
    rule: str = ""
    """family/rule, set by the caller of the rule."""

    def __str__(self) -> str:
        where = f"{self.kind} {self.namespace}/{self.name}"
        return f"{where}: {self.path}: {self.message} [{self.rule}]"


MOST_NAMES = 1000
"""Names compared for a suggestion, which is only a hint."""


class Skipped(Exception):
    """A rule cannot be applied; the message says what is missing and what to install."""


def finding(object: Object, path: str, message: str) -> Finding:
    """A finding in an object."""
    return Finding(
        kind=object.kind,
        namespace=object.namespace,
        name=object.name,
        path=path,
        message=message,
    )


def list_known(known: Iterable[str], name: object = "") -> str:
    """ "there are: a, b", with the name close to `name`, or "there is none"."""
    names = sorted(set(islice(known, MOST_NAMES)))
    if not names:
        return "there is none"
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"there are: {shown}{did_you_mean(name, names)}"
