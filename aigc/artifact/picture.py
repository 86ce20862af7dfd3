"""Image files of any size and mode -> levels of a model: one reader for training and serving.

pixels(Image.open(path), (3, 64, 64), IMAGE)         # (3, 64, 64) uint8
read(data, (3, 64, 64), IMAGE, max_pixels=1 << 24)   # the same from untrusted bytes
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from aigc.artifact import image_files
from aigc.artifact.axes import NO_AXES, Axis, Shape, SizeError, bounds, nearest, solved
from aigc.artifact.preprocessing import ImagePreprocessing

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
"""Pillow's mode by the number of channels."""

FORMATS = ("PNG", "WEBP", "JPEG")
"""Formats decoded from untrusted bytes; few, since every decoder is an attack surface."""

_TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Transposition by EXIF orientation."""


def read(
    data: bytes,
    shape: Shape,
    reading: ImagePreprocessing,
    max_pixels: int,
    axes: Mapping[str, Axis] = NO_AXES,
) -> NDArray[np.uint8]:
    """Decode untrusted bytes to (C, H, W) uint8, whose sizes may be expressions of `axes`.

    Raises ValueError for a format not in FORMATS, more than `max_pixels`, which are counted before
    decoding, and damaged files.
    """
    with image_files.decoding(data, FORMATS):
        image = image_files.opened(data, FORMATS, max_pixels, animated=reading.frame == "first")
        return pixels(image, shape, reading, axes)


def pixels(
    image: Image.Image,
    shape: Shape,
    reading: ImagePreprocessing,
    axes: Mapping[str, Axis] = NO_AXES,
) -> NDArray[np.uint8]:
    """An opened image -> (C, H, W) uint8 by the preprocessing.

    With free axes an image of an allowed size keeps it. Raises ValueError for other sizes unless
    the preprocessing says what becomes of them, for levels of unknown range and for more than four
    channels, and any error of Pillow for a damaged file.
    """
    channels, *most = bounds(axes, shape)[1]
    if channels not in MODES:
        raise ValueError(f"the model wants {channels} channels, pictures have 1 to {len(MODES)}")
    if reading.draft:
        image.draft(None, (2 * max(most), 2 * max(most)))
    image.load()  # what is damaged is noticed, and what stands behind the pixels of a file is known
    if reading.orientation == "exif":
        image = upright(image)
    image = _in_mode(image, MODES[channels], reading)
    if axes:
        image = _allowed(image, shape[1:], reading, axes)
    elif image.size != (most[1], most[0]):
        image = _resized(image, (most[1], most[0]), reading)
    levels = np.asarray(image, np.uint8).reshape(image.height, image.width, channels)
    return np.ascontiguousarray(levels.transpose(2, 0, 1))


def _allowed(
    image: Image.Image, shape: Shape, reading: ImagePreprocessing, axes: Mapping[str, Axis]
) -> Image.Image:
    """The image at an allowed size: its own, or the nearest as the preprocessing says."""
    found = image.height, image.width
    try:
        solved(axes, shape, found)
        return image
    except SizeError as error:
        if reading.sizing != "nearest":
            raise ValueError(f"its size is {found[1]} x {found[0]}: {error}") from None
    crop = reading.fit == "crop"
    least, most = bounds(axes, shape)
    scale = min(1.0, *(limit / size for limit, size in zip(most, found, strict=True)))
    if crop:
        scale = max(scale, *(limit / size for limit, size in zip(least, found, strict=True)))
    wanted = tuple(max(1, round(size * scale)) for size in found)
    height, width = nearest(axes, shape, wanted, up=not crop)
    if scale != 1 or (crop and (height > found[0] or width > found[1])):
        return _resized(image, (width, height), reading)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))  # black where it is outside


def upright(image: Image.Image) -> Image.Image:
    """An image rotated as its EXIF says. ImageOps.exif_transpose() would also rewrite the tags."""
    method = _TURNED.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    return image if method is None else image.transpose(method)


def _resized(image: Image.Image, size: tuple[int, int], reading: ImagePreprocessing) -> Image.Image:
    bicubic = reading.resampling == "bicubic"
    method = Image.Resampling.BICUBIC if bicubic else Image.Resampling.LANCZOS
    if reading.fit == "crop":
        return ImageOps.fit(image, size, method)
    return ImageOps.pad(image, size, method, color=0)


def _in_mode(image: Image.Image, mode: str, reading: ImagePreprocessing) -> Image.Image:
    """Converted to mode L, LA, RGB or RGBA."""
    if reading.depth == "scaled":
        image = _eight_bits(image)
    if mode not in ("LA", "RGBA"):
        has_alpha = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
        if reading.transparency == "ignored":
            image = image if image.mode in ("L", "RGB") else image.convert("RGB")
        elif has_alpha:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Grey of 16 bits -> its upper eight. Raises ValueError if the range is unknown."""
    if image.mode == "F":
        low, high = image.getextrema()
        raise ValueError(
            f"its pixels are floating point, whose range is not known: they are {low:g} to"
            f" {high:g}; save it with 8 or 16 bits a channel"
        )
    if not image.mode.startswith("I"):
        return image
    levels = np.asarray(image)
    if image.mode == "I":
        low, high = levels.min(), levels.max()
        if low < 0 or high > 65535 or 0 < high <= 255:
            fault = "would be black as 16 bits" if low >= 0 and high <= 255 else "exceed 16 bits"
            raise ValueError(
                f"its pixels are 32-bit integers, whose white is not known: {low} to {high}"
                f" {fault}; save it with 8 or 16 bits a channel"
            )
    return Image.fromarray((levels >> 8).astype(np.uint8))
