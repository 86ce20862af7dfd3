"""The loss of the sequence VAE is its formula; a latent that says nothing is called collapsed."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from aigc.model import Batch
from aigc.models import text_vae
from aigc.models.text_vae import Config, Model, written
from aigc.noise import Noise

ROWS = 6
SMALL = Config(
    shape=(8,), vocabulary=5, latent=3, width=8, encoder_widths=(4,), kl_floor=0.0, kl_ramp=0
)


def batch() -> Batch:
    text = torch.arange(ROWS * 8).reshape(ROWS, 8) % 4 + 1
    return {
        "text": text * (torch.arange(8) < torch.arange(1, ROWS + 1)[:, None]),
        "label": torch.arange(ROWS) % 2,
    }


def figures(config: Config, samples: int = 0, **changes: Tensor) -> dict[str, float]:
    torch.manual_seed(0)
    model = Model(config)
    noise = Noise(1, samples, ROWS, 0, ROWS, next(model.parameters()))
    noise._key = "1/0"  # the same draws whatever has been seen
    loss, metrics = model.loss("elbo", batch() | changes, noise, None)
    return {"loss": loss.item(), **{name: value.item() for name, value in metrics.items()}}


def test_without_ramp_and_floor_the_loss_is_the_negative_elbo() -> None:
    found = figures(SMALL)
    assert found["loss"] == pytest.approx(-found["elbo"], rel=1e-6)
    assert found["kl"] > 0


def test_the_kl_term_grows_with_the_samples_seen() -> None:
    ramped = replace(SMALL, kl_ramp=1000)
    whole = figures(SMALL)
    nats = whole["loss"] - whole["kl"]
    for samples, share in ((0, 0.0), (250, 0.25), (1000, 1.0), (5000, 1.0)):
        assert figures(ramped, samples)["loss"] == pytest.approx(nats + share * whole["kl"])


def test_below_the_floor_the_kl_term_costs_nothing_more() -> None:
    whole = figures(SMALL)
    assert whole["kl"] < 20
    free = figures(replace(SMALL, kl_floor=20.0))
    assert free["loss"] == pytest.approx(whole["loss"] - whole["kl"] + 20, rel=1e-5)
    assert free["elbo"] == whole["elbo"]  # what is reported stays a bound


def test_hidden_words_change_the_loss_and_nothing_that_is_exported() -> None:
    hidden = replace(SMALL, word_dropout=0.5)
    assert figures(hidden)["loss"] != figures(SMALL)["loss"]
    texts = []
    for config in (SMALL, hidden):
        torch.manual_seed(0)
        decode = Model(config).eval().exports()["decode"].module
        texts.append(decode(torch.ones(2, 3), torch.full((2,), 8)))
    assert torch.equal(*texts)


def test_a_text_is_its_tokens_and_one_end() -> None:
    text = torch.tensor([[3, 1, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4]])
    assert written(text).int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]


def test_a_class_is_given_to_both_networks() -> None:
    conditional = replace(SMALL, num_classes=2)
    labels = {"label": 1 - torch.arange(ROWS) % 2}
    assert figures(conditional)["kl"] != figures(conditional, **labels)["kl"]
    exports = Model(conditional).exports()
    for name in ("sample", "decode", "encode", "step"):
        assert exports[name].signature.label is not None


@pytest.mark.parametrize(
    ("kl", "active", "says"),
    [
        (0.02, 0.0, "posterior collapse: KL 0.02 nats, 0 latent dimensions in use"),
        (0.02, 5.0, "posterior collapse"),
        (4.0, 0.0, "posterior collapse"),
        (4.0, 3.0, ""),
    ],
)
def test_a_latent_that_says_nothing_is_called_collapsed(
    kl: float, active: float, says: str
) -> None:
    found = Model(SMALL).collapsed({"elbo/kl": kl, "elbo/active_units": active})
    assert found.startswith(says) if says else found == ""
    assert Model(SMALL).collapsed({"run/stop": 0.0}) == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (1, 8, 8)}, r"shape of texts must be \(tokens,\), got"),
        ({"vocabulary": 1}, "vocabulary must be > 1"),
        ({"word_dropout": 1.0}, r"word_dropout must be in \[0, 1\)"),
        ({"kl_floor": -1.0}, "kl_floor must be >= 0 nats"),
        ({"kl_ramp": -1}, "kl_ramp must be >= 0 samples"),
    ],
)
def test_what_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_vae.Config(**changes)
