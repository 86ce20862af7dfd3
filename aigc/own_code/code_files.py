"""Python files of users, run as modules: each version of a file has a name of its own.

file = read("./resgan.py")
file.name                # resgan@3f2a1b2c3d4e, from the stem and the SHA-256 of its source
load(file).PRESETS

A file is read once. The source that was hashed is the source that is run and that travels with a
run, whatever happens to the file meanwhile.
"""

import ast
import hashlib
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import packages_distributions
from importlib.util import find_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

from aigc.files import expanded, write

MAX_BYTES = 1 << 20
"""Largest source file that is read."""
DIGITS = 12
"""Digits of the SHA-256 in a name."""
NAME = re.compile(rf"([A-Za-z0-9_][A-Za-z0-9_.-]{{0,63}})@([0-9a-f]{{{DIGITS}}})")
_STEM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class CodeFile:
    """The source of one version of a file; plain values, so that it can be sent to processes."""

    name: str
    """STEM@DIGITS."""
    path: str
    """Place that it was read from, for messages and tracebacks."""
    source: bytes
    """Contents with line feeds at the ends of lines."""

    @property
    def sha256(self) -> str:
        """SHA-256 of the source, in hexadecimal."""
        return digest(self.source)

    @property
    def stem(self) -> str:
        """Name of the file without suffix."""
        return self.name.partition("@")[0]

    @property
    def module(self) -> str:
        """Name in sys.modules, which no import statement finds by itself."""
        stem, _, digits = self.name.partition("@")
        return f"aigc_own_{re.sub(r'[^A-Za-z0-9_]', '_', stem)}_{digits}"


_known: dict[str, CodeFile] = {}
"""Files that were read in this process, by name."""


def read(path: str | Path) -> CodeFile:
    """Read a file. Raises ValueError if there is none, or if it is no Python source."""
    where = Path(expanded(path))
    if where.is_dir():
        raise ValueError(f"{path} is a folder; name the file in it, such as {where / 'model.py'}")
    if where.suffix != ".py":
        raise ValueError(f"{path} has no suffix .py; name a Python file, or a module as a.b.c")
    if not where.is_file():
        raise ValueError(f"there is no file {path} (looked for {where.absolute()})")
    with where.open("rb") as opened:
        data = opened.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES:,} bytes; name a file of source code")
    stem = match[1] if (match := NAME.fullmatch(where.stem)) else where.stem
    if not _STEM.fullmatch(stem):
        raise ValueError(f"{path}: the name of a file must be of A-Z a-z 0-9 . _ -; rename it")
    return register(_file(stem, str(where), data))


def digest(data: bytes) -> str:
    """SHA-256 of source code, the same whatever ends its lines."""
    return hashlib.sha256(_with_line_feeds(data)).hexdigest()


def _with_line_feeds(data: bytes) -> bytes:
    return data.replace(b"\r\n", b"\n")


def _file(stem: str, path: str, data: bytes) -> CodeFile:
    return CodeFile(
        name=f"{stem}@{digest(data)[:DIGITS]}", path=path, source=_with_line_feeds(data)
    )


def register(file: CodeFile) -> CodeFile:
    """Make a file known in this process; returns the one that is known by its name already."""
    return _known.setdefault(file.name, file)


def known(name: str) -> CodeFile | None:
    """A file of this process by its name."""
    return _known.get(name)


def carried() -> tuple[CodeFile, ...]:
    """Files whose modules are loaded here, for install() in another process."""
    return tuple(file for file in _known.values() if file.module in sys.modules)


def install(files: Iterable[CodeFile]) -> None:
    """Make files of another process known, so that objects of their classes can be unpickled here.

    Unpickling imports the modules of these classes, and only their code runs.
    """
    for file in files:
        register(file)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.append(_Finder())


class _Finder(MetaPathFinder, Loader):
    """Import of known files by the names of their modules."""

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        """The module of a known file; None for all other names."""
        known = any(file.module == fullname for file in _known.values())
        return spec_from_loader(fullname, self) if known else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        """The module, whose code has run."""
        return load(next(file for file in _known.values() if file.module == spec.name))

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: load() has."""


def copy_into(folder: Path, file: CodeFile) -> None:
    """Write a file into the folder of a run's code. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{file.name}.py"
    if not target.exists() or target.read_bytes() != file.source:
        write(target, file.source)


