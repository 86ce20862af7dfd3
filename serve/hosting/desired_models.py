"""Desired models: the artifacts that each pool hosts, kept in Serve's config.

Versions change while requests run. Serve hands `user_config` to running replicas and to later ones,
so an edit of the config (by a RayService) or a call of the admin route reaches them all.

    {"artifacts": ["s3://models/digits/3", "s3://models/digits/4"], "pinned": {"digits": "3"}}

A replica of the default pool also gets the models of the others, since it takes their requests:

    {"artifacts": [...], "pools": {"large": {"artifacts": ["s3://models/faces/1"]}}}

A config kept with the code leaves the store to the cluster: $AIGC_STORE/digits/3 is a path below
the value of that variable on the replicas' nodes.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec

from aigc.artifact import ArtifactError, Manifest
from aigc.artifact.folder import read_manifest
from aigc.artifact.store import check_location, locate, version_order
from serve.hosting.time_limit import within
from serve.settings import DEFAULT, Settings

STORE = "AIGC_STORE"
"""The only environment variable with which artifacts of a user_config may begin."""

CANDIDATE_S = 60.0
"""Time limit for a store to find an artifact and return its manifest."""

VERSIONS_KEPT = 2
"""Default number of versions kept of each name: the new one and one to go back to."""


@dataclass(frozen=True, kw_only=True)
class DesiredModels:
    """Artifacts that every replica of a pool hosts; the default pool's also have the others'."""

    artifacts: tuple[str, ...] = ()
    """URIs of artifacts, each of one version."""
    pinned: dict[str, str] = field(default_factory=dict)
    """Version that a name alone stands for; the newest where there is none."""
    pools: dict[str, "DesiredModels"] = field(default_factory=dict)
    """Desired models of the other pools, by name."""

    def __post_init__(self) -> None:
        if not self.artifacts and not self.pools:
            raise ValueError("artifacts must name at least one artifact")
        if any(pool.pools for pool in self.pools.values()):
            raise ValueError("only the target of the default pool has pools")

    @property
    def models_by_pool(self) -> dict[str, "DesiredModels"]:
        """Each pool's own, the default pool's first; that may be empty."""
        return {DEFAULT: self, **self.pools}

    @property
    def names_mean(self) -> dict[str, str]:
        """The pins of all pools."""
        return {n: v for pool in self.models_by_pool.values() for n, v in pool.pinned.items()}

    def hosted(self) -> list[tuple[str, str, Manifest]]:
        """Read (pool, reference, manifest) of every artifact.

        Raises ArtifactError if one is missing, ValueError if two have the same name and version.
        """
        artifacts = [
            (name, uri, read_candidate(uri)[1])
            for name, pool in self.models_by_pool.items()
            for uri in pool.artifacts
        ]
        where: dict[str, str] = {}
        for name, uri, manifest in artifacts:
            if manifest.id in where:
                other = where[manifest.id]
                pools = "" if other == name else f" in the pools {other} and {name}"
                raise ValueError(
                    f"{uri} and another artifact{pools} have the same name and version,"
                    f" {manifest.id}; serve one of them, or export one under another --name"
                )
            where[manifest.id] = name
        return artifacts

    def pool_for(self, manifest: Manifest) -> str:
        """Default pool of an artifact: that of the newest version with its name."""
        there = [(m, pool) for pool, _, m in self.hosted() if m.name == manifest.name]
        same = [(version_order(m.version), pool) for m, pool in there]
        return max(same)[1] if same else DEFAULT

    def with_artifact(
        self, uri: str, keep: int = VERSIONS_KEPT, pool: str = DEFAULT
    ) -> "DesiredModels":
        """A copy with one more artifact; drops the oldest versions of its name beyond `keep`.

        A pinned version stays. Raises ArtifactError if an artifact is missing, ValueError if there
        is no such pool or another one hosts that version.
        """
        if pool not in self.models_by_pool:
            raise ValueError(
                f"there is no pool {pool!r}; there are: {', '.join(self.models_by_pool)}"
            )
        own = self.models_by_pool[pool]
        if uri in own.artifacts:
            return self
        uris = [*own.artifacts, uri]
        manifests = {one: read_candidate(one)[1] for one in uris}
        name = manifests[uri].name
        versions = [one for one in uris if manifests[one].name == name]
        versions.sort(key=lambda one: version_order(manifests[one].version))
        stay = {own.pinned.get(name), manifests[uri].version}
        kept = {one for one in versions if manifests[one].version in stay}
        for one in reversed(versions):
            if len(kept) < keep:
                kept.add(one)
        left = tuple(one for one in uris if one in kept or manifests[one].name != name)
        after = self._with(pool, left, own.pinned)
        after.hosted()
        return after

    def without(self, reference: str) -> "DesiredModels":
        """A copy without `name@version`, or without all versions of `name`, in any pool.

        Raises KeyError if there is none, ValueError if a pool would be left empty.
        """
        there = self.hosted()
        gone = {(pool, uri) for pool, uri, m in there if reference in (m.id, m.name)}
        if not gone:
            raise KeyError(reference)
        after = self
        for name, pool in self.models_by_pool.items():
            left = tuple(uri for uri in pool.artifacts if (name, uri) not in gone)
            pinned = {n: v for n, v in pool.pinned.items() if reference not in (n, f"{n}@{v}")}
            if not left and name != DEFAULT:
                raise ValueError(f"pool {name} would host nothing; deploy something else there")
            after = after._with(name, left, pinned)
        return after

    def pin(self, name: str, version: str | None) -> "DesiredModels":
        """A copy in which `name` stands for that version; None for the newest.

        Raises ValueError if that version is not among the artifacts.
        """
        versions = {m.version: pool for pool, _, m in self.hosted() if m.name == name}
        if version is not None and version not in versions:
            there = ", ".join(versions) or "no version"
            raise ValueError(f"{name} is hosted as {there}, not as {version}; deploy that first")
        after = self
        for pool, target in self.models_by_pool.items():
            pinned = {n: v for n, v in target.pinned.items() if n != name}
            if version is not None and versions[version] == pool:
                pinned[name] = version
            after = after._with(pool, target.artifacts, pinned)
        return after

    def _with(
        self, pool: str, artifacts: tuple[str, ...], pinned: dict[str, str]
    ) -> "DesiredModels":
        if pool == DEFAULT:
            return replace(self, artifacts=artifacts, pinned=pinned)
        own = DesiredModels(artifacts=artifacts, pinned=pinned)
        return replace(self, pools={**self.pools, pool: own})

    def document(self) -> dict[str, Any]:
        """The `user_config` of these models."""
        own: dict[str, Any] = {"artifacts": list(self.artifacts), "pinned": dict(self.pinned)}
        if self.pools:
            own["pools"] = {name: pool.document() for name, pool in self.pools.items()}
        return own


def desired_from_settings(settings: Settings) -> DesiredModels:
    """Initial models of the pools, as named in their settings."""
    pools = {
        name: DesiredModels(artifacts=pool.artifacts, pinned=pool.pinned)
        for name, pool in settings.pools.items()
        if pool.artifacts
    }
    return DesiredModels(artifacts=settings.artifacts, pinned=settings.pinned, pools=pools)


def parse_desired(user_config: Mapping[str, Any]) -> DesiredModels:
    """`user_config` -> DesiredModels. Raises ValueError naming the mistake."""
    _check_names(user_config, "user_config", ("artifacts", "pinned", "pools"))
    pools = user_config.get("pools", {})
    for name, pool in pools.items() if isinstance(pools, Mapping) else ():
        _check_names(pool, f"user_config of pool {name}", ("artifacts", "pinned"))
    try:
        target: DesiredModels = msgspec.convert(dict(user_config), DesiredModels)
    except msgspec.ValidationError as error:
        raise ValueError(f"user_config: {error}") from error
    for pool in target.models_by_pool.values():
        for uri in pool.artifacts:
            check_location(uri)
    return target


def resolve_store(target: DesiredModels) -> DesiredModels:
    """A copy with the store's location in place of its variable, in all pools.

    Raises ValueError if the variable is used and not set here, or for a relative path.
    """
    pools = {name: _below_store(pool) for name, pool in target.pools.items()}
    return _below_store(replace(target, pools=pools))


def _below_store(target: DesiredModels) -> DesiredModels:
    """resolve_store() of one pool."""
    variable, store = f"${STORE}/", os.environ.get(STORE, "").rstrip("/")
    for uri in target.artifacts:
        if uri.startswith(variable) and not store:
            raise ValueError(f"{uri} wants {STORE} in the environment where Ray is started")
    uris = [
        f"{store}/{uri.removeprefix(variable)}" if uri.startswith(variable) else uri
        for uri in target.artifacts
    ]
    for uri in uris:
        check_absolute(uri)
    return replace(target, artifacts=tuple(uris))


def is_absolute(uri: str) -> bool:
    """True for a reference that every process resolves alike: a URI, or a path from /."""
    return "://" in uri or "::" in uri or uri.startswith("/")


def absolute(reference: str) -> str:
    """A reference that every process of this machine resolves alike."""
    return reference if is_absolute(reference) else str(Path(reference).absolute())


def check_absolute(uri: str) -> None:
    """Raise ValueError for a relative path, which each process resolves differently."""
    if not is_absolute(uri):
        raise ValueError(
            f"{uri!r} is a relative path, which means another folder in every process; name it"
            " from / on, or as a URI"
        )


def _check_names(document: Any, what: str, known: tuple[str, ...]) -> None:
    unknown = set(document) - set(known) if isinstance(document, Mapping) else ()
    if unknown:
        message = f"unknown {what} {min(unknown, key=str)!r}; there are: {', '.join(known)}"
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class DesiredModelsStore:
    """Access to the desired models in Serve's config."""

    read: Callable[[], Awaitable[tuple[DesiredModels, str]]]
    """Read the desired models and their version."""
    swap: Callable[[str, DesiredModels], Awaitable[bool]]
    """Write desired models if the version is still this one; False, without effect, if not."""


def read_candidate(reference: str) -> tuple[str, Manifest]:
    """URI and manifest of one version. Blocks up to CANDIDATE_S. Raises ArtifactError."""
    try:
        return within(CANDIDATE_S, _candidate, reference)
    except TimeoutError:
        raise ArtifactError(
            f"{reference} was not found within {CANDIDATE_S:.0f} s; look whether its store answers"
        ) from None


def _candidate(reference: str) -> tuple[str, Manifest]:
    uri = locate(reference)
    return uri, read_manifest(uri)
