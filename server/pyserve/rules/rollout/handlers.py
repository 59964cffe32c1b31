"""What each event says about the world. What follows from it is reconciliation's business."""

from __future__ import annotations

from pyserve.rules.rollout import events
from pyserve.rules.rollout.actions import Coalesced, Go, Recovered
from pyserve.rules.rollout.failure import abort, back_off, crashed, give_up, stop, zygote_lost
from pyserve.rules.rollout.reconcile import prepare
from pyserve.rules.rollout.state import (
    BOOTING,
    CANARY,
    CHECKING,
    DRAINING,
    FAILED,
    LOADING,
    PREPARING,
    READY,
    ROLLING,
    SERVING,
    STABLE,
    STARTING,
    STOPPING,
    WAITING,
    find,
    going_back,
    plan_of,
    with_worker,
    with_zygote,
    zygote,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyserve.rules.rollout.actions import Action
    from pyserve.rules.rollout.state import Plan, State, Worker


def start(state: State, event: events.Start) -> tuple[State, list[Action]]:
    return prepare(state, STARTING, state.plan)


def reload(state: State, event: events.Reload) -> tuple[State, list[Action]]:
    if state.phase == STOPPING:
        return state, []
    if state.phase != STABLE or state.gated:
        return state._replace(queued=event.plan), [Coalesced()]
    return prepare(state, PREPARING, event.plan)


def roll_back(state: State, event: events.Rollback) -> tuple[State, list[Action]]:
    """Before a generation is committed it means to give that up, and what waits behind it; else to roll back out what
    was there before, which is loaded. Asking twice changes nothing."""
    if state.phase in (STARTING, STOPPING) or going_back(state):
        return state, []
    if state.next:
        return abort(state._replace(queued=None), "a roll-back was asked for")
    if not state.previous:
        return state, []
    return state._replace(phase=CANARY, next=state.previous, failures=0), []


def loaded(state: State, event: events.Loaded) -> tuple[State, list[Action]]:
    if zygote(state, event.generation) != LOADING:
        return state, []
    state = with_zygote(state, event.generation, READY)
    if state.phase == PREPARING and event.generation == state.next:
        state = state._replace(phase=CANARY)
    return state, []


def load_failed(state: State, event: events.LoadFailed) -> tuple[State, list[Action]]:
    if zygote(state, event.generation) != LOADING:
        return state, []
    if state.phase == STARTING:
        return give_up(state, event.reason)
    if event.generation == state.next:
        return abort(state, event.reason)
    return back_off(with_zygote(state, event.generation, FAILED), event.generation)


def zygote_gone(state: State, event: events.ZygoteGone) -> tuple[State, list[Action]]:
    if zygote(state, event.generation) != READY:
        return state, []
    reason = "its zygote died"
    if state.phase == STARTING:
        return give_up(state, reason)
    lost = zygote_lost(state, event.generation, reason)
    return lost or crashed(with_zygote(state, event.generation, FAILED), event.generation, reason)


def worker_ready(state: State, event: events.WorkerReady) -> tuple[State, list[Action]]:
    worker = find(state, event.id)
    if worker is None or worker.state != BOOTING:
        return state, []
    worker = worker._replace(took=event.took)
    if is_canary(state, worker) and not going_back(state) and plan_of(state, worker.generation).check:
        return with_worker(state, worker._replace(state=WAITING)), []
    return serve(state, worker)


def check_passed(state: State, event: events.CheckPassed) -> tuple[State, list[Action]]:
    worker = find(state, event.id)
    return serve(state, worker) if worker is not None and worker.state == CHECKING else (state, [])


def check_failed(state: State, event: events.CheckFailed) -> tuple[State, list[Action]]:
    worker = find(state, event.id)
    return abort(state, event.reason) if worker is not None and worker.state == CHECKING else (state, [])


def is_canary(state: State, worker: Worker) -> bool:
    return state.phase == CANARY and worker.generation == state.next


def serve(state: State, worker: Worker) -> tuple[State, list[Action]]:
    """Let a worker go. If it is the canary, its generation's turn has come."""
    if is_canary(state, worker):
        state = state._replace(phase=ROLLING, plan=plan_of(state, state.next))
    return with_worker(state, worker._replace(state=SERVING)), [Go(worker.id)]


def worker_leaving(state: State, event: events.WorkerLeaving) -> tuple[State, list[Action]]:
    worker = find(state, event.id)
    if worker is None:
        return state, []
    return with_worker(state, worker._replace(state=DRAINING)), []


def worn(state: State, event: events.Worn) -> tuple[State, list[Action]]:
    worker = find(state, event.id)
    if worker is None or worker.state != SERVING or worker.worn:
        return state, []
    return with_worker(state, worker._replace(worn=event.cause)), []


def worker_gone(state: State, event: events.WorkerGone) -> tuple[State, list[Action]]:
    worker = find(state, event.id)
    if worker is None:
        return state, []
    state = state._replace(workers=tuple(w for w in state.workers if w.id != event.id))
    if worker.state == DRAINING or state.phase == STOPPING:
        return state, []
    if state.phase == STARTING and worker.state == BOOTING:
        return give_up(state, event.reason)
    of_use = worker.state == SERVING and event.has_served
    return crashed(state, worker.generation, event.reason, worker if of_use else None)


def gate(state: State, event: events.Gate) -> tuple[State, list[Action]]:
    return state._replace(gated=event.closed), []


def scale(state: State, event: events.Scale) -> tuple[State, list[Action]]:
    """Every plan there is follows, so that the change outlives a roll-back."""

    def scaled(plan: Plan) -> Plan:
        return plan._replace(target=max(1, plan.target + event.by))

    generations = tuple(generation._replace(plan=scaled(generation.plan)) for generation in state.generations)
    queued = state.queued and scaled(state.queued)
    return state._replace(plan=scaled(state.plan), generations=generations, queued=queued), []


def stop_all(state: State, event: events.Stop) -> tuple[State, list[Action]]:
    return stop(state)


def tick(state: State, event: events.Tick) -> tuple[State, list[Action]]:
    if state.phase == STOPPING:
        return state, []
    crashes = tuple(time for time in state.crashes if event.now - time < state.crash_window)
    state = state._replace(crashes=crashes)
    if state.degraded and not crashes:
        return state._replace(degraded=False), [Recovered()]
    return state, []


HANDLERS: dict[type, Callable[[State, Any], tuple[State, list[Action]]]] = {
    events.Start: start,
    events.Reload: reload,
    events.Rollback: roll_back,
    events.Loaded: loaded,
    events.LoadFailed: load_failed,
    events.ZygoteGone: zygote_gone,
    events.WorkerReady: worker_ready,
    events.CheckPassed: check_passed,
    events.CheckFailed: check_failed,
    events.WorkerLeaving: worker_leaving,
    events.Worn: worn,
    events.WorkerGone: worker_gone,
    events.Scale: scale,
    events.Gate: gate,
    events.Stop: stop_all,
    events.Tick: tick,
}
