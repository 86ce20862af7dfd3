"""One file per family of rules; the folder is the registry.

A family is a module with RULES, functions of the set of objects that yield what is wrong. The name
of a rule is family/function, its first docstring line says what it finds.
"""

import pkgutil
import traceback
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from k8s.check.finding import Finding, Skipped
from k8s.check.manifests import Manifests


class Outcome(NamedTuple):
    """Findings, and the rules that could not be applied."""

    findings: list[Finding]
    skipped: dict[str, str]
    """Reasons by rule: what is not installed."""
    failed: dict[str, str]
    """Reasons by rule: an error of the rule itself."""


Rule = Callable[[Manifests], Iterator[Finding]]


def families() -> list[str]:
    """Names of all families."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def rules() -> dict[str, Rule]:
    """Every rule by name, such as references/secrets."""
    return {
        f"{family}/{rule.__name__}": rule
        for family in families()
        for rule in import_module(f"{__name__}.{family}").RULES
    }


def check(manifests: Manifests, skip: Collection[str] = ()) -> Outcome:
    """Findings in the order of the rules, and the rules that could not be applied.

    skip: names of rules and families. Raises ValueError for an unknown one.
    """
    unknown = set(skip) - set(rules()) - set(families())
    if unknown:
        there = ", ".join([*families(), *rules()])
        raise ValueError(f"unknown rule {min(unknown)!r}; there are: {there}")
    outcome = Outcome([], {}, {})
    for name, rule in rules().items():
        if name in skip or name.partition("/")[0] in skip:
            continue
        try:
            outcome.findings.extend(replace(each, rule=name) for each in rule(manifests))
        except Skipped as reason:
            outcome.skipped[name] = str(reason)
        except Exception as error:  # one rule's mistake hides what the others find from nobody
            at = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{Path(at.filename).name}:{at.lineno}"
            outcome.failed[name] = f"{type(error).__name__}: {error!s:.200} ({where})"
    return outcome