def read_copy(folder: Path, name: str, sha256: str) -> CodeFile:
    """Register the copy of a file in the folder of a run's code.

    Raises ValueError if it is missing, or if it is not the source with that SHA-256.
    """
    match, path = NAME.fullmatch(name), folder / f"{name}.py"
    if match is None:
        raise ValueError(f"{name!r} is no name of a file of code, STEM@DIGITS")
    if not path.is_file():
        raise ValueError(f"{path} is missing, the code that the run was begun with")
    with path.open("rb") as opened:
        file = _file(match[1], str(path), opened.read(MAX_BYTES))
    if file.sha256 != sha256 or file.name != name:
        raise ValueError(
            f"{path} was altered: its sha256 is {file.sha256[:DIGITS]}, the run's config.json says"
            f" {sha256[:DIGITS]}; restore the file, or resume with the new code by --code new"
        )
    return register(file)


def load(file: CodeFile) -> ModuleType:
    """The module of a file; its code runs at the first call, and what it prints goes to stderr.

    Raises ValueError, with the line, if it cannot be run, and if it imports files beside it.
    """
    if file.module in sys.modules:
        return sys.modules[file.module]
    try:
        tree = ast.parse(file.source, file.path)
    except (SyntaxError, ValueError) as error:
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise ValueError(f"{file.path}{line}: {type(error).__name__}: {_first(error)}") from None
    _check_siblings(tree, file)
    module = ModuleType(file.module)
    module.__file__ = file.path
    sys.modules[file.module] = module
    try:
        with redirect_stdout(sys.stderr):
            exec(compile(tree, file.path, "exec", dont_inherit=True), module.__dict__)
    except BaseException as error:
        del sys.modules[file.module]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise ValueError(_failure(file, error)) from error
    return module


def _failure(file: CodeFile, error: BaseException) -> str:
    """One sentence: where a file could not be run, and why."""
    line = _line(file, error)
    cure = ""
    if isinstance(error, ModuleNotFoundError):
        cure = "; install the package here and on every worker"
    elif isinstance(error, SystemExit):
        cure = "; begin what runs it as a program with `if __name__ == '__main__':`"
    return (
        f"{file.path}{f', line {line[0]}' if line else ''}: cannot be imported,"
        f" {type(error).__name__}: {_first(error)}{f' (in `{line[1]}`)' if line else ''}{cure}"
    )


def _line(file: CodeFile, error: BaseException) -> tuple[int, str] | None:
    """Number and text of the last line of a file in an error's traceback."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename == file.path]
    if not frames or frames[-1].lineno is None:
        return None
    number = frames[-1].lineno
    lines = file.source.decode("utf-8", "replace").splitlines()
    return number, lines[number - 1].strip()[:80] if number <= len(lines) else ""


def place(error: BaseException) -> str:
    """`resgan.py, line 31`: the last line of a user's file in an error's traceback; "" if none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if any(frame.filename == file.path for file in _known.values()):
            return f"{frame.filename}, line {frame.lineno}"
    return ""


def is_own(error: BaseException) -> bool:
    """True of an exception whose class a user's file defines, so that other processes lack it."""
    return type(error).__module__ in {file.module for file in _known.values()}


def _first(error: BaseException) -> str:
    message = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(message.split())[:300] or "no message"


def _check_siblings(tree: ast.Module, file: CodeFile) -> None:
    """Raise ValueError if a file imports others that lie beside it and would not travel."""
    folders = {Path(file.path).absolute().parent, Path(file.path).resolve().parent}
    for name, line in _imported(tree):
        beside = [folder for folder in folders if _is_module(folder, name)]
        if not name or (beside and not _installed(name, folders)):
            what = f"{name}, which lies beside it," if name else "files beside it"
            raise ValueError(
                f"{file.path}, line {line}: imports {what} but one file alone travels with a run;"
                f" put the code into {Path(file.path).name}, or make a package of both (a folder"
                " with a pyproject.toml, `pip install -e .`) and name the model as PACKAGE.MODULE"
            )


def _imported(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """First parts of the imported modules' names with their lines; "" for relative imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name.partition(".")[0], node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "" if node.level else (node.module or "").partition(".")[0], node.lineno


def _is_module(folder: Path, name: str) -> bool:
    return (folder / f"{name}.py").is_file() or (folder / name / "__init__.py").is_file()


def _installed(name: str, folders: set[Path]) -> bool:
    """True of a module that an import finds elsewhere, or that belongs to an installed package."""
    if name in sys.stdlib_module_names or name in packages_distributions():
        return True
    try:
        spec = find_spec(name)
    except ValueError:  # a module without a spec, such as __main__
        return False
    origin = spec.origin if spec else None
    return origin is not None and not folders & set(Path(origin).parents)
