"""Models, data sources and metrics by reference: built-in ones, and those of users.

A reference is, in this order: the name of a built-in one; the name of an entry point that an
installed package declares; an importable module (`mypkg.resgan`); a file (`./resgan.py`).

place = find(MODELS, "./resgan.py")
place.name               # resgan@3f2a1b2c3d4e: a name for this very source, which configs hold
place.load().Model

An installed module is recorded by its distribution and the SHA-256 of its file and of those of its
package that it imports (imports.py), and must be installed wherever a run's processes are. A file
travels with the run, see code_files.py.
"""

import pkgutil
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from aigc.config import TrainConfig
from aigc.files import expanded
from aigc.own_code import code_files
from aigc.own_code.code_files import CodeFile
from aigc.own_code.imports import hashes
from aigc.suggest import alternatives

FOLDER = "code"
"""Folder of a run that its files of code are copied into."""


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One of the things that users may bring."""

    noun: str
    group: str
    """Group of entry points, and the package of the built-in ones unless `package` says another."""
    package: str
    members: dict[str, str]
    """Names that a module must define, each with a description."""
    any_of: bool = False
    """One of the members is enough."""
    also: tuple[str, ...] = ()
    """Modules of `package` that are none of its kind."""

    def built_in(self) -> list[str]:
        """Names of the modules in `package`, without importing them."""
        spec = find_spec(self.package)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        loaded = sys.modules.get(self.package)
        folders = [*getattr(loaded, "__path__", folders)]
        return sorted(m.name for m in pkgutil.iter_modules(folders) if m.name not in self.also)


MODELS = Kind(
    noun="model",
    group="aigc.models",
    package="aigc.models",
    members={
        "Config": "a frozen dataclass that inherits aigc.config.ModelConfig",
        "Model": "a class that inherits aigc.model.GenerativeModel and is made from a Config",
        "PRESETS": "a dict from names to functions that return an aigc.config.TrainConfig",
    },
)
DATA = Kind(
    noun="data source",
    group="aigc.data",
    package="aigc.data.sources",
    members={
        "load": "a function load(config, shape, split) that returns an aigc.data.Dataset or another"
        " aigc.data.Source"
    },
)
METRICS = Kind(
    noun="metric",
    group="aigc.metrics",
    package="aigc.metrics",
    members={
        "evaluate": "evaluate(artifact, train, test, n, seed) for `aigc evaluate`",
        "distance": "distance(real) for the quality during training",
        "side_by_side": "side_by_side(artifact, test, seed) for `aigc evaluate --picture`",
    },
    any_of=True,
    also=(
        *("classes", "classic_fill", "classifier", "codes", "degradation", "estimate"),
        *("feature_sets", "fine_structure", "frechet", "griffin_lim", "kernel", "likeness"),
        *("measures", "mel_distance", "moments", "neighbours", "ngram", "non_local_means"),
        *("perceptual", "pitch", "real_time", "recordings", "restoration", "resynthesis"),
        *("rotation", "short_time", "similarity", "sound", "speech_codecs", "speech_quality"),
        *("stft_distance", "vendi"),
    ),
)
KINDS = (MODELS, DATA, METRICS)


@dataclass(frozen=True, kw_only=True)
class Place:
    """The place that a reference leads to."""

    kind: Kind
    name: str
    """Name that a config holds: of a built-in one, of a module, or STEM@DIGITS."""
    module: str = ""
    """Name of the module to import; empty for a file."""
    file: CodeFile | None = None
    built_in: bool = False
    source: Path | None = field(default=None, compare=False)
    """File of an installed module."""

    @property
    def origin(self) -> str:
        """Words for messages and listings: `./resgan.py` or `mypkg 1.2`."""
        if self.file is not None:
            return self.file.path
        found = self.distributions
        return ", ".join(f"{name} {version}" for name, version in found.items()) or self.module

    @property
    def distributions(self) -> dict[str, str]:
        """Installed distributions that the module belongs to, with their versions."""
        return _distributions(self.module.partition(".")[0])

    def record(self) -> dict[str, Any]:
        """Entry of config.json: where the code is from, its SHA-256, and of a module those of the
        modules of its package that it imports."""
        if self.file is not None:
            return {"file": f"{self.file.stem}.py", "sha256": self.file.sha256}
        assert self.source is not None
        found = hashes(self.module, self.source)
        return {"module": self.module, "distributions": self.distributions, **found}

    def load(self) -> ModuleType:
        """Its module. Raises ValueError if it cannot be imported or lacks a member."""
        if self.built_in:
            return import_module(self.module)
        module = _import(self.module) if self.file is None else code_files.load(self.file)
        _check_members(self, module)
        return module


def split(reference: str) -> tuple[str, str]:
    """`model:preset` -> both; the preset is "" if none is named. A path may hold colons."""
    file = re.fullmatch(r"(.+\.py)(?::([^/\\]*))?", reference)
    if file:
        return file[1], file[2] or ""
    name, _, preset = reference.partition(":")
    return name, preset


def is_path(reference: str) -> bool:
    """True of a reference that means a file."""
    return reference.endswith(".py") or "/" in reference or "\\" in reference


def find(kind: Kind, reference: str) -> Place:
    """The place that a reference leads to; code of a file is not run.

    Raises ValueError for an unknown name with the nearest ones, for a name that two packages claim,
    and for a file that cannot be read.
    """
    if is_path(reference):
        file = code_files.read(reference)
        return Place(kind=kind, name=file.name, file=file)
    if reference in kind.built_in():
        return _built_in(kind, reference)
    if code_files.NAME.fullmatch(reference):
        known = code_files.known(reference)
        if known is None:
            raise ValueError(
                f"{kind.noun} {reference!r} is code of a run that is not open here; name its file"
            )
        return Place(kind=kind, name=known.name, file=known)
    found = _declared(kind).get(reference, [])
    if len(found) > 1:
        claims = " and ".join(f"{_package(point)} ({point.value})" for point in found)
        raise ValueError(
            f"{kind.noun} {reference!r} is declared by {claims}; name the module of one of them"
        )
    if found:
        return _installed(kind, _module_of(found[0]))
    if _is_installed(reference):
        return _installed(kind, reference)
    raise ValueError(
        f"unknown {kind.noun} {reference!r}{alternatives(reference, names(kind))}{_hint(reference)}"
    )


def settled(config: TrainConfig, folder: Path = Path()) -> TrainConfig:
    """A config whose references are names that it may keep: files by STEM@DIGITS.

    Relative paths are relative to `folder`. The path of a file that is not there stays, since
    another may be given in its place. Raises ValueError as find() does for all else.
    """

    def name(kind: Kind, reference: str) -> str:
        if is_path(reference):
            reference = str(folder / expanded(reference))
            if not Path(reference).exists():
                return reference
        return find(kind, reference).name

    model, preset = split(config.preset)
    source = name(DATA, config.data.source)
    return replace(
        config,
        preset=f"{name(MODELS, model)}:{preset}",
        data=replace(config.data, source=source),
        quality=name(METRICS, config.quality) if config.quality else "",
    )


def places(config: TrainConfig) -> list[Place]:
    """Places of the code of users that a settled config refers to."""
    named = [(MODELS, config.model_name), (DATA, config.data.source), (METRICS, config.quality)]
    found = [find(kind, name) for kind, name in named if name]
    return [place for place in found if not place.built_in]


def record(config: TrainConfig) -> dict[str, Any]:
    """`{"code": ...}` for config.json and manifests: where each place's code is from, and its
    SHA-256; {} for a run of built-in code alone."""
    entries = {place.name: place.record() for place in places(config)}
    return {"code": entries} if entries else {}


def names(kind: Kind) -> list[str]:
    """Names of the built-in ones, then those that installed packages declare."""
    built_in = kind.built_in()
    return [*built_in, *(name for name in sorted(_declared(kind)) if name not in built_in)]


def listed(kind: Kind) -> Iterator[tuple[str, str]]:
    """Name of each entry point of installed packages and where it is from; nothing is imported."""
    built_in = kind.built_in()
    for name, points in sorted(_declared(kind).items()):
        for point in points:
            note = "; claimed by several packages" if len(points) > 1 else ""
            note = "; hidden by the built-in one" if name in built_in else note
            yield name, f"{_package(point)}, {point.value}{note}"


def _built_in(kind: Kind, name: str) -> Place:
    return Place(kind=kind, name=name, module=f"{kind.package}.{name}", built_in=True)


def _declared(kind: Kind) -> dict[str, list[EntryPoint]]:
    """Entry points by name; a package that is found twice on the path counts once."""
    points: dict[str, dict[tuple[str, str], EntryPoint]] = {}
    for point in entry_points(group=kind.group):
        package = point.dist.name if point.dist else ""
        points.setdefault(point.name, {}).setdefault((package, point.value), point)
    return {name: [own[key] for key in sorted(own)] for name, own in points.items()}


@cache
def _distributions(top: str) -> dict[str, str]:
    """Distributions of a top-level module with versions. Slow: it reads the metadata of all."""
    return {name: version(name) for name in sorted(set(packages_distributions().get(top, ())))}


def _package(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist else "an unknown package"


def _module_of(point: EntryPoint) -> str:
    if point.attr:
        raise ValueError(
            f"entry point {point.name!r} of {_package(point)} names {point.value}; it must name a"
            f" module, such as {point.module}"
        )
    return point.module


def _is_installed(name: str) -> bool:
    return (
        re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", name) is not None
        and name.partition(".")[0] not in sys.stdlib_module_names
        and source_of(name) is not None
    )


def source_of(module: str) -> Path | None:
    """File of a module; None if there is none. Packages around it are imported."""
    try:
        spec = find_spec(module)
    except ModuleNotFoundError:
        return None
    except Exception as error:
        raise ValueError(f"module {module} cannot be imported: {_error(error)}") from error
    return Path(spec.origin) if spec and spec.has_location and spec.origin else None


def _installed(kind: Kind, module: str) -> Place:
    source = source_of(module)
    if source is None:
        raise ValueError(f"there is no module {module}; install its package here")
    return Place(kind=kind, name=module, module=module, source=source)


def _import(module: str) -> ModuleType:
    try:
        with redirect_stdout(sys.stderr):
            return import_module(module)
    except (Exception, SystemExit) as error:
        raise ValueError(f"module {module} cannot be imported: {_error(error)}") from error


def _error(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"


def _hint(reference: str) -> str:
    """Advice where a file of that name lies here but is not installed."""
    path = Path(f"{reference.replace('.', '/')}.py")
    return f"; for the file here say ./{path}" if path.is_file() else ""


def _check_members(place: Place, module: ModuleType) -> None:
    """Raise ValueError, with what to add, if a module lacks what its kind must define."""
    kind = place.kind
    where = place.file.path if place.file else f"module {place.module}"
    missing = [name for name in kind.members if not hasattr(module, name)]
    if missing and not (kind.any_of and len(missing) < len(kind.members)):
        listed = [f"{name}, {kind.members[name]}" for name in missing]
        what = (" or " if kind.any_of else "; and ").join(listed)
        raise ValueError(f"{where} is no {kind.noun}: it defines no {missing[0]}; add {what}")
    for name, (fits, wanted) in _CHECKS.items():
        if name in kind.members and hasattr(module, name) and not fits(getattr(module, name)):
            raise ValueError(f"{where} is no {kind.noun}: {name} must be {wanted}")


def _is_config(value: object) -> bool:
    from dataclasses import is_dataclass

    from aigc.config import ModelConfig

    return isinstance(value, type) and issubclass(value, ModelConfig) and is_dataclass(value)


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "Config": (_is_config, MODELS.members["Config"]),
    "Model": (callable, MODELS.members["Model"]),
    "PRESETS": (
        lambda value: (
            isinstance(value, dict) and bool(value) and all(map(callable, value.values()))
        ),
        MODELS.members["PRESETS"],
    ),
    "load": (callable, DATA.members["load"]),
    **{name: (callable, text) for name, text in METRICS.members.items()},
}
