"""Label selectors, as Kubernetes matches them."""

from collections.abc import Mapping
from typing import Any

from k8s.check.objects import rows, table, tables, word


def matches(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Whether a LabelSelector takes these labels; an empty one takes all."""
    equal = all(labels.get(key) == str(v) for key, v in table(selector, "matchLabels").items())
    return equal and all(
        _holds(each.get("key"), each.get("operator"), rows(each, "values"), labels)
        for _, each in tables(selector, "matchExpressions")
    )


def _holds(key: Any, operator: Any, values: list[Any], labels: Mapping[str, str]) -> bool:
    value = labels.get(key)
    if operator == "In":
        return value in values
    if operator == "NotIn":
        return value not in values
    return bool((value is not None) == (operator == "Exists"))


def shown(selector: Mapping[str, Any]) -> str:
    """A selector as people write it: a=b,c in (d, e)."""
    parts = [f"{key}={value}" for key, value in table(selector, "matchLabels").items()]
    for _, each in tables(selector, "matchExpressions"):
        values = ", ".join(map(str, rows(each, "values")))
        operator = {"In": "in", "NotIn": "not in"}.get(str(each.get("operator")))
        said = f" {operator} ({values})" if operator else f" {each.get('operator')}"
        parts.append(f"{each.get('key')}{said}")
    return ",".join(parts) or "everything"


def nearest(selector: Mapping[str, Any], candidates: list[Mapping[str, str]]) -> str:
    """What to look at: the labels of what is there that come closest to a selector."""
    wanted = table(selector, "matchLabels")
    keys = [*wanted, *(word(each, "key") for _, each in tables(selector, "matchExpressions"))]

    def closeness(labels: Mapping[str, str]) -> tuple[int, int]:
        equal = sum(labels.get(key) == str(value) for key, value in wanted.items())
        return equal, sum(key in labels for key in keys)

    best = max(candidates, key=closeness, default=None)
    if best is None:
        return "there is none at all"
    said = ", ".join(f"{key}={best[key]}" if key in best else f"no {key}" for key in keys)
    return f"the closest has {said}"
