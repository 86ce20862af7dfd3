"""Configuration of a training run: frozen dataclasses, JSON, and the flags of `aigc train`."""

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import msgspec

from aigc.config.schedule import Scheduled, values
from aigc.config.until import Until

Modality = Literal["image", "audio", "vector", "text", "paired"]
_MODALITIES: dict[int, Modality] = {1: "vector", 2: "audio", 3: "image"}
"""Modality by the rank of a sample."""
MAX_THREADS = 1024
"""Upper bound of thread counts: more than the processors of any machine. A bound by the processors
of this machine would refuse runs of a larger one; OpenMP ends a process that cannot start as many
threads as requested."""


def require(condition: bool, message: str) -> None:
    """Raise ValueError with `message` unless `condition` holds."""
    if not condition:
        raise ValueError(message)


def require_values(name: str, number: Scheduled, low: float, high: float = math.inf) -> None:
    """Raise ValueError that begins with `name` unless a number is in [low, high) all the time."""
    try:
        inside = all(low <= value < high for value in values(number))
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None
    bounds = f"in [{low:g}, {high:g})" if high < math.inf else f">= {low:g}"
    require(inside, f"{name} must be {bounds}, got {number}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """An optimizer of torch.optim and its numbers."""

    name: Literal["adam", "adamw", "sgd", "rmsprop"] = "adam"
    """adam (Kingma & Ba 2015, arXiv:1412.6980), adamw with decoupled weight decay (Loshchilov &
    Hutter 2019, arXiv:1711.05101), sgd, or rmsprop."""
    learning_rate: Scheduled = 1e-3
    """Step size; a number, or points such as '0:0 2000:1e-3 100%:0:cosine'."""
    betas: tuple[Scheduled, Scheduled] = (0.5, 0.99)
    """Decay rates of the first and second moment. sgd takes the first as momentum and has no
    other, rmsprop the first as momentum and the second as its smoothing constant alpha."""
    epsilon: float = 1e-8
    """Added to the root of the second moment; sgd has none."""
    weight_decay: float = 0.0
    """Decay of the weights, per step and relative to the learning rate in adamw, else as an L2 term
    of the gradient."""
    clip_norm: float = 0.0
    """Largest norm of a step's gradient over all parameters; larger ones are scaled down to it. 0
    clips nothing."""

    def __post_init__(self) -> None:
        require_values("learning_rate", self.learning_rate, -math.inf)
        rates = values(self.learning_rate)  # a schedule may begin or end with 0
        require(
            min(rates) >= 0 < max(rates), f"learning_rate must be > 0, got {self.learning_rate}"
        )
        for beta in self.betas:
            require_values("betas", beta, 0, 1)
        require(self.epsilon > 0, f"epsilon must be > 0, got {self.epsilon}")
        require(self.weight_decay >= 0, f"weight_decay must be >= 0, got {self.weight_decay}")
        require(self.clip_norm >= 0, f"clip_norm must be >= 0, got {self.clip_norm}")


def check_turn(name: str, weight: Scheduled, optimizer: OptimizerConfig) -> None:
    """Raise ValueError if a phase whose loss has `weight` is changed before its turn, at weight 0:
    gradients are 0 then, but a decay of weights is not."""
    require(
        optimizer.weight_decay == 0 or values(weight)[0] > 0,
        f"{name} {weight!r} is 0 at first, when a weight_decay of {optimizer.weight_decay:g} would"
        f" change the network all the same; set weight_decay 0, or begin {name} above 0",
    )


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Training data."""

    source: str = "digits"
    """A file or module of your own, such as ./faces.py, or a file in aigc/data/sources: digits,
    numbers, ring, spoken_digits, surnames (no files); text (lines); folder (pictures, a folder per
    class); audio (WAV, AIFF or FLAC, a folder per class); idx (as MNIST comes); npz (arrays); hf
    (a data set saved by Hugging Face's datasets); parquet, webdataset (shards, also in an object
    store); digits3 (image, word and sound of a digit), paired (pictures, texts and sounds of the
    same names)."""
    path: str = ""
    """Folder, file or URI of the data, for sources that read one; of digits3 its images, as IDX
    files."""
    column: str = ""
    """Column of the pictures in parquet and hf, or array of the samples in npz, where there are
    several candidates."""
    member: str = ""
    """Suffix of the pictures, such as `jpg` or `seg.png`, where rows of webdataset or paired have
    several."""
    range: Literal["", "0..1", "-1..1"] = ""
    """Values from black to white of floating-point pictures in npz; required where all lie in
    [0, 1]."""
    byte_pairs: int = 0
    """Size of the vocabulary of byte pairs that source text learns; 0 takes its characters."""
    on_error: Literal["stop", "skip"] = "stop"
    """Reaction to a row that cannot be read: end the run, or take the next readable row in its
    place. Skipped rows are counted and named."""
    sample_rate_hz: int = 8000
    """Sample rate of sounds; recordings at other rates are resampled."""
    pieces: bool = False
    """Source audio: take each stretch of the model's length of a recording as a row, as loud as it
    was recorded, rather than the beginning alone with silence cut off and its peak scaled."""
    memory_mb: int = 1024
    """Largest decoded size of a source that is held in memory; a larger one is read and decoded in
    loader processes during the previous step."""
    loaders: int = 0
    """Loader processes per worker; 0 takes as many as there are cores to share, at most 8."""

    def __post_init__(self) -> None:
        require(self.byte_pairs >= 0, f"byte_pairs must be >= 0, got {self.byte_pairs}")
        require(self.memory_mb >= 0, f"memory_mb must be >= 0, got {self.memory_mb}")
        require(
            0 <= self.loaders <= MAX_THREADS,
            f"loaders must be in [0, {MAX_THREADS}], got {self.loaders}",
        )
        require(
            1000 <= self.sample_rate_hz <= 192_000,
            f"sample_rate_hz must be in [1000, 192000], got {self.sample_rate_hz}",
        )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Fields of every model's Config; aigc/models/<name>.py adds its own."""

    shape: tuple[int, ...] = (1, 28, 28)
    """Shape of one sample: (C, H, W) for images, (channels, samples) for sound, (features,) for
    vectors, (tokens,) for texts."""
    latent: int = 32
    """Number of latent dimensions."""
    num_classes: int = 0
    """Number of classes to condition on; 0 ignores labels."""

    def __post_init__(self) -> None:
        require(
            len(self.shape) in _MODALITIES and all(size > 0 for size in self.shape),
            "shape must be (C, H, W), (channels, samples) or (features,) with sizes > 0,"
            f" got {self.shape}",
        )
        require(self.latent > 0, f"latent must be > 0, got {self.latent}")
        require(self.num_classes >= 0, f"num_classes must be >= 0, got {self.num_classes}")

    @property
    def modality(self) -> Modality:
        """Key of the samples in a batch, by their rank unless a model overrides it."""
        return _MODALITIES[len(self.shape)]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes of a row's parts, by key in a batch. A model of several modalities overrides it,
        and its modality is paired."""
        return {self.modality: self.shape}

    def sizes_for(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Fields that have to change with the shape of the data, such as the number of layers, and
        what to; nothing unless a model overrides it."""
        return {}

    def without_effect(self) -> dict[str, str]:
        """Fields that do nothing at the values of others, each with the reason; none unless a model
        overrides it. `aigc train` warns of those that are set."""
        return {}

    def settled(self) -> "ModelConfig":
        """This config with each reference pinned to what it leads to now; unchanged unless a model
        overrides it."""
        return self

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary of a model of token ids; 0 for all others."""
        return 0


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A complete training run. Every length and interval is in samples, so it means the same on
    any number of workers."""

    preset: str
    """MODEL:PRESET that this config started from. A file of a user's is STEM@DIGITS there, and
    wherever else it is referred to, with the first digits of its SHA-256."""
    model: ModelConfig
    data: DataConfig = field(default_factory=DataConfig)
    seed: int = 0
    """Seed of all randomness; a run with the same seed is the same run."""
    samples: int = 100_000
    """Length of the run."""
    batch: int = 64
    """Global batch size; each worker takes its slice of it."""
    ema_half_life: int | str = 44_000
    """Half-life of the weight average that is exported, in samples, a number or points such as
    '0:0 100k:44k'; 0 switches it off."""
    ema_warmup: float = 0.05
    """The half-life is at most this share of the samples seen, so that early weights fade."""
    report_interval: int = 6_400
    """Samples between two lines of metrics.jsonl; 0 writes no lines."""
    grid_interval: int = 64_000
    """Samples between two grids; 0 writes no grids."""
    checkpoint_interval: int = 64_000
    """Samples between two checkpoints; there is always one at the end."""
    keep_checkpoints: int = 3
    """Number of newest checkpoints that are kept, beside the one of the best quality."""
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    """Precision of the arithmetic. bfloat16 keeps float32 weights and runs the networks under
    autocast, for GPUs; float64 is for comparing runs."""
    micro_batch: int = 0
    """Largest number of a worker's samples in one forward pass; gradients are accumulated over the
    parts of a batch. 0 takes a worker's whole share."""
    sync_batch_norm: bool = False
    """BatchNorm takes its statistics over the global batch, not over each worker's share."""
    compile: bool = False
    """torch.compile of the networks: pays on GPUs; penalties, and networks of pictures while a
    discriminator judges them, stay eager."""
    activation_checkpointing: bool = False
    """Compute parts of the networks again in the backward pass: less memory, more time, the same
    results."""
    evaluate_interval: int = 0
    """Samples between two measurements of quality, by a process beside the run; 0 measures
    nothing."""
    quality: str = ""
    """Metric of that quality, by its `distance`: a file or module of your own, or a modality; by
    default that of the samples' modality."""
    until: str = ""
    """Bound on that quality that ends the run, such as 'frechet/cnn64<=5' or 'quality<=5'."""
    patience: int = 0
    """Measurements without an improvement of that quality that end the run; 0 never does."""
    on_divergence: Literal["stop", "rollback"] = "stop"
    """Reaction to divergence: end the run, or go back to the last good checkpoint with the
    learning rates halved."""
    init_from: str = ""
    """Run or artifact that provides the initial weights of a new run."""
    price_per_worker_hour: float = 0.0
    """Price of one worker, in any currency; reports then state the cost of the run."""
    threads: int = 0
    """torch threads per worker; 0 takes one or the worker's share of the cores, whichever trains
    faster in a short trial before a new run. Bit-exact resume needs the same number."""

    def __post_init__(self) -> None:
        require(self.samples > 0, f"samples must be > 0, got {self.samples}")
        require(self.batch > 1, f"batch must be > 1, got {self.batch}")
        require(0 <= self.seed < 2**63, f"seed must be in [0, 2^63), got {self.seed}")
        require(
            0 <= self.threads <= MAX_THREADS,
            f"threads must be in [0, {MAX_THREADS}], got {self.threads}",
        )
        require(self.keep_checkpoints > 0, f"keep_checkpoints must be > 0: {self.keep_checkpoints}")
        rate_hz = getattr(self.model, "rate_hz", self.data.sample_rate_hz)
        require(
            rate_hz == self.data.sample_rate_hz,
            f"the model takes sounds of {rate_hz} Hz, and the data come at"
            f" {self.data.sample_rate_hz} Hz; set --model.rate-hz {self.data.sample_rate_hz} or"
            f" --data.sample-rate-hz {rate_hz}",
        )
        require_values("ema_half_life", self.ema_half_life, 0)
        for name in _INTERVALS:
            value = getattr(self, name)
            require(value >= 0, f"{name} must be >= 0 samples, got {value}")
        if self.until:
            Until.parse(self.until)
        require(self.patience >= 0, f"patience must be >= 0 measurements, got {self.patience}")
        require(self.micro_batch >= 0, f"micro_batch must be >= 0, got {self.micro_batch}")
        require(self.price_per_worker_hour >= 0, "price_per_worker_hour must be >= 0")
        require(
            not (self.compile and self.activation_checkpointing),
            "compile and activation_checkpointing exclude each other: compiled networks choose what"
            " is computed again themselves",
        )
        require(self.ema_warmup > 0, f"ema_warmup must be > 0, got {self.ema_warmup}")

    @property
    def model_name(self) -> str:
        """Name of the model's file."""
        return self.preset.partition(":")[0]

    def to_json(self) -> dict[str, Any]:
        """Every field as JSON builtins; numpy numbers are converted."""
        text = json.dumps(asdict(self), default=lambda number: number.item())
        document: dict[str, Any] = json.loads(text)
        return document

    @classmethod
    def from_json(cls, document: dict[str, Any], model_type: type[ModelConfig]) -> "TrainConfig":
        """The inverse of to_json. Raises ValueError naming the field that does not fit."""
        fields = {key: value for key, value in document.items() if key not in ("model", "code")}
        try:
            model = msgspec.convert(document["model"], model_type)
            data = msgspec.convert(fields.pop("data"), DataConfig)
            cls(model=model, data=data, **fields)  # raises TypeError for unknown names
            return replace(msgspec.convert(fields | {"model": {}}, cls), model=model, data=data)
        except (KeyError, TypeError, msgspec.ValidationError) as error:
            raise ValueError(f"config.json does not fit this version: {error}") from error

    def fixed(self) -> dict[str, Any]:
        """Fields that must stay the same when a run is resumed, flattened by dots."""
        flat = self.flat()
        return {k: v for k, v in flat.items() if k not in _FREE and not k.endswith("learning_rate")}

    def flat(self) -> dict[str, Any]:
        """Every field, flattened by dots."""
        return dict(_flatten("", self.to_json()))


_INTERVALS = ("report_interval", "grid_interval", "checkpoint_interval", "evaluate_interval")
_FREE = {
    *_INTERVALS,
    *("samples", "keep_checkpoints", "threads", "compile", "on_divergence", "init_from"),
    *("until", "patience", "micro_batch", "price_per_worker_hour", "activation_checkpointing"),
    *("data.path", "data.on_error", "data.memory_mb", "data.loaders"),
    *("data.column", "data.member", "data.range"),
}
"""Fields that may change on resume, besides learning rates. The data may move but not change: its
fingerprint, which includes how it is read, is compared."""


def _flatten(prefix: str, value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict):
        return [(prefix, value)]
    parts = ((f"{prefix}.{key}" if prefix else key, item) for key, item in value.items())
    return [leaf for key, item in parts for leaf in _flatten(key, item)]
