"""Guesses of the kind of a foreign graph's tensors, each with its reason.

guess_input(facts, hints)       # Guess(spec=TensorSpec(kind="image", ...), because="...", edits=())

A guess that would be wrong in silence is not made: what neither the graph nor a hint tells is a
question, answered by a flag.
"""

import re
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import msgspec

from aigc.artifact import preprocessing
from aigc.artifact.manifest import TensorSpec
from aigc.sealing.hints import Hints
from aigc.sealing.tensor_facts import TensorFacts

_LATENT = re.compile(r"(^|_)(z|latents?|noise|eps|epsilon|random)(_?\d*)($|_)", re.IGNORECASE)
_LABEL = re.compile(r"(^|_)(labels?|class(es|_ids?|_labels?)?|y|cls)(_?\d*)($|_)", re.IGNORECASE)
_AUDIO = re.compile(r"(audio|wav|waveform|speech|sound|pcm)", re.IGNORECASE)
_CHANNELS = (1, 3, 4)
MIN_SOUND = 256
"""Fewest samples in a row that are taken for a sound by their shape."""
RESERVED = {"model", "n", "seed", "first_index", "signature", "format", "outputs", "settings",
            "stop", "inputs", "stream", "version"}  # fmt: skip
"""Fields of a request, which no input may be called."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """One step between a tensor of the manifest and that of the graph (sealing/graph_edits.py)."""

    op: str
    """transpose, cast, round_cast, insert_axis, drop_axes, one_hot or scale."""
    value: Any = None


@dataclass(frozen=True, kw_only=True)
class Guess:
    """A tensor of the manifest for a tensor of the graph."""

    facts: TensorFacts
    value: str
    """Name of the graph's tensor now: edits may have changed it."""
    spec: TensorSpec
    because: str
    edits: tuple[Edit, ...] = ()
    """From the manifest's tensor to the graph's; of an output the other way."""
    questions: tuple[str, ...] = ()
    """Flags that are needed."""

    def describe(self) -> str:
        """One line: name, kind, type, shape, facts and the reason."""
        s = self.spec
        parts = [s.kind, s.dtype, f"({', '.join(map(str, s.shape))})"]
        if s.range is not None and s.kind != "label":
            parts.append(f"{s.range[0]:g}..{s.range[1]:g}")
        if s.kind == "label" and s.range is not None:
            parts.append(f"{s.range[1] + 1:g} classes")
        if s.sample_rate_hz:
            parts.append(f"{s.sample_rate_hz} Hz")
        return f"{s.name}: {' '.join(parts)}: {self.because}"


@dataclass
class _Draft:
    """A guess in the making."""

    facts: TensorFacts
    hints: Hints
    is_input: bool
    name: str
    shape: tuple[int, ...]
    kind: str = "vector"
    reasons: list[str] = field(default_factory=list)
    edits: list[Edit] = field(default_factory=list)
    questions: list[str] = field(default_factory=list)

    def hint(self, fact: str) -> Any:
        """A fact that the caller gives of it; one for all tensors is for those that can have it."""
        return self.hints.of(fact, self.name, self.facts.name)

    @property
    def is_float(self) -> bool:
        return self.facts.dtype.startswith("float")


def tensor_name(original: str, taken: set[str]) -> str:
    """A plain name: letters, digits and _ only, no field of a request, and not taken."""
    plain = re.sub(r"\W+", "_", original, flags=re.ASCII).strip("_")[:60] or "tensor"
    plain = f"{plain}_" if plain in RESERVED else plain
    name, count = plain, 1
    while name in taken:
        count += 1
        name = f"{plain}_{count}"
    return name


def guess(
    facts: TensorFacts, name: str, shape: tuple[int, ...], hints: Hints, *, is_input: bool
) -> Guess:
    """The spec of an input or output of one sample's `shape`. Raises ValueError for a kind that
    such a tensor cannot be."""
    draft = _Draft(facts, hints, is_input, name, shape)
    _decide_kind(draft)
    spec = _READERS[draft.kind](draft)
    if is_input:
        spec = replace(spec, preprocessing=preprocessing.default_for(spec.kind))
    return Guess(
        facts=facts,
        value=facts.name,
        spec=spec,
        because=", ".join(draft.reasons),
        edits=tuple(draft.edits),
        questions=tuple(draft.questions),
    )


