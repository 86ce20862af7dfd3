"""A contract as named checks: each a function that finds faults and says them in sentences."""

import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, Literal, TypeVar
from unittest import SkipTest

from aigc.display import printable
from aigc.suggest import alternatives
from aigc.testing.place import UNKNOWN, place_of

Subject = TypeVar("Subject", bound="UnderTest")
Function = Callable[[Subject], Iterator[str]]
"""Yields a sentence per fault; a Note is none. Raises SkipTest for what cannot be checked here."""
Contract = Mapping[Function[Subject], tuple[Function[Subject], ...]]
"""Checks in order, each with those that must hold before it can say anything."""


class ContractError(AssertionError):
    """A check failed; the message is one line per fault."""


class Note(str):
    """A sentence that is worth knowing, and no fault."""

    __slots__ = ()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Outcome of a check."""

    check: str
    """Name of the check."""
    status: Literal["ok", "failed", "skipped"]
    sentences: tuple[str, ...] = ()
    """The faults, the notes of a check that holds, or the reason for skipping it."""


class UnderTest:
    """A model or data source with the outcomes of its checks so far."""

    name: str
    """Name in messages."""
    file: str | None = None
    """Path of its source code, where there is one."""

    def __init__(self) -> None:
        self.outcomes: dict[str, Outcome] = {}


@dataclass(frozen=True, eq=False)
class Check(Generic[Subject]):
    """One check of one model or data source; calling it raises ContractError unless it holds.

    It raises unittest.SkipTest, which pytest shows as skipped, if it cannot say anything.
    """

    subject: Subject
    function: Function[Subject]
    contract: Contract[Subject]

    @property
    def name(self) -> str:
        """Name of the check, such as `gradients`."""
        return self.function.__name__

    @property
    def summary(self) -> str:
        """One line that says what is checked."""
        return (self.function.__doc__ or "").partition("\n")[0]

    @cached_property
    def __name__(self) -> str:
        """Identity in pytest's listings."""
        return f"{self.subject.name}-{self.name}"

    def __repr__(self) -> str:
        return f"<check {self.__name__}>"

    def outcome(self) -> Outcome:
        """Outcome of this check; it runs once, after those that it builds on."""
        known = self.subject.outcomes
        if self.name not in known:
            known[self.name] = self._run()
        return known[self.name]

    def _run(self) -> Outcome:
        for function in self.contract[self.function]:
            before = Check(self.subject, function, self.contract)
            if before.outcome().status != "ok":
                reason = f"it builds on {before.name}, which does not hold"
                return Outcome(check=self.name, status="skipped", sentences=(reason,))
        found: list[str] = []
        try:
            found.extend(self.function(self.subject))
        except SkipTest as skipped:
            return Outcome(check=self.name, status="skipped", sentences=(str(skipped),))
        except Exception as error:
            found.append(sentence(error, self.subject.file))
        faults = tuple(text for text in found if not isinstance(text, Note))
        return Outcome(
            check=self.name, status="failed" if faults else "ok", sentences=faults or tuple(found)
        )

    def __call__(self) -> None:
        outcome = self.outcome()
        if outcome.status == "skipped":
            raise SkipTest("; ".join(outcome.sentences))
        if outcome.status == "failed":
            raise ContractError(f"{self.__name__}: " + "\n".join(outcome.sentences))


def sentence(error: BaseException, file: str | None) -> str:
    """An exception of the code under test, with the line that raised it."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"
    place = place_of(error, file)
    return f"torch raised {what}" if place == UNKNOWN else f"{place} raised {what}"


def checks_of(
    subject: Subject, contract: Contract[Subject], only: Iterable[str] = ()
) -> list[Check[Subject]]:
    """The checks of a contract: all, or those named and those that they build on.

    Raises ValueError for an unknown name.
    """
    named = {function.__name__: function for function in contract}
    chosen = set()

    def choose(function: Function[Subject]) -> None:
        chosen.add(function)
        for before in contract[function]:
            choose(before)

    for name in only or named:
        if name not in named:
            raise ValueError(f"unknown check {name!r}{alternatives(name, named)}")
        choose(named[name])
    return [Check(subject, function, contract) for function in contract if function in chosen]


def run(checks: Sequence[Check[Any]]) -> list[Outcome]:
    """Run checks and print each as it ends, a line per sentence. Returns their outcomes.

    A terminal shows on stderr which check is running.
    """
    outcomes = []
    width = max((len(check.name) for check in checks), default=0)
    for check in checks:
        if sys.stderr.isatty():
            print(f"  ...     {check.name}", end="\r", file=sys.stderr, flush=True)
        outcome = check.outcome()
        if sys.stderr.isatty():
            print("\x1b[2K", end="\r", file=sys.stderr, flush=True)
        head = f"  {outcome.status:<7} {check.name:<{width}}  "
        text = f"\n{' ' * len(head)}".join(outcome.sentences or (check.summary,))
        print(head + printable(text, keep="\n"), flush=True)
        outcomes.append(outcome)
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> str:
    """`18 checks hold, 1 failed: gradients; 2 skipped`."""
    found = Counter(outcome.status for outcome in outcomes)
    failed = sorted({outcome.check for outcome in outcomes if outcome.status == "failed"})
    return (
        f"{found['ok']} checks hold"
        + (f", {found['failed']} failed: {', '.join(failed)}" if failed else "")
        + (f"; {found['skipped']} skipped" if found["skipped"] else "")
    )


def require_all(outcomes: Iterable[Outcome], name: str) -> None:
    """Raise ContractError, with every fault, unless all checks of `name` hold."""
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed:
        lines = [f"{outcome.check}: {text}" for outcome in failed for text in outcome.sentences]
        raise ContractError(f"{name} does not keep the contract:\n" + "\n".join(lines))
