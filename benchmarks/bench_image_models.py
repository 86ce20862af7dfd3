"""Quality and cost of every image preset, by the commands that a user types.

    python -m benchmarks.bench_image_models
    python -m benchmarks.bench_image_models --only autoencoder --seeds 1

Each row trains, exports and evaluates with one thread, and is kept below build/image-models; rows
that are there are not trained again, so that the table can be made in several sittings.
"""

import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from aigc import feature_network, files
from aigc.artifact import Artifact
from aigc.metrics.frechet import frechet
from benchmarks import emoji64
from benchmarks.bench_latents import pictures
from benchmarks.measure import environment
from benchmarks.report import header, write_section

WORK = Path("build/image-models")
EMOJI = Path("build/emoji64")
SPEED = "samples_per_s.json"
CPU = "cpu_s.json"
"""File with the CPU-seconds of the sittings of a training, their starts included."""
HALVES = 20
"""Divisions of the training pictures into halves, of which floors() is the mean."""
JUDGE = WORK / "judge"
"""Run of a classifier of all emoji, through which generators of emoji are judged."""
BESIDE = ("/real", "/low", "/high")
QUALITY = ("accuracy/cnn64", "frechet/cnn64", "recall/cnn64", "precision/cnn64")
DATA: dict[str, tuple[str, ...]] = {
    "digits": (),
    "mnist10k": ("--data.source", "idx", "--data.path", "../shared/data/mnist10k"),
    "people": ("--data.source", "folder", "--data.path", str(EMOJI / "people")),
    "emoji": ("--data.source", "folder", "--data.path", str(EMOJI / "all")),
}
"""Flags of `aigc train` by the name of the data."""


@dataclass(frozen=True)
class Trial:
    """A preset on a data set; `flags` change the preset, and `title` says how."""

    preset: str
    data: str
    flags: tuple[str, ...] = ()
    title: str = ""
    seeds: int | None = None
    """Number of seeds in place of the option's."""

    judged: bool = False
    """Judge by the features of JUDGE too."""

    @property
    def shown(self) -> str:
        """Cell of the table."""
        return f"`{self.preset}`{f', {self.title}' if self.title else ''}"

    def folder(self, seed: int) -> Path:
        """Folder of the run and the artifact of a seed."""
        words = re.sub("[^a-z0-9_]+", "-", f"{self.preset} {self.title} {self.data}")
        return WORK / f"{words}-{seed}"


UNLABELLED = ("--model.num-classes", "0", "--model.auxiliary", "0")
GAN = Trial("dcgan:digits", "digits", seeds=10)
VAE = Trial("conv_vae:digits", "digits", seeds=10)
CLAIMS = (
    GAN,
    VAE,
    replace(GAN, flags=UNLABELLED, title="no labels", seeds=None),
    replace(VAE, flags=UNLABELLED[:2], title="no labels", seeds=None),
)
NINE = ("--samples", "120000")
TRIALS = (
    *(
        Trial(f"autoencoder:{name}", "emoji", judged=True)
        for name in ("kl8", "kl4", "vq8", "fsq8", "kl8_gan")
    ),
    Trial("upscaler:x2", "emoji", judged=True),
    Trial("upscaler:x2_gan", "emoji", judged=True),
    Trial("upscaler:x4", "emoji", judged=True),
    Trial("denoiser:gaussian", "emoji", judged=True),
    Trial("inpainter:holes", "emoji", judged=True),
    Trial("dcgan:pictures64", "people", judged=True),
    Trial("conv_vae:pictures64", "people", judged=True),
    Trial("autoencoder:kl8_prior", "people", judged=True),
    *CLAIMS,
    *(Trial(f"dcgan:{name}", "digits") for name in ("hinge", "least_squares", "minimax")),
    Trial("dcgan:wgan_gp", "digits"),
    Trial("fc_gan:mlp", "digits"),
    Trial("fc_vae:digits", "digits"),
    Trial("dcgan:digits", "mnist10k"),
    Trial("conv_vae:digits", "mnist10k"),
    Trial("conv_vae:pictures64", "emoji", NINE, "120,000 samples", judged=True),
    Trial(
        "dcgan:pictures64",
        "emoji",
        (*NINE, "--model.num-classes", "9"),
        "120,000 samples",
        judged=True,
    ),
)
"""Presets for GPUs and those that take an hour of a core are left out."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Table of the image presets."""

    seeds: int = 2
    """Runs of each row, with seeds 0, 1, ..."""
    jobs: int = 1
    """Rows that are made at once; as many cores should be idle."""
    only: str = ""
    """Make the rows whose preset begins with this alone."""
    out: Path = Path("docs/image-models.md")
    """File whose sections, one for each model on a data set, of the floors and of claims, are
    rewritten where every preset of it has a row."""