def _decide_kind(draft: _Draft) -> None:
    said = draft.hints.named("kind", draft.name, draft.facts.name)
    if said:
        draft.kind = said
        draft.reasons.append("as --kind says")
        if not draft.is_input and said not in ("image", "audio", "vector"):
            raise ValueError(f"--kind {draft.name}={said}: an output is image, audio or vector")
        return
    shape, name = draft.shape, draft.name
    few = prod(shape) == 1 and len(shape) <= 1
    if draft.is_input and not draft.is_float and few and draft.facts.dtype != "bool":
        draft.kind = "label"
        draft.reasons.append(f"one {draft.facts.dtype} per sample")
    elif draft.is_input and draft.is_float and len(shape) == 1 and _LABEL.search(name):
        draft.questions.append(f"--kind {name}=label or --kind {name}=vector")
        draft.reasons.append("a class as one-hot code, or numbers")
    elif draft.is_input and draft.is_float and _LATENT.search(name):
        draft.kind = "latent"
        draft.reasons.append("its name says noise: drawn from the seed, standard normal")
    elif len(shape) == 3 and min(shape[1:]) > 1 and shape[0] in _CHANNELS:
        draft.kind = "image"
        draft.reasons.append(f"3 axes, the first of {shape[0]} channels")
    elif len(shape) == 3 and min(shape[:2]) > 1 and shape[2] in _CHANNELS:
        draft.kind = "image"
        draft.reasons.append(f"3 axes, the last of {shape[2]} channels")
    elif _is_sound(draft):
        draft.kind = "audio"
    else:
        draft.reasons.append("numbers that a caller gives" if draft.is_input else "numbers")


def _is_sound(draft: _Draft) -> bool:
    shape = draft.shape
    named = bool(_AUDIO.search(draft.name))
    if len(shape) == 2 and shape[0] in (1, 2) and (named or shape[1] >= MIN_SOUND):
        draft.reasons.append(f"{shape[0]} row(s) of {shape[1]} samples")
        return True
    if len(shape) == 1 and named:
        draft.reasons.append("its name says sound")
        return True
    return False


def _image(draft: _Draft) -> TensorSpec:
    shape = draft.shape
    if len(shape) == 2:
        draft.edits.append(Edit(op="drop_axes", value=(0,)))
        shape = (1, *shape)
        draft.reasons.append("grey, its channel axis is added")
    if len(shape) != 3:
        raise ValueError(f"--kind {draft.name}=image: an image has 3 axes, it has {len(shape)}")
    layout = draft.hint("layout")
    last = shape[2] in _CHANNELS and shape[0] not in _CHANNELS
    if layout == "hwc" or (layout is None and last):
        shape = (shape[2], shape[0], shape[1])
        draft.edits.append(Edit(op="transpose", value="hwc"))
        draft.reasons.append("channels last, transposed")
    span = draft.hints.named("range", draft.name, draft.facts.name)
    if span is None and draft.facts.dtype == "uint8":
        span = (0.0, 255.0)
        draft.reasons.append("uint8")
    if span is None and draft.facts.span:
        span = draft.facts.span
        draft.reasons.append(f"ends in {draft.facts.because}")
    span = span or draft.hint("range")
    if span is None:
        draft.questions.append(f"--range {draft.name}=LOW..HIGH, its black and white")
    return _spec(draft, shape, span or (0.0, 1.0))


def _audio(draft: _Draft) -> TensorSpec:
    shape = draft.shape
    if len(shape) == 1:
        draft.edits.append(Edit(op="drop_axes", value=(0,)))
        shape = (1, *shape)
    if len(shape) != 2:
        raise ValueError(
            f"--kind {draft.name}=audio: a sound has (channels, samples), it has {len(shape)} axes"
        )
    rate = draft.hint("sample_rate_hz")
    if rate is None:
        draft.questions.append(f"--sample-rate {draft.name}=HZ")
    if draft.facts.dtype == "int16":
        draft.edits.append(Edit(op="scale", value=32768.0))
        draft.reasons.append("int16, as -1..1")
    elif not draft.is_float:
        raise ValueError(f"{draft.name} holds {draft.facts.dtype}; sounds are float or int16")
    return replace(_spec(draft, shape, (-1.0, 1.0)), sample_rate_hz=int(rate or 0))


