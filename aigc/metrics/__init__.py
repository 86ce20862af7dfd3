"""Metrics of generated samples: functions of (real, generated, features) -> numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A figure with what real data scores beside it."""

    name: str
    value: float
    floor: float | None
    """The same metric of the real test split against the real training split."""
    better: str
    """`higher` or `lower`; empty where it is there to be compared with."""
