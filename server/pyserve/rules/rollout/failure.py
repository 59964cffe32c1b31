"""Failure: what it costs the generation that failed, and how long what crashes waits before it is started again.

What ends before it was of use would only do so again: the next try waits, ever longer. A worker that has served, and
then ends, is replaced at once.
"""

from __future__ import annotations

from pyserve.rules.rollout.actions import Aborted, Degraded, Drain, GiveUp, StopZygote
from pyserve.rules.rollout.state import (
    DRAINING,
    ROLLING,
    SOAKING,
    STABLE,
    STARTING,
    STOPPING,
    going_back,
    plan_of,
    with_boot_failures,
    without_generation,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.rules.rollout.actions import Action
    from pyserve.rules.rollout.state import State, Worker

FAILURES_TO_ROLL_BACK = 2
BACKOFF_FIRST = 0.5  # seconds; the first crash in a quiet time is repaired at once
BACKOFF_FACTOR = 1.5
BACKOFF_LIMIT = 15.0
BACKOFF_SPREAD = 0.2  # of a wait, by which it may be shorter
DEBT_ALLOWED = 2.0  # seconds of boots, before one has to wait


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


def crashed(state: State, generation: int, reason: str, after_work: Worker | None = None) -> tuple[State, list[Action]]:
    """A worker, or a zygote that had loaded, ended unasked. The next generation may do that once while it rolls and
    soaks, and then soaks anew. ``after_work``: the worker, if it was of use before."""
    if generation == state.next and state.phase != STARTING:
        state = state._replace(failures=state.failures + 1, soak_until=0.0)
        if state.phase not in (ROLLING, SOAKING) or state.failures >= FAILURES_TO_ROLL_BACK:
            return abort(state, reason)
    return repair(state, after_work) if after_work else back_off(state, generation)


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


def back_off(state: State, generation: int) -> tuple[State, list[Action]]:
    """Something of a generation has ended before it was of use: the next try has to wait, each time longer."""
    now = state.now
    known = next((each.boot_failures for each in state.generations if each.number == generation), ())
    failures = (*(time for time in known if now - time < state.crash_window), now)
    delay = backoff(len(failures), state.chance)
    return count_crash(with_boot_failures(state, generation, failures, now + delay), delay)


def repair(state: State, worker: Worker) -> tuple[State, list[Action]]:
    """A worker has ended that was of use: it is replaced at once, whatever else has crashed. The request that ends one
    may come again and again, and the other clients have done nothing. Only where boots are so slow, or crashes so many,
    that the machine would do nothing else, they wait."""
    now = state.now
    debt = max(0.0, state.debt - (now - state.debt_at) * state.debt_share)
    delay = max(0.0, debt - DEBT_ALLOWED) / state.debt_share
    return count_crash(state._replace(debt=debt + worker.took, debt_at=now, repair_at=now + delay), delay)


def count_crash(state: State, delay: float) -> tuple[State, list[Action]]:
    now = state.now
    crashes = (*(time for time in state.crashes if now - time < state.crash_window), now)
    state = state._replace(crashes=crashes)
    if len(crashes) >= state.max_crashes:
        return state._replace(degraded=True), [Degraded(len(crashes), delay)]
    return state, []
