"""Hashes of an installed module and of those of its own package that it imports.

own_imports("mypkg.resgan")      # {"mypkg": SHA-256, "mypkg.layers": SHA-256}

Imports are found in the source, so no module is run; importlib.import_module() is not seen.
"""

import ast
from collections.abc import Iterator
from functools import cache
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import packages_distributions
from importlib.util import find_spec, resolve_name
from pathlib import Path
from typing import Any

from aigc.own_code.code_files import digest


def hashes(module: str, file: Path) -> dict[str, Any]:
    """`sha256` of a module's file, and `imports`, see own_imports()."""
    return {"sha256": digest(file.read_bytes()), "imports": own_imports(module)}


def own_imports(module: str) -> dict[str, str]:
    """SHA-256 of the file of each module that `module` imports, directly or by others, by name.

    Modules of the same distribution, the packages around them included; without `module` itself.
    """
    top = module.partition(".")[0]
    own = _siblings(top)
    waiting, seen, found = [module], {module}, {}
    while waiting:
        name = waiting.pop()
        spec = _spec(name)
        if spec is None or not spec.has_location or not spec.origin:
            continue  # an attribute of a module, or a folder without __init__.py
        source = Path(spec.origin).read_bytes()
        found[name] = digest(source)
        package = name if spec.submodule_search_locations is not None else name.rpartition(".")[0]
        imported = set(_imported(source, package)) if spec.origin.endswith(".py") else set()
        around = {name.rpartition(".")[0] for name in {*imported, name}} - {""}
        fresh = {each for each in imported | around if each.partition(".")[0] in own} - seen
        seen |= fresh
        waiting += fresh
    found.pop(module, None)
    return dict(sorted(found.items()))


@cache
def _siblings(top: str) -> frozenset[str]:
    """Top-level modules of the distributions of one. Slow: it reads the metadata of all."""
    known = packages_distributions()
    own = set(known.get(top, ()))
    return frozenset({top, *(name for name, of in known.items() if own & set(of))})


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is; only that of a top-level one is asked of all finders."""
    top, *rest = name.split(".")
    try:
        spec = find_spec(top)
    except ValueError:  # a module without a spec, such as __main__
        return None
    path = top
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None
        path = f"{path}.{part}"
        spec = PathFinder.find_spec(path, list(spec.submodule_search_locations))
    return spec


def _imported(source: bytes, package: str) -> Iterator[str]:
    """Names that the import statements of a module in `package` may mean as modules."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return  # it will be told when it is imported
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            try:
                base = resolve_name(base, package) if node.level else base
            except ImportError:
                continue  # beyond the top-level package
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)
