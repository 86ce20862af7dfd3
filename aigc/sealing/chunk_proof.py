"""Proof that a graph's sounds can be made of chunks: the context that they need, and what is lost.

chunk = proven_chunk("speak", signature, runner(graph, signature, None)(1))

The context is measured as the overlap of tiles is. Where outputs see everything but forget it, as
recurrent networks do, it is what they have forgotten down to FAINT. The sound is then compared with
the whole; a graph that comes no nearer to it than MAX_ABS with the largest context is refused.
"""

from dataclasses import replace

from aigc.artifact import Signature, autoregressive
from aigc.artifact.signature import CHUNKED
from aigc.artifact.tiling import Chunk, check_chunk, max_context
from aigc.sealing.tile_proof import measured_reach, seam

MAX_ABS = 3e-5
"""Largest difference between a sound made of chunks and one made at once, relative to 1 + its
values: one step of 16 bits."""
FAINT = 1e-6
"""Change, relative to 1 + the values, that no longer counts as seen where everything is seen."""


def proven_chunk(name: str, signature: Signature, run: autoregressive.Run) -> Chunk:
    """The chunks of a signature. Raises ValueError, with the reason, if there can be none."""
    try:
        return _proven(signature, run)
    except ValueError as error:
        raise ValueError(f"signature {name!r} cannot be made of chunks: {error}") from None


def _proven(signature: Signature, run: autoregressive.Run) -> Chunk:
    if any(spec.kind not in CHUNKED for spec in signature.outputs):
        raise ValueError("only sounds and vectors can be")
    name, axis = next(iter(signature.axes.items()), ("", None))
    chunk = Chunk(axis=name, context=0, max_abs=0.0, sizes=())
    check_chunk(chunk, signature.axes, *signature.shapes)
    assert axis is not None
    most = max_context(axis)
    reaches = [measured_reach(signature, run, name, faint) for faint in (0.0, FAINT)]
    contexts = [
        -(-reach // axis.multiple) * axis.multiple for reach in reaches if reach is not None
    ]
    for context in [one for one in contexts if one <= most] or [most]:
        chunk = replace(chunk, context=context)
        found = seam(signature, run, chunk.tile)
        if found.max_abs <= MAX_ABS:
            return replace(chunk, max_abs=found.max_abs, sizes=found.sizes)
    seen = (
        f"its outputs see no further than {contexts[0]}, so what it makes of a place depends on"
        " where that is, or on the length of the whole"
        if contexts and contexts[-1] <= most
        else f"its outputs see further: averages, norms or attention over all places; if not so,"
        f" raise the bound of {name}"
    )
    raise ValueError(
        f"chunks of {axis.max} {name} with a context of {chunk.context} on either side differ from"
        f" the whole by {found.max_abs:.2g}, and {MAX_ABS:.0e} is allowed; {seen}"
    )
