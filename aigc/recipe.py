"""Configs of runs as YAML files that people edit and share.

    config = read(Path("run.yaml"))       # aigc train --config run.yaml
    write(Path("run.yaml"), config)       # aigc train MODEL --dry-run --save run.yaml

    preset: dcgan:digits
    samples: 200000
    model:
      latent: 64

Only `preset` is required; every other field has the preset's value unless the file gives another.
Written files give every field, so that they mean the same under presets of another version. Paths
are relative to the file.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from textwrap import wrap
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from aigc import models, own_code
from aigc.config import DataConfig, TrainConfig, require
from aigc.field_docs import field_docs, first_sentence
from aigc.files import expanded
from aigc.files import write as write_file
from aigc.suggest import alternatives, did_you_mean
from aigc.training.object_store import is_remote
from aigc.yaml_scalars import other_reading, parse_plain

_PLAIN = re.compile(r"[A-Za-z_./][\w./-]*(:[\w./-]+)?")
"""Texts that mean themselves without quotes, unless they are words such as `no`."""


class FieldError(ValueError):
    """A field that is unknown or of another type or range; the message begins with its name."""

    def __init__(self, path: tuple[str, ...], message: str) -> None:
        super().__init__(message)
        self.path = path
        """Keys from the top of the document to the field."""


def read(file: Path) -> TrainConfig:
    """The config of a file.

    Raises ValueError with the file's name and the line: for keys that are unknown or stand twice,
    for values of another type or range, and for what versions of YAML read differently.
    """
    from aigc import strict_yaml

    try:
        with file.open("rb") as stream:
            data = stream.read(strict_yaml.MAX_BYTES + 1)
    except OSError as error:
        raise ValueError(f"{file}: {error.strerror}") from None
    try:
        text = strict_yaml.decode(data)
        return _located(parse(strict_yaml.document(text), file.parent), file.parent)
    except FieldError as error:
        raise ValueError(f"{file}, line {_line(text, error.path)}: {error}") from None
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None


def parse(document: Any, folder: Path = Path()) -> TrainConfig:
    """The config of a document, paths of data as they are; a model's file is relative to `folder`.

    Raises FieldError, or ValueError without a preset.
    """
    require(
        isinstance(document, Mapping) and isinstance(document.get("preset"), str),
        "a config needs `preset: MODEL:PRESET`, such as dcgan:digits, and fields that differ from"
        " the preset's",
    )
    reference = document["preset"]
    if own_code.is_path(own_code.split(reference)[0]):
        reference = str(folder / expanded(reference))
    try:
        preset = models.preset(reference)
    except ValueError as error:
        raise FieldError(("preset",), str(error)) from None
    return changed(preset, {**document, "preset": preset.preset})


def changed(config: TrainConfig, changes: Mapping[str, Any]) -> TrainConfig:
    """A config with other values: those of `model` and `data`, and of dataclasses within them, as
    mappings of their fields. Raises FieldError."""
    document = config.to_json()
    _merge(document, config, changes, ())
    model = _convert(document.pop("model"), type(config.model), ("model",))
    data = _convert(document.pop("data"), DataConfig, ("data",))
    # ModelConfig stands for every model's own.
    whole: TrainConfig = _convert(document | {"model": {}}, TrainConfig, ())
    return replace(whole, model=model, data=data)


def _merge(document: Any, config: Any, changes: Any, path: tuple[str, ...]) -> None:
    if not isinstance(changes, Mapping):
        name = ".".join(path)
        raise FieldError(path, f"{name} must be a mapping of its fields, got {changes!r:.60}")
    known = [field.name for field in fields(config)]
    for name, value in changes.items():
        here = (*path, str(name))
        if name not in known:
            hint = did_you_mean(name, known) or _place_of(str(name), config)
            hint = hint or alternatives(name, known)
            raise FieldError(here, f"there is no field {'.'.join(here)}{hint}")
        if is_dataclass(getattr(config, name)):
            _merge(document[name], getattr(config, name), value, here)
        else:
            document[name] = value


def _place_of(name: str, config: Any) -> str:
    """A hint where a field of that name stands deeper, as `model.latent`; else ""."""
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value) and name in {each.name for each in fields(value)}:
            return f"; did you mean {f'{field.name}.{name}'!r}?"
    return ""


def _convert(value: Any, kind: type, path: tuple[str, ...]) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        parts = tuple(part for part in re.split(r"[.\[`]", where) if part and part[-1] != "]")
        full = (*path, *parts)
        types = re.fullmatch(r"Expected `(.+)`, got `(.+)`", message)
        if types is not None:
            message = f"{'.'.join(full)} must be {types[1]}, got {types[2]}"
        elif chosen := re.fullmatch("Invalid enum value (.+)", message):
            choice = ", ".join(_choices(kind, parts))
            message = f"{'.'.join(full)} must be one of {choice}, got {chosen[1]}"
        elif named := re.match(r"\w+", message):  # a check of the dataclass, which names its field
            full = (*full, named[0])
        raise FieldError(full, message) from None


def _choices(kind: Any, path: tuple[str, ...]) -> tuple[str, ...]:
    """Values that the field at a path may have."""
    for name in path:
        kind = get_type_hints(kind)[name]
    return tuple(map(str, _literals(kind)))


def _literals(kind: Any) -> Iterator[Any]:
    """Values of the Literal types in a type: in a tuple of choices, or beside other types."""
    if get_origin(kind) is Literal:
        yield from get_args(kind)
    else:
        for inner in get_args(kind):
            yield from _literals(inner)


def _located(config: TrainConfig, folder: Path) -> TrainConfig:
    """The config with paths that are relative to the working folder."""
    return _with_paths(config, lambda path: os.path.normpath(folder / path))


def _with_paths(config: TrainConfig, convert: Any) -> TrainConfig:
    def one(path: str) -> str:
        path = expanded(path)
        fixed = not path or is_remote(path) or "://" in path or Path(path).is_absolute()
        return path if fixed else str(convert(path))

    def code(reference: str) -> str:
        return one(reference) if own_code.is_path(reference) else reference

    data = replace(config.data, path=one(config.data.path), source=code(config.data.source))
    return replace(config, data=data, init_from=one(config.init_from), quality=code(config.quality))


def _with_files(config: TrainConfig, folder: Path) -> TrainConfig:
    """The config with files of code by their paths from `folder`, not by their contents."""

    def path(kind: own_code.Kind, reference: str) -> str:
        file = own_code.find(kind, reference).file if reference else None
        relative = "" if file is None else os.path.relpath(file.path, folder)
        return (
            f"./{relative}" if relative and not relative.startswith(".") else relative or reference
        )

    model, preset = own_code.split(config.preset)
    return replace(
        config,
        preset=f"{path(own_code.MODELS, model)}:{preset}",
        data=replace(config.data, source=path(own_code.DATA, config.data.source)),
        quality=path(own_code.METRICS, config.quality),
    )


def _line(text: str, path: tuple[str, ...]) -> int:
    """Line of a field, or of the last mapping on the way to it that the text has."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    node, line = yaml.compose(text, loader), 1
    for key in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        found = next((pair for pair in pairs if pair[0].value == key), None)
        if found is None:
            break
        node, line = found[1], found[0].start_mark.line + 1
    return line


