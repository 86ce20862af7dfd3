"""Blocks that two or more models share."""

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.utils.parametrizations import _SpectralNorm, spectral_norm

from aigc.config import require
from aigc.nn.resize import ResizeConv2d

Activation = Literal["relu", "leaky_relu"]
Upsampling = Literal["transposed", "resize"]


class _KeepsLayout(nn.Module):
    """Mixin of an activation: its gradient has the memory layout of its output.

    Flattening and convolutions of one channel return gradients in another layout, and with two
    layouts the backward pass of an activation takes four times as long.
    """

    def forward(self, input: Tensor) -> Tensor:
        output: Tensor = super().forward(input)
        laid_out = output.dim() == 4 and output.is_contiguous(memory_format=torch.channels_last)
        if laid_out and output.requires_grad and not torch.compiler.is_compiling():
            output.register_hook(_channels_last)  # type: ignore[no-untyped-call]
        return output


def _channels_last(gradient: Tensor) -> Tensor:
    return gradient.contiguous(memory_format=torch.channels_last)


class _ReLU(_KeepsLayout, nn.ReLU):
    pass


class _LeakyReLU(_KeepsLayout, nn.LeakyReLU):
    pass


def activation(name: Activation) -> nn.Module:
    """relu, or leaky_relu with slope 0.2 (Radford et al. 2016, section 3)."""
    return _ReLU() if name == "relu" else _LeakyReLU(0.2)


def condition(x: Tensor, label: Tensor | None, num_classes: int) -> Tensor:
    """x: (N, D) -> (N, D + num_classes): the class one-hot beside it; x itself without classes."""
    classes = one_hot(label, num_classes, x.dtype)
    return x if classes is None else torch.cat([x, classes], 1)


def one_hot(label: Tensor | None, num_classes: int, dtype: torch.dtype) -> Tensor | None:
    """label: (N,) -> (N, num_classes); None without classes."""
    if num_classes == 0:
        return None
    assert label is not None
    return F.one_hot(label, num_classes).to(dtype)


def upsampling_base(
    shape: tuple[int, ...],
    widths: tuple[int, ...],
    strides: tuple[int, ...],
    kernel: int,
    upsampling: Upsampling = "transposed",
) -> tuple[int, int]:
    """Height and width at which an Upsampler starts in order to end at `shape`.

    Raises ValueError naming the field and a fix if no size does.
    """
    check_image(shape)
    check_positive("widths", widths)
    check_positive("strides", strides)
    factor = math.prod(strides)
    require(
        len(widths) == len(strides) > 0,
        f"widths and strides must have one entry per {upsampling} convolution, got {len(widths)}"
        f" widths {widths} and {len(strides)} strides {strides}",
    )
    require(
        shape[1] % factor == 0 and shape[2] % factor == 0,
        f"shape {shape} is not reached: strides {strides} multiply by {factor}, so height and width"
        f" must be multiples of {factor}; take {factor * max(1, round(shape[1] / factor))}",
    )
    require(
        upsampling == "transposed" or kernel % 2 == 1,
        f"kernel {kernel} of a resize convolution cannot keep the size exact; take kernel"
        f" {kernel + 1 if kernel < 4 else kernel - 1}",
    )
    for stride in strides if upsampling == "transposed" else ():
        require(
            kernel >= stride and ((kernel - stride) % 2 == 0 or stride > 1),
            f"kernel {kernel} with stride {stride} cannot keep the size exact;"
            f" take kernel {stride + 2 - stride % 2 + 1 if stride == 1 else stride + 2}",
        )
    return shape[1] // factor, shape[2] // factor


