"""A signature that goes by steps gives in torch what the whole sequence gives at once."""

import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_packed_sequence

from aigc.models import text_vae


def test_steps_equal_the_logits_of_the_whole_sequence() -> None:
    """Greedy texts, read again by the decoder that training uses, are its likeliest tokens."""
    torch.manual_seed(0)
    config = text_vae.Config(shape=(12,), vocabulary=7, latent=3, width=16, num_classes=2)
    model = text_vae.Model(config).eval()
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter *= 6  # far from ties
        model.decoder.logits.bias[0] = -10  # and from an early end
    decode = model.exports()["decode"]
    z, label = torch.randn(9, 3), torch.arange(9) % 2
    text = decode.module(z, label, torch.full((9,), 12))
    with torch.no_grad():
        context = model.decoder.context(z, label, None)
        lengths = torch.full((9,), 12)
        logits, _ = pad_packed_sequence(
            model.decoder(context, F.pad(text[:, :-1], (1, 0)), lengths), batch_first=True
        )
    written = text_vae.written(text)
    assert (written.sum(1) > 3).any()
    assert torch.equal(logits.argmax(2)[written], text[written])
    assert len({tuple(row) for row in text.tolist()}) > 3
