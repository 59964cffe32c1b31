"""Failure: what it costs the generation that failed, and how long what crashes waits before it is started again."""

from __future__ import annotations

from pyserve.rollout.actions import Aborted, Degraded, Drain, GiveUp, StopZygote
from pyserve.rollout.state import (
    DRAINING,
    ROLLING,
    SOAKING,
    STABLE,
    STARTING,
    STOPPING,
    going_back,
    plan_of,
    without_generation,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.rollout.actions import Action
    from pyserve.rollout.state import State

FAILURES_TO_ROLL_BACK = 2
BACKOFF_FIRST = 0.5  # seconds; the first crash in a quiet time is repaired at once
BACKOFF_FACTOR = 1.5
BACKOFF_LIMIT = 15.0
BACKOFF_SPREAD = 0.2  # of a wait, by which it may be shorter


def stop(state: State) -> tuple[State, list[Action]]:
    """Drain everything, start nothing more."""
    actions: list[Action] = [Drain(w.id, "SIGTERM") for w in state.workers if w.state != DRAINING]
    actions += [StopZygote(generation.number) for generation in state.generations]
    workers = tuple(w._replace(state=DRAINING) for w in state.workers)
    return state._replace(phase=STOPPING, workers=workers, generations=(), queued=None), actions


def give_up(state: State, reason: str) -> tuple[State, list[Action]]:
    stopped, actions = stop(state)
    return stopped, [GiveUp(reason), *actions]


def abort(state: State, reason: str) -> tuple[State, list[Action]]:
    """Give the next generation up; its workers that serve already are replaced by reconciliation, as foreign ones."""
    generation = state.next
    rolled_back = state.phase in (ROLLING, SOAKING)
    actions: list[Action] = [Aborted(generation, state.good, reason, rolled_back), StopZygote(generation)]
    previous = state.previous if state.previous != generation else 0
    state = without_generation(state, generation)
    return state._replace(phase=STABLE, next=0, previous=previous, plan=plan_of(state, state.good)), actions


def crashed(state: State, generation: int, reason: str) -> tuple[State, list[Action]]:
    """A worker, or a zygote that had loaded, ended unasked. The next generation may do that once while it rolls and
    soaks, and then soaks anew."""
    if generation == state.next and state.phase != STARTING:
        state = state._replace(failures=state.failures + 1, soak_until=0.0)
        if state.phase not in (ROLLING, SOAKING) or state.failures >= FAILURES_TO_ROLL_BACK:
            return abort(state, reason)
    return back_off(state)


def zygote_lost(state: State, generation: int, reason: str) -> tuple[State, list[Action]] | None:
    """What an older generation's dead zygote means: it cannot be had again, since only newer code is left to load.
    None if the generation is not one of those."""
    if generation == state.next and going_back(state):
        return abort(state, reason)
    if generation == state.previous:
        return without_generation(state, generation)._replace(previous=0), [StopZygote(generation)]
    return None


def backoff(crashes: int, chance: float = 0.0) -> float:
    """Seconds to wait after that many crashes in a short time. ``chance``, from 0 to 1, keeps servers apart that crash
    for one reason, such as a database that has gone."""
    if crashes <= 1:
        return 0.0
    delay: float = BACKOFF_FIRST * BACKOFF_FACTOR ** min(crashes - 2, 20)
    return min(BACKOFF_LIMIT, delay) * (1 - BACKOFF_SPREAD * chance)


def back_off(state: State) -> tuple[State, list[Action]]:
    now = state.now
    crashes = (*(time for time in state.crashes if now - time < state.crash_window), now)
    delay = backoff(len(crashes), state.chance)
    state = state._replace(crashes=crashes, retry_at=now + delay)
    if len(crashes) >= state.max_crashes:
        return state._replace(degraded=True), [Degraded(len(crashes), delay)]
    return state, []
