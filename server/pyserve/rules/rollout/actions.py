"""What the rollout answers: what is to be done, and what is to be told."""

from __future__ import annotations

from pyserve.rules.rollout.state import Worker

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from pyserve.records import NamedTuple


class StartZygote(NamedTuple):
    generation: int


class StopZygote(NamedTuple):
    """The generation is not wanted any more; there may be no process of it."""

    generation: int


class Spawn(NamedTuple):
    worker: Worker


class Check(NamedTuple):
    """Have a worker that is ready answer a check request; CheckPassed, CheckFailed or its end is awaited."""

    id: int


class Go(NamedTuple):
    id: int


class Drain(NamedTuple):
    id: int
    cause: str


class Rolled(NamedTuple):
    """Every worker is of this generation now; from here on it is watched. ``before``: the one that it replaced."""

    generation: int
    before: int


class Committed(NamedTuple):
    """This generation is the one that serves. ``previous`` stays loaded for a while; 0: none does."""

    generation: int
    previous: int
    first: bool


class Aborted(NamedTuple):
    """The generation is given up; ``rolled_back`` says that some of its workers had served already."""

    generation: int
    good: int
    reason: str
    rolled_back: bool


class Coalesced(NamedTuple):
    """The reload that was asked for follows when the one under way has ended."""


class Degraded(NamedTuple):
    crashes: int
    retry_in: float


class Recovered(NamedTuple):
    pass


class GiveUp(NamedTuple):
    """The first generation failed: the server ends."""

    reason: str


Action = (
    StartZygote
    | StopZygote
    | Spawn
    | Check
    | Go
    | Drain
    | Rolled
    | Committed
    | Aborted
    | Coalesced
    | Degraded
    | Recovered
    | GiveUp
)
