"""A time budget that several stages share."""

from __future__ import annotations

import time
from dataclasses import dataclass


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
