"""Shall the thread that leads the loop run requests itself, or hand each to another? Pure: what happened → what to do.

Running them itself costs no hand-over, but if the app waits for something, so does every other connection of this
worker until it is noticed. So after a request that waited the next ones are handed out, for a while; if that
happens again soon after, for twice as long.
"""

from __future__ import annotations

LEAST = 64  # requests that are handed out after one that waited
MOST = 8192


class Pace:
    def __init__(self) -> None:
        self.left = 0  # requests that are still to be handed out
        self.length = LEAST  # how many it will be the next time
        self.began = 0  # how many requests leaders had run when the present one began

    @property
    def quick(self) -> bool:
        return self.left == 0

    def lead(self, calls: int) -> None:
        """A leader begins; ``calls``: how many requests leaders have run so far."""
        self.began = calls

    def waited(self, calls: int) -> None:
        """The leader's request has waited for something, or takes long."""
        if calls - self.began > self.length:  # it went well for longer than it would have been avoided
            self.length = LEAST
        self.left = self.length
        self.length = min(2 * self.length, MOST)

    def handed_out(self) -> None:
        if self.left:
            self.left -= 1
