"""Sizes that a request chooses: of axes by name, or of images as WIDTHxHEIGHT."""

from collections.abc import Mapping

from aigc.artifact.axes import SizeError, sizes_of_image
from serve.errors import HTTPError
from serve.hosting.runner import SignatureRunner


def chosen_sizes(
    runner: SignatureRunner, size: str | None, sizes: Mapping[str, int] | None = None
) -> dict[str, int]:
    """Sizes of axes by name, those of `size` included. Raises HTTPError 400.

    The size of a signature of fixed shapes may be named, too.
    """
    if size is None:
        return dict(sizes or {})
    found = of_image(runner, size)
    for name, other in (sizes or {}).items():
        if found.setdefault(name, other) != other:
            message = f"size {size} means {name} {found[name]}, sizes says {other}; give one"
            raise HTTPError(400, "no_effect", message, param="sizes")
    return found


def of_image(runner: SignatureRunner, size: str) -> dict[str, int]:
    """Sizes of the axes at which images are WIDTHxHEIGHT. Raises HTTPError 400."""
    image = runner.image
    if image is None:
        raise HTTPError(400, "no_effect", f"size has no effect: {runner.no_image}", param="size")
    try:
        return sizes_of_image(runner.spec.reach, image.shape, size)
    except SizeError as error:
        given = f"{runner.artifact.id} gives images of {sizes_in_words(runner)}"
        message = f"{given}, got size {size[:60]!r}: {error}"
        raise HTTPError(400, "unsupported_value", message, param="size") from None


def sizes_in_words(runner: SignatureRunner) -> str:
    """WIDTHxHEIGHT of a runner's images, and the axes in whose terms they are."""
    assert runner.image is not None
    _, height, width = runner.image.shape
    axes = runner.spec.reach.items()
    terms = "".join(f", {name} {axis.describe()}" for name, axis in axes)
    return f"{width}x{height}{terms}"
