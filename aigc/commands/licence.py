"""Licence of an artifact's weights: it has no default, and one that is not given is said to be."""

import re
import sys

from aigc.artifact.manifest import UNSTATED

_SPDX = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+() -]{0,199}")


def checked(licence: str) -> str:
    """The licence for a manifest, `unstated` if none is given. Raises ValueError for what is no
    SPDX expression."""
    if licence and not _SPDX.fullmatch(licence):
        raise ValueError(
            f"--licence must be an SPDX identifier such as MIT or CC-BY-4.0, got {licence[:60]!r}"
        )
    return licence or UNSTATED


def ask(licence: str) -> None:
    """Say on stderr that an artifact was written without a licence, if none was given."""
    if not licence:
        print(
            f"the licence of the weights is {UNSTATED}: nobody knows whether they may use them;"
            " give --licence SPDX, such as --licence Apache-2.0",
            file=sys.stderr,
        )
