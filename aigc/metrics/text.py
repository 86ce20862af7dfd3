"""Metrics of texts: validity, novelty, diversity, and the likelihood of real texts.

Each is measured beside that of an n-gram model or of real texts.
"""

import math
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from functools import partial
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from aigc import own_code
from aigc.artifact import Artifact, latents
from aigc.artifact.vocabulary import END, Vocabulary
from aigc.data import Dataset
from aigc.metrics import Distance, Evaluation, Omitted, TooFewRows
from aigc.metrics.frechet import frechet
from aigc.metrics.ngram import NGram

ORDERS = (4, 6)
"""Orders of the n-gram models used as baselines."""
UNIQUE_OF = 1000
"""Number of samples among which repeats are counted; with more, more must repeat."""
BLEU_OF = 200
OVERLAPS = (4, 8, 16)
"""Lengths of the n-grams that are looked up in the training texts."""
PAIRS = 64
BLUR = "blur"
"""Setting for the noise level of latents; models sample at a higher one than they decode at."""
ACTIVE = 0.01
"""Variance of a posterior mean above which a latent dimension counts as in use (Burda et al. 2016,
arXiv:1509.00519, section 5.3)."""


def evaluate(artifact: Artifact, train: Dataset, test: Dataset, n: int, seed: int) -> Evaluation:
    """Metrics of the first n texts of a seed, with likelihoods if the model has an encoder."""
    vocabulary = Vocabulary(train.vocabulary)
    real, held_out = vocabulary.texts(train.samples), vocabulary.texts(test.samples)
    generated = artifact.texts("sample", artifact.sample(seed=seed, n=n))
    alphabet = sorted(set().union(*train.vocabulary))
    ngrams = [NGram(order, real, alphabet) for order in ORDERS]
    training = artifact.manifest.training
    source = training.config["data"]["source"] if training else "text"
    valid: Callable[[str], bool] | None = None
    if source in own_code.DATA.built_in():  # others are code that no artifact has run
        valid = getattr(import_module(f"aigc.data.sources.{source}"), "valid", None)
    evaluation = Evaluation()
    add = evaluation.add
    if valid is not None:
        add("valid", lambda: share(generated, valid), lambda: share(held_out, valid), "higher")
        for g in ngrams:
            drawn = g.sample(seed, n, train.samples.shape[1] - 1)
            add(f"valid/{g.order}gram", partial(share, drawn, valid), None, "")
    few, known, tests = generated[:UNIQUE_OF], set(real), set(held_out)
    add(f"unique/{len(few)}", lambda: len(set(few)) / len(few), None, "higher")
    add("novel", lambda: 1 - share(generated, known.__contains__), lambda: 1.0, "higher")
    add("hits", lambda: _hits(generated, tests), None, "higher")
    for g in ngrams:
        add(f"hits/{g.order}gram", partial(_hits_of, g, held_out), None, "")
    some = held_out[:: -(-len(held_out) // n) or 1]
    for order in OVERLAPS:
        of_generated, of_real = (overlap(texts, real, order) for texts in (generated, some))
        if not math.isnan(of_generated):
            add(
                f"overlap/{order}gram",
                partial(float, of_generated),
                partial(float, of_real),
                "real",
            )
    if len(generated) > 1:
        a, b = generated[:BLEU_OF], held_out[:BLEU_OF]
        add("self_bleu/char4", lambda: self_bleu(a), lambda: self_bleu(b), "lower")
    if {"encode", "decode", "step"} <= artifact.manifest.signatures.keys():
        evaluation.extend(_likelihood(artifact, test, held_out))
        for g in ngrams:
            name = f"bits_per_char/{g.order}gram"
            add(name, partial(_bits_per_char, g, held_out), None, "")
    return evaluation


def _hits(texts: Sequence[str], held_out: Collection[str]) -> float:
    if not held_out:
        raise TooFewRows("there are no test texts to be hit")
    return share(texts, held_out.__contains__)


def _hits_of(ngram: NGram, texts: Sequence[str]) -> float:
    if not texts:
        raise TooFewRows("there are no test texts to be hit")
    return ngram.share(texts)


def _bits_per_char(ngram: NGram, texts: Sequence[str]) -> float:
    if not texts:
        raise TooFewRows("there are no test texts")
    return ngram.bits_per_char(texts)


def distance(real: Dataset) -> Distance | None:
    """Fréchet distance of hashed counts of token pairs; None for a single text."""
    if len(real) < 2:
        return None
    features = pairs(real.samples)
    return Distance(lambda tokens: frechet(features, pairs(tokens)))


def pairs(tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """Counts of token bigrams, both ends of a text included, hashed with signs into PAIRS numbers
    (Weinberger et al. 2009, arXiv:0902.2206). (N, L) -> (N, PAIRS)."""
    before = np.concatenate([np.full_like(tokens[:, :1], END), tokens[:, :-1]], 1)
    # The end that follows a text is its last token; tokens after an end do not count.
    rows, at = np.nonzero((before != END) | (np.arange(tokens.shape[1]) == 0))
    pair = (before[rows, at].astype(np.uint64) << np.uint64(32)) | tokens[rows, at].astype(
        np.uint64
    )
    hashed = (pair + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
    counts = np.zeros((len(tokens), PAIRS))
    sign = np.where(hashed >> np.uint64(63), 1.0, -1.0)
    np.add.at(counts, (rows, (hashed >> np.uint64(40)) % np.uint64(PAIRS)), sign)
    return counts


def share(texts: Sequence[str], holds: Callable[[str], bool]) -> float:
    """Share of texts for which `holds` is true. Raises TooFewRows without texts."""
    if not texts:
        raise TooFewRows("there are no test texts")
    return sum(map(holds, texts)) / len(texts)


def overlap(texts: Sequence[str], train: Sequence[str], order: int) -> float:
    """Share of the texts' character n-grams that occur in a training text; NaN if all are shorter.

    More than that of held-out texts means memorised training texts.
    """
    grams = [gram for text in texts for gram in ngrams(text, order).elements()]
    # The training texts may be many: only n-grams that the texts have are kept of them.
    wanted = set(grams)
    seen = {gram for text in train for gram in ngrams(text, order).keys() & wanted}
    return sum(gram in seen for gram in grams) / len(grams) if grams else math.nan


def self_bleu(texts: Sequence[str], order: int = 4) -> float:
    """Mean BLEU of each text against all others, over character n-grams; 1 if all are alike.

    Zhu et al. 2018, arXiv:1802.01886, section 3.2. The reference of each n-gram is the other text
    with the highest count of it, that of the length the nearest one. Raises TooFewRows for fewer
    than two texts.
    """
    if len(texts) < 2:
        raise TooFewRows(f"a text is compared with others, and there are {len(texts)}")
    counts = [[ngrams(text, k) for k in range(1, order + 1)] for text in texts]
    most: dict[str, list[int]] = {}
    for text in counts:
        for gram, count in (item for grams in text for item in grams.items()):
            most[gram] = sorted([*most.get(gram, [0, 0]), count])[-2:]
    lengths = [len(text) for text in texts]
    return sum(_bleu(text, most, lengths, at) for at, text in enumerate(counts)) / len(texts)


def _bleu(
    text: list[Counter[str]], most: dict[str, list[int]], lengths: list[int], at: int
) -> float:
    """BLEU of text `at`; `most` has the two highest counts of each n-gram in any text."""
    logs = []
    for grams in filter(None, text):  # a short text has no long n-grams
        matched = 0
        for gram, count in grams.items():
            second, first = most[gram]
            # The highest count in another text: the second one if the first is this text's.
            matched += min(count, second if first == count else first)
        logs.append(math.log(max(matched, 1e-9) / sum(grams.values())))
    own = lengths[at]
    near = min((n for i, n in enumerate(lengths) if i != at), key=lambda n: (abs(n - own), n))
    brevity = min(0.0, 1 - near / own) if own else 0.0
    return math.exp(sum(logs) / len(logs) + brevity) if logs else 0.0


def ngrams(text: str, order: int) -> Counter[str]:
    """Counts of the substrings of `order` characters."""
    return Counter(text[i : i + order] for i in range(len(text) - order + 1))


def _likelihood(artifact: Artifact, test: Dataset, texts: list[str]) -> Evaluation:
    """Likelihood of real texts under the exported graphs: the ELBO of one posterior draw.

    The bound holds for sampling: if texts are sampled from noisier latents than they are decoded
    from, the posterior gets the same noise.
    """
    evaluation = Evaluation()
    if not texts:
        why = "there are no test texts"
        names = ("reconstruction/exact", "kl", "active_units", "bits_per_char")
        evaluation.omitted += [Omitted(name, why) for name in names]
        return evaluation
    encode = artifact.signature("encode")
    labels = {encode.label.name: test.labels} if encode.label is not None else {}
    moments = artifact.run("encode", {"text": test.samples, **labels})
    clear, blur = (_default(artifact, name, BLUR) for name in ("decode", "sample"))
    mu, logvar = with_noise(moments["mu"], moments["logvar"], clear, blur)
    eps = latents.normal(0, range(len(mu)), mu.shape[1:], "elbo")
    kl = 0.5 * (mu**2 + np.exp(logvar) - logvar - 1).sum(1)
    z = (mu + np.exp(0.5 * logvar) * eps).astype(np.float32)
    bits = (kl - log_likelihood(artifact, z, test, labels, blur)) / math.log(2)
    again = artifact.run("decode", {"latent": moments["mu"], **labels})
    exact = [a == b for a, b in zip(artifact.texts("decode", again), texts, strict=True)]
    chars = sum(len(text) + 1 for text in texts)
    evaluation.add("reconstruction/exact", lambda: float(np.mean(exact)), None, "higher")
    evaluation.add("kl", lambda: float(kl.mean()), None, "")
    evaluation.add("active_units", lambda: _active(moments["mu"]), None, "higher")
    evaluation.add("bits_per_char", lambda: float(bits.sum() / chars), None, "lower")
    return evaluation


def _active(mu: NDArray[np.float32]) -> float:
    if len(mu) < 2:
        raise TooFewRows("the variance of a latent needs two test texts or more")
    return float((mu.var(0) > ACTIVE).sum())


def with_noise(
    mu: NDArray[np.float32], logvar: NDArray[np.float32], clear: float, blur: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Moments of a posterior with noise of variance `clear`², after raising it to `blur`².

    z' = ρ z + √(1 - ρ²) ε with ρ² = (1 - blur²) / (1 - clear²) keeps the variance of the prior.
    mu, logvar: (N, D) -> the same in float64.
    """
    rho2 = (1 - blur**2) / (1 - clear**2)
    variance = rho2 * np.exp(logvar.astype(np.float64)) + 1 - rho2
    return math.sqrt(rho2) * mu.astype(np.float64), np.log(variance)


def _default(artifact: Artifact, signature: str, setting: str) -> float:
    """Default of a setting; 0 if the signature has no such setting."""
    inputs = artifact.signature(signature).inputs
    return next((spec.default or 0.0 for spec in inputs if spec.name == setting), 0.0)


def log_likelihood(
    artifact: Artifact,
    z: NDArray[np.float32],
    test: Dataset,
    given: dict[str, NDArray[np.int64]],
    blur: float = 0.0,
) -> NDArray[np.float64]:
    """ln p(text | z) of each row of the test split, its end included: (N,) nats.

    `given` are the rows' labels by input name; `blur` is the noise level of their latents, for
    models that take it.
    """
    step = artifact.signature("step")
    feeds = {
        spec.name: np.full((len(z), *spec.fixed_shape), spec.default or 0, spec.dtype)
        for spec in step.inputs
    }
    feeds |= {"latent": z, **given}
    if BLUR in feeds:
        feeds[BLUR][:] = blur
    total = np.zeros(len(z))
    open_ = np.ones(len(z), bool)
    for token in test.samples.T:
        outputs = artifact.run("step", feeds)
        x = outputs["logits"].astype(np.float64)
        x -= x.max(1, keepdims=True)
        nats = x[np.arange(len(z)), token] - np.log(np.exp(x).sum(1))
        total += np.where(open_, nats, 0)
        open_ &= token != END
        feeds |= {"token": token, "state": outputs["next_state"]}
    return total
