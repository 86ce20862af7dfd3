"""Ray Serve's own schema, strictly: importing this needs Ray.

Most of its models ignore keys that they do not know. Some import what the config names (a policy, a
router, an actor); those fields are looked at by name only, since the code is in the image.
"""

import typing
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import ray
from pydantic import BaseModel, TypeAdapter, ValidationError
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy
from ray.serve.schema import ServeDeploySchema

from aigc.suggest import did_you_mean
from k8s.check.objects import get_mapping, get_path, iter_mappings

_IMPORTING = ("policy", "autoscaling_policy", "request_router_config", "deployment_actors")
"""Fields whose models import what they name."""
_LOOSE: dict[str, type[BaseModel]] = {"autoscaling_policy": AutoscalingPolicy}
"""Fields that the schema takes as any mapping: Ray reads them as the model later."""


def validate(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(path that begins with "." or "[", what is wrong) of a Serve config."""
    unknown = [*_unknown(ServeDeploySchema, config, "")]
    yield from unknown
    for path, message in _refused(config):
        # A model that forbids what it does not know says so a second time.
        if not any(path == other for other, _ in unknown):
            yield path, message


def _unknown(
    model: type[BaseModel], document: Mapping[str, Any], path: str
) -> Iterator[tuple[str, str]]:
    known = {field.alias or name: field for name, field in model.model_fields.items()}
    for key, value in document.items():
        if key not in known:
            there = ", ".join(sorted(known))
            yield (
                f"{path}.{key}",
                f"Ray {ray.__version__} knows no {key!r} here and ignores it; there are: {there}"
                f"{did_you_mean(key, known)}",
            )
            continue
        below = _LOOSE.get(key) or next(_models(known[key].annotation), None)
        if below is None:
            continue
        many = isinstance(value, list)
        for index, each in enumerate(value if many else [value]):
            if isinstance(each, Mapping):
                yield from _unknown(below, each, f"{path}.{key}" + (f"[{index}]" if many else ""))


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """Models that a field's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)


def _refused(config: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Errors of Ray's own validation."""
    yield from _validated(ServeDeploySchema, _plain(config), "")
    for i, application in iter_mappings(config, "applications"):
        for j, deployment in iter_mappings(application, "deployments"):
            path = f".applications[{i}].deployments[{j}].autoscaling_config"
            scaling = _plain(get_mapping(deployment, "autoscaling_config"))
            for below, message in _validated(AutoscalingConfig, scaling, path):
                if below != path:  # of the whole: bounds that cross have a rule of their own
                    yield below, message


def _plain(value: Any) -> Any:
    """A config without the parts whose reading imports code."""
    if isinstance(value, Mapping):
        return {key: _plain(below) for key, below in value.items() if key not in _IMPORTING}
    return [_plain(each) for each in value] if isinstance(value, list) else value


def _validated(model: type[BaseModel], document: Any, path: str) -> Iterator[tuple[str, str]]:
    with warnings.catch_warnings():
        # Deprecations are not refusals.
        warnings.simplefilter("ignore")
        try:
            TypeAdapter(model).validate_python(document)
        except ValidationError as error:
            by_path: dict[str, list[str]] = {}
            for each in error.errors():
                at = path + _path(each["loc"], document, missing=each["type"] == "missing")
                by_path.setdefault(at, []).append(str(each["msg"]))
            for at, messages in by_path.items():
                yield at, ", or: ".join(messages)
        except (AttributeError, TypeError) as error:
            # Ray's own validators take for granted that a mapping is where one belongs.
            yield path, f"Ray cannot read it: {error}"


def _path(location: tuple[int | str, ...], document: Any, missing: bool) -> str:
    """pydantic's location as a path, without the types of a union at its end."""
    path = ""
    for step in location:
        below = get_path(document, step)
        there = below is not None or (isinstance(document, Mapping) and step in document)
        if there or (missing and step == location[-1]):
            path += f"[{step}]" if isinstance(step, int) else f".{step}"
            document = below
    return path
