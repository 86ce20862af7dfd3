"""A discriminator of patches, and the weight of its judgement beside a reconstruction loss."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from aigc.nn.losses import hinge_discriminator, no_loss, wasserstein_generator

MAX_BALANCE = 1e4
SMALLEST_NORM = 1e-4


class PatchDiscriminator(nn.Module):
    """Convolutions that judge each patch of a picture by itself (Isola et al. 2017,
    arXiv:1611.07004, section 3.2.2).

    (N, channels, H, W) -> logits (N, 1, h, w). Strides of 2 but for the last width and the logits;
    spectral norms (Miyato et al. 2018, arXiv:1802.05957) in place of BatchNorm, whose statistics
    are those of a worker's rows.
    """

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, width in enumerate(widths):
            stride = 1 if i and i == len(widths) - 1 else 2
            kernel = 4 if stride == 2 else 3
            layers += [
                spectral_norm(nn.Conv2d(channels, width, kernel, stride, padding=1)),
                nn.LeakyReLU(0.2),
            ]
            channels = width
        layers.append(spectral_norm(nn.Conv2d(channels, 1, 3, padding=1)))
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class PatchJudge(nn.Module):
    """A patch discriminator with the hinge objective, beside a loss of pixels.

    `balance` is |g| / (|g'| + 1e-4), at most 1e4, of the gradients of the loss of pixels and of the
    judgement by one weight, the last: both then change it alike much (Esser et al. 2021,
    arXiv:2012.09841, eq. 7). It is that of the last batch for which there were sums, so that the
    loss stays a mean over rows; 0 before.
    """

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.discriminator = PatchDiscriminator(channels, widths)
        self.register_buffer("balance", torch.zeros(()))
        self.balance: Tensor

    def loss(self, real: Tensor, made: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of the discriminator over the patches of (N, C, H, W), in the dtype of `real`.

        Without `made`, before its time, it is 0, as are all gradients.
        """
        if made is None:
            return no_loss(self.discriminator), {}
        both = self.discriminator(torch.cat([real, made.detach()])).to(real.dtype)
        on_real, on_made = both.chunk(2)
        metrics = {"real": on_real.mean().detach(), "fake": on_made.mean().detach()}
        return hinge_discriminator(on_real, on_made), metrics

    def judgement(self, made: Tensor) -> Tensor:
        """Loss of pictures (N, C, H, W) by the discriminator."""
        return wasserstein_generator(self.discriminator(made).to(made.dtype))

    def sums(
        self,
        features: Tensor | None,
        compared: Callable[[Tensor], tuple[Tensor, Tensor]],
        weight: Tensor,
    ) -> dict[str, Tensor]:
        """Sums over rows for update(): gradients by `weight`, and the number of rows.

        `compared` makes pictures of `features` by `weight`, and their loss of pixels. All sums are
        0 without features.
        """
        found = torch.zeros_like(weight), torch.zeros_like(weight)
        rows = 0 if features is None else len(features)
        if features is not None:
            with torch.enable_grad():
                made, loss = compared(features)
                (first,) = torch.autograd.grad(rows * loss, weight, retain_graph=True)
                (second,) = torch.autograd.grad(rows * self.judgement(made), weight)
            found = first, second
        number = weight.new_full((), float(rows))
        return {"gradient/pixels": found[0], "gradient/judgement": found[1], "judged": number}

    def update(self, sums: dict[str, Tensor]) -> None:
        """The balance, for the batches that follow."""
        rows = sums["judged"].clamp_min(1)
        pixels, judgement = (
            torch.linalg.vector_norm(sums[f"gradient/{of}"] / rows)
            for of in ("pixels", "judgement")
        )
        found = (pixels / (judgement + SMALLEST_NORM)).clamp(max=MAX_BALANCE)
        self.balance.copy_(torch.where(sums["judged"] > 0, found, self.balance))
