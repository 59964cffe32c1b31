"""Has this process not run for a while: was it stopped (SIGSTOP, a debugger), or its whole machine?

CLOCK_MONOTONIC goes on meanwhile. To whoever then looks at the clock everybody seems late, although nobody was asked.
"""

from __future__ import annotations

SLACK = 2.0  # seconds that a busy machine may let a loop wait beyond what it asked for


class Suspension:
    """For a loop that says each time how long it meant to sleep. Times are CLOCK_MONOTONIC seconds."""

    def __init__(self, now: float) -> None:
        self.last = now

    def over(self, asked: float, now: float) -> float:
        """For how long the loop did not run since it was here last; 0.0 if it did. ``asked``: how long it meant to."""
        missed = now - self.last - asked
        self.last = now
        return missed if missed > SLACK else 0.0
