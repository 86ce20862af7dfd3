"""Label selectors with the semantics of Kubernetes."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Generic, TypeVar

from k8s.check.objects import get_list, get_mapping, get_string, iter_mappings

T = TypeVar("T")
MOST_COMPARED = 1000
"""Candidates compared for the closest one, which is only a hint."""


class Labelled(Generic[T]):
    """Index of labelled things by namespace and label."""

    def __init__(self, things: Iterable[tuple[str, Mapping[str, str], T]]) -> None:
        self._in: dict[str, list[tuple[Mapping[str, str], T]]] = {}
        self._with: dict[tuple[str, str, str], list[tuple[Mapping[str, str], T]]] = {}
        for namespace, labels, thing in things:
            self._in.setdefault(namespace, []).append((labels, thing))
            for key, value in labels.items():
                self._with.setdefault((namespace, key, value), []).append((labels, thing))

    @property
    def namespaces(self) -> Collection[str]:
        return self._in.keys()

    def labels(self, namespaces: Iterable[str]) -> Iterator[Mapping[str, str]]:
        """Labels of all things in some namespaces."""
        return (labels for name in namespaces for labels, _ in self._in.get(name, ()))

    def selected(self, selector: Mapping[str, Any], namespaces: Iterable[str] | None) -> list[T]:
        """The things that a LabelSelector selects in some namespaces; None for all."""
        equal = get_mapping(selector, "matchLabels").items()
        things = []
        for name in self._in if namespaces is None else namespaces:
            some = [self._with.get((name, key, str(value)), []) for key, value in equal]
            fewest = min(some, key=len, default=self._in.get(name, []))
            things += [thing for labels, thing in fewest if matches(selector, labels)]
        return things


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """True if a LabelSelector selects these labels; an empty one selects all."""
    equal = all(
        labels.get(key) == str(v) for key, v in get_mapping(selector, "matchLabels").items()
    )
    return equal and all(
        _holds(each.get("key"), each.get("operator"), get_list(each, "values"), labels)
        for _, each in iter_mappings(selector, "matchExpressions")
    )


def _holds(key: Any, operator: Any, values: list[Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(key)
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    return bool((value is not None) == (operator == "Exists"))


def format_selector(selector: Mapping[str, Any]) -> str:
    """A selector in the syntax of kubectl: a=b,c in (d, e)."""
    parts = [f"{key}={value}" for key, value in get_mapping(selector, "matchLabels").items()]
    for _, each in iter_mappings(selector, "matchExpressions"):
        values = ", ".join(map(str, get_list(each, "values")))
        operator = {"In": "in", "NotIn": "not in"}.get(str(each.get("operator")))
        values_text = f" {operator} ({values})" if operator else f" {each.get('operator')}"
        parts.append(f"{each.get('key')}{values_text}")
    return ",".join(parts) or "everything"


def closest_selector(selector: Mapping[str, Any], candidates: Iterable[Mapping[str, str]]) -> str:
    """A hint: the labels among the candidates that come closest to a selector."""
    wanted = get_mapping(selector, "matchLabels")
    keys = [
        *wanted,
        *(get_string(each, "key") for _, each in iter_mappings(selector, "matchExpressions")),
    ]

    def closeness(labels: Mapping[str, str]) -> tuple[int, int]:
        equal = sum(labels.get(key) == str(value) for key, value in wanted.items())
        return equal, sum(key in labels for key in keys)

    best = max(islice(candidates, MOST_COMPARED), key=closeness, default=None)
    if best is None:
        return "there is none at all"
    summary = ", ".join(f"{key}={best[key]}" if key in best else f"no {key}" for key in keys)
    return f"the closest has {summary}"
