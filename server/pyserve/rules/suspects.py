"""Which request ends workers: a line that was in the app when two of them crashed is the likely cause."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

WINDOW = 60.0  # seconds within which the crashes count, and for which a suspect is not named again
RECENTLY = f"in the last {WINDOW:g} s"
ENOUGH = 2
REMEMBERED = 256  # lines, so that a client that makes up paths costs nothing


class Suspects:
    """Told of each crash. Lines are compared without their query."""

    def __init__(self) -> None:
        self.crashes: list[tuple[float, str]] = []
        self.named: dict[str, float] = {}  # when a line was last named

    def note(self, inside: Iterable[str], now: float) -> str:
        """A worker has crashed with these requests, ``"GET /path?query"``, inside. What is to be said of them, if
        anything; times are seconds."""
        lines = dict.fromkeys(line.partition("?")[0] for line in inside)
        self.crashes = [(when, what) for when, what in self.crashes if now - when < WINDOW]
        self.crashes = [*self.crashes, *((now, line) for line in lines)][-REMEMBERED:]
        self.named = {what: when for what, when in self.named.items() if now - when < WINDOW}
        times = {line: sum(what == line for _, what in self.crashes) for line in lines}
        suspects = sorted((line for line in lines if times[line] >= ENOUGH), key=lambda line: -times[line])
        if self.named.keys() >= set(suspects):
            return ""
        self.named.update(dict.fromkeys(suspects, now))
        if len(suspects) == 1:
            (line,) = suspects
            return f"{line} was in the app when {times[line]} workers ended {RECENTLY}: it is the likely cause"
        told = ", ".join(f"{line} ({times[line]} times)" for line in suspects)
        return f"in the app when workers ended {RECENTLY}: {told}; one of them is the likely cause"
