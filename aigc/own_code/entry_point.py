"""Functions of other packages by the names in pyproject.toml, and errors about what is missing.

train = load("aigc.api", "train")     # of cluster, which aigc may not import
"""

import sys
from collections.abc import Iterable, Sequence
from importlib.machinery import PathFinder
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from aigc.commands.extras import requirement_of

PACKAGES = ("aigc", "cluster", "serve", "k8s")
"""Packages of this distribution."""


def load(group: str, name: str, module: str = "") -> Any:
    """The object called `name` in `module`, or of the entry point of that name.

    Raises ImportError in a sentence: what is missing and how to install it, or what stands in the
    place of one of PACKAGES.
    """
    if module:
        return _loaded(EntryPoint(name=name, value=f"{module}:{name}", group=group))
    points = {point.name: point for point in entry_points(group=group)}
    if name not in points:
        raise ImportError(
            f"aigc.{name} is not installed: the metadata of the package are of another version;"
            " install aigc again"
        )
    return _loaded(points[name])


def _loaded(point: EntryPoint) -> Any:
    reason = shadowed(point.module)
    if reason:
        raise ImportError(f"aigc.{point.name}: {reason}")
    try:
        return point.load()
    except ImportError as error:
        reason = missing(error)
        if not reason:
            raise
        raise ImportError(f"aigc.{point.name} {reason}", name=error.name) from error


def missing(error: ImportError) -> str:
    """`needs torch; pip install 'aigc[train]'` for a dependency that is not installed; else ""."""
    # fsspec names the missing module in its message only.
    words: Iterable[str] = (error.name or "", *str(error).split())
    for module in (word.partition(".")[0] for word in words):
        if requirement := requirement_of(module):
            return f"needs {module}; pip install '{requirement}'"
    return ""


def shadowed(module: str, path: Sequence[str] | None = None) -> str:
    """A sentence about what stands in the place of the package of `module`; "" if nothing does.

    A user's folder or file called serve, cluster or k8s comes before ours where Python looks first:
    the folder of the script, the working folder of `python -m` and notebooks, PYTHONPATH. `path`:
    the folders to look in, sys.path by default. Nothing is imported.
    """
    package = module.partition(".")[0]
    ours = Path(__file__).parents[2] / package
    if package not in PACKAGES or not ours.is_dir():
        return ""
    spec = PathFinder.find_spec(package, sys.path if path is None else path)
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    found = next((Path(place) for place in places if place), ours)
    found = found.parent if found.name == "__init__.py" else found
    if found.resolve() == ours.resolve():
        return ""
    return (
        f"{found} stands where Python looks for {package!r} of aigc; rename it, or work in another"
        " folder"
    )
