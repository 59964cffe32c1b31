"""What happens, as the rollout is told it. ``now`` is monotonic seconds wherever it matters."""

from __future__ import annotations

from pyserve.rules.rollout.state import Plan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NamedTuple
else:
    from pyserve.records import NamedTuple


class Start(NamedTuple):
    """Begin with the first generation, by the plan in force."""


class Reload(NamedTuple):
    """SIGHUP, with a configuration that was found valid."""

    plan: Plan


class Rollback(NamedTuple):
    """Somebody wants the generation back that ``way_back`` names."""


class Loaded(NamedTuple):
    """A generation's zygote has imported the app."""

    generation: int


class LoadFailed(NamedTuple):
    """A generation's zygote cannot load the app, hangs in it, or has died while loading it."""

    generation: int
    reason: str
    now: float


class ZygoteGone(NamedTuple):
    """A zygote that had loaded is dead."""

    generation: int
    now: float


class WorkerReady(NamedTuple):
    id: int
    took: float = 0.0  # seconds, to boot


class CheckPassed(NamedTuple):
    """A worker has answered its check request well."""

    id: int


class CheckFailed(NamedTuple):
    id: int
    reason: str


class WorkerLeaving(NamedTuple):
    """A worker stops accepting by itself: somebody sent it a TERM."""

    id: int


class Worn(NamedTuple):
    """A worker has reached a limit of its use; ``cause`` is which."""

    id: int
    cause: str


class WorkerGone(NamedTuple):
    """A worker's process has ended. ``reason`` is how; it matters only if nobody asked it to."""

    id: int
    reason: str
    now: float
    has_served: bool = False  # has it answered a request, or was it in one?


class Scale(NamedTuple):
    by: int


class Gate(NamedTuple):
    """A request wants to be alone in the app, or does not any more."""

    closed: bool


class Stop(NamedTuple):
    """Drain everything."""


class Tick(NamedTuple):
    now: float


Event = (
    Start
    | Reload
    | Rollback
    | Loaded
    | LoadFailed
    | ZygoteGone
    | WorkerReady
    | CheckPassed
    | CheckFailed
    | WorkerLeaving
    | Worn
    | WorkerGone
    | Scale
    | Gate
    | Stop
    | Tick
)
