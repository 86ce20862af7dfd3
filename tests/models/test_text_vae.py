"""The loss of the sequence VAE is its formula; a latent that says nothing is called collapsed."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from aigc.model import Batch
from aigc.models import text_vae
from aigc.models.text_vae import Config, Model, written
from aigc.nn import losses
from aigc.rng import BatchRNG

ROWS = 6
SMALL = Config(
    shape=(8,), vocabulary=5, latent=3, width=8, encoder_widths=(4,), kl_floor=0.0, kl_ramp=0
)
BLURRED = replace(SMALL, blur=0.8, clear=0.2)


def batch() -> Batch:
    text = torch.arange(ROWS * 8).reshape(ROWS, 8) % 4 + 1
    return {
        "text": text * (torch.arange(8) < torch.arange(1, ROWS + 1)[:, None]),
        "label": torch.arange(ROWS) % 2,
    }


def figures(config: Config, samples: int = 0, **changes: Tensor) -> dict[str, float]:
    torch.manual_seed(0)
    model = Model(config)
    noise = BatchRNG(1, 0, ROWS, 0, ROWS, next(model.parameters()))
    noise.samples = samples  # the same draws whatever has been seen
    loss, metrics = model.loss("elbo", batch() | changes, noise, None)
    return {"loss": loss.item(), **{name: value.item() for name, value in metrics.items()}}


def test_loss_without_ramp_and_floor_is_the_negative_elbo() -> None:
    found = figures(SMALL)
    assert found["loss"] == pytest.approx(-found["elbo"], rel=1e-6)
    assert found["kl"] > 0


def test_word_dropout_changes_the_loss_only() -> None:
    hidden = replace(SMALL, word_dropout=0.5)
    assert figures(hidden)["loss"] != figures(SMALL)["loss"]
    texts = []
    for config in (SMALL, hidden):
        torch.manual_seed(0)
        decode = Model(config).eval().exports()["decode"].module
        texts.append(decode(torch.ones(2, 3), torch.full((2,), 8)))
    assert torch.equal(*texts)


def test_output_dropout_changes_the_loss_only() -> None:
    dropped = replace(SMALL, dropout=0.5)
    assert figures(dropped)["loss"] != figures(SMALL)["loss"]
    assert Model(dropped).exports().keys() == Model(SMALL).exports().keys()
    decoder, text = Model(SMALL).decoder, batch()["text"]
    given = decoder.context(torch.ones(ROWS, 3), None, None), text, written(text).sum(1)
    whole, halved, nothing = (
        decoder(*given, torch.full((ROWS, 8), kept)).data - decoder.logits.bias
        for kept in (1.0, 0.5, 0.0)
    )
    assert torch.equal(whole, decoder(*given).data - decoder.logits.bias)
    assert torch.allclose(halved, 0.5 * whole, atol=1e-6)
    assert nothing.abs().max() < 1e-6 < whole.abs().max()


def test_padding_changes_no_loss() -> None:
    """Only tokens go through the GRU; the sum is that over whole rows."""
    torch.manual_seed(0)
    model = Model(SMALL).double()
    noise = BatchRNG(1, 0, ROWS, 0, ROWS, next(model.parameters()))
    text = batch()["text"]
    _, found = model.loss("elbo", {"text": text}, noise, None)
    z = noise.normal("posterior", 3)
    mu, logvar = model.posterior.moments(model.encoder(text, None))
    known = model.decoder.context(mu + (0.5 * logvar).exp() * z, None, None)[:, None]
    before = F.pad(text[:, :-1], (1, 0))
    x = torch.cat([model.decoder.embedding(before), known.expand(-1, 8, -1)], 2)
    nats = F.cross_entropy(
        model.decoder.logits(model.decoder.gru(x)[0]).transpose(1, 2), text, reduction="none"
    )
    elbo = -((nats * written(text)).sum(1) + losses.gaussian_kl(mu, logvar)).mean()
    assert float(found["elbo"]) == pytest.approx(elbo.item(), rel=1e-12)


def test_sampling_blurs_and_decoding_does_not() -> None:
    config = replace(BLURRED, temperature=0.25, spread=0.5)
    exports = Model(config).exports()
    settings = {
        name: {spec.name: spec.default for spec in exports[name].signature.inputs}
        for name in ("sample", "decode", "step")
    }
    assert settings["sample"]["temperature"] == 0.25
    for name, blur, spread in (("sample", 0.8, 0.5), ("decode", 0.2, 1.0), ("step", 0.2, 1.0)):
        assert (settings[name]["blur"], settings[name]["spread"]) == (blur, spread)
    step = exports["step"].module
    given = torch.ones(3, 3), torch.zeros(3, 8), torch.zeros(3, dtype=torch.int64)
    logits, _ = step(*given, torch.tensor([0.2, 0.8, 0.2]), torch.tensor([1.0, 1.0, 0.5]))
    assert not torch.equal(logits[0], logits[1])
    halved, _ = step(0.5 * given[0], *given[1:], torch.full((3,), 0.2), torch.ones(3))
    assert torch.equal(logits[2], halved[2])
    assert not torch.equal(logits[0], halved[2])


def test_text_is_its_tokens_and_one_end() -> None:
    text = torch.tensor([[3, 1, 0, 0], [0, 0, 0, 0], [1, 2, 3, 4]])
    assert written(text).int().tolist() == [[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 1, 1]]


def test_both_networks_get_the_class() -> None:
    conditional = replace(SMALL, num_classes=2)
    labels = {"label": 1 - torch.arange(ROWS) % 2}
    assert figures(conditional)["kl"] != figures(conditional, **labels)["kl"]
    exports = Model(conditional).exports()
    for name in ("sample", "decode", "encode", "step"):
        assert exports[name].signature.label is not None


@pytest.mark.parametrize(
    ("kl", "active", "says"),
    [
        (0.02, 0.0, "posterior collapse: KL 0.02 nats, of which the decoder uses 0.02, 0 latent"),
        (0.02, 5.0, "posterior collapse"),
        (4.0, 0.0, "posterior collapse"),
        (4.0, 3.0, ""),
    ],
)
def test_unused_latent_is_a_collapse(kl: float, active: float, says: str) -> None:
    found = Model(SMALL).collapsed({"elbo/kl": kl, "elbo/active_units": active})
    assert found.startswith(says) if says else found == ""
    assert Model(SMALL).collapsed({"run/stop": 0.0}) == ""


def test_fixed_kl_that_is_unused_is_a_collapse() -> None:
    used = {"elbo/kl": 4.1, "elbo/active_units": 32.0, "elbo/information_gain": 9.0}
    assert Model(BLURRED).collapsed(used) == ""
    assert "of which the decoder uses 0.05" in Model(BLURRED).collapsed(
        used | {"elbo/information_gain": 0.05}
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (1, 8, 8)}, r"shape of texts must be \(tokens,\), got"),
        ({"vocabulary": 1}, "vocabulary must be > 1"),
        ({"word_dropout": 1.0}, r"word_dropout must be in \[0, 1\)"),
        ({"blur": 0.3, "clear": 0.4}, r"clear must be in \(0, 0.3\], below blur, got 0.4"),
        ({"spread": -1.0}, r"spread must be in \[0, 10\]"),
        ({"temperature": -1.0}, r"temperature must be in \[0, 100\]"),
        ({"kl_floor": -1.0}, "kl_floor must be >= 0 nats"),
        ({"kl_ramp": -1}, "kl_ramp must be >= 0 samples"),
    ],
)
def test_impossible_configs_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text_vae.Config(**changes)
