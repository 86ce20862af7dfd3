"""`aigc import FILE.onnx --name NAME`: an ONNX file of any project as a sealed artifact.

It looks into the graph, says what it takes each input and output for, and asks by flags for what
neither names nor shapes tell. Needs onnx, not torch.
"""

import sys
import zipfile
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray

from aigc.commands import licence
from aigc.files import expanded
from aigc.sealing import seal

FACTS = ("kind", "range", "classes", "sample_rate", "layout", "shape", "default", "rename", "axis")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Import ONNX files as a sealed artifact. A fact is NAME=VALUE for an input or output, or VALUE
    for all that it can be of."""

    files: tyro.conf.Positional[tuple[str, ...]]
    """ONNX files, one for each signature: FILE or SIGNATURE=FILE, such as decode=decoder.onnx. A
    single one is called by its inputs: sample if a seed draws them, else encode, decode, transform
    or run."""
    name: str
    """Name of the artifact."""
    version: str = ""
    """Version; by default one more than the newest."""
    out: str = "artifacts"
    """Store: a folder or an object-store URI."""
    licence: str = ""
    """SPDX identifier of the weights' licence; unstated if not given."""
    kind: tuple[str, ...] = ()
    """Kind of a tensor, such as z=latent: latent (normal noise), uniform, label, image, audio,
    vector or setting."""
    range: tuple[str, ...] = ()
    """LOW..HIGH: values of black and white of images, such as image=0..1, or least and most."""
    classes: tuple[str, ...] = ()
    """Classes of a label: their number, or a file with a name in each line."""
    sample_rate: tuple[str, ...] = ()
    """Sample rate of sounds in Hz."""
    layout: tuple[str, ...] = ()
    """chw or hwc, the order of the axes of images, where their sizes do not tell."""
    shape: tuple[str, ...] = ()
    """Sizes of one sample, such as image=3x64x64, where the graph leaves them open."""
    axis: tuple[str, ...] = ()
    """NAME=MIN..MAX[:MULTIPLE[:DEFAULT]] of a size that the graph names and leaves open, and that
    stays free, such as height=16..512:8."""
    default: tuple[str, ...] = ()
    """Value of a setting that is not given, such as scale=1."""
    rename: tuple[str, ...] = ()
    """Name of a tensor in the artifact, such as input.1=image."""
    each_alone: bool = False
    """The graph takes one sample, without a batch axis: run it on each by itself."""
    precision: Literal["float32", "float16", "int8", "int8-conv"] = "float32"
    """Numbers inside of the graphs. float32: as they are. float16: half the bytes. int8: weights
    alone, a quarter. int8-conv: also what convolutions take, which CPUs compute faster.
    The manifest states what they cost."""
    calibration: str = ""
    """With int8-conv: an .npz file of real inputs, an array (n, ...) of each tensor that is not
    noise or a class, by its name in the artifact."""
    tile: bool = False
    """Make images beyond the bounds of --axis of tiles. How far they overlap is measured, and that
    they equal the whole is proven; a graph whose outputs see everything is refused."""
    chunk: bool = False
    """Make sounds beyond the bound of --axis of chunks. The context that they need is measured, and
    how far they are from the whole; a graph that needs all of a sound is refused."""
    sign: str = ""
    """Private key (PEM, of an elliptic curve) to sign it with; needs aigc[sign]."""


def command(argv: list[str]) -> int:
    """Seal ONNX files of any project as an artifact."""
    options = tyro.cli(Options, args=argv, prog="aigc import", description=Options.__doc__)
    if not options.files:
        raise ValueError("give an ONNX file: aigc import FILE.onnx --name NAME")
    parts = [_part(one) for one in options.files]
    if len({name for name, _ in parts}) < len(parts):
        raise ValueError("several files need the name of a signature each: SIGNATURE=FILE")
    facts: dict[str, Any] = {fact: _by_name(getattr(options, fact)) for fact in FACTS}
    uri = seal(
        dict(parts),
        name=options.name,
        version=options.version,
        store=options.out,
        licence=licence.checked(options.licence),
        each_alone=options.each_alone,
        precision=options.precision,
        calibration=_arrays(options.calibration) if options.calibration else None,
        tile=options.tile,
        chunk=options.chunk,
        sign=options.sign,
        say=lambda line: print(line, file=sys.stderr),
        **facts,
    )
    licence.ask(options.licence)
    print(uri)
    return 0


def _arrays(file: str) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file by name. Raises ValueError for any other."""
    try:
        with np.load(expanded(file), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, AttributeError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"--calibration {file} must be an .npz file of arrays without pickles: {error}"
        ) from error


def _part(value: str) -> tuple[str, str]:
    """Signature, empty if not named, and file."""
    name, equals, file = value.partition("=")
    return (name, file) if equals and name.isidentifier() else ("", value)


def _by_name(values: tuple[str, ...]) -> dict[str, str]:
    """Values by the names of tensors; "" for all."""
    said = {}
    for value in values:
        name, equals, given = value.rpartition("=")
        said[name if equals else ""] = given
    return said
