"""Pictures in [-1, 1] as a feature network takes them: channels, size and values."""

import hashlib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from aigc.artifact import Signature
from aigc.config import require
from aigc.suggest import alternatives

OPTIONS = {
    "range": "values from black to white, such as 0..1 or 0..255",
    "size": "height and width, such as 299 or 224x224",
    "mean": "mean per channel that is subtracted, such as 0.485/0.456/0.406",
    "std": "standard deviation per channel that is divided by, such as 0.229/0.224/0.225",
    "output": "name of the output with the features",
}
"""Options of a reference, which metadata of an ONNX file may hold as well."""
PIN = "sha256"
"""Option of a reference: first digits of the network's SHA-256; another network is refused."""


@dataclass(frozen=True, kw_only=True)
class FeatureInput:
    """Conversion of pictures (N, C, H, W) in [-1, 1] to the input of a network."""

    where: str
    """Reference of the network, for messages."""
    channels: int = 0
    """Number of channels; 0 for any. Grey pictures are repeated for more of them."""
    size: tuple[int, int] | None = None
    """Height and width; None for those of the pictures."""
    range: tuple[float, float] = (-1.0, 1.0)
    """Values of black and white."""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @classmethod
    def of(cls, options: Mapping[str, str], where: str, **fixed: Any) -> "FeatureInput":
        """By options as texts. Raises ValueError for one that cannot be read."""
        low, high = _numbers(options, "range", r"\.\.", where) or (-1.0, 1.0)
        require(low < high, f"{where}: range must be LOW..HIGH, got {options.get('range')}")
        size = _numbers(options, "size", "x", where)
        if size:
            require(
                all(side > 0 and side.is_integer() for side in size),
                f"{where}: size must be {OPTIONS['size']}, got {options['size']}",
            )
            wanted = (int(size[0]), int(size[-1]))
            require(
                fixed.setdefault("size", wanted) == wanted,
                f"{where} takes pictures of {'x'.join(map(str, fixed['size']))} alone; leave out"
                f" size={options['size']}",
            )
        mean, std = (_numbers(options, name, "/", where) for name in ("mean", "std"))
        require(all(std), f"{where}: std must not be 0")
        return cls(where=where, range=(low, high), mean=mean, std=std, **fixed)

    @classmethod
    def of_graph(
        cls, inputs: Sequence[Any], options: Mapping[str, str], where: str
    ) -> "FeatureInput":
        """By the inputs of an onnxruntime session. Raises ValueError for others than pictures."""
        shapes = {one.name: one.shape for one in inputs}
        require(
            len(inputs) == 1 and len(inputs[0].shape) == 4 and inputs[0].type == "tensor(float)",
            f"{where} must have one input (N, C, H, W) of float32, it has {shapes}",
        )
        batch, channels, *size = inputs[0].shape
        require(
            not isinstance(batch, int),
            f"{where} takes batches of {batch} alone; export it with a free batch axis",
        )
        fixed: dict[str, Any] = {"channels": channels} if isinstance(channels, int) else {}
        sides = {side for side in size if isinstance(side, int)}
        require(
            len(sides) == 0 or all(isinstance(side, int) for side in size),
            f"{where} takes pictures of {' x '.join(map(str, size))}, of which one side is free;"
            " export it with both free, or with both fixed",
        )
        if sides:
            fixed["size"] = tuple(size)
        return cls.of(options, where, **fixed)

    def __call__(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W) in [-1, 1] -> as the network takes it, with gradients.

        Sizes are changed by bicubic interpolation without aliases (Parmar et al. 2022,
        arXiv:2104.11222). Raises ValueError for other channels than it takes.
        """
        if self.channels not in (0, x.shape[1]):
            require(
                x.shape[1] == 1,
                f"feature network {self.where} takes pictures of {self.channels} channels, these"
                f" have {x.shape[1]}; take another network",
            )
            x = x.expand(-1, self.channels, -1, -1)
        if self.size is not None and tuple(x.shape[2:]) != self.size:
            x = F.interpolate(x, self.size, mode="bicubic", antialias=True, align_corners=False)
        low, high = self.range
        if self.range != (-1.0, 1.0):
            x = (x + 1) * ((high - low) / 2) + low
        for values, of in ((self.mean, torch.sub), (self.std, torch.div)):
            if values:
                x = of(x, torch.tensor(values, dtype=x.dtype, device=x.device)[:, None, None])
        return x.contiguous()


def with_signature(signature: Signature, where: str) -> FeatureInput:
    """Pictures as a signature takes them. Raises ValueError if it takes anything else."""
    given = signature.inputs
    require(
        len(given) == 1 and given[0].kind == "image",
        f"{where}: its features are not of one picture, but of"
        f" {', '.join(f'{spec.kind} {spec.name!r}' for spec in given)}",
    )
    channels, *size = given[0].shape
    assert isinstance(channels, int)
    fixed = None if given[0].is_free else (int(size[0]), int(size[1]))
    return FeatureInput(
        where=where, channels=channels, size=fixed, range=given[0].range or (-1.0, 1.0)
    )


def given_options(reference: str) -> tuple[str, dict[str, str]]:
    """`net.onnx,size=299` -> `net.onnx` and the options. Raises ValueError for unknown ones."""
    path, *rest = reference.split(",")
    options = {}
    for text in rest:
        name, equals, value = text.partition("=")
        require(
            bool(equals and value) and name in (*OPTIONS, PIN),
            f"{reference}: unknown option {text!r}, where NET,range=0..1,size=299 is the form"
            f"{alternatives(name, (*OPTIONS, PIN))}",
        )
        options[name] = value
    return path, options


def identity(made_of: bytes, options: Mapping[str, str]) -> str:
    """SHA-256 of a network: of its bytes, and of the options if there are any."""
    digest = hashlib.sha256(made_of)
    for name, value in sorted(options.items()):
        digest.update(f",{name}={value}".encode())
    return digest.hexdigest()


def _numbers(
    options: Mapping[str, str], name: str, separator: str, where: str
) -> tuple[float, ...]:
    """Numbers of an option; () if it is not given."""
    text = options.get(name, "")
    if not text:
        return ()
    try:
        found = tuple(map(float, re.split(separator, text)))
    except ValueError:
        found = ()
    found = found if all(map(math.isfinite, found)) else ()
    counts = {"range": (2,), "size": (1, 2)}.get(name, (1, 3))
    require(len(found) in counts, f"{where}: {name} must be {OPTIONS[name]}; got {text[:60]!r}")
    return found
