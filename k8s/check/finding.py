"""What a rule says of an object."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from k8s.check.objects import Object


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A mistake: in which object, where in it, and in one sentence what is wrong and what to do."""

    kind: str
    namespace: str
    name: str
    path: str
    """Such as spec.serveConfigV2.applications[0].deployments[0].max_ongoing_request."""
    message: str
    rule: str = ""
    """family/rule, set by the one who ran the rule."""

    def __str__(self) -> str:
        where = f"{self.kind} {self.namespace}/{self.name}"
        return f"{where}: {self.path}: {self.message} [{self.rule}]"


class Skipped(Exception):
    """A rule cannot be applied here; says what is missing and what to install."""


def finding(object: Object, path: str, message: str) -> Finding:
    """A finding in an object."""
    return Finding(
        kind=object.kind,
        namespace=object.namespace,
        name=object.name,
        path=path,
        message=message,
    )


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """ "; did you mean 'x'?", or nothing if no known name is close."""
    close = difflib.get_close_matches(str(name), list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def there_are(known: Iterable[str], name: object = "") -> str:
    """ "there are: a, b", with the name that is close to `name`, or "there is none"."""
    names = sorted(set(known))
    if not names:
        return "there is none"
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"there are: {shown}{did_you_mean(name, names)}"