def _label(draft: _Draft) -> TensorSpec:
    shape, one_hot = draft.shape, draft.is_float and len(draft.shape) == 1
    if prod(shape) != 1 and not one_hot:
        raise ValueError(f"--kind {draft.name}=label: a label is one number, it has {shape}")
    classes = draft.hint("classes") or (shape[0] if one_hot else draft.facts.classes)
    if not classes:
        draft.questions.append(f"--classes {draft.name}=COUNT or a file of names")
        classes = 1
    elif not one_hot and not draft.hint("classes"):
        draft.reasons.append(f"selects from {classes} rows")
    count = classes if isinstance(classes, int) else len(classes)
    if not one_hot and 0 < draft.facts.classes < count:
        raise ValueError(
            f"--classes {draft.name}={count}: the graph selects from {draft.facts.classes} rows, so"
            f" there are at most {draft.facts.classes} classes"
        )
    if one_hot:
        if count != shape[0]:
            raise ValueError(f"--classes: {draft.name} is a code of {shape[0]}, got {count}")
        draft.edits.append(Edit(op="one_hot", value=count))
        draft.reasons.append("one-hot")
    elif shape:
        draft.edits.append(Edit(op="insert_axis", value=len(shape)))
    names = () if isinstance(classes, int) else classes
    spec = _spec(draft, (), (0.0, float(count - 1)), whole=True)
    return replace(spec, classes=names)


def _numbers(draft: _Draft) -> TensorSpec:
    span = draft.hints.named("range", draft.name, draft.facts.name)
    if span is None and not draft.is_input:
        span = draft.facts.span
    return _spec(draft, draft.shape, span)


def _drawn(draft: _Draft) -> TensorSpec:
    if not draft.is_float:
        raise ValueError(
            f"--kind {draft.name}={draft.kind}: drawn numbers are floats, it is {draft.facts.dtype}"
        )
    return _spec(draft, draft.shape, None)


def _setting(draft: _Draft) -> TensorSpec:
    span, default = draft.hint("range"), draft.hint("default")
    if prod(draft.shape) != 1:
        raise ValueError(f"--kind {draft.name}=setting: it is one number, got {draft.shape}")
    if span is None:
        draft.questions.append(f"--range {draft.name}=LOW..HIGH")
    if default is None:
        draft.questions.append(f"--default {draft.name}=NUMBER")
    low, high = span or (0.0, 1.0)
    if default is not None and span is not None and not low <= default <= high:
        raise ValueError(f"--default {draft.name}={default:g} is not in {low:g}..{high:g}")
    if draft.shape:
        draft.edits.append(Edit(op="insert_axis", value=len(draft.shape)))
    spec = _spec(draft, (), (low, high))
    return replace(spec, default=low if default is None else float(default))


def _spec(
    draft: _Draft,
    shape: tuple[int, ...],
    span: tuple[float, float] | None,
    *,
    whole: bool = False,
) -> TensorSpec:
    """The spec, with the conversion of its element type among the edits."""
    own = draft.facts.dtype
    exact = own in ("int32", "uint32", "int64", "uint64") and draft.kind not in ("image", "audio")
    dtype = "int64" if whole or exact else "float32"
    if own != dtype:
        op = "cast" if draft.is_float or dtype == "int64" or own == "bool" else "round_cast"
        if draft.kind != "label" or not draft.is_float:  # a one-hot code makes its own type
            draft.edits.append(Edit(op=op, value=(dtype, own)))
        if own in ("float64", "float16"):
            draft.reasons.append(f"{own} inside")
    return TensorSpec(
        name=draft.name,
        kind=draft.kind,  # type: ignore[arg-type]
        dtype=dtype,  # type: ignore[arg-type]
        shape=shape,
        range=span,
        preprocessing=msgspec.UNSET,
    )


_READERS = {
    "image": _image,
    "audio": _audio,
    "label": _label,
    "vector": _numbers,
    "latent": _drawn,
    "uniform": _drawn,
    "setting": _setting,
}
