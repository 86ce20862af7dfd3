"""Code of users in a run's folder: copied when the run begins, read back where it goes on.

config.json says under `code` what belongs to the run:
    {"resgan@3f2a1b2c3d4e": {"file": "resgan.py", "sha256": ...},
     "mypkg.faces": {"module": "mypkg.faces", "distributions": {"mypkg": "1.2"}, "sha256": ...,
                     "imports": {"mypkg": ..., "mypkg.layers": ...}}}
A file lies in `code/<name>.py`. Of a module and of those of its package that it imports only the
hashes are kept: the package must be installed. Older runs have no `imports`.
"""

from pathlib import Path
from typing import Any

from aigc import own_code
from aigc.config import TrainConfig
from aigc.own_code import FOLDER, code_files
from aigc.own_code.imports import hashes


def write(folder: Path, config: TrainConfig) -> None:
    """Copy the files that a config refers to into a run's folder. Raises OSError."""
    for place in own_code.places(config):
        if place.file is not None:
            code_files.copy_into(folder / FOLDER, place.file)


def read(folder: Path, document: dict[str, Any], *, installed: bool = True) -> None:
    """Make the files of a run known by the names that its config.json has.

    Raises ValueError if one is missing or altered or, with `installed`, if a module is not here as
    the run was begun with it.
    """
    for name, entry in _entries(document).items():
        if "file" in entry:
            code_files.read_copy(folder / FOLDER, name, str(entry.get("sha256")))
        elif installed:
            _check_installed(name, entry)


def changed(old: dict[str, Any], config: TrainConfig) -> dict[str, list[Any]]:
    """Changes of the code for history.jsonl, by name: SHA-256 before and now."""
    former, latest = _entries(old), _entries(own_code.record(config))
    before, now = (
        {module: sha256 for each in of.items() for module, sha256 in _hashes(*each).items()}
        for of in (former, latest)
    )
    # What the config names counts when it is new or gone; what that imports does not.
    compared = former.keys() | latest.keys() | (before.keys() & now.keys())
    names = sorted(name for name in compared if before.get(name) != now.get(name))
    return {f"code.{name}": [before.get(name), now.get(name)] for name in names}


def check_same(folder: Path, old: dict[str, Any], config: TrainConfig) -> None:
    """Raise ValueError if a resumed run's code is another than the one it was begun with."""
    before = _entries(old)
    for place in own_code.places(config):
        entry, now = before.get(place.name), place.record()
        if entry is None:
            entry = next((e for e in before.values() if e.get("file") == now.get("file")), None)
            if entry is None or "file" not in now:
                continue  # another model or source, which is told by the fields of the config
        difference = _difference(place.name, entry, now)
        if difference is None:
            continue
        what, digits, found = difference
        cure = f"install {_packages(entry)}"
        if place.file is not None:
            what, stem = place.file.path, place.name.partition("@")[0]
            cure = f"restore the file, of which {folder / FOLDER / f'{stem}@{digits}.py'} is a copy"
        raise ValueError(
            f"{what} has changed since {folder} was begun with it: its sha256 was {digits} and is"
            f" {found}; {cure}, or go on with the new code by --code new"
        )


def _hashes(name: str, entry: dict[str, Any]) -> dict[str, Any]:
    """SHA-256 of a place's code and of the modules that it imports, by name."""
    return {name: entry.get("sha256"), **entry.get("imports", {})}


def _difference(name: str, old: dict[str, Any], new: dict[str, Any]) -> tuple[str, str, str] | None:
    """The first module whose hash differs, and digits of both hashes; None if there is none.

    A module that only one of the entries has is not compared: which ones are found depends on how
    the package is installed.
    """
    before, now = _hashes(name, old), _hashes(name, new)
    for module, was in before.items():
        found = now.get(module, was)
        if was != found:
            what = f"module {module}" + (f", which {name} imports," if module != name else "")
            return what, str(was)[: code_files.DIGITS], str(found)[: code_files.DIGITS]
    return None


def _packages(entry: dict[str, Any]) -> str:
    """`mypkg==1.2`, as pip is told."""
    found = entry.get("distributions") or {}
    return ", ".join(f"{name}=={version}" for name, version in found.items()) or "the former one"


def _check_installed(name: str, entry: dict[str, Any]) -> None:
    source = own_code.source_of(name)
    if source is None:
        raise ValueError(
            f"module {name} of this run is not here; install {_packages(entry)} wherever the run's"
            " processes are"
        )
    difference = _difference(name, entry, hashes(name, source))
    if difference:
        what, digits, found = difference
        raise ValueError(
            f"{what} is not the one of this run: its sha256 is {found}, the run has {digits};"
            f" install {_packages(entry)}, or resume the run with --code new"
        )


def _entries(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Entries by name. Raises ValueError if there is anything else."""
    code = document.get("code", {})
    if not isinstance(code, dict) or not all(
        isinstance(entry, dict) and isinstance(entry.get("imports", {}), dict)
        for entry in code.values()
    ):
        raise ValueError("config.json is damaged: its `code` must be objects by name")
    return code
