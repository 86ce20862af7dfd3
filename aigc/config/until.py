"""A bound on the quality that ends a run."""

import re
from dataclasses import dataclass

_BOUND = re.compile(
    r"\s*([A-Za-z_][\w./-]*)\s*(<=|>=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*"
)


@dataclass(frozen=True)
class Until:
    """A bound on the quality: `frechet/cnn64<=5`."""

    name: str
    operator: str
    value: float

    @classmethod
    def parse(cls, text: str) -> "Until":
        """Raises ValueError for anything but NAME<=NUMBER or NAME>=NUMBER."""
        found = _BOUND.fullmatch(text)
        if found is None:
            raise ValueError(
                "until must be a metric, <= or >=, and a number, such as 'frechet/cnn64<=5', got"
                f" {text!r}"
            )
        return cls(found[1], found[2], float(found[3]))

    def __str__(self) -> str:
        return f"{self.name}{self.operator}{self.value:g}"

    def met(self, quality: float) -> bool:
        """True if a quality, as it is measured, is within the bound."""
        return quality <= (self.value if self.operator == "<=" else -self.value)
