"""One file per family of rules; the folder is the registry.

A family is a module with RULES, functions of the set of objects that yield what is wrong. The name
of a rule is family/function, its first docstring line says what it finds.
"""

import pkgutil
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from importlib import import_module

from k8s.check.finding import Finding, Skipped
from k8s.check.manifests import Manifests

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


def check(manifests: Manifests, skip: Collection[str] = ()) -> tuple[list[Finding], dict[str, str]]:
    """What is wrong, in the order of the rules, and why which rules could not be applied.

    skip: names of rules and families. Raises ValueError for one that there is not.
    """
    unknown = set(skip) - set(rules()) - set(families())
    if unknown:
        there = ", ".join([*families(), *rules()])
        raise ValueError(f"unknown rule {min(unknown)!r}; there are: {there}")
    found, skipped = [], {}
    for name, rule in rules().items():
        if name in skip or name.partition("/")[0] in skip:
            continue
        try:
            found += [replace(each, rule=name) for each in rule(manifests)]
        except Skipped as reason:
            skipped[name] = str(reason)
    return found, skipped
