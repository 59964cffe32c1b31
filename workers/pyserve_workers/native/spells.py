"""What happens again and again: told when it begins, and counted from then on.

A line for each time would leave it to whoever causes it how much there is in the log.
"""

from __future__ import annotations

import time


class Spell:
    """One thing, from its first time until somebody says that it is over. Times are CLOCK_MONOTONIC seconds."""

    __slots__ = ("began", "last", "times")

    def __init__(self) -> None:
        self.began = self.last = 0.0  # 0: it does not happen now
        self.times = 0  # that nobody has counted yet

    def note(self, times: int = 1) -> bool:
        """It has happened. Does it begin with that, and so is to be told?"""
        self.last = time.monotonic()
        self.times += times
        if self.began:
            return False
        self.began = self.last
        return True

    def count(self) -> int:
        """How often it has happened since it was last counted."""
        times, self.times = self.times, 0
        return times

    def end(self) -> int:
        """It is over. The same."""
        self.began = 0.0
        return self.count()
