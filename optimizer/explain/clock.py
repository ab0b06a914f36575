"""A time budget that several stages share."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from optimizer.errors import OptimizerError

UNITS = {"s": 1.0, "": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Clock:
    """Seconds from `start` on; stages ask whether their share of it is used up."""

    start: float
    seconds: float

    @classmethod
    def now(cls, seconds: float) -> Clock:
        return cls(time.monotonic(), seconds)

    def spent(self) -> float:
        return time.monotonic() - self.start

    def before(self, share: float) -> bool:
        """Whether less than this share of the budget has passed."""
        return self.spent() < share * self.seconds


def seconds(text: str) -> float:
    """Read `90`, `90s`, `5m`, `5min` or `1h`; raises OptimizerError for anything else, and for nothing at all."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(s|min|m|h)?\s*", text)
    if not found or float(found[1]) <= 0:
        raise OptimizerError(f"--budget {text}: no time", "write for example --budget 90s, 5m or 1h")
    return float(found[1]) * UNITS[found[2] or ""]
