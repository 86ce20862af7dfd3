"""Use of codes: entropy and perplexity of tokens, and the bits that they take per second."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aigc.config import require


def entropy_bits(codes: NDArray[np.generic]) -> float:
    """Entropy of the empirical distribution of codes, of any shape but empty, in bits a code."""
    share = np.unique(codes, return_counts=True)[1] / codes.size
    return float(np.abs((share * np.log2(share)).sum()))


def perplexity(codes: NDArray[np.generic]) -> float:
    """2 to the entropy: the number of codes that would be as much, if all came equally often."""
    return float(2 ** entropy_bits(codes))


@dataclass(frozen=True, kw_only=True)
class CodeUse:
    """Use of the codebooks of a residual quantiser by tokens."""

    used: tuple[float, ...]
    """Share of the codes of each codebook that occur."""
    entropy_bits: tuple[float, ...]
    """Entropy of each codebook, in bits a token; too low if tokens are few."""
    bit_rate: float
    """Bits per second of tokens of a fixed size: codebooks x log2(size) x tokens per second."""
    entropy_rate: float
    """Bits per second of an ideal entropy coder that knows how often each code comes."""

    @property
    def perplexity(self) -> tuple[float, ...]:
        """2 to the entropy, of each codebook."""
        return tuple(2**bits for bits in self.entropy_bits)


def code_use(
    tokens: Sequence[NDArray[np.integer]], codebook_size: int, frames_per_s: float
) -> CodeUse:
    """Use of codes by recordings, each an array (codebooks, frames) of codes in [0, codebook_size).

    Raises ValueError for other shapes or values, different numbers of codebooks, and no tokens.
    """
    require(codebook_size >= 1, f"codebook_size must be >= 1, got {codebook_size}")
    require(frames_per_s > 0, f"frames_per_s must be > 0, got {frames_per_s}")
    for i, one in enumerate(tokens):
        shape = np.shape(one)
        require(
            len(shape) == 2 and np.issubdtype(np.asarray(one).dtype, np.integer),
            f"tokens must be integers (codebooks, frames), number {i} is {np.asarray(one).dtype}"
            f" {shape}",
        )
    depths = {len(one) for one in tokens}
    require(
        len(depths) == 1 and depths != {0} and any(one.size for one in tokens),
        "the use of codes needs tokens, of equally many codebooks in each recording; got"
        f" {len(tokens)} recordings of {sorted(depths) or 'no'} codebooks",
    )
    codes = np.concatenate(tokens, axis=1)
    low, high = int(codes.min()), int(codes.max())
    require(
        low >= 0 and high < codebook_size,
        f"tokens must be in [0, {codebook_size}), got {low if low < 0 else high}",
    )
    entropies = tuple(entropy_bits(row) for row in codes)
    return CodeUse(
        used=tuple(len(np.unique(row)) / codebook_size for row in codes),
        entropy_bits=entropies,
        bit_rate=float(len(codes) * np.log2(codebook_size) * frames_per_s),
        entropy_rate=sum(entropies) * frames_per_s,
    )
