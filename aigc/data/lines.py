"""Lines of text as rows of tokens."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aigc.artifact.vocabulary import Vocabulary


def characters(lines: Sequence[str]) -> Vocabulary:
    """Every character that occurs, in the order of code points, behind the end of a text."""
    return Vocabulary(("", *sorted(set().union(*lines))))


def byte_pairs(lines: Sequence[str], size: int) -> Vocabulary:
    """At most `size` pieces: the characters, then what was merged most often, in that order.

    Pieces do not reach over the spaces between words. Raises ValueError where `tokenizers` is not
    installed, or the characters alone are more than `size`.
    """
    alphabet = characters(lines)
    if len(alphabet) > size:
        raise ValueError(
            f"the lines have {len(alphabet) - 1} characters, more than the {size - 1} pieces that"
            " are wanted; raise the size of the vocabulary"
        )
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise ValueError(
            "byte pairs need the package tokenizers; pip install 'aigc[text]'"
        ) from None
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    trainer = trainers.BpeTrainer(
        vocab_size=size - 1, show_progress=False, initial_alphabet=list(alphabet.pieces[1:])
    )
    learner.train_from_iterator(lines, trainer)
    ids: dict[str, int] = learner.get_vocab()
    merged = sorted(set(ids) - set(alphabet.pieces), key=ids.__getitem__)
    return Vocabulary((*alphabet.pieces, *merged))


def tokenized(
    lines: Sequence[str], vocabulary: Vocabulary, shape: tuple[int, ...], name: str
) -> NDArray[np.int64]:
    """(N, L) int64 for a model of shape (L,). Raises ValueError where the longest does not fit."""
    longest = max((len(vocabulary.encode(line)) for line in lines), default=0) + 1
    if len(shape) != 1 or longest > shape[0]:
        raise ValueError(
            f"data {name!r} gives texts of up to {longest} tokens with their end, the model wants"
            f" shape {shape}; set --model.shape {longest}"
        )
    return vocabulary.rows(lines, shape[0])
