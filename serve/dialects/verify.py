"""Was this file made here? It says what made it; that is made again and compared, bit for bit.

    curl --data-binary @seven.png http://localhost:8000/v1/verify

What an image or a sound says is a claim, since anybody can write it into a file. Only pixels or
samples that come out equal prove it, and then whoever has the seed can have them again.
"""

from functools import partial
from typing import Literal

import msgspec
import numpy as np

from aigc.artifact import TensorSpec, codecs, latents, sound
from aigc.artifact.codecs import Provenance
from aigc.artifact.session import tolerance
from serve.ask import Ask
from serve.batching import Arrays
from serve.call import Call
from serve.dialects import sounds
from serve.dialects.interpolate import between
from serve.dialects.native import API
from serve.http import Endpoints, HTTPError, Receive, Response, Scope, json_response
from serve.lane import PIXELS, SignatureLane
from serve.sampling import Sampler

VERIFY = "/v1/verify"

MAX_PIXELS = 1 << 24
"""Most pixels of an image that strangers may have decoded, above any grid of small samples."""

MAX_SAMPLES = 1 << 24
"""Most samples of a sound, likewise."""

Reason = Literal[
    "equal",
    "pixels_differ",
    "samples_differ",
    "no_provenance",
    "not_hosted",
    "another_digest",
    "cannot_be_made_again",
]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether a file was made here. What the file itself says is null where it says nothing."""

    made_here: bool
    """Whether what it says was made again and every pixel is equal, or every sample of a sound as
    near as this artifact promises."""
    reason: Reason
    """Stable, for programs."""
    message: str
    """One sentence, for people."""
    artifact: str | None = None
    """`name@version` that the file names."""
    digest: str | None = None
    signature: str | None = None
    seed: int | None = None
    index: int | None = None
    label: int | None = None
    """The class asked for; null if it was drawn from the seed."""
    equal: bool | None = None
    """Whether every pixel or sample is; null if it could not be made again."""
    max_abs_difference: int | None = None
    """Largest difference in levels, 0 to 255 of a pixel and 0 to 65534 of a sample; null if not
    made again or of another size."""


class _Pixels:
    """An image and what made it. Raises ValueError for what is none."""

    what, unit, levels = "image", "pixel", 255

    def __init__(self, body: bytes) -> None:
        self._pixels, self.made_by = codecs.read_image(body, MAX_PIXELS)

    def output(self, lane: SignatureLane) -> TensorSpec | None:
        """The output of a lane that it must have been."""
        return lane.image

    def difference(self, lane: SignatureLane, again: Arrays) -> int | None:
        """From what was made again, in levels."""
        assert self.made_by is not None
        return codecs.difference(codecs.arranged(again[PIXELS], self.made_by), self._pixels)

    def allowed(self, lane: SignatureLane) -> int:
        """How many levels it may differ by."""
        return 0


class _Samples:
    """The same of a sound."""

    what, unit, levels = "sound", "sample", sound.FULL_SCALE

    def __init__(self, body: bytes) -> None:
        self._sound = sound.read_sound(body, MAX_SAMPLES)
        self.made_by = self._sound.provenance

    def output(self, lane: SignatureLane) -> TensorSpec | None:
        spec = sounds.sound_of(lane)
        return spec if spec and spec.sample_rate_hz == self._sound.rate_hz else None

    def difference(self, lane: SignatureLane, again: Arrays) -> int | None:
        spec = sounds.sound_of(lane)
        assert spec is not None
        made = np.concatenate([*sounds.clips(spec, again)])
        return sound.difference(made, sound.to_pcm16(self._sound.samples))

    def allowed(self, lane: SignatureLane) -> int:
        return sound.allowed_difference(lane.level, tolerance(lane.spec))


def _read(kind: type[_Pixels | _Samples], body: bytes) -> _Pixels | _Samples:
    return kind(body)


class VerificationApi:
    """The endpoint that verifies images and sounds in one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def routes(self) -> dict[str, Endpoints]:
        """Exact paths, for `serve.http.Application`."""
        return {VERIFY: {"POST": self.verify}}

    async def verify(self, scope: Scope, receive: Receive) -> Response:
        async def work(call: Call) -> Response:
            body = await call.read(scope, receive, self._sampler.limits.max_body_bytes)
            kind: type[_Samples | _Pixels] = _Samples if sound.is_sound(body[:12]) else _Pixels
            try:
                # Always in the one thread for this, so that no two of them are in memory.
                file = await self._sampler.encoded(MAX_PIXELS, partial(_read, kind, body))
            except ValueError as error:
                message = f"the body must be one PNG, WebP, JPEG, WAV or FLAC: {error}"
                raise HTTPError(400, f"malformed_{kind.what}", message) from None
            verdict = await self._judge(call, file)
            return json_response(msgspec.to_builtins(verdict))

        return await self._sampler.counted(API, scope["headers"], work)

    async def _judge(self, call: Call, file: _Pixels | _Samples) -> Verdict:
        made_by = file.made_by
        if made_by is None:
            return Verdict(
                made_here=False,
                reason="no_provenance",
                message=f"the {file.what} does not say what made it, or no longer does",
            )
        hosted = self._sampler.hosted().find(made_by.artifact)
        if hosted is None or hosted.id != made_by.artifact:
            return _unproven(made_by, "not_hosted", f"{_said(made_by)} is not hosted here")
        if hosted.artifact.manifest.digest != made_by.digest:
            message = (
                f"{_said(made_by)} is hosted here with another digest than the {file.what} names"
            )
            return _unproven(made_by, "another_digest", message)
        if made_by.given:
            message = f"the {file.what} was made from what was given, which is not kept"
            return _unproven(made_by, "cannot_be_made_again", message)
        try:
            ends = _asks(self._sampler, made_by, file)
        except HTTPError as error:
            return _unproven(made_by, "cannot_be_made_again", error.message)
        lane = ends[0].lane
        call.metrics = lane.metrics
        again = await self._again(call, ends, made_by)
        values = made_by.n * lane.values_per_sample
        difference = await self._sampler.encoded(values, partial(file.difference, lane, again))
        return _compared(made_by, file, difference, file.allowed(lane))

    async def _again(self, call: Call, ends: list[Ask], made_by: Provenance) -> Arrays:
        if len(ends) == 1:
            return await self._sampler.run(ends[0], call)
        start, stop = ends
        return await between(self._sampler, call, start, stop, made_by.n)


