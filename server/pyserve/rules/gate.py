"""The gate: who may enter the app, as a pure function (state, event) → (state, actions).

    OPEN → DRAINING(owner, epoch) → HELD(owner, epoch) → OPEN(epoch + 1)

Somebody who must run alone (a request, or an operator's command or maintenance) asks with a ticket. From DRAINING on no
other request enters the app; when each worker has said that its last one has left, the owner is granted the gate. It
opens when the owner is done, has died, or was not granted it within its ``drain_timeout``. Tickets that wait for their
turn have it in order of their asking, maintenance before all others.

It knows no process, socket or clock; ``exclusion`` tells it what happened and does what it answers. A worker whose own
ticket waits, and which can do nothing else meanwhile (``blocks``), counts as idle: so two never wait for each other.
"""

from __future__ import annotations

from pyserve import states

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, NamedTuple
else:
    from pyserve.records import NamedTuple

OPEN = "open"
DRAINING = "draining"
HELD = "held"

# What each phase may become. Anything else is a bug.
TRANSITIONS = {
    OPEN: {DRAINING},
    DRAINING: {HELD, OPEN},
    HELD: {OPEN},
}

OPERATOR = 0  # instead of a worker: the ticket is pyservectl's


class Ticket(NamedTuple):
    """Times are seconds; infinity is no limit."""

    id: int
    worker: int = OPERATOR
    blocks: bool = False  # its worker runs nothing else while the ticket waits or holds
    waits: bool = False  # while others have the gate; else it is refused then
    drain_timeout: float = 30.0  # to wait for its turn, and again for the others to leave the app
    timeout: float = float("inf")  # to hold the gate; the worker of a ticket that does not block sees to it itself
    kills: bool = False  # the workers that have not become idle within drain_timeout
    maintenance: bool = False  # goes first, and never has to be told anything
    since: float = 0.0  # when it asked, began to drain, or was granted the gate: whatever came last


class State(NamedTuple):
    phase: str = OPEN
    epoch: int = 1
    owner: Ticket | None = None
    waiting: tuple[Ticket, ...] = ()
    serving: frozenset[int] = frozenset()  # workers that may have requests in the app
    busy: frozenset[int] = frozenset()  # those that have not said yet that they are idle in this epoch
    stopping: bool = False


# Events. ``now`` is monotonic seconds.


class Ask(NamedTuple):
    ticket: Ticket
    now: float


class Gone(NamedTuple):
    """A ticket is given back: its owner is done, or does not want to wait any longer."""

    id: int
    now: float


class Idle(NamedTuple):
    """A worker has no request in the app, and lets none enter while this epoch lasts."""

    worker: int
    epoch: int
    now: float


class Serving(NamedTuple):
    """A worker begins to serve."""

    worker: int
    now: float


class Ended(NamedTuple):
    """A worker's process has ended, and with it all that it ran."""

    worker: int
    now: float


class Tick(NamedTuple):
    now: float


class Stop(NamedTuple):
    """The server stops: nobody is granted the gate any more."""

    now: float


Event = Ask | Gone | Idle | Serving | Ended | Tick | Stop


# Actions.


class Close(NamedTuple):
    """Let nothing enter the app in any worker, and have them say when they are idle. Said again, when something about
    the owner has changed."""

    epoch: int
    owner: Ticket


class Grant(NamedTuple):
    id: int


class Refuse(NamedTuple):
    id: int
    why: str


class Interrupt(NamedTuple):
    """The owner has had the gate for longer than its ``timeout``."""

    owner: Ticket


class Kill(NamedTuple):
    worker: int


class Open(NamedTuple):
    """Everything may enter again; this epoch is over."""

    epoch: int


Action = Close | Grant | Refuse | Interrupt | Kill | Open

BUSY = "another exclusive request has the gate"
STOPPING = "the server stops"


def step(state: State, event: Event) -> tuple[State, list[Action]]:
    """What the state becomes, and what to do, in order."""
    after, actions = _HANDLERS[type(event)](state, event)
    while True:
        again, more = _advance(after, event.now)
        actions += more
        if again == after:
            break
        after = again
    return after, actions


# Handlers.


def _ask(state: State, event: Ask) -> tuple[State, list[Action]]:
    ticket = event.ticket._replace(since=event.now)
    if state.stopping:
        return state, [Refuse(ticket.id, STOPPING)]
    if state.phase != OPEN and not ticket.waits:
        return state, [Refuse(ticket.id, BUSY)]
    waiting = (ticket, *state.waiting) if ticket.maintenance else (*state.waiting, ticket)
    return state._replace(waiting=waiting), []


