"""`aigc k8s check`: what of manifests a cluster would take and then do something else with."""

import json
import sys
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from k8s.check import render
from k8s.check.manifests import Manifests
from k8s.check.rules import Rule, check, rules


@dataclass(frozen=True, kw_only=True)
class Check:
    """Look for mistakes in Kubernetes manifests that a cluster would accept in silence."""

    sources: Annotated[
        tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR|FILE|-")
    ] = (".",)
    """What to check, several together as one set: a folder with a kustomization (rendered by
    kustomize or kubectl, whichever is installed), another folder (its YAML and JSON files), a file,
    or - for stdin."""
    external: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND/NAME")] = ()
    """What exists outside of the set and may be named, such as Secret/registry or Secret/tls-*.
    Pods that selectors may mean go by their labels: Pod/app=gateway,tier=front. In the manifests
    the annotation aigc/external: "Secret/registry, ..." says the same for the object that bears it.
    What every cluster has needs no declaration, nor does an optional reference, nor what KubeRay,
    prometheus-operator, KServe, cert-manager, external-secrets and sealed-secrets make. A Secret
    whose content may stand in the manifests says why in the annotation aigc/plain-text."""
    skip: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RULE")] = ()
    """Rules or families of rules to leave out, such as images or images/pinned."""
    json: bool = False
    """Print findings as JSON, one object per line."""


def command(argv: list[str]) -> int:
    """Check Kubernetes manifests for what a cluster accepts in silence."""
    action, *rest = argv or ["--help"]
    if action in ("-h", "--help"):
        rest = ["--help"]
    elif action != "check":
        print(f"aigc k8s: unknown action {action!r}; there is: check", file=sys.stderr)
        return 2
    wish = tyro.cli(Check, args=rest, prog="aigc k8s check", description=_description())
    try:
        manifests = Manifests(render.manifests(wish.sources), wish.external)
        found, skipped = check(manifests, wish.skip)
    except ValueError as error:
        print(f"aigc k8s check: {error}", file=sys.stderr)
        return 2
    for each in found:
        print(json.dumps(asdict(each)) if wish.json else each)
    for name, reason in skipped.items():
        print(f"aigc k8s check: rule {name} was skipped: {reason}", file=sys.stderr)
    objects = len(manifests.all)
    print(f"{objects} objects, {len(found)} findings", file=sys.stderr)
    return 1 if found else 0


def _description() -> str:
    lines = (f"  {name:<30} {_first_line(rule)}" for name, rule in rules().items())
    status = "Exit status 0: nothing found, 1: findings, 2: not checked."
    return "\n".join([Check.__doc__ or "", "", status, "", "Rules:", *lines])


def _first_line(rule: Rule) -> str:
    return (rule.__doc__ or "").partition("\n")[0]