def check_image(shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `shape` is (C, H, W)."""
    require(
        len(shape) == 3,
        f"shape must be (C, H, W): a convolution takes batches of rank 4, {shape} gives rank"
        f" {len(shape) + 1}; take for example (1, 28, 28), or a fully connected model",
    )


def check_positive(name: str, sizes: tuple[int, ...]) -> None:
    """Raise ValueError naming the field unless all `sizes` are > 0."""
    require(all(size > 0 for size in sizes), f"{name} must all be > 0, got {sizes}")


def downsampled(
    shape: tuple[int, ...], widths: tuple[int, ...], kernel: int
) -> tuple[int, int, int]:
    """(C, H, W) after one convolution of stride 2 per width.

    Raises ValueError naming the field and a fix if nothing would be left.
    """
    check_image(shape)
    check_positive("widths", widths)
    require(kernel > 0, f"kernel must be > 0, got {kernel}")
    _, height, width = shape
    for _ in widths:
        spare = 2 * ((kernel - 1) // 2) - kernel
        require(
            height + spare >= 0 and width + spare >= 0,
            f"shape {shape} is too small for {len(widths)} halvings, widths {widths}, with kernel"
            f" {kernel}; take fewer widths",
        )
        height, width = (height + spare) // 2 + 1, (width + spare) // 2 + 1
    return (*widths[-1:], height, width) if widths else shape  # type: ignore[return-value]


def fitting_widths(shape: tuple[int, ...], factor: int) -> tuple[int, ...]:
    """Channels by halving, 32 at first, of a network that ends at 4 to 7 pixels.

    Empty where networks that divide the sides by `factor` end there or below, and where no halvings
    of the shape do.
    """
    if len(shape) != 3 or _ends_low(shape, factor):
        return ()
    widths = [32]
    while not _ends_low(shape, 2 ** len(widths)):
        if shape[1] % 2 ** len(widths) or shape[2] % 2 ** len(widths):
            return ()
        widths.append(min(256, 2 * widths[-1]))
    return tuple(widths)


def _ends_low(shape: tuple[int, ...], factor: int) -> bool:
    sides = shape[1:]
    return min(sides) < 8 * factor and all(side % factor == 0 for side in sides)


class Upsampler(nn.Sequential):
    """Dense layer to (widths[0], h, w), then one convolution per stride, to logits.

    (N, features) -> (N, *shape), with BatchNorm (optional) and activation between the layers. The
    convolutions are transposed ones, or ResizeConv2d.
    """

    def __init__(
        self,
        features: int,
        shape: tuple[int, ...],
        widths: tuple[int, ...],
        strides: tuple[int, ...],
        kernel: int,
        act: Activation,
        batch_norm: bool,
        upsampling: Upsampling = "transposed",
    ) -> None:
        height, width = upsampling_base(shape, widths, strides, kernel, upsampling)
        layers: list[nn.Module] = [
            nn.Linear(features, widths[0] * height * width, bias=not batch_norm),
            _Pixels(1, (widths[0], height, width)),
        ]
        outputs = (*widths[1:], shape[0])
        for i, (c_in, c_out, stride) in enumerate(zip(widths, outputs, strides, strict=True)):
            if batch_norm:
                layers.append(nn.BatchNorm2d(c_in))
            layers.append(activation(act))
            bias = i == len(strides) - 1 or not batch_norm
            if upsampling == "resize":
                layers.append(ResizeConv2d(c_in, c_out, kernel, stride, bias=bias))
                continue
            spare = (kernel - stride) % 2
            layers.append(
                (_ToOneChannel if c_out == 1 else nn.ConvTranspose2d)(
                    c_in,
                    c_out,
                    kernel,
                    stride,
                    padding=(kernel - stride + spare) // 2,
                    output_padding=spare,
                    bias=bias,
                )
            )
        super().__init__(*layers)


class _Pixels(nn.Unflatten):
    """Rows to images in the memory layout of the weights that follow, so no layer converts."""

    def forward(self, input: Tensor) -> Tensor:
        images: Tensor = super().forward(input)
        return images.contiguous(memory_format=torch.channels_last)


class _ToOneChannel(nn.ConvTranspose2d):
    """A transposed convolution to one channel, on the CPU as a matrix product and a fold.

    oneDNN computes channels in blocks, which one channel leaves mostly unused. Exported and
    compiled graphs, and GPUs, run the convolution itself.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        plain = (
            input.device.type != "cpu"
            or torch.compiler.is_compiling()
            or torch.is_autocast_enabled("cpu")
        )
        if plain or output_size is not None:
            return super().forward(input, output_size)
        n, c_in, height, width = input.shape
        rows = input.permute(0, 2, 3, 1).reshape(n, height * width, c_in)
        patches = (rows @ self.weight.reshape(c_in, -1)).transpose(1, 2)
        padding = self.padding
        assert not isinstance(padding, str)
        size = tuple(
            (side - 1) * s - 2 * p + k + spare
            for side, s, p, k, spare in zip(
                (height, width),
                self.stride,
                padding,
                self.kernel_size,
                self.output_padding,
                strict=True,
            )
        )
        image = F.fold(patches, size, self.kernel_size, padding=padding, stride=self.stride)
        return image if self.bias is None else image + self.bias[:, None, None]


class Downsampler(nn.Module):
    """Strided convolutions, flattened, then a dense layer: (N, *shape) -> (N, features)."""

    def __init__(
        self,
        shape: tuple[int, ...],
        widths: tuple[int, ...],
        kernel: int,
        hidden: int,
        dropout: float,
        spectral: bool,
    ) -> None:
        super().__init__()
        wrap = spectral_norm if spectral else _plain
        layers: list[nn.Module] = []
        channels = shape[0]
        for c_out in widths:
            layers += [
                wrap(nn.Conv2d(channels, c_out, kernel, 2, padding=(kernel - 1) // 2)),
                activation("leaky_relu"),
            ]
            if dropout:
                layers.append(nn.Dropout(dropout))
            channels = c_out
        layers.append(nn.Flatten())
        self.features = math.prod(downsampled(shape, widths, kernel))
        if hidden:
            layers += [wrap(nn.Linear(self.features, hidden)), nn.LeakyReLU(0.2)]
            self.features = hidden
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, *shape) in [-1, 1] -> (N, features)."""
        return self.layers(x)  # type: ignore[no-any-return]


class Dense(nn.Sequential):
    """Fully connected layers with LeakyReLU between them: (N, sizes[0]) -> (N, sizes[-1])."""

    def __init__(self, *sizes: int) -> None:
        layers: list[nn.Module] = []
        for c_in, c_out in itertools.pairwise(sizes):
            layers += [nn.LeakyReLU(0.2)] if layers else []
            layers.append(nn.Linear(c_in, c_out))
        super().__init__(*layers)


class DiscriminatorHead(nn.Module):
    """Head of a discriminator: real-or-fake logit, with projection and auxiliary class head.

    Projection: Miyato & Koyama 2018, arXiv:1802.05637, eq. 3. Auxiliary head: Odena et al. 2017,
    arXiv:1610.09585.
    """

    def __init__(self, features: int, num_classes: int, auxiliary: bool, spectral: bool) -> None:
        super().__init__()
        wrap = spectral_norm if spectral else _plain
        self.logit = wrap(nn.Linear(features, 1))
        self.projection = wrap(nn.Embedding(num_classes, features)) if num_classes else None
        self.classes = wrap(nn.Linear(features, num_classes)) if auxiliary else None

    def forward(self, h: Tensor, label: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """h: (N, features), label: (N,) -> logits (N,), class logits (N, num_classes) or None."""
        logits = self.logit(h)[:, 0]
        if self.projection is not None:
            assert label is not None
            logits = logits + (self.projection(label) * h).sum(1)
        return logits, None if self.classes is None else self.classes(h)


def has_head(discriminator: nn.Module) -> bool:
    """True if a discriminator has one DiscriminatorHead."""
    return sum(isinstance(module, DiscriminatorHead) for module in discriminator.modules()) == 1


def head_inputs(discriminator: nn.Module, x: Tensor, label: Tensor | None) -> Tensor:
    """The features (N, D) that the DiscriminatorHead of a discriminator gets, uncompiled."""
    (head,) = (m for m in discriminator.modules() if isinstance(m, DiscriminatorHead))
    seen: list[Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        discriminator.forward(x, label)
    finally:
        hook.remove()
    return seen[0]


@contextmanager
def frozen_power_iteration(model: nn.Module, frozen: bool) -> Iterator[None]:
    """Keep the vectors of spectral norms. A no-op unless `frozen`."""
    norms = [m for m in model.modules() if isinstance(m, _SpectralNorm)] if frozen else []
    for norm in norms:
        norm.eval()
    try:
        yield
    finally:
        for norm in norms:
            norm.train()


Buffers = list[tuple[Tensor, Tensor]]
"""Buffers of a model, each with a copy."""


def spectral_vectors(model: nn.Module) -> Buffers:
    """The vectors of the spectral norms, and copies of what they are now."""
    return [(each, each.clone()) for m in model.modules() for each in _of(m, _SpectralNorm)]


def running_statistics(model: nn.Module) -> Buffers:
    """The running statistics of BatchNorm and the like, and copies of what they are now."""
    return [(each, each.clone()) for m in model.modules() for each in _of(m, _NormBase)]


def _of(module: nn.Module, kind: type[nn.Module]) -> list[Tensor]:
    return list(module.buffers(recurse=False)) if isinstance(module, kind) else []


@torch.no_grad()
def restore_buffers(buffers: Buffers) -> None:
    """Set buffers to their copies, in place: no graph holds these."""
    for buffer, copy in buffers:
        buffer.copy_(copy)


@torch.no_grad()
def advance_power_iteration(model: nn.Module) -> None:
    """Iterate the vectors of all spectral norms once, in training mode."""
    for module in model.modules():
        for name, parametrizations in getattr(module, "parametrizations", {}).items():
            if any(isinstance(each, _SpectralNorm) for each in parametrizations):
                getattr(module, name)  # computing the weight iterates


def _plain(module: nn.Module) -> nn.Module:
    return module
