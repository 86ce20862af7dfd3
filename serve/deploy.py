"""`aigc deploy`: another version on a running server, taken up while requests run.

It asks an admin route (serve.dialects.admin), which proves the artifact and changes what every
replica is to host, and waits until all of them have taken it up. Needs neither torch nor Ray.
"""

import sys
import time
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from aigc import client
from aigc.artifact import ArtifactError
from aigc.artifact.store import locate

IN_A_ROW = 20
"""Answers, each over a connection of its own, that say that all replicas have it: the proxy hands
connections out in turn."""


@dataclass(frozen=True, kw_only=True)
class Deploy:
    """Host another artifact on a running server, or one less, or say what a name means.

    The environment variable AIGC_KEY holds a key with the scope admin, where the server has keys.
    """

    artifact: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="ARTIFACT")] = ""
    """Folder, `store/name` (its newest version) or `store/name@version`, as the server sees it."""
    pool: str = ""
    """Pool of replicas that is to host it; if absent, the one that hosts its name already."""
    url: str = "http://127.0.0.1:8000"
    """The server."""
    keep: int = 2
    """Versions of its name that stay hosted, it included."""
    remove: Annotated[str, tyro.conf.arg(metavar="NAME[@VERSION]")] = ""
    """Host this no longer."""
    pin: Annotated[str, tyro.conf.arg(metavar="NAME[@VERSION]")] = ""
    """Let the name mean this version; without a version, the newest again."""
    timeout: float = 120.0
    """Seconds to wait until all replicas have taken it up."""

    def __post_init__(self) -> None:
        if sum(map(bool, (self.artifact, self.remove, self.pin))) != 1:
            raise ValueError("name an artifact to deploy, or one of --remove and --pin")
        if self.pool and not self.artifact:
            raise ValueError("--pool says where to deploy; --remove and --pin find theirs")
        if self.keep < 1:
            raise ValueError(f"keep must be at least 1, got {self.keep}")


def command(argv: list[str]) -> int:
    """Change what a server hosts; its answer goes to stderr, what was deployed to stdout."""
    wish = tyro.cli(Deploy, args=argv, prog="aigc deploy", description=Deploy.__doc__)
    url = wish.url.rstrip("/")
    if wish.artifact:
        artifact = _as_the_server_sees_it(wish.artifact)
        body = {"artifact": artifact, "keep": wish.keep, "pool": wish.pool or None}
        answer = client.ask(f"{url}/v1/admin/deploy", body, timeout_s=wish.timeout)
        wait(url, answer["model"], wish.timeout)
        _say(answer)
        print(answer["model"], flush=True)
        return 0
    if wish.remove:
        answer = client.ask(f"{url}/v1/admin/remove", {"model": wish.remove})
    else:
        name, _, version = wish.pin.partition("@")
        answer = client.ask(f"{url}/v1/admin/pin", {"model": name, "version": version or None})
    _say(answer)
    return 0


def wait(url: str, model: str, timeout_s: float) -> None:
    """Until every replica answers for `model`. Raises ValueError if that takes too long."""
    deadline = time.monotonic() + timeout_s
    row = 0
    while row < IN_A_ROW:
        try:
            client.ask(f"{url}/v1/models/{model}")
            row += 1
        except client.AnswerError as error:
            row = 0
            if error.status != 404:
                raise
            if time.monotonic() > deadline:
                raise ValueError(
                    f"{model} is the server's target now, but after {timeout_s:.0f} s some replica"
                    " has not taken it up; its log says why"
                ) from None
            time.sleep(0.1)


def _as_the_server_sees_it(reference: str) -> str:
    """A path of this machine made absolute; what is not here is left for the server to find."""
    try:
        return locate(reference)
    except ArtifactError:
        return reference


def _say(answer: dict[str, Any]) -> None:
    for pool, target in {"": answer, **answer["pools"]}.items():
        where = f" in pool {pool}" if pool else ""
        for uri in target["artifacts"]:
            print(f"hosted  {uri}{where}", file=sys.stderr)
        for name, version in target["pinned"].items():
            print(f"pinned  {name} is {name}@{version}{where}", file=sys.stderr)
