"""`aigc deploy`: change the artifacts of a running server while it answers requests.

It calls an admin route (serve.protocols.admin), which verifies the artifact and changes what every
replica is to host, and waits until all replicas host it. Needs neither torch nor Ray.
"""

import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from aigc import http_client
from aigc.artifact import ArtifactError, signing
from aigc.artifact.folder import read_manifest
from serve.hosting.desired_models import absolute, is_absolute, read_candidate

IN_A_ROW = 20
"""Consecutive responses, each over its own connection, that show that all replicas have it: the
proxy assigns connections in turn."""


@dataclass(frozen=True, kw_only=True)
class Deploy:
    """Add an artifact to a running server, remove one, or pin a name to a version.

    The environment variable AIGC_KEY holds a key with the scope admin, where the server has keys.
    """

    artifact: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ARTIFACT")] = ""
    """Folder, `store/name` (its newest version) or `store/name@version`. A relative path is one of
    this machine; give an absolute path or a URI for one that only the server can read."""
    pool: str = ""
    """Pool of replicas to host it; by default the one that already hosts its name."""
    url: str = "http://127.0.0.1:8000"
    """URL of the server."""
    keep: int = 2
    """Versions of its name that stay hosted, including it."""
    remove: Annotated[str, tyro.conf.arg(metavar="NAME[@VERSION]")] = ""
    """Artifact to stop hosting."""
    pin: Annotated[str, tyro.conf.arg(metavar="NAME[@VERSION]")] = ""
    """Pin the name to this version; without a version, unpin it to the newest."""
    timeout: float = 120.0
    """Seconds to wait until all replicas host it."""
    trust: str = ""
    """File of public keys (PEM): deploy only an artifact that one of them signed, as read on this
    machine; the server checks with its own (aigc serve --trust). AIGC_TRUST does the same."""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.artifact, self.remove, self.pin))) != 1:
            raise ValueError("name an artifact to deploy, or one of --remove and --pin")
        if self.pool and not self.artifact:
            raise ValueError("--pool says where to deploy; --remove and --pin find theirs")
        if self.trust and not self.artifact:
            raise ValueError("--trust is for an artifact to deploy; --remove and --pin take none")
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")


def command(argv: list[str]) -> int:
    """Change what a server hosts; its response goes to stderr, the deployed model to stdout."""
    options = tyro.cli(Deploy, args=argv, prog="aigc deploy", description=Deploy.__doc__)
    url = options.url.rstrip("/")
    if options.artifact:
        artifact, digest = find(options.artifact)
        if (trust := signing.wanted(options.trust)) is not None:
            read_manifest(artifact, trust)
        body = {
            "artifact": artifact,
            "keep": options.keep,
            "pool": options.pool or None,
            "digest": digest,
        }
        answer = http_client.request_json(f"{url}/v1/admin/deploy", body, timeout_s=options.timeout)
        if digest is not None and answer["digest"] != digest:
            raise ValueError(
                f"{url} deployed another artifact: {answer['model']} with the digest"
                f" {answer['digest']}, where {artifact} here has {digest}"
            )
        wait(url, answer["model"], answer["digest"], options.timeout)
        _say(answer)
        print(answer["model"], flush=True)
        return 0
    if options.remove:
        answer = http_client.request_json(f"{url}/v1/admin/remove", {"model": options.remove})
    else:
        name, _, version = options.pin.partition("@")
        answer = http_client.request_json(
            f"{url}/v1/admin/pin", {"model": name, "version": version or None}
        )
    _say(answer)
    return 0


def wait(url: str, model: str, digest: str, timeout_s: float) -> None:
    """Wait until every replica answers for `model` with this digest.

    Raises ValueError after `timeout_s`.
    """
    deadline = time.monotonic() + timeout_s
    row = 0
    while row < IN_A_ROW:
        try:
            there = http_client.request_json(f"{url}/v1/models/{model}")["digest"] == digest
        except http_client.ResponseError as error:
            if error.status not in (404, 503):
                raise
            there = False
        row = row + 1 if there else 0
        if there:
            continue
        if time.monotonic() > deadline:
            raise ValueError(
                f"{model} is the server's target now, but after {timeout_s:.0f} s some replica"
                " has not taken it up; its log says why"
            )
        time.sleep(0.1)


def find(reference: str) -> tuple[str, str | None]:
    """Absolute URI of an artifact, and its digest, where this machine can read it.

    An absolute path or URI may be readable for the server alone: then the digest is None, and is
    not compared. Raises ArtifactError for a relative path without an artifact.
    """
    try:
        uri, manifest = read_candidate(absolute(reference))
    except (ArtifactError, OSError, ImportError) as error:
        if not is_absolute(reference):
            raise ArtifactError(
                f"{error}; a relative path is of this machine: name what only the server sees from"
                " / on, or as a URI"
            ) from error
        print(
            f"warning: {reference} cannot be read here, so the server's digest is not compared"
            f" with it ({type(error).__name__}: {error})",
            file=sys.stderr,
        )
        return reference, None
    return uri, manifest.digest


def _say(answer: dict[str, Any]) -> None:
    for pool, target in {"": answer, **answer["pools"]}.items():
        where = f" in pool {pool}" if pool else ""
        for uri in target["artifacts"]:
            print(f"hosted  {uri}{where}", file=sys.stderr)
        for name, version in target["pinned"].items():
            print(f"pinned  {name} is {name}@{version}{where}", file=sys.stderr)
