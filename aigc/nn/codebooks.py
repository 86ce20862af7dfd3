"""Codebooks: latents whose places are one of a few codes, by number.

    codebook = VectorCodebook(codes=512, width=8)
    tokens = codebook.tokens(z)                     # (N, 8, h, w) -> (N, h, w) int64
    codes = codebook.vectors_of(tokens)             # (N, h, w) -> (N, 8, h, w)

A codebook keeps running means of how often each code is taken (`usage`), of which it makes the
perplexity, and from which codes are drawn. They and the codes of a VectorCodebook come of sums over
the rows of a batch, so they do not depend on the number of workers.
"""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aigc.config import require
from aigc.nn.full_precision import full_precision
from aigc.rng import BatchRNG

DECAY = 0.99
"""Memory of the running means, per batch (van den Oord et al. 2017, appendix A.1)."""
IN_USE = 0.01
"""Share of the mean usage from which on a code counts as in use."""
COLLAPSED = 0.01
"""Share of the codes; a perplexity below it means a collapse."""
REVIVED_BELOW = 0.1
"""Share of the mean usage below which a code of a VectorCodebook is given a new place."""


JITTER = 0.01
"""Largest relative distance of a moved code to its vector, so that no two codes are alike."""


MAX_LEVELS = 1000
"""Most levels of a channel; from 1,002 on the bounds of FSQ round to numbers out of range."""
MAX_CODES = 1 << 20


def check_codes(codes: int, levels: tuple[int, ...]) -> None:
    """Raise ValueError for numbers that no VectorCodebook or ScalarCodebook can have."""
    require(1 < codes <= MAX_CODES, f"codes must be 2 to {MAX_CODES:,}, got {codes:,}")
    require(
        len(levels) > 0 and all(1 < level <= MAX_LEVELS for level in levels),
        f"levels must be 2 to {MAX_LEVELS:,} each, got {levels}",
    )
    require(
        math.prod(levels) <= MAX_CODES,
        f"levels {levels} have {math.prod(levels):,} combinations; {MAX_CODES:,} is the most",
    )


class Codebook(nn.Module):
    """A finite set of vectors (width,), numbered from 0."""

    def __init__(self, codes: int, width: int) -> None:
        super().__init__()
        self.codes, self.width = codes, width
        self.register_buffer("usage", torch.full((codes,), 1 / codes))
        self.usage: Tensor

    @abstractmethod
    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """z: (N, width, h, w) -> the vectors taken, with a gradient for z, and tokens (N, h, w)."""

    @abstractmethod
    def tokens(self, z: Tensor) -> Tensor:
        """z: (N, width, h, w) -> number of the code of each place, (N, h, w) int64."""

    @abstractmethod
    def vectors_of(self, tokens: Tensor) -> Tensor:
        """tokens: (N, h, w) int64 in [0, codes) -> (N, width, h, w)."""

    def sums(self, z: Tensor, tokens: Tensor, noise: BatchRNG) -> dict[str, Tensor]:
        """Sums over the rows that update() needs; z: (N, width, h, w), tokens: (N, h, w)."""
        counts = z.new_zeros(self.codes)
        return {"counts": counts.index_add_(0, tokens.flatten(), z.new_ones(tokens.numel()))}

    def update(self, sums: dict[str, Tensor]) -> None:
        """Running mean of the usage, in shares of all places; it begins even."""
        self.usage.lerp_(sums["counts"] / sums["counts"].sum(), 1 - DECAY)

    def metrics(self) -> dict[str, Tensor]:
        """Perplexity exp(H) of the usage, from 1 to `codes`, and the share of codes in use."""
        usage = self.usage / self.usage.sum()
        entropy = -torch.special.xlogy(usage, usage).sum()
        in_use = usage * self.codes >= IN_USE
        return {"perplexity": entropy.exp(), "codes_used": in_use.to(usage.dtype).mean()}

    def collapsed(self, perplexity: float) -> str:
        """Message for a perplexity at which hardly any code is taken; "" for a sound one."""
        if perplexity >= max(1.5, COLLAPSED * self.codes):
            return ""
        return (
            f"the codebook has collapsed: as if {perplexity:.3g} of {self.codes} codes were taken"
            " alike often; lower the learning rate, take fewer codes or a smaller --model.latent,"
            " or take --model.bottleneck fsq, which has no codes to learn"
        )

    def draw(self, uniform: Tensor) -> Tensor:
        """Tokens by their usage: uniform: (N, h, w) in [0, 1) -> (N, h, w) int64."""
        total = self.usage.double().cumsum(0)
        above = (total / total[-1])[:-1].to(uniform.dtype)
        size = 1 << (self.codes - 1).bit_length()
        above = F.pad(above, (0, size - len(above)), value=2.0)
        # Binary search for the number of bounds that are not above: no graph has a sorted search.
        token = torch.zeros_like(uniform, dtype=torch.long)
        while size := size // 2:
            token = torch.where(uniform >= above[token + size - 1], token + size, token)
        return token