def make(trial: Trial, seed: int) -> None:
    """Train, export and evaluate, unless it is done. Raises CalledProcessError."""
    folder = trial.folder(seed)
    folder.mkdir(parents=True, exist_ok=True)
    if manifest(trial, seed):
        return
    common = ("--seed", str(seed), "--threads", "1", "--grid-interval", "0")
    place = ("--storage", str(folder), "--name", "run", "--resume")
    known = json.loads((folder / CPU).read_text()) if (folder / CPU).exists() else []
    spent: list[float] = []
    try:
        run("train", trial.preset, *DATA[trial.data], *trial.flags, *common, *place, spent=spent)
    finally:
        files.write(folder / CPU, json.dumps([*known, *spent]).encode())
    run("export", str(folder / "run"), "--name", "model", "--out", str(folder / "artifacts"))
    artifact = str(folder / "artifacts" / "model")
    if trial in CLAIMS:
        files.write(folder / SPEED, json.dumps(samples_per_s(artifact)).encode())
    flags = ("--features", str(JUDGE)) if trial.judged else ()
    if trial.preset.startswith("autoencoder") and trial.data == "emoji":  # without a prior
        flags = (*flags, "--metrics", "reconstruction")
    run("evaluate", artifact, "--write", "--picture", str(folder / "samples.png"), *flags)


def samples_per_s(artifact: str) -> float:
    """Samples per CPU-second of a sealed artifact, one thread, in batches of 64; median of 5."""
    opened = Artifact.open(artifact, verify=False, threads=1)
    opened.sample(seed=0, n=64)
    took = []
    for turn in range(5):
        begun = time.thread_time()
        opened.sample(seed=turn, n=64)
        took.append(time.thread_time() - begun)
    return 64 / statistics.median(took)


