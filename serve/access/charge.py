"""Samples taken from a key's budget, which are either kept or given back, once."""

from collections.abc import Callable


def _nothing() -> None:
    pass


def _settled() -> None:
    raise AssertionError("a charge was settled twice")


class Charge:
    """Samples taken for a request and its free retries.

    Every request joins the charge and leaves it. The charge is kept if one of them was answered;
    otherwise the last one that leaves gives it back. Nothing else moves samples from or to a
    budget.
    """

    __slots__ = ("_give_back", "_kept", "_requests")

    def __init__(self, give_back: Callable[[], None] = _nothing) -> None:
        self._give_back = give_back
        self._kept = False
        self._requests = 0

    def join(self) -> None:
        """Add a request."""
        assert self._give_back is not _settled, "given back"
        self._requests += 1

    def leave(self, kept: bool) -> bool:
        """Remove a request; `kept`: it was answered. True if the charge is given back now."""
        self._requests -= 1
        self._kept = self._kept or kept
        if self._requests or self._kept:
            return False
        give_back, self._give_back = self._give_back, _settled
        give_back()
        return True
