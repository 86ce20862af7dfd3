"""Losses, sums over batches and training broken on purpose; see breaks.py."""

from tests.testing.breaks import (
    FC_GAN,
    GAN,
    LOSS_SUMS,
    OBJECTIVE,
    STORED,
    SUMMED,
    SUMMED_LOSS,
    Break,
    with_sums,
)

OF_LOSSES = [
    Break(
        "a loss per sample",
        "finite_losses",
        GAN,
        {"label), {}": "label) * logits, {}"},
        r"phase 'generator' is no scalar but has the shape \(4,\)",
    ),
    Break(
        "a root of zero",
        "finite_losses",
        GAN,
        {OBJECTIVE: f"{OBJECTIVE} / (0 * on_real.mean())"},
        "phase 'discriminator' is (inf|nan|-inf) at the start",
    ),
    Break(
        "metrics with a graph",
        "finite_losses",
        GAN,
        {"on_real.mean().detach()": "on_real.mean()"},
        "'real' of phase 'discriminator' is not detached",
    ),
    Break(
        "a metric called loss",
        "finite_losses",
        GAN,
        {'"real": on_real': '"loss": on_real.mean().detach(), "real": on_real'},
        "metric 'loss' .* rename it",
    ),
    Break(
        "layers without a gradient",
        "gradients",
        FC_GAN,
        {"self.verdict(self.layers(x), label)": "self.verdict(self.layers(x).detach(), label)"},
        "gives layers.* no gradient",
    ),
    Break(
        "fakes have no graph",
        "gradients",
        GAN,
        {'"generator" in due': "False"},
        "loss of phase 'generator' gives layers.* no gradient",
    ),
    Break(
        "fakes have a graph in company only",
        "gradients",
        GAN,
        {'"generator" in due': "len(due) > 1"},
        "no gradient if it alone is due",
    ),
    Break(
        "gradients of zero",
        "gradients",
        GAN,
        {OBJECTIVE: f"{OBJECTIVE} * 0"},
        "all gradients of phase 'discriminator' are zero",
    ),
    Break(
        "latents from the global generator",
        "pure_losses",
        GAN,
        {
            "noise.normal(purpose, self.config.latent)": "torch.randn("
            "len(noise.normal(purpose, 1)), self.config.latent,"
            " device=next(self.parameters()).device)"
        },
        r"global generator at <changed aigc\.gan>:\d+ in generate",
    ),
    Break(
        "draws from numpy",
        "pure_losses",
        GAN,
        {OBJECTIVE: f"import numpy; {OBJECTIVE} + 0 * numpy.random.random()"},
        "numpy's or Python's own generator",
    ),
    Break(
        "a loss that steps",
        "pure_losses",
        GAN,
        {"fake, label = shared": "fake, label = shared; next(self.parameters()).data.mul_(0.9)"},
        "changed the parameter generator.* only the loop takes steps",
    ),
    Break(
        "a loss that goes backward",
        "pure_losses",
        GAN,
        {OBJECTIVE: f"{OBJECTIVE}; loss.backward(retain_graph=True)"},
        "went backward itself",
    ),
    Break(
        "a counter",
        "pure_losses",
        GAN,
        {STORED: f"{STORED}; self.calls = 0", OBJECTIVE: f"{OBJECTIVE}; self.calls += 1"},
        "changed the attribute calls from 0 to 1",
    ),
    Break(
        "a changed batch",
        "pure_losses",
        GAN,
        {OBJECTIVE: f"{OBJECTIVE}; real.data.mul_(0.5)"},
        "changed the batch, 'vector'",
    ),
    Break(
        "randomness of its own",
        "pure_losses",
        GAN,
        {OBJECTIVE: f"{OBJECTIVE} * (1 + 1e-3 * torch.Generator().seed() / 2**64)"},
        "for the same model, batch and noise",
    ),
    Break(
        "a sum over rows",
        "mean_over_rows",
        GAN,
        {OBJECTIVE: f"{OBJECTIVE} * len(on_real)"},
        r"'discriminator' over parts of 4 and 2 rows .* must be a mean over rows",
    ),
    Break(
        "statistics of the batch",
        "mean_over_rows",
        GAN,
        {OBJECTIVE: f"{OBJECTIVE} + on_real.std()"},
        "say batch_statistics = True",
    ),
    Break(
        "a mean in place of the sum in a loss",
        "mean_over_rows",
        GAN,
        {**SUMMED_LOSS, "    def collapsed": LOSS_SUMS.replace(".sum(0)", ".mean(0)")},
        r"'discriminator' .*loss_sums\(\), which must be sums over rows",
    ),
    Break(
        "a metric of a phase that is not due",
        "hooks",
        GAN,
        {
            'values["discriminator/real"], values': 'values["generator/loss"], values',
            "every=c.discriminator_steps": "every=2",
        },
        "after a batch on which discriminator alone were due; use values.get",
    ),
    Break(
        "histograms of whole samples",
        "hooks",
        GAN,
        {'"discriminator/real": self.discriminator(real, label)[0]': '"real": real'},
        r"'real' of shape \(4, 2\); a number per row",
    ),
    Break(
        "histograms that train",
        "hooks",
        GAN,
        {
            "= self.prepare(batch, noise, ())": "= self.prepare(batch, noise, ());"
            " next(self.parameters()).mul_(2)"
        },
        "distributions.. changed generator",
    ),
]
OF_TRAINING = [
    Break(
        "an average that nothing uses",
        "average",
        GAN,
        {'"""The generator."""\n        return self.generator': "return self.discriminator"},
        "samples do not change with the averaged weights",
    ),
    Break(
        "state that is not saved",
        "resumes",
        GAN,
        {
            STORED: f"{STORED}; self.register_buffer('seen', torch.zeros(()), persistent=False)",
            'family = "gan"\n': 'family = "gan"\n    batch_statistics = True\n',
            OBJECTIVE: f"{OBJECTIVE} + self.seen.clone() * on_real.mean();"
            " self.seen.add_(on_real.mean().detach())",
        },
        "a resumed run differs .* persistent buffer",
    ),
    Break(
        "a tensor on the CPU",
        "accelerator",
        GAN,
        {OBJECTIVE: f"{OBJECTIVE} + (on_real + torch.zeros(len(on_real))).mean()"},
        r"in _discriminator_loss.* raised MixedDevicesError: add got a tensor of shape \(6,\)",
    ),
    Break(
        "a number for the host",
        "accelerator",
        GAN,
        {OBJECTIVE: f"{OBJECTIVE} * (1 + 0 * on_real.mean().item())"},
        r"reads a value of a batch \(item\) at <changed aigc.gan>:\d+ in _discriminator_loss",
    ),
    Break(
        "an if",
        "accelerator",
        GAN,
        {OBJECTIVE: f"{OBJECTIVE}\n        if on_real.mean() > 9: loss = -loss"},
        r"reads a value of a batch \(item\)",
    ),
    Break(
        "a mask of a boolean",
        "accelerator",
        GAN,
        {OBJECTIVE: f"{OBJECTIVE} + 0 * on_real[on_real > 9].sum()"},
        r"reads a value of a batch \(size\)",
    ),
    Break(
        "a constant of the class",
        "accelerator",
        FC_GAN,
        {
            "class Discriminator(": "ONES = torch.ones(2)\n\n\nclass Discriminator(",
            "self.layers(x), label": "self.layers(x * ONES), label",
            "import math\n": "import math\nimport torch\n",
        },
        "raised MixedDevicesError: mul",
    ),
]
OF_SUMS = [
    Break(
        "a mean in place of a sum",
        "sums_add_up",
        GAN,
        with_sums("real.sum(0)", "real.mean(0)"),
        "'total' of a batch is not that of its parts",
    ),
    Break(
        "rows in place of a sum",
        "sums_add_up",
        GAN,
        with_sums("real.sum(0)}", "real}"),
        r"has the shape \(6, 2\), and another one of fewer rows",
    ),
    Break(
        "sums that are counted at once",
        "sums_add_up",
        GAN,
        with_sums("return {", "self.mean += 1; return {"),
        r"batch_sums\(\) changed mean",
    ),
    Break(
        "a buffer that is made anew",
        "sums_add_up",
        GAN,
        with_sums("self.mean.lerp_(", "torch.lerp(self.mean, "),
        "changed no buffer; change them in place",
    ),
    Break(
        "sums that train",
        "sums_add_up",
        GAN,
        with_sums("self.mean.lerp_(", "next(self.parameters()).mul_(2); self.mean.lerp_("),
        "changed the parameter generator",
    ),
    Break(
        "sums into what is not saved",
        "sums_add_up",
        GAN,
        {**SUMMED, STORED: SUMMED[STORED][:-1] + ", persistent=False)"},
        "changed mean, which no checkpoint holds",
    ),
]
