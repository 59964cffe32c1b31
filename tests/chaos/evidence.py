"""What is known when a run is over: what clients got, what the app and the fail-points wrote down, who died and when."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

ANSWERED, REFUSED, LOST = "answered", "refused", "lost"


class Fate(NamedTuple):
    """What came of one request. Times: CLOCK_MONOTONIC seconds."""

    ident: str
    client: str  # what kind of client asked
    began: float  # before its first byte was sent, or its connection was opened
    ended: float
    outcome: str
    status: int = 0
    whole: bool = False  # the answer's body is the one that belongs to the request
    pid: int = 0  # of the worker that answered
    retry_after: bool = False
    fresh: bool = True  # nothing had been sent on its connection before
    detail: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


class Begun(NamedTuple):
    """The app has begun with a request."""

    ident: str
    pid: int
    at: float


class Death(NamedTuple):
    """A process was killed, or killed itself, on purpose: it may lose what is inside it."""

    pid: int
    why: str
    began: float
    ended: float  # when it was seen to be gone, with what the app had forked in it


class Pause(NamedTuple):
    """A process was stopped and continued: who waits for it has a reason."""

    pid: int
    began: float
    ended: float


class Sample(NamedTuple):
    """What the master said of its workers at a moment."""

    at: float
    target: int
    serving: int
    live: int  # those that boot or are ready included; not those that leave
    committed: int  # generations that are said to serve


@dataclass
class Evidence:
    target: int  # workers
    fates: list[Fate] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)  # what clients got that nobody had asked for
    begun: list[Begun] = field(default_factory=list)
    deaths: list[Death] = field(default_factory=list)
    pauses: list[Pause] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    disturbed: float = float("inf")  # until then nothing was done that may cost a worker, or change their number
    ending: float = float("inf")  # when the master was told to stop, or killed
    master_killed: bool = False
    exit_code: int | None = None
    log: str = ""
    found: list[str] = field(default_factory=list)  # what was found wrong with the processes themselves
    done: list[str] = field(default_factory=list)  # what was done to the server, and when

    def lost(self) -> list[Fate]:
        return [fate for fate in self.fates if fate.outcome == LOST]
