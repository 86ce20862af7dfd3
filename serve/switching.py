"""Versions change while requests run: what is to be hosted is Serve's config, not a replica's.

A replica is told by `user_config`, which Serve hands to those that there are and to those that
come later. Whoever edits the config (a RayService does) or calls the admin route reaches them all.

    {"artifacts": ["s3://models/digits/3", "s3://models/digits/4"], "pinned": {"digits": "3"}}

A replica of the default pool is told what the others host as well, since it takes their requests:

    {"artifacts": [...], "pools": {"large": {"artifacts": ["s3://models/faces/1"]}}}

A config that is kept with the code leaves the store to the cluster: $AIGC_STORE/digits/3 is below
what that variable says on the replicas' nodes.
"""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from aigc.artifact import Manifest
from aigc.artifact.session import read_manifest
from aigc.artifact.store import locate, version_order
from serve.settings import DEFAULT, Settings

STORE = "AIGC_STORE"
"""Variable that the artifacts of a user_config may begin with, and nothing else may."""

VERSIONS_KEPT = 2
"""Of each name, unless told otherwise: the new one and the one to go back to."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What every replica of a pool is to host, and with the default pool's, what others are."""

    artifacts: tuple[str, ...] = ()
    """URIs of artifacts, each of one version."""
    pinned: dict[str, str] = field(default_factory=dict)
    """Version that a name alone means; without one the newest."""
    pools: dict[str, "Target"] = field(default_factory=dict)
    """Of the other pools, by name."""

    def __post_init__(self) -> None:
        if not self.artifacts and not self.pools:
            raise ValueError("artifacts must name at least one artifact")
        if any(pool.pools for pool in self.pools.values()):
            raise ValueError("only the target of the default pool has pools")

    @property
    def by_pool(self) -> dict[str, "Target"]:
        """Every pool's own, the default one's first, which may be empty."""
        return {DEFAULT: self, **self.pools}

    @property
    def names_mean(self) -> dict[str, str]:
        """The pins of all pools."""
        return {n: v for pool in self.by_pool.values() for n, v in pool.pinned.items()}

    def hosted(self) -> list[tuple[str, str, Manifest]]:
        """(pool, reference, manifest) of every artifact; reads them.

        Raises ArtifactError if one is not there, ValueError if two have the same name and version.
        """
        found = [
            (name, uri, candidate(uri)[1])
            for name, pool in self.by_pool.items()
            for uri in pool.artifacts
        ]
        where: dict[str, str] = {}
        for name, uri, manifest in found:
            if manifest.id in where:
                other = where[manifest.id]
                pools = "" if other == name else f" in the pools {other} and {name}"
                raise ValueError(
                    f"{uri} and another artifact{pools} have the same name and version,"
                    f" {manifest.id}; serve one of them, or export one under another --name"
                )
            where[manifest.id] = name
        return found

    def pool_for(self, manifest: Manifest) -> str:
        """Where an artifact goes that nobody chose a pool for: to others of its name."""
        there = [(m, pool) for pool, _, m in self.hosted() if m.name == manifest.name]
        same = [(version_order(m.version), pool) for m, pool in there]
        return max(same)[1] if same else DEFAULT

    def with_artifact(self, uri: str, keep: int = VERSIONS_KEPT, pool: str = DEFAULT) -> "Target":
        """This and one more, the oldest versions beyond `keep` of its name in the pool dropped.

        A pinned version stays. Raises ArtifactError if one of them is not there, ValueError if
        there is no such pool or another one hosts that version.
        """
        if pool not in self.by_pool:
            raise ValueError(f"there is no pool {pool!r}; there are: {', '.join(self.by_pool)}")
        own = self.by_pool[pool]
        if uri in own.artifacts:
            return self
        uris = [*own.artifacts, uri]
        manifests = {one: candidate(one)[1] for one in uris}
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

    def without(self, reference: str) -> "Target":
        """This without `name@version`, or without all of `name`, in whatever pool.

        Raises KeyError if there is none, ValueError if nothing would be left of a pool.
        """
        there = self.hosted()
        gone = {(pool, uri) for pool, uri, m in there if reference in (m.id, m.name)}
        if not gone:
            raise KeyError(reference)
        after = self
        for name, pool in self.by_pool.items():
            left = tuple(uri for uri in pool.artifacts if (name, uri) not in gone)
            pinned = {n: v for n, v in pool.pinned.items() if reference not in (n, f"{n}@{v}")}
            if not left and name != DEFAULT:
                raise ValueError(f"pool {name} would host nothing; deploy something else there")
            after = after._with(name, left, pinned)
        return after

    def pin(self, name: str, version: str | None) -> "Target":
        """This with `name` meaning that version, or the newest again.

        Raises ValueError if that version is not among the artifacts.
        """
        versions = {m.version: pool for pool, _, m in self.hosted() if m.name == name}
        if version is not None and version not in versions:
            there = ", ".join(versions) or "no version"
            raise ValueError(f"{name} is hosted as {there}, not as {version}; deploy that first")
        after = self
        for pool, target in self.by_pool.items():
            pinned = {n: v for n, v in target.pinned.items() if n != name}
            if version is not None and versions[version] == pool:
                pinned[name] = version
            after = after._with(pool, target.artifacts, pinned)
        return after

    def _with(self, pool: str, artifacts: tuple[str, ...], pinned: dict[str, str]) -> "Target":
        if pool == DEFAULT:
            return replace(self, artifacts=artifacts, pinned=pinned)
        own = Target(artifacts=artifacts, pinned=pinned)
        return replace(self, pools={**self.pools, pool: own})

    def document(self) -> dict[str, Any]:
        """As `user_config`."""
        own: dict[str, Any] = {"artifacts": list(self.artifacts), "pinned": dict(self.pinned)}
        if self.pools:
            own["pools"] = {name: pool.document() for name, pool in self.pools.items()}
        return own