def write(file: Path, config: TrainConfig) -> None:
    """Write every field of a config, each below the first sentence of its docstring.

    Raises ValueError if the file exists, or its folder does not.
    """
    require(not file.exists(), f"{file} exists; give another name, or delete it")
    require(file.absolute().parent.is_dir(), f"{file}: there is no folder {file.parent}")
    here = _with_paths(config, lambda path: os.path.relpath(path, file.parent))
    here = _with_files(here, file.parent)
    head = [
        f"# aigc train --config {file.name}",
        "# Flags win over this file, and fields that are left out are those of the preset.",
        "",
    ]
    write_file(file, "\n".join([*head, *_lines(here, ""), ""]).encode())


def _lines(value: Any, indent: str) -> Iterator[str]:
    kind: type = type(value)
    docs = field_docs(kind)
    for field in fields(value):
        inner = getattr(value, field.name)
        text = first_sentence(docs.get(field.name, ""))
        yield from (
            wrap(text, 98, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# ")
            if text
            else ()
        )
        if is_dataclass(inner):
            yield f"{indent}{field.name}:"
            yield from _lines(inner, f"{indent}  ")
        else:
            yield f"{indent}{field.name}: {_scalar(inner)}"


def _scalar(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return f"[{', '.join(map(_scalar, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_scalar(k)}: {_scalar(v)}' for k, v in value.items())}}}"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and parse_plain(value) == value and not other_reading(value)
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, float):  # 1e-05 is a text to some readers of YAML
        mantissa, e, exponent = repr(value).partition("e")
        return f"{mantissa}.0e{exponent}" if e and "." not in mantissa else repr(value)
    return json.dumps(value, default=lambda number: number.item())