class VectorCodebook(Codebook):
    """Codes that follow the mean of what takes them (van den Oord et al. 2017, arXiv:1711.00937,
    appendix A.1; Razavi et al. 2019, arXiv:1906.00446).

    A code that hardly anything takes is moved near a vector of the batch, drawn by its BatchRNG; at
    first all codes are.
    """

    def __init__(self, codes: int, width: int, commitment: float = 0.25) -> None:
        super().__init__(codes, width)
        require(codes > 1, f"codes must be > 1, got {codes}")
        self.commitment = commitment
        self.register_buffer("vectors", torch.randn(codes, width) / codes)
        self.register_buffer("totals", torch.zeros(codes, width))
        self.vectors: Tensor
        self.totals: Tensor

    def tokens(self, z: Tensor) -> Tensor:
        """The nearest code of each place; of equally near ones the first."""
        # |z - c|^2 = |z|^2 - 2 (z . c - |c|^2 / 2), as a convolution of kernel 1.
        nearness = F.conv2d(z, self.vectors[:, :, None, None], -0.5 * self.vectors.square().sum(1))
        return nearness.argmax(1)

    def vectors_of(self, tokens: Tensor) -> Tensor:
        """See Codebook."""
        return F.embedding(tokens, self.vectors).permute(0, 3, 1, 2)

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Nearest codes; the gradient passes straight through.

        Autocast would compare codes in bfloat16, and take others.
        """
        with torch.no_grad(), full_precision(z):
            tokens = self.tokens(z)
            taken = self.vectors_of(tokens)
        return z + (taken - z).detach(), tokens

    def loss(self, z: Tensor, tokens: Tensor) -> Tensor:
        """commitment * E[(z - sg(c))^2]  (van den Oord et al. 2017, eq. 3, third term)."""
        return self.commitment * (z - self.vectors_of(tokens).detach()).square().mean()

    def sums(self, z: Tensor, tokens: Tensor, noise: BatchRNG) -> dict[str, Tensor]:
        """Counts and sums of what took each code, and a vector of the batch for each code."""
        places = z.permute(0, 2, 3, 1).flatten(1, 2)  # (N, h * w, width)
        totals = torch.zeros_like(self.totals)
        totals.index_add_(0, tokens.flatten(), places.flatten(0, 1).to(totals.dtype))
        chosen = noise.one_row("revival/row", self.codes).to(z.dtype)  # (N, codes)
        at = noise.uniform("revival/place", self.codes).to(z.dtype) * places.shape[1]
        candidates = places.gather(1, at.long()[..., None].expand(-1, -1, self.width))
        # Two codes of one vector would be equally near for good, but for rounding.
        candidates = candidates * (1 + JITTER * at.frac())[..., None]
        candidates = (chosen[..., None] * candidates).sum(0)
        return super().sums(z, tokens, noise) | {"totals": totals, "candidates": candidates}

    def update(self, sums: dict[str, Tensor]) -> None:
        """Running means of counts and sums: their quotients are the codes."""
        was_empty = ~self.totals.any()  # before the first batch
        super().update(sums)
        totals = sums["totals"] / sums["counts"].sum()
        self.totals.copy_(torch.where(was_empty, totals, self.totals.lerp(totals, 1 - DECAY)))
        mean = 1 / self.codes
        is_dead = (self.usage < REVIVED_BELOW * mean) | was_empty
        revived = mean * sums["candidates"]
        self.totals.copy_(torch.where(is_dead[:, None], revived, self.totals))
        self.usage.copy_(torch.where(is_dead, mean, self.usage))
        self.vectors.copy_(self.totals / self.usage[:, None])


class ScalarCodebook(Codebook):
    """All combinations of a few levels per channel (Mentzer et al. 2023, "FSQ", arXiv:2309.15505).

    Nothing of it is learnt, and no code can die for want of a loss.
    """

    def __init__(self, levels: tuple[int, ...]) -> None:
        super().__init__(math.prod(levels), len(levels))
        count = torch.tensor(levels)
        factors = torch.tensor([math.prod(levels[:i]) for i in range(len(levels))])
        self.register_buffer("levels", count[:, None, None], persistent=False)
        self.register_buffer("factors", factors[:, None, None], persistent=False)
        self.levels: Tensor
        self.factors: Tensor

    def _bounded(self, z: Tensor) -> Tensor:
        """z, squeezed by tanh to where rounding gives `levels` integers (eq. 1 and its code)."""
        levels = self.levels.to(z.dtype)
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = 0.5 * (1 - levels % 2)  # an even number of levels is not symmetric
        return (z + (offset / half).atanh()).tanh() * half - offset

    def quantise(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Rounded levels in about [-1, 1]; the gradient passes straight through rounding."""
        bounded = self._bounded(z)
        rounded = bounded + (bounded.round() - bounded).detach()
        return rounded / (self.levels // 2).to(z.dtype), self._numbered(rounded.detach())

    def _numbered(self, rounded: Tensor) -> Tensor:
        digits = rounded.round().long() + self.levels // 2
        return (digits * self.factors).sum(1)

    def tokens(self, z: Tensor) -> Tensor:
        """The levels of each place as one number; those of the first channel count least."""
        return self._numbered(self._bounded(z).round())

    def vectors_of(self, tokens: Tensor) -> Tensor:
        """See Codebook."""
        digits = tokens[:, None] // self.factors % self.levels
        half = self.levels // 2
        return (digits - half).to(self.usage.dtype) / half.to(self.usage.dtype)