def target_of(settings: Settings) -> Target:
    """What pools host at first: what their settings name."""
    pools = {
        name: Target(artifacts=pool.artifacts, pinned=pool.pinned)
        for name, pool in settings.pools.items()
        if pool.artifacts
    }
    return Target(artifacts=settings.artifacts, pinned=settings.pinned, pools=pools)


def parse_target(user_config: Mapping[str, Any]) -> Target:
    """`user_config` -> Target. Raises ValueError naming what is wrong."""
    _check_names(user_config, "user_config", ("artifacts", "pinned", "pools"))
    pools = user_config.get("pools", {})
    for name, pool in pools.items() if isinstance(pools, Mapping) else ():
        _check_names(pool, f"user_config of pool {name}", ("artifacts", "pinned"))
    try:
        return msgspec.convert(dict(user_config), Target)
    except msgspec.ValidationError as error:
        raise ValueError(f"user_config: {error}") from error


def located(target: Target) -> Target:
    """A target with the store's place for its variable, of other pools as well.

    Raises ValueError if the variable is used and not set here.
    """
    pools = {name: _below_store(pool) for name, pool in target.pools.items()}
    return _below_store(replace(target, pools=pools))


def _below_store(target: Target) -> Target:
    """Its artifacts with the store's place for its variable. Raises ValueError if it is not set."""
    variable, store = f"${STORE}/", os.environ.get(STORE, "").rstrip("/")
    for uri in target.artifacts:
        if uri.startswith(variable) and not store:
            raise ValueError(f"{uri} wants {STORE} in the environment where Ray is started")
    uris = [
        f"{store}/{uri.removeprefix(variable)}" if uri.startswith(variable) else uri
        for uri in target.artifacts
    ]
    return replace(target, artifacts=tuple(uris))


def _check_names(document: Any, what: str, known: tuple[str, ...]) -> None:
    unknown = set(document) - set(known) if isinstance(document, Mapping) else ()
    if unknown:
        message = f"unknown {what} {min(unknown, key=str)!r}; there are: {', '.join(known)}"
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Serve's config, as far as the target in it goes."""

    read: Callable[[], Awaitable[Target]]
    write: Callable[[Target], Awaitable[None]]


def candidate(reference: str) -> tuple[str, Manifest]:
    """URI of one version, and its manifest. Raises ArtifactError."""
    uri = locate(reference)
    return uri, read_manifest(uri)
