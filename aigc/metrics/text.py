"""How good generated texts are: whether they are right, new and different, and how likely real
ones are to the model. Every figure stands beside that of an n-gram or of real texts.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from importlib import import_module

import numpy as np
from numpy.typing import NDArray

from aigc.artifact import Artifact, latents
from aigc.artifact.vocabulary import END, Vocabulary
from aigc.data import Dataset
from aigc.metrics import Distance, Metric
from aigc.metrics.frechet import frechet
from aigc.metrics.ngram import NGram

ORDERS = (4, 6)
"""Of the n-grams compared with."""
UNIQUE_OF = 1000
"""Samples among which repeats are counted: where texts are few, more must repeat."""
BLEU_OF = 200
OVERLAPS = (4, 8, 16)
"""Lengths of the n-grams by which samples are compared with the training texts."""
PAIRS = 64
BLUR = "blur"
"""Setting of models that decode from clearer latents than those that they sample from."""
ACTIVE = 0.01
"""Variance of a posterior mean above which a latent dimension counts as in use (Burda et al. 2016,
arXiv:1509.00519, section 5.3)."""


def judge(artifact: Artifact, train: Dataset, test: Dataset, n: int, seed: int) -> list[Metric]:
    """Of the first n texts of a seed; likelihood and reconstruction where there is an encoder."""
    vocabulary = Vocabulary(train.vocabulary)
    real, held_out = vocabulary.texts(train.samples), vocabulary.texts(test.samples)
    made = artifact.texts("sample", artifact.sample(seed=seed, n=n))
    alphabet = sorted(set().union(*train.vocabulary))
    ngrams = [NGram(order, real, alphabet) for order in ORDERS]
    source = artifact.manifest.training.config["data"]["source"]
    valid: Callable[[str], bool] | None = getattr(
        import_module(f"aigc.data.{source}"), "valid", None
    )
    metrics = []
    if valid is not None:
        metrics.append(Metric("valid", share(made, valid), share(held_out, valid), "higher"))
        for g in ngrams:
            drawn = g.sample(seed, n, train.samples.shape[1] - 1)
            metrics.append(Metric(f"valid/{g.order}gram", share(drawn, valid), None, ""))
    few = made[:UNIQUE_OF]
    metrics += [
        Metric(f"unique/{len(few)}", len(set(few)) / len(few), None, "higher"),
        Metric("novel", 1 - share(made, set(real).__contains__), 1.0, "higher"),
        Metric("hits", share(made, set(held_out).__contains__), None, "higher"),
    ]
    metrics += [Metric(f"hits/{g.order}gram", g.share(held_out), None, "") for g in ngrams]
    metrics += [
        Metric(f"overlap/{order}gram", of_made, of_real, "real")
        for order in OVERLAPS
        if not math.isnan(of_real := overlap(held_out[:: -(-len(held_out) // n)], real, order))
        and not math.isnan(of_made := overlap(made, real, order))
    ]
    if len(made) > 1:
        floor = self_bleu(held_out[:BLEU_OF]) if len(held_out) > 1 else None
        metrics.append(Metric("self_bleu/char4", self_bleu(made[:BLEU_OF]), floor, "lower"))
    if {"encode", "decode", "step"} <= artifact.manifest.signatures.keys():
        metrics += _likelihood(artifact, test, held_out)
        metrics += [
            Metric(f"bits_per_char/{g.order}gram", g.bits_per_char(held_out), None, "")
            for g in ngrams
        ]
    return metrics


def distance(real: Dataset) -> Distance:
    """Fréchet, in hashed counts of pairs of tokens."""
    features = pairs(real.samples)
    return lambda tokens: frechet(features, pairs(tokens))


def pairs(tokens: NDArray[np.int64]) -> NDArray[np.float64]:
    """How often which token follows which in each text, its ends included, hashed with signs into
    PAIRS numbers (Weinberger et al. 2009, arXiv:0902.2206). (N, L) -> (N, PAIRS)."""
    before = np.concatenate([np.full_like(tokens[:, :1], END), tokens[:, :-1]], 1)
    # The end that follows a text is its last token; what follows an end is none.
    rows, at = np.nonzero((before != END) | (np.arange(tokens.shape[1]) == 0))
    pair = (before[rows, at].astype(np.uint64) << np.uint64(32)) | tokens[rows, at].astype(
        np.uint64
    )
    hashed = (pair + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio
    found = np.zeros((len(tokens), PAIRS))
    sign = np.where(hashed >> np.uint64(63), 1.0, -1.0)
    np.add.at(found, (rows, (hashed >> np.uint64(40)) % np.uint64(PAIRS)), sign)
    return found


def share(texts: Sequence[str], holds: Callable[[str], bool]) -> float:
    """The share of texts of which something holds."""
    return sum(map(holds, texts)) / len(texts)


def overlap(texts: Sequence[str], train: Sequence[str], order: int) -> float:
    """The share of the texts' n-grams of characters that some training text has: what was learned
    by heart, where it is more than that of held-out texts. NaN where all texts are shorter.
    """
    found = [gram for text in texts for gram in ngrams(text, order).elements()]
    # The training texts may be many: what is kept of them is what the texts have.
    wanted = set(found)
    seen = {gram for text in train for gram in ngrams(text, order).keys() & wanted}
    return sum(gram in seen for gram in found) / len(found) if found else math.nan


def self_bleu(texts: Sequence[str], order: int = 4) -> float:
    """Mean BLEU of each text against all others, over n-grams of characters: 1 where all are alike.

    Zhu et al. 2018, arXiv:1802.01886, section 3.2. Needs two texts; the reference of each n-gram
    is the other text that has it most often, that of the length is the nearest one.
    """
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
    """Of text `at`; `most` has the two highest counts of each n-gram in any text."""
    logs = []
    for grams in filter(None, text):  # a short text has no long n-grams
        matched = 0
        for gram, count in grams.items():
            second, first = most[gram]
            # The most in any other text: where this one has it most often, the second.
            matched += min(count, second if first == count else first)
        logs.append(math.log(max(matched, 1e-9) / sum(grams.values())))
    own = lengths[at]
    near = min((n for i, n in enumerate(lengths) if i != at), key=lambda n: (abs(n - own), n))
    brevity = min(0.0, 1 - near / own) if own else 0.0
    return math.exp(sum(logs) / len(logs) + brevity) if logs else 0.0


def ngrams(text: str, order: int) -> Counter[str]:
    """How often each run of `order` characters occurs."""
    return Counter(text[i : i + order] for i in range(len(text) - order + 1))


def _likelihood(artifact: Artifact, test: Dataset, texts: list[str]) -> list[Metric]:
    """Of real texts, by the graphs that are served; the negative ELBO of one posterior draw.

    The bound is that of the texts that are sampled: where their latents are more blurred than those
    that texts are decoded from, the posterior is blurred as much.
    """
    encode = artifact.signature("encode")
    given = {encode.label.name: test.labels} if encode.label is not None else {}
    moments = artifact.run("encode", {"text": test.samples, **given})
    clear, blur = (_default(artifact, name, BLUR) for name in ("decode", "sample"))
    mu, logvar = blurred(moments["mu"], moments["logvar"], clear, blur)
    eps = latents.normal(0, range(len(mu)), mu.shape[1:], "elbo")
    kl = 0.5 * (mu**2 + np.exp(logvar) - logvar - 1).sum(1)
    z = (mu + np.exp(0.5 * logvar) * eps).astype(np.float32)
    bits = (kl - log_likelihood(artifact, z, test, given, blur)) / math.log(2)
    again = artifact.run("decode", {"latent": moments["mu"], **given})
    exact = [a == b for a, b in zip(artifact.texts("decode", again), texts, strict=True)]
    chars = sum(len(text) + 1 for text in texts)
    return [
        Metric("reconstruction/exact", float(np.mean(exact)), None, "higher"),
        Metric("kl", float(kl.mean()), None, ""),
        Metric("active_units", float((moments["mu"].var(0) > ACTIVE).sum()), None, "higher"),
        Metric("bits_per_char", float(bits.sum() / chars), None, "lower"),
    ]


def blurred(
    mu: NDArray[np.float32], logvar: NDArray[np.float32], clear: float, blur: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Moments of a posterior with noise of variance `clear`² in it, brought to `blur`².

    z' = ρ z + √(1 - ρ²) ε with ρ² = (1 - blur²) / (1 - clear²) keeps the variance of the prior.
    mu, logvar: (N, D) -> the same in float64.
    """
    rho2 = (1 - blur**2) / (1 - clear**2)
    variance = rho2 * np.exp(logvar.astype(np.float64)) + 1 - rho2
    return math.sqrt(rho2) * mu.astype(np.float64), np.log(variance)


def _default(artifact: Artifact, signature: str, setting: str) -> float:
    """What a setting is where nobody chooses; 0 if there is none."""
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

    `given` are the rows' labels, `blur` is that of their latents, where the model is told.
    """
    step = artifact.signature("step")
    feeds = {
        spec.name: np.full((len(z), *spec.shape), spec.default or 0, spec.dtype)
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
