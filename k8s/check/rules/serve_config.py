"""serveConfigV2: Ray ignores keys that it does not know, so a typo deploys and is lost."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

from aigc.strict_yaml import documents
from aigc.suggest import did_you_mean
from k8s.check import own_code
from k8s.check.finding import Finding, Skipped, finding
from k8s.check.manifests import Manifests
from k8s.check.objects import Object, get_mapping, get_string, iter_mappings
from k8s.check.ray_serve_config import (
    OURS,
    PATH,
    applications,
    deployments,
    parse_serve_config,
    serve_config,
)


def readable(manifests: Manifests) -> Iterator[Finding]:
    """A Serve config or runtime environment is no YAML mapping, or a key stands twice in it."""
    for by in manifests.of_kind("RayService"):
        try:
            document = parse_serve_config(by)
        except ValueError as error:
            yield finding(by, PATH, f"{error}; Ray would refuse it or take the last one in silence")
            continue
        if not isinstance(document, Mapping) or not iter_mappings(document, "applications"):
            yield finding(
                by, PATH, f"a mapping with applications is expected, got {document!r:.60}"
            )
    for job in manifests.jobs:
        text, path = get_string(job.spec, "runtimeEnvYAML"), f"{job.path}.runtimeEnvYAML"
        try:
            document = next(documents(text), None)
        except ValueError as error:
            yield finding(job.owner, path, str(error))
            continue
        if text and not isinstance(document, Mapping):
            yield finding(job.owner, path, f"a mapping is expected, got {document!r:.60}")


def schema(manifests: Manifests) -> Iterator[Finding]:
    """A key that Ray ignores in silence, or a value that it refuses. Needs Ray."""
    services = [by for by in manifests.of_kind("RayService") if serve_config(by)]
    if not services:
        return
    try:
        from k8s.check.ray_serve_schema import validate
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed; pip install 'aigc[serve]'") from None
    for by in services:
        for path, message in validate(serve_config(by)):
            yield finding(by, f"{PATH}{path}", message)


def runtime_env(manifests: Manifests) -> Iterator[Finding]:
    """A key of a runtime environment that Ray does not know. Needs Ray."""
    document = [*runtime_environments(manifests)]
    if not document:
        return
    try:
        from ray.runtime_env import RuntimeEnv
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed; pip install 'aigc[serve]'") from None
    known = sorted(RuntimeEnv.known_fields)
    for by, path, environment in document:
        for key in environment:
            if key not in known:
                message = f"Ray knows no {key!r} here; there are: {', '.join(known)}"
                yield finding(by, f"{path}.{key}", message + did_you_mean(key, known))


def runtime_environments(
    manifests: Manifests,
) -> Iterator[tuple[Object, str, Mapping[str, Any]]]:
    """(owner, path, runtime environment) of every application, deployment and job."""
    for by in manifests.of_kind("RayService"):
        for path, application in applications(by):
            if own := get_mapping(application, "runtime_env"):
                yield by, f"{path}.runtime_env", own
        for path, deployment in deployments(by):
            if own := get_mapping(deployment, "ray_actor_options", "runtime_env"):
                yield by, f"{path}.ray_actor_options.runtime_env", own
    for job in manifests.jobs:
        try:
            document = next(documents(get_string(job.spec, "runtimeEnvYAML")), None)
        except ValueError:
            continue  # the rule `readable` says so
        if isinstance(document, Mapping):
            yield job.owner, f"{job.path}.runtimeEnvYAML", document


def import_path(manifests: Manifests) -> Iterator[Finding]:
    """An application of this project is named that it has not."""
    for by in manifests.of_kind("RayService"):
        for path, each in applications(by):
            named = get_string(each, "import_path")
            environment = get_mapping(each, "runtime_env")
            # Code that is brought along may have a package of the same name.
            brought = any(environment.get(key) for key in ("working_dir", "py_modules"))
            if named and named not in OURS and not brought:
                message = own_code.missing(named) or _nearly_ours(named)
                if message:
                    yield finding(by, f"{path}.import_path", message)


def _nearly_ours(named: str) -> str:
    hint = did_you_mean(named, OURS, cutoff=0.85)
    return f"{named!r} is not this project's application{hint}" if hint else ""


def bounds(manifests: Manifests) -> Iterator[Finding]:
    """Bounds of a deployment that cross each other."""
    for by in manifests.of_kind("RayService"):
        for path, deployment in deployments(by):
            for below, message in _crossed(deployment):
                yield finding(by, f"{path}.{below}", message)


def _crossed(deployment: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    scaling = get_mapping(deployment, "autoscaling_config")
    if not scaling:
        return
    at = "autoscaling_config"
    low = _number(scaling, "min_replicas", 1)
    high = _number(scaling, "max_replicas", 100 if deployment.get("num_replicas") == "auto" else 1)
    if low > high:
        stated = "" if "max_replicas" in scaling else " (the default)"
        yield f"{at}.max_replicas", f"is {high:g}{stated}, below min_replicas {low:g}"
    elif (initial := _number(scaling, "initial_replicas", low)) < low or initial > high:
        message = f"is {initial:g}, outside of {low:g} (min_replicas) to {high:g} (max_replicas)"
        yield f"{at}.initial_replicas", message
    # Where the config states none, the code may. A policy of one's own has targets of its own.
    most = _number(deployment, "max_ongoing_requests", math.inf)
    target = _number(scaling, "target_ongoing_requests", 2)
    if target > most and "policy" not in scaling:
        stated = "" if "target_ongoing_requests" in scaling else " (the default)"
        yield (
            f"{at}.target_ongoing_requests",
            f"is {target:g}{stated}, more than a replica takes at once (max_ongoing_requests"
            f" {most:g}): it would never scale up. Raise that, or lower this",
        )


def _number(document: Mapping[str, Any], key: str, default: float) -> float:
    """A bound; what is none compares with nothing, and the rule `schema` says so."""
    value = document.get(key)
    if value is None:
        return default
    return value if isinstance(value, int | float) else math.nan


def application(manifests: Manifests) -> Iterator[Finding]:
    """An option of this project's own application that it has not, or a deployment of no pool."""
    for by in manifests.of_kind("RayService"):
        for path, each in applications(by):
            if each.get("import_path") in OURS:
                for below, message in _ours(each):
                    yield finding(by, f"{path}.{below}", message)


