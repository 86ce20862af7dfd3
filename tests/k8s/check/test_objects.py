"""Any content of a manifest is read, and never the checker's own error."""

from collections.abc import Iterator
from copy import deepcopy
from itertools import cycle
from typing import Any

import pytest
import yaml

from k8s.check.manifests import Manifests
from k8s.check.objects import Objects, get_list, get_mapping, get_path, get_string, iter_strings
from k8s.check.rules import check
from tests.k8s.check.mutation import WHOLE, one

ODD = (None, 5, "text", [], {}, [None], [5], {"a": None}, True)

Path = tuple[str | int, ...]


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """Paths of everything below a value."""
    below = {dict: dict.items, list: enumerate}.get(type(value), lambda _: ())
    for step, each in below(value):
        yield (*path, step)
        yield from paths(each, (*path, step))


def replaced(value: Any, path: Path, new: Any) -> Any:
    found = deepcopy(value)
    where = found
    for step in path[:-1]:
        where = where[step]
    where[path[-1]] = new
    return found


@pytest.mark.process
def test_check_survives_odd_values_in_objects() -> None:
    odd = cycle(ODD)
    named = (("kind",), ("metadata",), ("metadata", "name"))  # what is read only if they are there
    for index, document in enumerate(WHOLE):
        for path in paths(document):
            if path not in named:
                broken = [*WHOLE]
                broken[index] = replaced(document, path, next(odd))
                assert check(Manifests(broken)).failed == {}


def test_check_survives_odd_values_in_serve_configs() -> None:
    odd = cycle(ODD)
    service = one(WHOLE, "RayService/sampling")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    for path in paths(config):
        for _ in range(2):  # no path has a fixed one
            text = yaml.safe_dump(replaced(config, path, next(odd)))
            broken = [replaced(service, ("spec", "serveConfigV2"), text)]
            assert check(Manifests(broken), skip=["references"]).failed == {}


def test_getters_return_values_or_empty() -> None:
    value = {"a": [{"b": "c"}, 1], "d": {"e": "f"}}
    assert get_path(value, "a", 0, "b") == "c"
    assert get_path(value, "a", 2, "b") is None
    assert get_path(value, "d", 0) is None
    assert (get_mapping(value, "a"), get_list(value, "d"), get_string(value, "a", 1)) == (
        {},
        [],
        "",
    )
    assert list(iter_strings(value)) == [("a[0].b", "c"), ("d.e", "f")]


def test_find_separates_kinds_by_api_group() -> None:
    service = {"apiVersion": "serving.knative.dev/v1", "kind": "Service", "metadata": {"name": "a"}}
    assert Objects([service]).of_kind("Service") == []
    own = Objects([service | {"apiVersion": "v1"}])
    assert [str(each) for each in own.of_kind("Service")] == ["Service default/a"]
    assert own.find("Service", "a", "default") is not None
    assert own.find("Service", "a", "other") is None
