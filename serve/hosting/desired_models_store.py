"""Desired models in Serve's config: read by every replica, changed by one actor of the cluster.

    target, version = read_target("aigc")
    written = await swap("aigc", version, target.pin("digits", "3"))   # False: changed meanwhile

A change is a compare-and-swap. Serve's controller has none, so all changes go through one named
actor, whose calls run one at a time: it reads the config, compares its version with the one that
the change is based on, and writes only if they are equal.
"""

import asyncio
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import ray
from ray.serve.context import _get_global_client
from ray.serve.schema import ServeDeploySchema

from serve.detached_actor import get_or_create
from serve.hosting.desired_models import DesiredModels, parse_desired, resolve_store
from serve.settings import DEFAULT

ACTOR = "aigc-target-writer"

CONTROLLER_S = 30.0
"""Time limit for Serve's controller to return its config; the caller blocks a thread."""

Documents = dict[str, dict[str, Any]]
"""user_config by deployment."""


def deploy(applications: Iterable[Mapping[str, Any]]) -> None:
    """Make this Serve's config; `serve.status()` reports its progress.

    Raises GetTimeoutError if the controller does not answer.
    """
    schema = ServeDeploySchema.model_validate({"applications": [*applications]})
    applied = _get_global_client()._controller.apply_config.remote(schema)
    ray.get(applied, timeout=CONTROLLER_S)


def user_configs(target: DesiredModels) -> Documents:
    """user_config by pool; the default pool's includes the models of the others."""
    return {name: pool.document() for name, pool in target.models_by_pool.items()}


def read_target(app: str) -> tuple[DesiredModels, str]:
    """The desired models in Serve's config, and their version.

    Raises ValueError if the application was not deployed by a config.
    """
    documents = _documents(_configs(), app)
    if DEFAULT not in documents:
        raise _no_user_config(app, DEFAULT)
    return resolve_store(parse_desired(documents[DEFAULT])), _version(documents)


def write_target(app: str, version: str, wanted: Documents) -> bool:
    """Change the user_configs, and nothing else, if their version is still `version`.

    Safe only if one process at a time calls it: swap() ensures that.
    """
    configs = _configs()
    documents = _documents(configs, app)
    if _version(documents) != version:
        return False
    for name in wanted:
        if name not in documents:
            raise _no_user_config(app, name)
    for config in configs:
        for deployment in config.get("deployments", ()) if config["name"] == app else ():
            if deployment["name"] in wanted:
                deployment["user_config"] = wanted[deployment["name"]]
    deploy(configs)
    return True


class TargetWriter:
    """The only writer of the desired models. Its calls run one at a time."""

    def write(self, app: str, version: str, wanted: Documents) -> bool:
        """write_target()."""
        return write_target(app, version, wanted)


async def swap(app: str, version: str, target: DesiredModels) -> bool:
    """Write desired models if the version in the config is `version`; False if it is another.

    Raises Ray's errors while the actor is unavailable; it may have written then.
    """
    actor = await asyncio.to_thread(get_or_create, TargetWriter, ACTOR)
    return bool(await actor.write.remote(app, version, user_configs(target)))


def _configs() -> list[dict[str, Any]]:
    reference = _get_global_client()._controller.get_app_configs.remote()
    configs = ray.get(reference, timeout=CONTROLLER_S)
    return [config.model_dump(exclude_unset=True) for config in configs.values()]


def _documents(configs: list[dict[str, Any]], app: str) -> Documents:
    """user_config of the deployments of an application that have one."""
    return {
        deployment["name"]: deployment["user_config"]
        for config in configs
        for deployment in (config.get("deployments", ()) if config["name"] == app else ())
        if deployment.get("user_config")
    }


def _version(documents: Documents) -> str:
    """Hash of user_configs."""
    text = json.dumps(documents, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _no_user_config(app: str, deployment: str) -> ValueError:
    return ValueError(
        f"the config of application {app} gives no user_config to its deployment {deployment}"
    )
