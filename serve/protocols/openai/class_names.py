"""Classes in texts: by name ("seven", "a seven"), or by number ("7", "label: 7").

Names are matched exactly, else in any case (aigc.artifact.class_names); a name that is a number may
be written in digits or in words. A number that is both the name of one class and the index of
another is refused, and the message names both. `label: 7` always is the class of index 7.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from aigc.artifact.class_names import MAX_NAMED, MAX_SHOWN, got, named
from serve.errors import HTTPError
from serve.hosting.runner import SignatureRunner
from serve.protocols.openai.number_words import value
from serve.sampling_request import Label, resolve_label


def resolve(prompt: str, label: Label, runner: SignatureRunner) -> int | list[int] | None:
    """The classes selected by a prompt and a label; None leaves them to the seed.

    Raises HTTPError 400 for a prompt or a label that names no class or is ambiguous, and for a
    label that contradicts the prompt.
    """
    label = resolve_label(label, runner)
    manifest = runner.artifact.manifest
    prompt = prompt.strip()
    bare = _ARTICLE.sub("", prompt)
    text = prompt if _candidates(prompt, runner) else bare if _candidates(bare, runner) else prompt
    asked = parse_class_name(text, runner)
    anything = prompt.casefold() in ("", manifest.name, manifest.id)
    if asked is None and not anything:
        raise HTTPError(400, "unknown_prompt", unknown_class_error(text, runner), param="prompt")
    if label is None:
        return asked
    if asked is not None and any(
        one != asked for one in ([label] if isinstance(label, int) else label)
    ):
        message = f"prompt {prompt[:60]!r} is class {asked}, label says {str(label)[:60]}; give one"
        raise HTTPError(400, "prompt_contradicts_label", message, param="prompt")
    return label


_ARTICLE = re.compile(r"^(?:a|an|the)\s+", re.IGNORECASE)


def parse_class_name(text: str, runner: SignatureRunner) -> int | None:
    """The class of a name or number; None if there is none, or more than one."""
    classes = _candidates(text, runner)
    return classes[0] if len(classes) == 1 else None


def _candidates(text: str, runner: SignatureRunner) -> tuple[int, ...]:
    """All classes that a text may denote, in ascending order."""
    spec = runner.spec.label
    if spec is None or not runner.num_classes:
        return ()
    if equal := named(text, spec.classes):
        return equal
    numbers = _numbers(spec.classes)
    index = _INDEX.fullmatch(text)
    if index is not None:
        return tuple(each for each in (int(index[1]),) if each < runner.num_classes)
    number = value(text)
    if number is None:
        return ()
    equal = numbers.by_value.get(number, ())
    in_digits = text.isdigit()
    if any(spec.classes[one].isdigit() == in_digits for one in equal):
        return equal  # 07 is 7: not ambiguous
    # Where classes have names, a number in words is a name only; in digits it is an index, too.
    is_index = number < runner.num_classes and (in_digits or not spec.classes)
    if not is_index or numbers.are_in_digits:
        return equal
    return tuple(sorted({*equal, number}))


_INDEX = re.compile(r"label\s*[:=]?\s*(\d{1,9})", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, kw_only=True)
class _Numbers:
    """Classes whose names are numbers."""

    by_value: dict[int, tuple[int, ...]]
    """Classes whose name is this number."""
    are_in_digits: bool
    """All names are digits, so a number in digits is a name and not an index."""


@lru_cache(maxsize=256)
def _numbers(classes: tuple[str, ...]) -> _Numbers:
    by_value: dict[int, tuple[int, ...]] = {}
    for i, name in enumerate(classes):
        number = value(name)
        if number is not None:
            by_value[number] = (*by_value.get(number, ()), i)
    are_in_digits = bool(classes) and all(name.isdigit() for name in classes)
    return _Numbers(by_value=by_value, are_in_digits=are_in_digits)


def unknown_class_error(text: str, runner: SignatureRunner, what: str = "prompt") -> str:
    """Message for a text, in the field `what`, that names no class or several."""
    manifest = runner.artifact.manifest
    candidates = _candidates(text, runner)
    text = text[:MAX_SHOWN]
    if runner.spec.label is None or not runner.num_classes:
        return (
            f"{manifest.id} has no classes to choose from: {what} must be empty or"
            f" {manifest.name!r}, got {text!r}"
        )
    classes = runner.spec.label.classes or tuple(str(i) for i in range(runner.num_classes))
    if candidates:
        may_be = " or ".join(
            f"'label: {i}' ({classes[i][:MAX_SHOWN]!r})" for i in candidates[:MAX_NAMED]
        )
        return f"{what} {text!r} may mean several classes of {manifest.id}; say {may_be}"
    anything = f", or {manifest.name!r} for any" if what == "prompt" else ""
    must = f"{what} must be a class of {manifest.id}, by name or number{anything}"
    return f"{must}, {got(text, classes)}"


def format_choices(names: tuple[str, ...] | list[str]) -> str:
    """'a' or 'b'."""
    return " or ".join(repr(name) for name in names)