def _ours(application: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    try:
        from serve.hosting.desired_models import parse_desired
        from serve.settings import parse
    except ImportError as error:
        raise Skipped(f"{error.name} is not installed; pip install 'aigc[serve]'") from None
    try:
        settings = parse(get_mapping(application, "args"))
    except ValueError as error:
        yield "args", str(error)
        return
    pools = list(settings.pools_by_name)
    silent = {name for name, pool in settings.pools_by_name.items() if not pool.artifacts}
    for index, deployment in iter_mappings(application, "deployments"):
        name, at = deployment.get("name"), f"deployments[{index}]"
        if name not in pools:
            yield f"{at}.name", _no_pool(name, pools)
        if "user_config" not in deployment:
            continue
        silent.discard(str(name))
        try:
            target = parse_desired(get_mapping(deployment, "user_config"))
        except ValueError as error:
            yield f"{at}.user_config", str(error)
            continue
        for other in target.pools:
            if other not in pools:
                yield f"{at}.user_config.pools.{other}", _no_pool(other, pools)
    for name in sorted(silent):
        message = f"pool {name!r} has no artifact; give its deployment a user_config"
        yield "deployments", f"{message} with artifacts"


def _no_pool(name: object, pools: list[str]) -> str:
    message = f"args have no pool {name!r}; there are: {', '.join(pools)}"
    return message + did_you_mean(name, pools)


RULES = (readable, schema, runtime_env, import_path, bounds, application)
