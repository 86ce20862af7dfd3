"""Versions change while requests run: what is to be hosted is Serve's config, not a replica's.

A replica is told by `user_config`, which Serve hands to those that there are and to those that
come later. Whoever edits the config (a RayService does) or calls the admin route reaches them all.

    {"artifacts": ["s3://models/digits/3", "s3://models/digits/4"], "pinned": {"digits": "3"}}
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from aigc.artifact import Manifest
from aigc.artifact.session import read_manifest
from aigc.artifact.store import locate, version_order

VERSIONS_KEPT = 2
"""Of each name, unless told otherwise: the new one and the one to go back to."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """What every replica is to host."""

    artifacts: tuple[str, ...] = ()
    """URIs of artifacts, each of one version."""
    pinned: dict[str, str] = field(default_factory=dict)
    """Version that a name alone means; without one the newest."""

    def __post_init__(self) -> None:
        if not self.artifacts:
            raise ValueError("artifacts must name at least one artifact")

    def with_artifact(self, uri: str, keep: int = VERSIONS_KEPT) -> "Target":
        """This and one more, the oldest versions beyond `keep` of its name dropped.

        A pinned version stays. Raises ArtifactError if one of them is not there.
        """
        if uri in self.artifacts:
            return self
        uris = [*self.artifacts, uri]
        manifests = {one: read_manifest(one) for one in uris}
        name = manifests[uri].name
        versions = [one for one in uris if manifests[one].name == name]
        versions.sort(key=lambda one: version_order(manifests[one].version))
        stay = {self.pinned.get(name), manifests[uri].version}
        kept = {one for one in versions if manifests[one].version in stay}
        for one in reversed(versions):
            if len(kept) < keep:
                kept.add(one)
        left = tuple(one for one in uris if one in kept or manifests[one].name != name)
        return Target(artifacts=left, pinned=self.pinned)

    def without(self, reference: str) -> "Target":
        """This without `name@version`, or without all of `name`.

        Raises KeyError if there is none, ValueError if nothing would be left.
        """
        manifests = {uri: read_manifest(uri) for uri in self.artifacts}
        left = [u for u, m in manifests.items() if reference not in (m.id, m.name)]
        if len(left) == len(self.artifacts):
            raise KeyError(reference)
        pinned = {n: v for n, v in self.pinned.items() if reference not in (n, f"{n}@{v}")}
        return Target(artifacts=tuple(left), pinned=pinned)

    def pin(self, name: str, version: str | None) -> "Target":
        """This with `name` meaning that version, or the newest again.

        Raises ValueError if that version is not among the artifacts.
        """
        if version is not None:
            hosted = [read_manifest(uri) for uri in self.artifacts]
            versions = [one.version for one in hosted if one.name == name]
            if version not in versions:
                there = ", ".join(versions) or "no version"
                raise ValueError(
                    f"{name} is hosted as {there}, not as {version}; deploy that first"
                )
        pinned = {n: v for n, v in self.pinned.items() if n != name}
        return Target(
            artifacts=self.artifacts, pinned=pinned | ({name: version} if version else {})
        )

    def document(self) -> dict[str, Any]:
        """As `user_config`."""
        return {"artifacts": list(self.artifacts), "pinned": dict(self.pinned)}


def parse_target(user_config: Mapping[str, Any]) -> Target:
    """`user_config` -> Target. Raises ValueError naming what is wrong."""
    unknown = set(user_config) - {"artifacts", "pinned"}
    if unknown:
        raise ValueError(f"unknown user_config {min(unknown)!r}; there are: artifacts, pinned")
    try:
        return msgspec.convert(dict(user_config), Target)
    except msgspec.ValidationError as error:
        raise ValueError(f"user_config: {error}") from error


@dataclass(frozen=True, kw_only=True)
class Config:
    """Serve's config, as far as the target in it goes."""

    read: Callable[[], Awaitable[Target]]
    write: Callable[[Target], Awaitable[None]]


def candidate(reference: str) -> tuple[str, Manifest]:
    """URI of one version, and its manifest. Raises ArtifactError."""
    uri = locate(reference)
    return uri, read_manifest(uri)
