"""Names in this project's own code, read and not imported: that would need Ray, and run it."""

import ast
from functools import lru_cache
from pathlib import Path

import k8s
from k8s.check.finding import list_known

PACKAGES = ("aigc", "cluster", "serve")
_ROOT = Path(k8s.__file__).parents[1]


def missing(import_path: str) -> str:
    """The part of "serve.app:build" or "serve.app.build" that this project lacks; "" if it exists.

    Also "" for a path of one module, such as serve:app, which any file may be.
    """
    module, colon, attribute = import_path.partition(":")
    if not colon:
        module, _, attribute = import_path.rpartition(".")
    package, *below = module.split(".")
    if package not in PACKAGES or not below:
        return ""
    folder = _ROOT / package
    for index, name in enumerate(below):
        there = _modules(folder)
        if name not in there:
            whole = ".".join([package, *below[: index + 1]])
            return f"this project has no module {whole}; {list_known(there, name)}"
        folder /= name
    file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
    names = _names(file)
    name = attribute.partition(".")[0]
    if name in names or "*" in names:
        return ""
    return f"{module} of this project has no {name or 'attribute'!r}; {list_known(names, name)}"


def _modules(folder: Path) -> list[str]:
    if not folder.is_dir():
        return []
    packages = [file.parent.name for file in folder.glob("*/__init__.py")]
    return [*(file.stem for file in folder.glob("*.py") if file.stem != "__init__"), *packages]


@lru_cache(maxsize=16)
def _names(file: Path) -> tuple[str, ...]:
    """Names that a module binds at its top; "*" where it takes over those of another."""
    names: list[str] = []
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names += [alias.asname or alias.name.partition(".")[0] for alias in node.names]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [target.id for target in targets if isinstance(target, ast.Name)]
    return tuple(names)