def _asks(sampler: Sampler, made_by: Provenance, file: _Pixels | _Samples) -> list[Ask]:
    """What makes a file again: one Ask, or both ends of an interpolation.

    Raises HTTPError for a claim that no request could have had.
    """
    lane = sampler.lane(made_by.artifact, made_by.signature)
    if file.output(lane) is None:
        message = f"signature {lane.name!r} of {lane.artifact.id} gives no {file.what}"
        raise HTTPError(400, f"format_needs_{file.what}", message)
    sampler.check_n(made_by.n, lane)
    if not 0 <= made_by.columns <= made_by.n:
        message = f"a grid of {made_by.n} has no {made_by.columns} columns"
        raise HTTPError(400, f"malformed_{file.what}", message)

    def ask(n: int, seed: int, label: int | list[int] | None) -> Ask:
        return sampler.ask(
            model=made_by.artifact,
            signature=made_by.signature,
            n=n,
            seed=seed,
            first_index=made_by.index,
            label=label,
            settings=made_by.settings,
        )

    if made_by.to_seed is None:
        return [ask(made_by.n, made_by.seed, made_by.asked())]
    return [
        ask(1, made_by.seed, made_by.label),
        ask(1, made_by.to_seed, made_by.to_label),
    ]


def _said(made_by: Provenance) -> str:
    return repr(made_by.artifact[:100])


def _unproven(made_by: Provenance, reason: Reason, message: str) -> Verdict:
    return _verdict(made_by, False, reason, message)


def _compared(
    made_by: Provenance, file: _Pixels | _Samples, difference: int | None, allowed: int
) -> Verdict:
    if difference is not None and difference <= allowed:
        message = f"made again here: every {file.unit} is equal"
        if difference:
            message = f"made again here, within {difference} of {file.levels} levels"
        return _verdict(
            made_by, True, "equal", message, equal=difference == 0, max_abs_difference=difference
        )
    levels = f"a {file.unit} by {difference} of {file.levels} levels"
    message = f"made again here, it differs in {'its size' if difference is None else levels}"
    message += ": it was altered, or stored with loss"
    reason: Reason = "pixels_differ" if file.what == "image" else "samples_differ"
    return _verdict(made_by, False, reason, message, equal=False, max_abs_difference=difference)


def _verdict(
    made_by: Provenance,
    made_here: bool,
    reason: Reason,
    message: str,
    *,
    equal: bool | None = None,
    max_abs_difference: int | None = None,
) -> Verdict:
    return Verdict(
        made_here=made_here,
        reason=reason,
        message=message,
        artifact=made_by.artifact,
        digest=made_by.digest,
        signature=made_by.signature,
        seed=_number(made_by.seed),
        index=_number(made_by.index),
        label=_number(made_by.label),
        equal=equal,
        max_abs_difference=max_abs_difference,
    )


def _number(claimed: int | None) -> int | None:
    """Null for what no artifact could have been asked for, and JSON could not hold."""
    return claimed if claimed is not None and 0 <= claimed <= latents.MAX_SEED else None
