"""Manifests from the sources on the command line: rendered kustomizations, files, stdin."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from aigc import strict_yaml

KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
SUFFIXES = (".yaml", ".yml", ".json")
RENDERERS = {"kustomize": ("kustomize", "build"), "kubectl": ("kubectl", "kustomize")}
"""Programs that render a folder, the first that is installed."""
RENDER_TIMEOUT_S = 300
"""Time limit of kustomize, which may fetch bases from other machines."""
MOST_FOLDERS = 2000
"""Number of folders searched for a kustomization to suggest."""


def manifests(sources: Iterable[str]) -> list[Mapping[str, Any]]:
    """The objects of folders, files and stdin ("-"), as one set; items of a list one by one.

    A folder with a kustomization is rendered, another is read as `kubectl apply -f` does. Raises
    ValueError for what cannot be read or rendered, and when there is nothing in it.
    """
    documents, unreadable = collect(sources)
    if unreadable:
        raise ValueError(unreadable[0])
    return documents


def collect(sources: Iterable[str]) -> tuple[list[Mapping[str, Any]], list[str]]:
    """The objects that can be read, and what cannot, each named with its reason.

    Raises ValueError when there is neither.
    """
    objects: list[Mapping[str, Any]] = []
    unreadable: list[str] = []
    for source in sources:
        for origin, load in _texts(source):
            try:
                documents: list[Any] = list(strict_yaml.read(strict_yaml.decode(load())))
            except ValueError as error:
                documents = [error]
            for each in documents:
                for one in [each] if isinstance(each, ValueError) else _objects(each):
                    if isinstance(one, ValueError):
                        unreadable.append(f"{origin}: {one}")
                    else:
                        objects.append(one)
    if not objects and not unreadable:
        raise ValueError(f"no object to check in {', '.join(sources)}")
    return objects, unreadable


def _texts(source: str) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """(where it comes from, how to read it) of every file behind a source."""
    path = Path(source)
    if source == "-":
        yield "stdin", lambda: sys.stdin.buffer.read(strict_yaml.MAX_BYTES + 1)
    elif not path.is_dir():
        yield source, lambda: _read(path)
    elif any((path / name).is_file() for name in KUSTOMIZATIONS):
        yield source, lambda: rendered(path)
    else:
        try:
            names = sorted(file for file in path.iterdir() if file.suffix in SUFFIXES)
        except OSError as error:
            yield source, partial(_refuse, error.strerror or "cannot be listed")
            return
        # As kubectl does, which opens what is no file as well: a pipe would be waited for.
        files = [file for file in names if not file.is_dir()]
        if not files:
            reason = f"holds no {KUSTOMIZATIONS[0]} and no manifests{_near(path)}"
            yield source, partial(_refuse, reason)
        for file in files:
            regular = file.is_file() or not file.exists()
            yield str(file), partial(_read, file) if regular else partial(_refuse, "is no file")


def _refuse(reason: str) -> bytes:
    raise ValueError(reason)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(strict_yaml.MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(error.strerror) from None
    except ValueError as error:  # of a path with a null byte
        raise ValueError(str(error)) from None


def _near(path: Path) -> str:
    """Folders below with a kustomization, as far as they are found soon."""
    below = set()
    for seen, (folder, _, files) in enumerate(os.walk(path)):
        if seen >= MOST_FOLDERS:
            break
        if not set(files).isdisjoint(KUSTOMIZATIONS):
            below.add(folder)
    return f"; there are kustomizations in {', '.join(sorted(below)[:8])}" if below else ""


def rendered(folder: Path) -> bytes:
    """Output of kustomize for a folder. Raises ValueError if it is not installed or fails."""
    command = next((words for name, words in RENDERERS.items() if shutil.which(name)), None)
    if command is None:
        raise ValueError(
            "it is a kustomization, and neither kustomize nor kubectl is installed: install"
            " one of them (https://kubectl.docs.kubernetes.io/installation/kustomize/), or render"
            f" elsewhere: kustomize build {folder} | aigc k8s check -"
        )
    called = [*command, str(folder)]
    try:
        done = subprocess.run(called, capture_output=True, timeout=RENDER_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise ValueError(f"{' '.join(called)} did not end within {RENDER_TIMEOUT_S} s") from None
    errors = done.stderr.decode(errors="replace").strip()
    if done.returncode != 0:
        raise ValueError(f"{' '.join(called)} failed: {errors}")
    if errors:
        print(errors, file=sys.stderr)
    return done.stdout


def _objects(document: Any) -> Iterator[Mapping[str, Any] | ValueError]:
    """The objects of a document, one of a list after the other; an error in place of what is none.

    Documents are nested within bounds, and so are lists of lists.
    """
    if document is None:
        return
    if not isinstance(document, Mapping) or not isinstance(document.get("kind"), str):
        mapping = isinstance(document, Mapping)
        got = f"one with {', '.join(document) or 'nothing'}" if mapping else repr(document)
        yield ValueError(f"an object with kind and metadata.name is expected, got {got:.60}")
        return
    kind = document["kind"]
    if kind == "List" or (kind.endswith("List") and "items" in document):
        items = document.get("items") or []
        if not isinstance(items, list):
            yield ValueError(f"items of a {kind} must be a list, got {items!r:.60}")
            return
        for item in items:
            yield from _objects(_whole(item, document))
        return
    metadata = document.get("metadata")
    names = metadata if isinstance(metadata, Mapping) else {}
    if any(isinstance(names.get(key), str) for key in ("name", "generateName")):
        yield document
    elif kind == "Kustomization":
        yield ValueError("a Kustomization is no object; name its folder, which is then rendered")
    else:
        yield ValueError(f"a {kind} has no metadata.name")


def _whole(item: Any, above: Mapping[str, Any]) -> Any:
    """An item with its kind, which a list of one kind need not repeat: ServiceList."""
    kind = above["kind"].removesuffix("List")
    if not kind or not isinstance(item, Mapping) or "kind" in item:
        return item
    return {"apiVersion": above.get("apiVersion"), "kind": kind, **item}
