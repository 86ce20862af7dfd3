"""Preprocessing of images, sounds and texts as values of the manifest.

    TensorSpec(name="image", kind="image", ..., preprocessing=default_for("image"))

Training reads its data with the defaults, and export writes them into the manifest, by which user
inputs are read (artifact/user_inputs.py). Inputs of older artifacts have no preprocessing; they are
read with LEGACY_IMAGE, LEGACY_AUDIO and LEGACY_TEXT, as always.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

Sizing = Literal["nearest", "refused"]


class ImagePreprocessing(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag="image",
    tag_field="kind",
    forbid_unknown_fields=True,
):
    """An image of any size and mode -> (C, H, W) levels of 8 bits (artifact/picture.py).

    The steps follow the order of the fields; last, the mode becomes that of C channels: grey, grey
    and alpha, RGB, RGBA.
    """

    frame: Literal["first", "only"] = "first"
    """Animations and files of several pages: read the first, or refuse them."""
    draft: bool = True
    """Decode a JPEG at a half, a quarter or an eighth if that is still twice the size needed."""
    orientation: Literal["exif", "stored"] = "exif"
    """Rotate as EXIF says, or leave as stored."""
    depth: Literal["scaled", "clipped"] = "scaled"
    """Samples of 16 bits: take the upper eight, or clip at 255."""
    transparency: Literal["white", "ignored"] = "white"
    """Models without alpha: compose on white, or drop alpha, which shows the colours below it."""
    fit: Literal["crop", "pad"] = "crop"
    """The aspect ratio is kept: cut out the centre, or pad with black."""
    resampling: Literal["bicubic", "lanczos"] = "bicubic"
    """Filter for resizing; an image of the model's size is not resampled."""
    sizing: Sizing | msgspec.UnsetType = msgspec.UNSET
    """Images of a size that free axes do not allow: crop or pad to the nearest allowed one, as
    `fit` says, and resize only beyond the bounds; or refuse them, as without this field."""


class AudioPreprocessing(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag="audio",
    tag_field="kind",
    forbid_unknown_fields=True,
):
    """A recording -> (channels, samples) at the model's rate in [-1, 1]
    (artifact/audio_files.py)."""

    overload: Literal["scaled", "clipped", "limited"] = "scaled"
    """Floats beyond 1: divide the recording by its peak and refuse values that are not finite; or
    clip at 1 and set NaN to 0; or clip at 1 and refuse values that are not finite."""
    empty: Literal["refused", "silence"] = "refused"
    """A recording without samples."""
    channels: Literal["mean"] = "mean"
    """Mix to one channel, for models of one channel."""
    resampling: Literal["polyphase", "fourier"] = "polyphase"
    """Resample the whole recording by a polyphase filter (artifact/resampling.py), or the part
    around its first sound, or its beginning where the level is kept, by its Fourier transform."""
    silence: Annotated[float, msgspec.Meta(ge=0, lt=1)] = 0.01
    """Fraction of the peak below which sound is cut off at both ends."""
    margin_s: Annotated[float, msgspec.Meta(ge=0, le=60)] = 0.005
    """Seconds of it that remain on both sides."""
    peak: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.95
    """Largest absolute value of a clip, after it was cut or zero-padded at its end."""
    sizing: Sizing | msgspec.UnsetType = msgspec.UNSET
    """Clips of a length that free axes do not allow: zero-pad at the end to the next allowed one,
    and cut beyond the largest; or refuse them, as without this field."""
    level: Literal["kept"] | msgspec.UnsetType = msgspec.UNSET
    """Take the recording as it is, from its first sample on and as loud as it is, whatever
    `silence`, `margin_s` and `peak` say; values beyond 1 are clipped."""


class TextPreprocessing(
    msgspec.Struct,
    frozen=True,
    kw_only=True,
    tag="text",
    tag_field="kind",
    forbid_unknown_fields=True,
):
    """A text in UTF-8 -> the characters that become tokens (artifact/vocabulary.py)."""

    byte_order_mark: Literal["dropped", "kept"] = "dropped"
    line_ends: Literal["lf", "kept"] = "lf"
    """CR LF and CR become LF."""
    ends: Literal["stripped", "kept"] = "stripped"
    """White space at both ends."""


Preprocessing = ImagePreprocessing | AudioPreprocessing | TextPreprocessing

IMAGE, AUDIO, TEXT = ImagePreprocessing(), AudioPreprocessing(), TextPreprocessing()
"""Defaults, as training reads."""

LEGACY_IMAGE = ImagePreprocessing(
    frame="only",
    draft=False,
    orientation="stored",
    depth="clipped",
    transparency="ignored",
    fit="pad",
    resampling="lanczos",
)
LEGACY_AUDIO = AudioPreprocessing(overload="clipped", empty="silence", resampling="fourier")
LEGACY_TEXT = TextPreprocessing(byte_order_mark="kept", line_ends="kept", ends="kept")
"""Preprocessing of artifacts that carry none."""
AUDIO_KEPT = AudioPreprocessing(overload="limited", level="kept")
"""Sounds as loud as they were recorded, as training on pieces reads them."""

_READ_BY: Mapping[str, Preprocessing] = {"image": IMAGE, "audio": AUDIO, "text": TEXT}


def default_for(
    kind: str, *, free: bool = False, kept: bool = False
) -> Preprocessing | msgspec.UnsetType:
    """Preprocessing in training of inputs of a kind; UNSET for kinds that are no file or text.

    `free`: their shape has free axes; inputs of other sizes are brought to the nearest allowed one.
    `kept`: sounds were trained on as loud as they are.
    """
    reading = AUDIO_KEPT if kept and kind == "audio" else _READ_BY.get(kind, msgspec.UNSET)
    if free and isinstance(reading, ImagePreprocessing | AudioPreprocessing):
        return msgspec.structs.replace(reading, sizing="nearest")
    return reading
