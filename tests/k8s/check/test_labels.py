"""Selectors match as in Kubernetes."""

import pytest

from k8s.check.labels import closest_selector, format_selector, matches

LABELS = {"app": "web", "tier": "front"}


def expression(key: str, operator: str, *values: str) -> dict[str, object]:
    return {"matchExpressions": [{"key": key, "operator": operator, "values": list(values)}]}


@pytest.mark.parametrize(
    ("selector", "said", "match"),
    [
        ({}, "everything", True),
        ({"matchLabels": {"app": "web"}}, "app=web", True),
        ({"matchLabels": {"app": "web", "tier": "back"}}, "app=web,tier=back", False),
        (expression("app", "In", "web", "api"), "app in (web, api)", True),
        (expression("zone", "In", "a"), "zone in (a)", False),
        (expression("app", "NotIn", "web"), "app not in (web)", False),
        (expression("zone", "NotIn", "a"), "zone not in (a)", True),
        (expression("app", "Exists"), "app Exists", True),
        (expression("zone", "Exists"), "zone Exists", False),
        (expression("zone", "DoesNotExist"), "zone DoesNotExist", True),
        (expression("app", "DoesNotExist"), "app DoesNotExist", False),
    ],
)
def test_selector_matches_labels(selector: dict[str, object], said: str, match: bool) -> None:
    assert matches(selector, LABELS) == match
    assert format_selector(selector) == said


def test_closest_labels_are_shown() -> None:
    others = {"app": "redis"}, LABELS, {"tier": "front"}
    selector = {"matchLabels": {"app": "web", "tier": "back", "zone": "a"}}
    assert closest_selector(selector, [*others]) == "the closest has app=web, tier=front, no zone"
    assert closest_selector(selector, []) == "there is none at all"
