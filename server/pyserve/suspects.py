"""Which request ends workers: a line that was in the app when two of them crashed is the likely cause."""

from __future__ import annotations

WINDOW = 60.0  # seconds within which the crashes count, and for which a suspect is not named again
ENOUGH = 2
REMEMBERED = 256  # lines, so that a client that makes up paths costs nothing


class Suspects:
    """Told of each crash. Lines are compared without their query."""

    def __init__(self) -> None:
        self.crashes: list[tuple[float, str]] = []
        self.named: dict[str, float] = {}  # when a line was last named

    def note(self, line: str, now: float) -> str:
        """A worker has crashed with this request, ``"GET /path?query"``, inside. What is to be said of it, if anything;
        times are seconds."""
        line = line.partition("?")[0]
        self.crashes = [(when, what) for when, what in self.crashes if now - when < WINDOW][-REMEMBERED:]
        self.crashes.append((now, line))
        self.named = {what: when for what, when in self.named.items() if now - when < WINDOW}
        number = sum(what == line for _, what in self.crashes)
        if number < ENOUGH or line in self.named:
            return ""
        self.named[line] = now
        return f"{line} was in the app when {number} workers ended in the last {WINDOW:g} s: it is the likely cause"