def run(*arguments: str, spent: list[float] | None = None) -> None:
    """Run a command of `aigc`. Raises CalledProcessError with its output printed.

    Its CPU-seconds join `spent`. Unlike seconds they hardly depend on what else the machine does.
    """
    command = [sys.executable, "-m", "aigc.cli", *arguments]
    environ = environment() | {"OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, env=environ, stdout=said, stderr=said)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if spent is not None:
            spent.append(round(used.ru_utime + used.ru_stime, 1))
        if process.returncode:
            said.seek(0)
            print(said.read()[-4000:], file=sys.stderr)
            raise subprocess.CalledProcessError(process.returncode, command)


def manifest(trial: Trial, seed: int) -> dict[str, Any]:
    """Manifest of an evaluated artifact; empty if there is none."""
    file = trial.folder(seed) / "artifacts" / "model" / "1" / "manifest.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    return found if found.get("metrics") else {}


def main() -> None:
    """Make what is missing, then write the table of all that is there."""
    bench = tyro.cli(Bench, description=Bench.__doc__)
    if not EMOJI.exists():
        emoji64.write(EMOJI)
    place = ("--storage", str(WORK), "--name", JUDGE.name, "--resume", "--threads", "1")
    run("train", "classifier", *DATA["emoji"], *place)
    wanted = [
        (trial, seed)
        for trial in TRIALS
        if trial.preset.startswith(bench.only)
        for seed in range(trial.seeds or bench.seeds)
    ]
    with ThreadPoolExecutor(bench.jobs) as pool:
        jobs = [pool.submit(make, *row) for row in wanted]
        for number, (job, (trial, seed)) in enumerate(zip(jobs, wanted, strict=True), 1):
            job.result()
            print(f"{number} of {len(jobs)}: {trial.shown} on {trial.data}, seed {seed}")
    for name, trials in sections().items():
        if all(manifest(trial, 0) for trial in trials):
            write_section(bench.out, name, section(trials))
    write_section(bench.out, "floors", floors())
    if all(manifest(trial, 0) for trial in CLAIMS):
        write_section(bench.out, "gan-vae", claims())


def sections() -> dict[str, list[Trial]]:
    """Trials by the name of their section: those of a model on a data set."""
    found: dict[str, list[Trial]] = {}
    for trial in TRIALS:
        model = trial.preset.partition(":")[0]
        found.setdefault(f"{model}-{trial.data}", []).append(trial)
    return found


def section(trials: Sequence[Trial]) -> str:
    """Columns of trials that are there, a table per kind of metrics."""
    columns: dict[tuple[str, ...], list[list[str]]] = {}
    for trial in trials:
        known = [found for seed in range(100) if (found := manifest(trial, seed))]
        names = _ordered([name for name in known[0]["metrics"] if not name.endswith(BESIDE)])
        cells = [trial.shown, str(len(known)), f"{cpu_s(trial):.0f}"]
        cells += [_cell([one["metrics"] for one in known], name) for name in names]
        columns.setdefault(names, []).append(cells)
    tables = []
    for names, made in columns.items():
        titles = ["", "seeds", "CPU-seconds of training", *(f"`{name}`" for name in names)]
        lines = [f"| {' | '.join(row)} |" for row in zip(titles, *made, strict=True)]
        tables += ["", lines[0], f"|---{'|--:' * len(made)}|", *lines[1:]]
    return "\n".join([header("torch", "onnxruntime"), *tables])


def cpu_s(trial: Trial) -> float:
    """Median over the evaluated seeds of the CPU-seconds of a training; NaN if no seed has any."""
    folders = [trial.folder(seed) for seed in range(100) if manifest(trial, seed)]
    spent = [json.loads((one / CPU).read_text()) for one in folders if (one / CPU).exists()]
    return statistics.median(map(sum, spent)) if spent else math.nan


def floors() -> str:
    """Distances of real pictures of people by the judge, which those of generators stand
    beside: between halves of the training pictures, the mean of HALVES, and to the test ones."""
    network = feature_network.load(str(JUDGE))
    train, test = (
        network.features(pictures(str(EMOJI / "people"), (3, 64, 64), split))
        for split in ("train", "test")
    )
    drawn = (np.random.default_rng(seed).permutation(train) for seed in range(HALVES))
    near = [frechet(*np.array_split(rows, 2)) for rows in drawn]
    return (
        f"By `frechet/{network.name}` {len(train)} training pictures of people are"
        f" {np.mean(near):.3g} apart in halves that share faces and skin tones, a *floor*;"
        f" {len(test)} test pictures, of other jobs, are {frechet(train, test):.3g} from them."
    )


def claims() -> str:
    """Table of what is said of GANs against VAEs, in figures of `digits`, a column for each."""
    known = [[found for seed in range(100) if (found := manifest(trial, seed))] for trial in CLAIMS]
    labelled = list(zip(CLAIMS, known, strict=True))[:2]
    trained = [found[0]["training"]["samples"] / cpu_s(trial) for trial, found in labelled]
    drawn = [
        statistics.median(
            json.loads((trial.folder(seed) / SPEED).read_text()) for seed in range(len(found))
        )
        for trial, found in labelled
    ]
    rows = [("quality and variety: " + name, name, known[:2]) for name in QUALITY]
    rows += [("without labels: " + name, name, known[2:]) for name in QUALITY[1:3]]
    lines = []
    for title, name, pair in rows:
        cells = [_cell([one["metrics"] for one in found], name) for found in pair]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    lines += [
        f"| training, samples a CPU-second | {' | '.join(f'{value:,.0f}' for value in trained)} |",
        f"| sampling, samples a CPU-second | {' | '.join(f'{value:,.0f}' for value in drawn)} |",
        f"| stability: failed of ten seeds | {' | '.join(map(_failures, known[:2]))} |",
    ]
    head = f"| | {' | '.join(trial.shown for trial in CLAIMS[:2])} |\n|---|--:|--:|"
    about = (
        f"{header('torch', 'onnxruntime')} Ten seeds each, one thread, data `digits`: median"
        " (smallest to largest) [real test data]. Failed: a Fréchet distance above twice the"
        " median of the ten."
    )
    return "\n".join([about, "", head, *lines])


def _failures(known: Sequence[dict[str, Any]]) -> str:
    """Runs whose Fréchet distance is above twice the median."""
    values = [one["metrics"][QUALITY[1]] for one in known]
    return f"{sum(value > 2 * statistics.median(values) for value in values)} of {len(values)}"


def _ordered(names: Sequence[str]) -> tuple[str, ...]:
    """Names with those of baselines, NAME/BASELINE, after NAME."""
    own = [name for name in names if name.rpartition("/")[0] not in names]
    return tuple(one for name in own for one in names if name in (one, one.rpartition("/")[0]))


def _cell(metrics: Sequence[dict[str, float]], name: str) -> str:
    """`median (low-high) [real]`."""
    values = [one[name] for one in metrics if name in one]
    text = _digits(statistics.median(values))
    low, high = _digits(min(values)), _digits(max(values))
    if low != high:
        text += f" ({low}–{high})"
    real = [one[f"{name}/real"] for one in metrics if f"{name}/real" in one]
    return f"{text} [{_digits(statistics.median(real))}]" if real else text


def _digits(value: float) -> str:
    """At least three digits."""
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:#.3g}".rstrip(".")


if __name__ == "__main__":
    main()