def _gone(state: State, event: Gone) -> tuple[State, list[Action]]:
    if state.owner is not None and state.owner.id == event.id:
        return _open(state)
    return state._replace(waiting=tuple(ticket for ticket in state.waiting if ticket.id != event.id)), []


def _idle(state: State, event: Idle) -> tuple[State, list[Action]]:
    if event.epoch != state.epoch:
        return state, []
    return state._replace(busy=state.busy - {event.worker}), []


def _serving(state: State, event: Serving) -> tuple[State, list[Action]]:
    """It knew that the gate is closed, if it is, before it began: it need not say that it is idle."""
    return state._replace(serving=state.serving | {event.worker}), []


def _ended(state: State, event: Ended) -> tuple[State, list[Action]]:
    gone = {event.worker}
    waiting = tuple(ticket for ticket in state.waiting if ticket.worker != event.worker)
    state = state._replace(serving=state.serving - gone, busy=state.busy - gone, waiting=waiting)
    if state.owner is not None and state.owner.worker == event.worker:
        return _open(state)
    return state, []


def _tick(state: State, event: Tick) -> tuple[State, list[Action]]:
    late = [ticket for ticket in state.waiting if event.now - ticket.since > ticket.drain_timeout]
    actions: list[Action] = [Refuse(ticket.id, BUSY) for ticket in late]
    state = state._replace(waiting=tuple(ticket for ticket in state.waiting if ticket not in late))
    owner = state.owner
    if owner is None:
        return state, actions
    took = event.now - owner.since
    if state.phase == HELD:
        if owner.blocks and took > owner.timeout:
            return state._replace(owner=owner._replace(timeout=float("inf"))), [*actions, Interrupt(owner)]
    elif took > owner.drain_timeout:
        stuck = _stuck(state)
        if owner.kills and owner.worker not in stuck:
            owner = owner._replace(kills=False, since=event.now)
            return state._replace(owner=owner), [*actions, *(Kill(worker) for worker in sorted(stuck))]
        state, opened = _open(state)
        why = f"{len(stuck)} worker{'s' if len(stuck) != 1 else ''} did not finish in {owner.drain_timeout:g} s"
        return state, [*actions, Refuse(owner.id, why), *opened]
    return state, actions


def _stop(state: State, _event: Stop) -> tuple[State, list[Action]]:
    actions: list[Action] = [Refuse(ticket.id, STOPPING) for ticket in state.waiting]
    state = state._replace(stopping=True, waiting=())
    owner = state.owner
    if owner is None:
        return state, actions
    if state.phase == DRAINING and not owner.maintenance:
        state, opened = _open(state)
        return state, [*actions, Refuse(owner.id, STOPPING), *opened]
    return state, [*actions, Close(state.epoch, owner)]


_HANDLERS: dict[type, Callable[[State, Any], tuple[State, list[Action]]]] = {
    Ask: _ask,
    Gone: _gone,
    Idle: _idle,
    Serving: _serving,
    Ended: _ended,
    Tick: _tick,
    Stop: _stop,
}


# What follows.


def _advance(state: State, now: float) -> tuple[State, list[Action]]:
    if state.phase == OPEN and state.waiting:
        owner = state.waiting[0]._replace(since=now)
        state = _become(state, DRAINING)
        return (
            state._replace(owner=owner, waiting=state.waiting[1:], busy=state.serving),
            [Close(state.epoch, owner)],
        )
    if state.phase == DRAINING and state.owner is not None and not _stuck(state):
        state = _become(state, HELD)._replace(owner=state.owner._replace(since=now), busy=frozenset())
        return state, [Grant(state.owner.id)] if state.owner is not None else []
    return state, []


def _stuck(state: State) -> frozenset[int]:
    """The workers that are waited for."""
    tickets = state.waiting if state.owner is None else (state.owner, *state.waiting)
    return state.busy - {ticket.worker for ticket in tickets if ticket.blocks}


def _open(state: State) -> tuple[State, list[Action]]:
    epoch = state.epoch
    return _become(state, OPEN)._replace(owner=None, busy=frozenset(), epoch=epoch + 1), [Open(epoch)]


def _become(state: State, phase: str) -> State:
    return state._replace(phase=states.become("gate", TRANSITIONS, state.phase, phase))


def next_event(state: State) -> float:
    """When a Tick has something to do, CLOCK_MONOTONIC seconds; infinity: never."""
    times = [ticket.since + ticket.drain_timeout for ticket in state.waiting]
    owner = state.owner
    if owner is not None and state.phase == DRAINING:
        times.append(owner.since + owner.drain_timeout)
    elif owner is not None and owner.blocks:
        times.append(owner.since + owner.timeout)
    return min(times, default=float("inf"))
