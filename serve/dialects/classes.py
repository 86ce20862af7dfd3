"""Which class a text asks for: by name in any case ("seven"), or by number ("7", "label: 7")."""

import difflib
import re
from collections import Counter
from functools import lru_cache

from serve.http import HTTPError
from serve.lane import SignatureLane

MAX_NAMED = 20
"""Most classes that a message lists."""


def resolve(
    prompt: str, label: int | list[int] | None, lane: SignatureLane
) -> int | list[int] | None:
    """The classes that a prompt and a label ask for; None leaves them to the seed.

    Raises HTTPError 400 for a prompt that names no class, and where the two contradict each other.
    """
    manifest = lane.artifact.manifest
    prompt = prompt.strip()
    asked = class_of(prompt, lane)
    anything = prompt.casefold() in ("", manifest.name, manifest.id)
    if asked is None and not anything:
        raise HTTPError(400, "unknown_prompt", no_such_class(prompt, lane), param="prompt")
    if label is None:
        return asked
    if asked is not None and any(
        one != asked for one in ([label] if isinstance(label, int) else label)
    ):
        message = f"prompt {prompt[:60]!r} is class {asked}, label says {str(label)[:60]}; give one"
        raise HTTPError(400, "prompt_contradicts_label", message, param="prompt")
    return label


def class_of(text: str, lane: SignatureLane) -> int | None:
    """The class that a text names or numbers; None if there is none such."""
    spec = lane.spec.label
    if spec is None or not lane.num_classes:
        return None
    names = _names(spec.classes)
    named = names.get(text, names.get(text.casefold()))
    number = _NUMBER.fullmatch(text)
    if named is not None or number is None:
        return named
    return int(number[1]) if int(number[1]) < lane.num_classes else None


_NUMBER = re.compile(r"(?:label\s*[:=]?\s*)?(\d{1,9})", re.IGNORECASE | re.ASCII)


@lru_cache(maxsize=256)
def _names(classes: tuple[str, ...]) -> dict[str, int]:
    """Class names -> numbers, and lower-case ones as well; what names two classes is left out."""
    names: dict[str, int] = {}
    for spelled in ([name.casefold() for name in classes], list(classes)):
        times = Counter(spelled)
        names |= {name: i for i, name in enumerate(spelled) if times[name] == 1}
    return names


def no_such_class(given: str, lane: SignatureLane, what: str = "prompt") -> str:
    """What to tell who asked for a class that there is not, in `what`."""
    manifest = lane.artifact.manifest
    given = given[:60]
    if lane.spec.label is None or not lane.num_classes:
        return (
            f"{manifest.id} has no classes to choose from: {what} must be empty or"
            f" {manifest.name!r}, got {given!r}"
        )
    anything = f", or {manifest.name!r} for any" if what == "prompt" else ""
    classes = lane.spec.label.classes or tuple(str(i) for i in range(lane.num_classes))
    names = _names(classes)
    close = difflib.get_close_matches(given.casefold(), [name.casefold() for name in classes])
    near = [classes[names[name]] for name in dict.fromkeys(close) if name in names]
    hint = f"; did you mean {either(near)}?" if near else ";"
    more = f" and {len(classes) - MAX_NAMED} more" if len(classes) > MAX_NAMED else ""
    there_are = f"there are {', '.join(classes[:MAX_NAMED])}{more}"
    must = f"{what} must be a class of {manifest.id}, by name or number{anything}"
    return f"{must}, got {given!r}{hint} {there_are}"


def either(names: tuple[str, ...] | list[str]) -> str:
    """'a' or 'b'."""
    return " or ".join(repr(name) for name in names)
