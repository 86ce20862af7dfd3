"""Texts <-> token ids; the vocabulary is part of the manifest."""

from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.preprocessing import TextPreprocessing

BYTE_ORDER_MARK = "\ufeff"
END = 0
"""Id that ends a text and fills the rest of its row; also the first input of a decoder."""


def cleaned(text: str, reading: TextPreprocessing) -> str:
    """The characters of a text that become tokens, by the preprocessing."""
    if reading.line_ends == "lf":
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if reading.byte_order_mark == "dropped":
        text = text.removeprefix(BYTE_ORDER_MARK)
    return text.strip() if reading.ends == "stripped" else text


class Vocabulary:
    """Pieces by id: characters, or byte pairs in the order in which they were merged.

        vocabulary = Vocabulary(("", "a", "b", "ab"))
        vocabulary.encode("abb")            # [3, 2]
        vocabulary.decode([3, 2, 0, 0])     # "abb"

    Raises ValueError for duplicate pieces, or if id 0 is not the empty end.
    """

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = tuple(pieces)
        if not self.pieces or self.pieces[END] or "" in self.pieces[END + 1 :]:
            raise ValueError('a vocabulary begins with "", the end of a text, and has no other ""')
        if len(set(self.pieces)) != len(self.pieces):
            raise ValueError("a vocabulary names a piece twice")

    def __len__(self) -> int:
        return len(self.pieces)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {piece: number for number, piece in enumerate(self.pieces)}

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without its end.

        Starting from characters, the adjacent pair with the earliest piece is merged first
        (Sennrich et al. 2016, arXiv:1508.07909). Raises ValueError for a character that is not a
        piece.
        """
        unknown = sorted(set(text) - self._ids.keys())
        if unknown:
            raise ValueError(f"{text!r} has characters that the vocabulary lacks: {unknown}")
        parts = list(text)
        none = len(self)

        def joined(at: int) -> int:
            return self._ids.get(parts[at] + parts[at + 1], none)

        pairs = [joined(at) for at in range(len(parts) - 1)]
        while pairs and (best := min(pairs)) != none:
            at = pairs.index(best)
            parts[at : at + 2] = [self.pieces[best]]
            del pairs[at]
            # Only its neighbours have other pairs now.
            if at < len(pairs):
                pairs[at] = joined(at)
            if at:
                pairs[at - 1] = joined(at - 1)
        return [self._ids[part] for part in parts]

    def decode(self, tokens: Iterable[int], stop: Sequence[str] = ()) -> str:
        """The text before the first end, and before the first of the strings in `stop`."""
        text = []
        for token in tokens:
            if token == END:
                break
            text.append(self.pieces[token])
        whole = "".join(text)
        return whole[: min((whole.find(s) for s in stop if s in whole), default=len(whole))]

    def rows(self, texts: Sequence[str], length: int) -> NDArray[np.int64]:
        """(N, length) int64, each text followed by at least one end.

        Raises ValueError for a text that is too long, or an unknown character.
        """
        tokens = np.full((len(texts), length), END, np.int64)
        for row, text in enumerate(texts):
            ids = self.encode(text)
            if len(ids) >= length:
                raise ValueError(
                    f"{text!r} is {len(ids)} tokens long, at most {length - 1} and an end fit"
                )
            tokens[row, : len(ids)] = ids
        return tokens

    def texts(self, tokens: NDArray[np.int64], stop: Sequence[str] = ()) -> list[str]:
        """The inverse of rows(): (N, length) int64 -> N texts."""
        return [self.decode(row, stop) for row in tokens.tolist()]
