"""Reconciliation: from what there is to what there should be, one step at a time until nothing changes.

Each rule takes the state and answers with what it becomes and what is to be done, or with the state as it is.
"""

from __future__ import annotations

from pyserve.rules.rollout.actions import Check, Committed, Drain, Rolled, Spawn, StartZygote, StopZygote
from pyserve.rules.rollout.state import (
    CANARY,
    CHECKING,
    DRAINING,
    FAILED,
    LOADING,
    PREPARING,
    READY,
    ROLLING,
    SERVING,
    SOAKING,
    STABLE,
    STARTING,
    STOPPING,
    WAITING,
    Generation,
    Worker,
    fewest,
    goal,
    living,
    outgoing,
    retry_at,
    serving,
    settled,
    surge,
    wanted,
    with_worker,
    with_zygote,
    without_generation,
    zygote,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyserve.rules.rollout.actions import Action
    from pyserve.rules.rollout.state import Plan, State


def reconcile(state: State) -> tuple[State, list[Action]]:
    """Do what is to be done now."""
    done: list[Action] = []
    while state.phase != STOPPING:
        before = state
        for rule in WHILE_GATED if state.gated else RULES:
            state, actions = rule(state)
            done += actions
            if state != before:
                break
        else:
            break
    return state, done


# Zygotes.


def prepare(state: State, phase: str, plan: Plan) -> tuple[State, list[Action]]:
    """Have a new generation loaded."""
    number = state.last + 1
    generations = (*state.generations, Generation(number, plan))
    state = state._replace(phase=phase, last=number, next=number, generations=generations, failures=0, queued=None)
    return state, [StartZygote(number)]


def retry_zygotes(state: State) -> tuple[State, list[Action]]:
    for generation in state.generations:
        if generation.zygote == FAILED and state.now >= generation.retry_at:
            return with_zygote(state, generation.number, LOADING), [StartZygote(generation.number)]
    return state, []


def forget_previous(state: State) -> tuple[State, list[Action]]:
    """The previous generation's time is over, unless it is on its way back."""
    previous = state.previous
    if previous and previous != state.next and state.now >= state.previous_until:
        return without_generation(state, previous)._replace(previous=0), [StopZygote(previous)]
    return state, []


# More workers.


def spawn_canary(state: State) -> tuple[State, list[Action]]:
    """The canary is the first of its generation. It has not crashed, so it need not wait for what has."""
    if not canary_is_missing(state) or len(living(state)) >= state.plan.target + surge(state.plan):
        return state, []
    return spawn_one(state, state.next)


def check_canary(state: State) -> tuple[State, list[Action]]:
    worker = next((worker for worker in state.workers if worker.state == WAITING), None)
    if worker is None:
        return state, []
    return with_worker(state, worker._replace(state=CHECKING)), [Check(worker.id)]


def canary_is_missing(state: State) -> bool:
    return state.phase == CANARY and all(worker.generation != state.next for worker in living(state))


def spawn(state: State) -> tuple[State, list[Action]]:
    there, ours = living(state), wanted(state)
    limit = state.plan.target + (surge(state.plan) if len(ours) < len(there) else 0)
    if len(ours) < state.plan.target and len(there) < limit and state.now >= retry_at(state):
        return spawn_one(state, goal(state))
    return state, []


def spawn_one(state: State, generation: int) -> tuple[State, list[Action]]:
    if zygote(state, generation) != READY:
        return state, []
    out = outgoing(state)
    taken = {worker.number for worker in living(state) if worker.generation == generation and worker != out}
    number = next(n for n in range(len(taken) + 1) if n not in taken)
    worker = Worker(state.last_id + 1, number, generation)
    return state._replace(last_id=worker.id, workers=(*state.workers, worker)), [Spawn(worker)]


# Fewer workers.


def retire(state: State) -> tuple[State, list[Action]]:
    """Drain a worker of another generation, as long as enough serve without it."""
    foreign = [worker for worker in living(state) if worker.generation not in (goal(state), state.next)]
    cause = "reload" if state.phase == ROLLING and state.next > state.good else "roll back"
    for worker in sorted(foreign, key=lambda w: w.number):
        if worker.state != SERVING or serving(state) > fewest(state):
            return drain(state, worker, cause)
    return state, []


def replace_worn(state: State) -> tuple[State, list[Action]]:
    """The fresh worker serves before the worn one leaves, unless there may be none above the target."""
    out = outgoing(state)
    enough = state.plan.target if surge(state.plan) else fewest(state)
    if out is not None and serving(state) > enough:
        return drain(state, out, out.worn)
    return state, []


def make_room(state: State) -> tuple[State, list[Action]]:
    """Where there may be none above the target, the canary takes the place of a worker that serves."""
    others = [worker for worker in living(state) if worker.generation != state.next]
    if state.phase != CANARY or surge(state.plan) or len(others) < state.plan.target:
        return state, []
    if serving(state) <= fewest(state):
        return state, []
    leaving = max((worker for worker in others if worker.state == SERVING), key=lambda worker: worker.number)
    return drain(state, leaving, "reload" if state.next > state.good else "roll back")


def trim(state: State) -> tuple[State, list[Action]]:
    """Drain a worker that is too many: those that serve no one yet first, and then the highest numbers."""
    there, ours = living(state), wanted(state)
    if len(ours) > state.plan.target:
        return drain(state, max(ours, key=lambda w: (w.state != SERVING, w.number)), "scale down")
    booting = [worker for worker in there if worker.state != SERVING]
    if booting and len(there) > state.plan.target + surge(state.plan):
        return drain(state, max(booting), "scale down")
    return state, []


def drain(state: State, worker: Worker, cause: str) -> tuple[State, list[Action]]:
    return with_worker(state, worker._replace(state=DRAINING)), [Drain(worker.id, cause)]


# The end of a rollout.


def finish(state: State) -> tuple[State, list[Action]]:
    """Once there are all the workers that there should be: the roll is over, then the soak, then it is committed."""
    if state.phase not in (STARTING, ROLLING, SOAKING) or not settled(state):
        return state, []
    if state.phase == STARTING:
        return commit(state)
    if state.phase == ROLLING:
        return state._replace(phase=SOAKING, soak_until=0.0), [Rolled(state.next, state.good)]
    if state.plan.soak and not state.soak_until:
        return state._replace(soak_until=state.now + state.plan.soak), []
    return commit(state) if state.now >= state.soak_until else (state, [])


def commit(state: State) -> tuple[State, list[Action]]:
    """Only a generation that was replaced by a newer one is kept, and for that it must be loaded now."""
    keeps = state.next > state.good and state.plan.keep and zygote(state, state.good) == READY
    previous = state.good if keeps else 0
    kept = tuple(generation for generation in state.generations if generation.number in (state.next, previous))
    actions: list[Action] = [Committed(state.next, previous, first=state.phase == STARTING)]
    actions += [StopZygote(generation.number) for generation in state.generations if generation not in kept]
    state = state._replace(phase=STABLE, good=state.next, next=0, generations=kept, failures=0, soak_until=0.0)
    return state._replace(previous=previous, previous_until=state.now + state.plan.keep), actions


def reload_again(state: State) -> tuple[State, list[Action]]:
    if state.phase == STABLE and state.queued:
        return prepare(state, PREPARING, state.queued)
    return state, []


RULES = (
    retry_zygotes,
    forget_previous,
    spawn_canary,
    check_canary,
    spawn,
    retire,
    replace_worn,
    make_room,
    trim,
    finish,
    reload_again,
)
# While a request is alone in the app its worker must not be told to leave, and no canary be asked whether it is well.
WHILE_GATED = (retry_zygotes, spawn, finish)
