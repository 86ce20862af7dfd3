"""From what the command line names to manifests: kustomizations rendered, files and stdin read."""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from k8s.check.strict import documents

KUSTOMIZATIONS = ("kustomization.yaml", "kustomization.yml", "Kustomization")
SUFFIXES = (".yaml", ".yml", ".json")
RENDERERS = {"kustomize": ("kustomize", "build"), "kubectl": ("kubectl", "kustomize")}
"""Programs that render a folder, the first that is installed."""


def manifests(sources: Iterable[str]) -> list[Mapping[str, Any]]:
    """The objects of folders, files and stdin ("-"), as one set; items of a List one by one.

    A folder with a kustomization is rendered, another is read as `kubectl apply -f` does. Raises
    ValueError for what cannot be read or rendered, and when there is nothing in it.
    """
    found = [each for source in sources for each in _manifests(source)]
    if not found:
        raise ValueError(f"no object to check in {', '.join(sources)}")
    return found


def _manifests(source: str) -> Iterator[Mapping[str, Any]]:
    for origin, text in _texts(source):
        try:
            for document in documents(text):
                yield from _objects(document)
        except ValueError as error:
            raise ValueError(f"{origin}: {error}") from None


def _texts(source: str) -> Iterator[tuple[str, str]]:
    """(where it comes from, text) of every file behind a source."""
    path = Path(source)
    if source == "-":
        yield "stdin", sys.stdin.read()
    elif not path.is_dir():
        yield source, _read(path)
    elif any((path / name).is_file() for name in KUSTOMIZATIONS):
        yield source, rendered(path)
    else:
        files = [file for file in sorted(path.iterdir()) if file.suffix in SUFFIXES]
        if not files:
            raise ValueError(f"{source} holds no {KUSTOMIZATIONS[0]} and no manifests{_near(path)}")
        for file in files:
            yield str(file), _read(file)


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from None


def _near(path: Path) -> str:
    below = sorted({str(file.parent) for name in KUSTOMIZATIONS for file in path.rglob(name)})
    return f"; there are kustomizations in {', '.join(below)}" if below else ""


def rendered(folder: Path) -> str:
    """What kustomize makes of a folder. Raises ValueError where none is installed or it refuses."""
    command = next((words for name, words in RENDERERS.items() if shutil.which(name)), None)
    if command is None:
        raise ValueError(
            f"{folder} is a kustomization, and neither kustomize nor kubectl is installed: install"
            " one of them (https://kubectl.docs.kubernetes.io/installation/kustomize/), or render"
            f" elsewhere: kustomize build {folder} | aigc k8s check -"
        )
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True)
    if done.returncode != 0:
        raise ValueError(f"{' '.join(command)} {folder} failed: {done.stderr.strip()}")
    if done.stderr:
        print(done.stderr.strip(), file=sys.stderr)
    return done.stdout


def _objects(document: Any) -> Iterator[Mapping[str, Any]]:
    if document is None:
        return
    if not isinstance(document, Mapping) or not isinstance(document.get("kind"), str):
        raise ValueError(f"an object with kind and metadata.name is expected, got {document!r:.60}")
    if document["kind"] == "List":
        for item in document.get("items") or ():
            yield from _objects(item)
        return
    metadata = document.get("metadata")
    if not isinstance(metadata, Mapping) or not isinstance(metadata.get("name"), str):
        raise ValueError(f"a {document['kind']} has no metadata.name")
    yield document
