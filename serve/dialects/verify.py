"""Was this image made here? It says what made it; that is made again and compared, bit for bit.

    curl --data-binary @seven.png http://localhost:8000/v1/verify

What an image says is a claim, since anybody can write it into a file. Only pixels that come out
equal prove it, and then whoever has the seed can have them again.
"""

from functools import partial
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from aigc.artifact import codecs, latents
from aigc.artifact.codecs import Provenance
from serve.ask import Ask
from serve.call import Call
from serve.dialects.interpolate import between
from serve.dialects.native import API
from serve.hosting import PIXELS
from serve.http import Endpoints, HTTPError, Receive, Response, Scope, json_response
from serve.sampling import Sampler

VERIFY = "/v1/verify"

MAX_PIXELS = 1 << 24
"""Most pixels of an image that strangers may have decoded, above any grid of small samples."""

Reason = Literal[
    "equal",
    "pixels_differ",
    "no_provenance",
    "not_hosted",
    "another_digest",
    "cannot_be_made_again",
]


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Whether an image was made here. What the image itself says is null where it says nothing."""

    made_here: bool
    """Whether what it says was made again and every pixel is equal."""
    reason: Reason
    """Stable, for programs."""
    message: str
    """One sentence, for people."""
    artifact: str | None = None
    """`name@version` that the image names."""
    digest: str | None = None
    signature: str | None = None
    seed: int | None = None
    index: int | None = None
    label: int | None = None
    """The class asked for; null if it was drawn from the seed."""
    equal: bool | None = None
    """Whether every pixel is; null if it could not be made again."""
    max_abs_difference: int | None = None
    """Largest difference in levels, 0 to 255; null if not made again or of another size."""


class VerificationApi:
    """The endpoint that verifies images in one replica."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def routes(self) -> dict[str, Endpoints]:
        """Exact paths, for `serve.http.Application`."""
        return {VERIFY: {"POST": self.verify}}

    async def verify(self, scope: Scope, receive: Receive) -> Response:
        async def work(call: Call) -> Response:
            body = await call.read(scope, receive, self._sampler.limits.max_body_bytes)
            try:
                # Always in the one thread for this, so that no two of them are in memory.
                read = partial(codecs.read_image, body, MAX_PIXELS)
                pixels, made_by = await self._sampler.encoded(MAX_PIXELS, read)
            except ValueError as error:
                message = f"the body must be one PNG, WebP or JPEG: {error}"
                raise HTTPError(400, "malformed_image", message) from None
            verdict = await self._judge(call, pixels, made_by)
            return json_response(msgspec.to_builtins(verdict))

        return await self._sampler.counted(API, scope["headers"], work)

    async def _judge(
        self, call: Call, pixels: NDArray[np.uint8], made_by: Provenance | None
    ) -> Verdict:
        if made_by is None:
            return Verdict(
                made_here=False,
                reason="no_provenance",
                message="the image does not say what made it, or no longer does",
            )
        hosted = self._sampler.hosted().find(made_by.artifact)
        if hosted is None or hosted.id != made_by.artifact:
            return _unproven(made_by, "not_hosted", f"{_said(made_by)} is not hosted here")
        if hosted.artifact.manifest.digest != made_by.digest:
            message = f"{_said(made_by)} is hosted here with another digest than the image names"
            return _unproven(made_by, "another_digest", message)
        try:
            ends = _asks(self._sampler, made_by)
        except HTTPError as error:
            return _unproven(made_by, "cannot_be_made_again", error.message)
        call.metrics = ends[0].lane.metrics
        again = codecs.arranged(await self._pixels(call, ends, made_by), made_by)
        return _compared(made_by, codecs.difference(again, pixels))

    async def _pixels(self, call: Call, ends: list[Ask], made_by: Provenance) -> NDArray[np.uint8]:
        if len(ends) == 1:
            return (await self._sampler.run(ends[0], call))[PIXELS]
        start, stop = ends
        return (await between(self._sampler, call, start, stop, made_by.n))[PIXELS]


def _asks(sampler: Sampler, made_by: Provenance) -> list[Ask]:
    """What makes an image again: one Ask, or both ends of an interpolation.

    Raises HTTPError for a claim that no request could have had.
    """
    lane = sampler.lane(made_by.artifact, made_by.signature)
    if lane.image is None:
        message = f"signature {lane.name!r} of {lane.artifact.id} gives no image"
        raise HTTPError(400, "format_needs_image", message)
    sampler.check_n(made_by.n, lane)
    if not 0 <= made_by.columns <= made_by.n:
        message = f"a grid of {made_by.n} has no {made_by.columns} columns"
        raise HTTPError(400, "malformed_image", message)

    def ask(n: int, seed: int, label: int | list[int] | None) -> Ask:
        return sampler.ask(
            model=made_by.artifact,
            signature=made_by.signature,
            n=n,
            seed=seed,
            first_index=made_by.index,
            label=label,
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


def _compared(made_by: Provenance, difference: int | None) -> Verdict:
    if difference == 0:
        message = "made again here: every pixel is equal"
        return _verdict(made_by, True, "equal", message, equal=True, max_abs_difference=0)
    far = "its size" if difference is None else f"a pixel by {difference} of 255 levels"
    message = f"made again here, it differs in {far}: it was altered, or stored with loss"
    return _verdict(
        made_by, False, "pixels_differ", message, equal=False, max_abs_difference=difference
    )


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
