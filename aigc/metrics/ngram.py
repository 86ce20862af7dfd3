"""A character n-gram, the baseline of text models."""

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from aigc.artifact.latents import uniform

END = "\0"
"""End of a text; order - 1 of them stand before its first character."""


class NGram:
    """Interpolated Witten-Bell n-gram of characters (Chen & Goodman 1998, section 2.6).

    P(c | h) = (count(h c) + T(h) P(c | h')) / (count(h) + T(h)), with T(h) the number of different
    characters seen after h and h' the history without its first character; below the empty
    history all characters of `alphabet` and the end are equally likely.

    ngram = NGram(6, train_texts, alphabet)
    ngram.bits_per_char(test_texts)
    ngram.sample(seed=0, n=100, max_chars=50)
    """

    def __init__(self, order: int, texts: Sequence[str], alphabet: Sequence[str]) -> None:
        self.order = order
        self.alphabet = (END, *sorted(alphabet))
        self._counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
        for text in texts:
            padded = END * (order - 1) + text + END
            for at in range(order - 1, len(padded)):
                for length in range(order):
                    self._counts[padded[at - length : at]][padded[at]] += 1

    def probability(self, history: str, character: str) -> float:
        """P(character | the last order - 1 characters of history), in (0, 1]."""
        p = 1 / len(self.alphabet)
        history = (END * (self.order - 1) + history)[len(history) :]
        for length in range(self.order):
            seen = self._counts.get(history[len(history) - length :])
            if not seen:
                break
            total, kinds = sum(seen.values()), len(seen)
            p = (seen.get(character, 0) + kinds * p) / (total + kinds)
        return p

    def bits(self, texts: Sequence[str]) -> list[float]:
        """-log2 P of each text, its end included."""
        known: dict[tuple[str, str], float] = {}
        totals = []
        for text in texts:
            padded = END * (self.order - 1) + text + END
            total = 0.0
            for at in range(self.order - 1, len(padded)):
                key = padded[at - self.order + 1 : at], padded[at]
                if key not in known:
                    known[key] = -math.log2(self.probability(*key))
                total += known[key]
            totals.append(total)
        return totals

    def bits_per_char(self, texts: Sequence[str]) -> float:
        """Cross entropy in bits per character; the end of a text counts as one."""
        return sum(self.bits(texts)) / sum(len(text) + 1 for text in texts)

    def share(self, texts: Sequence[str]) -> float:
        """Probability that a sample is among `texts`."""
        return math.fsum(2**-bits for bits in self.bits(sorted(set(texts))))

    def sample(self, seed: int, n: int, max_chars: int) -> list[str]:
        """The first n texts of a seed, at most `max_chars` characters each."""
        known: dict[str, np.ndarray] = {}
        texts = []
        for draws in uniform(seed, range(n), (max_chars,), "ngram"):
            text = ""
            for draw in draws.tolist():
                history = (END * (self.order - 1) + text)[len(text) :]
                if history not in known:
                    p = [self.probability(history, character) for character in self.alphabet]
                    known[history] = np.cumsum(p)
                total = known[history]
                character = self.alphabet[int((total <= draw * total[-1]).sum())]
                if character == END:
                    break
                text += character
            texts.append(text)
        return texts
