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
    """Manifests to check, several together as one set: a folder with a kustomization (rendered by
    kustomize or kubectl, whichever is installed), another folder (its YAML and JSON files), a file,
    or - for stdin."""
    external: Annotated[tuple[str, ...], tyro.conf.arg(metavar="KIND/NAME")] = ()
    """Objects that exist outside of the set and may be referred to, such as Secret/registry or
    Secret/tls-*. Pods that selectors may select are declared by their labels:
    Pod/app=gateway,tier=front. In the manifests, the annotation aigc/external: "Secret/registry,
    ..." does the same for one object. No declaration is needed for objects that every cluster has,
    for optional references, and for objects created by KubeRay, prometheus-operator, KServe,
    cert-manager, external-secrets and sealed-secrets. The annotation aigc/plain-text gives the
    reason why the content of a Secret may be in the manifests."""
    skip: Annotated[tuple[str, ...], tyro.conf.arg(metavar="RULE")] = ()
    """Rules or families of rules to leave out, such as images or images/pinned."""
    json: bool = False
    """Print findings as JSON, one object per line."""


def command(argv: list[str]) -> int:
    """Check Kubernetes manifests (check), or write an overlay of your own (init)."""
    action, *rest = argv or ["--help"]
    if action in ("-h", "--help"):
        print(_USAGE)
        return 0
    if action == "init":
        return _init(rest)
    if action != "check":
        print(f"aigc k8s: unknown action {action!r}; there are: check, init", file=sys.stderr)
        return 2
    wish = tyro.cli(Check, args=rest, prog="aigc k8s check", description=_description())
    try:
        documents, unreadable = render.collect(wish.sources)
        manifests = Manifests(documents, wish.external)
        findings, skipped, failed = check(manifests, wish.skip)
    except ValueError as error:
        _complain(str(error))
        return 2
    for each in findings:
        print(json.dumps(asdict(each)) if wish.json else each)
    for name, reason in skipped.items():
        _complain(f"rule {name} was skipped: {reason}")
    for name, reason in failed.items():
        _complain(f"rule {name} failed on these manifests, which is a mistake of it: {reason}")
    for message in unreadable:
        _complain(message)
    summary = f"{len(manifests.all)} objects, {len(findings)} findings"
    if unreadable:
        summary += f", {len(unreadable)} not read: what is there may be found missing elsewhere"
    print(summary, file=sys.stderr)
    return 2 if unreadable or failed else int(bool(findings))


_USAGE = """usage: aigc k8s check [DIR|FILE|-]   find mistakes that a cluster accepts in silence
       aigc k8s init DIR             write an overlay of your own over this version's manifests

`aigc k8s check --help` and `aigc k8s init --help` list the options."""


def _init(argv: list[str]) -> int:
    from k8s.init import Init, write

    init = tyro.cli(Init, args=argv, prog="aigc k8s init")
    edited = write(init)
    print(
        f"edit {', '.join(map(str, edited))}; then: aigc k8s check {init.folder}", file=sys.stderr
    )
    print(init.folder)
    return 0


def _complain(message: str) -> None:
    print(f"aigc k8s check: {message}", file=sys.stderr)


def _description() -> str:
    lines = (f"  {name:<30} {_first_line(rule)}" for name, rule in rules().items())
    status = "Exit status 0: nothing found, 1: findings, 2: not all of it could be checked."
    return "\n".join([Check.__doc__ or "", "", status, "", "Rules:", *lines])


def _first_line(rule: Rule) -> str:
    return (rule.__doc__ or "").partition("\n")[0]
