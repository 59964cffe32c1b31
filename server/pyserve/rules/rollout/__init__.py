"""The rollout: which workers of which generation there should be, as a pure function (state, event) → (state, actions).

It knows no process, socket or clock; the master tells it what happened and does what it answers. A *generation* is one
load of the app's code. In the order of a reload:

    STARTING   the first generation loads and boots; its failure ends the server
    STABLE     one committed generation serves
    PREPARING  the next generation's zygote imports the app; nothing old is touched
    CANARY     its first worker boots, and answers a check request if there is one; nothing old is touched
    ROLLING    workers are replaced within max_surge and max_unavailable
    SOAKING    all are new, and are watched for a while; then the generation is committed
    STOPPING   everything drains; nothing is started any more

A failure in PREPARING or CANARY aborts. In ROLLING and SOAKING, FAILURES_TO_ROLL_BACK crashes turn the roll round: the
old generation's zygote is still there, and the new workers are replaced as the old ones were. It also stays for a while
after the commit; somebody who wants it back then has it rolled out as a new one is, from CANARY on. What the next
generation's plan says holds from its ROLLING on.

A worker that has reached a limit of its use is worn: a fresh one takes its place, one at a time, except in CANARY and
ROLLING, when the room is the reload's.

state.py has the records and the table of phases, handlers.py what each event means, failure.py what failures lead to,
reconcile.py the rules that lead from what there is to what there should be, carried.py how it outlives the program.
"""

from __future__ import annotations

from pyserve.rules.rollout.actions import (
    Aborted,
    Action,
    Check,
    Coalesced,
    Committed,
    Degraded,
    Drain,
    GiveUp,
    Go,
    Recovered,
    Rolled,
    Spawn,
    StartZygote,
    StopZygote,
)
from pyserve.rules.rollout.carried import carried, resume
from pyserve.rules.rollout.events import (
    CheckFailed,
    CheckPassed,
    Event,
    Gate,
    Loaded,
    LoadFailed,
    Reload,
    Rollback,
    Scale,
    Start,
    Stop,
    Tick,
    WorkerGone,
    WorkerLeaving,
    WorkerReady,
    Worn,
    ZygoteGone,
)
from pyserve.rules.rollout.failure import BACKOFF_LIMIT, FAILURES_TO_ROLL_BACK, backoff
from pyserve.rules.rollout.handlers import HANDLERS
from pyserve.rules.rollout.reconcile import reconcile
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
    SOAKING,
    STABLE,
    STARTING,
    STOPPING,
    TRANSITIONS,
    WAITING,
    Generation,
    Plan,
    State,
    Worker,
    due,
    fewest,
    goal,
    retry_at,
    share,
    surge,
    takers,
    unavailable,
    way_back,
)

__all__ = [
    "BACKOFF_LIMIT",
    "BOOTING",
    "CANARY",
    "CHECKING",
    "DRAINING",
    "FAILED",
    "FAILURES_TO_ROLL_BACK",
    "HANDLERS",
    "LOADING",
    "PREPARING",
    "READY",
    "ROLLING",
    "SERVING",
    "SOAKING",
    "STABLE",
    "STARTING",
    "STOPPING",
    "TRANSITIONS",
    "WAITING",
    "Aborted",
    "Action",
    "Check",
    "CheckFailed",
    "CheckPassed",
    "Coalesced",
    "Committed",
    "Degraded",
    "Drain",
    "Event",
    "Gate",
    "Generation",
    "GiveUp",
    "Go",
    "LoadFailed",
    "Loaded",
    "Plan",
    "Recovered",
    "Reload",
    "Rollback",
    "Rolled",
    "Scale",
    "Spawn",
    "Start",
    "StartZygote",
    "State",
    "Stop",
    "StopZygote",
    "Tick",
    "Worker",
    "WorkerGone",
    "WorkerLeaving",
    "WorkerReady",
    "Worn",
    "ZygoteGone",
    "backoff",
    "carried",
    "due",
    "fewest",
    "goal",
    "resume",
    "retry_at",
    "share",
    "step",
    "surge",
    "takers",
    "unavailable",
    "way_back",
]


def step(state: State, event: Event) -> tuple[State, list[Action]]:
    """What the state becomes, and what to do, in order."""
    before = state.phase
    state = state._replace(now=max(state.now, getattr(event, "now", 0.0)))
    state, actions = HANDLERS[type(event)](state, event)
    state, more = reconcile(state)
    if state.phase != before and not _reachable(before, state.phase):
        raise AssertionError(f"BUG: {before} → {state.phase} on {event}")
    return state, actions + more


def _reachable(before: str, after: str) -> bool:
    """By one transition or several: one event can end a reload and begin the one that waited."""
    seen, frontier = {before}, {before}
    while frontier:
        frontier = {phase for source in frontier for phase in TRANSITIONS[source]} - seen
        seen |= frontier
    return after in seen
