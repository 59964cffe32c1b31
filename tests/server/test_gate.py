"""The gate: its rules one by one, and a walk through what workers, requests and operators can do in any order."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from pyserve.rules.gate import (
    BUSY,
    DRAINING,
    HELD,
    OPEN,
    OPERATOR,
    STOPPING,
    Action,
    Ask,
    Close,
    Ended,
    Event,
    Gone,
    Grant,
    Idle,
    Interrupt,
    Kill,
    Open,
    Refuse,
    Serving,
    State,
    Stop,
    Tick,
    Ticket,
    next_event,
    step,
)


def run(*events: Event, state: State | None = None) -> tuple[State, list[Action]]:
    """The state after some events, and what the last one led to."""
    actions: list[Action] = []
    state = state or State()
    for event in events:
        state, actions = step(state, event)
    return state, actions


TWO = (Serving(1, 0.0), Serving(2, 0.0))
FIRST = Ticket(1, worker=1, drain_timeout=30.0)
SECOND = Ticket(2, worker=2, drain_timeout=30.0)


def test_the_owner_has_the_gate_when_every_worker_is_idle() -> None:
    state, actions = run(*TWO, Ask(FIRST, 1.0))
    assert (state.phase, state.epoch, actions) == (DRAINING, 1, [Close(1, state.owner)])  # type: ignore[arg-type]
    state, actions = run(Idle(1, 1, 1.1), state=state)
    assert (state.phase, actions) == (DRAINING, [])
    state, actions = run(Idle(2, 1, 1.2), state=state)
    assert (state.phase, actions) == (HELD, [Grant(1)])
    state, actions = run(Gone(1, 2.0), state=state)
    assert (state.phase, state.epoch, actions) == (OPEN, 2, [Open(1)])


def test_a_worker_that_is_blocked_by_its_own_ticket_is_idle() -> None:
    state, actions = run(Serving(1, 0.0), Ask(FIRST._replace(blocks=True), 1.0))
    assert (state.phase, actions[-1]) == (HELD, Grant(1))


def test_without_workers_the_gate_is_had_at_once() -> None:
    assert run(Ask(Ticket(1), 1.0))[0].phase == HELD


def test_what_a_worker_says_of_an_earlier_epoch_does_not_count() -> None:
    state, _ = run(*TWO, Ask(FIRST, 1.0), Gone(1, 2.0), Ask(SECOND, 3.0))
    state, actions = run(Idle(1, 1, 3.1), Idle(2, 1, 3.2), state=state)
    assert (state.phase, actions) == (DRAINING, [])


def test_who_comes_second_is_refused_or_waits() -> None:
    state, actions = run(*TWO, Ask(FIRST, 1.0), Ask(SECOND, 1.0))
    assert actions == [Refuse(2, BUSY)]
    state, actions = run(Ask(SECOND._replace(waits=True), 1.0), state=state)
    assert actions == []
    state, actions = run(Gone(1, 2.0), state=state)
    assert isinstance(actions[0], Open)
    assert isinstance(actions[1], Close)
    assert (state.phase, state.epoch, state.owner and state.owner.id) == (DRAINING, 2, 2)


def test_who_waits_and_blocks_its_worker_is_not_waited_for() -> None:
    state, actions = run(*TWO, Ask(FIRST, 1.0), Ask(SECOND._replace(waits=True, blocks=True), 1.0), Idle(1, 1, 1.1))
    assert (state.phase, actions) == (HELD, [Grant(1)])


def test_a_drain_that_takes_too_long_refuses_the_owner_and_opens() -> None:
    state, _ = run(*TWO, Ask(FIRST, 1.0), Idle(1, 1, 1.1))
    assert next_event(state) == 31.0
    state, actions = run(Tick(31.5), state=state)
    assert actions == [Refuse(1, "1 worker did not finish in 30 s"), Open(1)]
    assert (state.phase, next_event(state)) == (OPEN, float("inf"))


def test_it_kills_only_if_that_was_asked_for_and_then_waits_once_more() -> None:
    state, _ = run(*TWO, Ask(FIRST._replace(kills=True), 1.0), Idle(1, 1, 1.1))
    state, actions = run(Tick(31.5), state=state)
    assert (state.phase, actions) == (DRAINING, [Kill(2)])
    assert run(Tick(62.0), state=state)[0].phase == OPEN
    assert run(Ended(2, 32.0), state=state)[1] == [Grant(1)]


def test_an_owner_whose_own_worker_is_stuck_does_not_kill_itself() -> None:
    state, _ = run(*TWO, Ask(FIRST._replace(kills=True), 1.0), Idle(2, 1, 1.1))
    assert run(Tick(31.5), state=state)[0].phase == OPEN


def test_who_waits_for_too_long_is_refused() -> None:
    state, _ = run(*TWO, Ask(FIRST._replace(drain_timeout=900.0), 1.0), Ask(SECOND._replace(waits=True), 2.0))
    state, actions = run(Tick(32.5), state=state)
    assert (state.phase, actions) == (DRAINING, [Refuse(2, BUSY)])


def test_an_owner_that_has_it_for_too_long_is_interrupted_once() -> None:
    state, _ = run(Ask(FIRST._replace(timeout=5.0), 1.0))
    assert run(Tick(6.5), state=state)[1] == [], "its worker runs others, too, and sees to it"
    state, _ = run(Ask(FIRST._replace(timeout=5.0, blocks=True), 1.0))
    assert next_event(state) == 6.0
    state, actions = run(Tick(6.5), state=state)
    assert isinstance(actions[0], Interrupt)
    assert run(Tick(20.0), state=state)[1] == []


@pytest.mark.parametrize("idle", [(), (1,), (1, 2)])
def test_the_death_of_the_owners_worker_opens_the_gate(idle: tuple[int, ...]) -> None:
    state, _ = run(*TWO, Ask(FIRST, 1.0), *(Idle(worker, 1, 1.1) for worker in idle))
    state, actions = run(Ended(1, 2.0), state=state)
    assert (state.phase, actions) == (OPEN, [Open(1)])


def test_the_death_of_another_worker_is_as_good_as_its_word() -> None:
    state, _ = run(*TWO, Ask(FIRST, 1.0), Idle(1, 1, 1.1))
    assert run(Ended(2, 2.0), state=state)[1] == [Grant(1)]


def test_a_worker_that_is_born_meanwhile_is_not_waited_for() -> None:
    state, _ = run(*TWO, Ask(FIRST, 1.0), Idle(1, 1, 1.1), Serving(3, 1.2))
    assert run(Idle(2, 1, 1.3), state=state)[1] == [Grant(1)]


def test_maintenance_is_the_next_however_many_wait() -> None:
    state, _ = run(*TWO, Ask(FIRST, 1.0), Ask(SECOND._replace(waits=True), 1.0))
    state, _ = run(Ask(Ticket(3, waits=True, maintenance=True, drain_timeout=float("inf")), 2.0), state=state)
    state, _ = run(Gone(1, 3.0), state=state)
    assert state.owner is not None
    assert state.owner.id == 3


def test_a_stop_refuses_all_but_the_one_that_has_the_gate() -> None:
    state, _ = run(*TWO, Ask(FIRST, 1.0), Idle(1, 1, 1.1), Idle(2, 1, 1.1), Ask(SECOND._replace(waits=True), 1.0))
    state, actions = run(Stop(2.0), state=state)
    assert actions[0] == Refuse(2, STOPPING)
    assert isinstance(actions[1], Close)  # those who wait for it to open need not
    assert state.phase == HELD
    assert run(Ask(SECOND, 3.0), state=state)[1] == [Refuse(2, STOPPING)]


def test_a_stop_while_draining_opens_the_gate() -> None:
    state, actions = run(*TWO, Ask(FIRST, 1.0), Stop(2.0))
    assert (state.phase, actions) == (OPEN, [Refuse(1, STOPPING), Open(1)])


# The walk.


@dataclass
class Member:
    """A worker, as far as the gate is concerned: words in shared memory count at once, messages when they are heard."""

    id: int
    blocks: bool  # one request at a time, and deaf meanwhile
    word: int = 0
    serves: bool = False
    inside: int = 0  # requests in the app that did not ask for anything
    tickets: list[int] = field(default_factory=list)
    inbox: list[tuple[str, int, int]] = field(default_factory=list)  # (kind, epoch, owner)
    paused: tuple[int, int] | None = None  # (epoch, owner)
    said: int = 0

    def pause(self, epoch: int, owner: int) -> None:
        self.word = epoch
        if self.serves:
            self.inbox.append(("PAUSE", epoch, owner))

    def resume(self, epoch: int) -> None:
        self.word = 0
        if self.serves:
            self.inbox.append(("RESUME", epoch, 0))

    def refused(self, ticket: Ticket) -> None:
        self.tickets.remove(ticket.id)
        if not ticket.waits:
            self.inside += 1  # it is on its way out of the app still

    @property
    def deaf(self) -> bool:
        return self.blocks and bool(self.inside or self.tickets)


class Walk(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.state = State()
        self.now = 1.0
        self.members: dict[int, Member] = {}
        self.idles: list[Idle] = []
        self.tickets: dict[int, Ticket] = {}  # not answered with a refusal, not given back
        self.granted: set[int] = set()
        self.last = 0

    def tell(self, event: Event) -> None:
        self.state, actions = step(self.state, event)
        for action in actions:
            self.do(action)

    def do(self, action: Action) -> None:
        if isinstance(action, Close):
            for member in self.members.values():
                member.pause(action.epoch, action.owner.id)
        elif isinstance(action, Open):
            for member in self.members.values():
                member.resume(action.epoch)
        elif isinstance(action, Grant):
            assert action.id in self.tickets, "granted to nobody"
            assert not self.granted, "granted to two"
            self.granted.add(action.id)
            self.alone(action.id)
        elif isinstance(action, Refuse):
            ticket = self.tickets.pop(action.id)
            assert action.id not in self.granted, "refused after it was granted"
            if ticket.worker in self.members:
                self.members[ticket.worker].refused(ticket)
        elif isinstance(action, Kill):
            self.die(self.members[action.worker])

    def alone(self, owner: int) -> None:
        for member in self.members.values():
            assert member.inside == 0, f"worker {member.id} has a request in the app while {owner} is alone"

    def look(self, member: Member) -> None:
        if member.paused is None or member.said == member.paused[0]:
            return
        epoch, owner = member.paused
        if member.inside == 0 and all(self.tickets[t].waits or t == owner for t in member.tickets):
            member.said = epoch
            self.idles.append(Idle(member.id, epoch, self.now))

    def die(self, member: Member) -> None:
        del self.members[member.id]
        for ticket in member.tickets:
            del self.tickets[ticket]
            self.granted.discard(ticket)
        self.tell(Ended(member.id, self.now))

    def one_of(self, data: st.DataObject, members: list[Member]) -> Member | None:
        return data.draw(st.sampled_from(members)) if members else None

    @rule(blocks=st.booleans())
    def spawn(self, blocks: bool) -> None:
        if len(self.members) < 4:
            self.last += 1
            word = 0 if self.state.phase == OPEN else self.state.epoch
            self.members[self.last] = Member(self.last, blocks, word)

    @rule(data=st.data())
    def go(self, data: st.DataObject) -> None:
        member = self.one_of(data, [m for m in self.members.values() if not m.serves])
        if member is not None:
            if self.state.owner is not None:
                member.inbox.append(("PAUSE", self.state.epoch, self.state.owner.id))
            member.serves = True
            self.tell(Serving(member.id, self.now))

    @rule(data=st.data())
    def enter(self, data: st.DataObject) -> None:
        member = self.one_of(data, [m for m in self.members.values() if m.serves and not m.word and not m.deaf])
        if member is not None:
            assert not self.granted, "a request enters while another is alone"
            member.inside += 1

    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        member = self.one_of(data, [m for m in self.members.values() if m.inside])
        if member is not None:
            member.inside -= 1
            self.look(member)

    @rule(data=st.data())
    def hear(self, data: st.DataObject) -> None:
        member = self.one_of(data, [m for m in self.members.values() if m.inbox and not m.deaf])
        if member is not None:
            kind, epoch, owner = member.inbox.pop(0)
            member.paused = (epoch, owner) if kind == "PAUSE" else None
            self.look(member)

    @precondition(lambda self: self.idles)
    @rule()
    def deliver(self) -> None:
        self.tell(self.idles.pop(0))

    @rule(data=st.data(), waits=st.booleans(), kills=st.booleans())
    def ask(self, data: st.DataObject, waits: bool, kills: bool) -> None:
        member = self.one_of(data, [m for m in self.members.values() if m.inside])
        if member is not None:
            member.inside -= 1
            self.last += 1
            member.tickets.append(self.last)
            self.have(Ticket(self.last, member.id, member.blocks, waits, drain_timeout=30.0, kills=kills))
            if member.id in self.members:
                self.look(member)

    @rule(maintenance=st.booleans())
    def command(self, maintenance: bool) -> None:
        self.last += 1
        limit = float("inf") if maintenance else 30.0
        self.have(Ticket(self.last, OPERATOR, waits=True, maintenance=maintenance, drain_timeout=limit))

    def have(self, ticket: Ticket) -> None:
        self.tickets[ticket.id] = ticket
        self.tell(Ask(ticket, self.now))

    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        """The owner is done, or a client does not want to wait any longer."""
        if self.tickets:
            ticket = self.tickets.pop(data.draw(st.sampled_from(sorted(self.tickets))))
            self.granted.discard(ticket.id)
            if ticket.worker in self.members:
                self.members[ticket.worker].tickets.remove(ticket.id)
            self.tell(Gone(ticket.id, self.now))

    @rule(data=st.data())
    def dies(self, data: st.DataObject) -> None:
        member = self.one_of(data, list(self.members.values()))
        if member is not None:
            self.die(member)

    @rule(seconds=st.sampled_from([0.1, 31.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.tell(Tick(self.now))

    @precondition(lambda self: self.last > 8)
    @rule()
    def stop(self) -> None:
        self.tell(Stop(self.now))

    @invariant()
    def there_is_an_owner_unless_it_is_open(self) -> None:
        assert (self.state.owner is None) == (self.state.phase == OPEN)
        assert (self.state.phase == HELD) == bool(self.granted)
        assert not (self.state.phase == OPEN and self.state.waiting)

    @invariant()
    def every_ticket_is_known(self) -> None:
        known = {ticket.id for ticket in (*self.state.waiting, *filter(None, [self.state.owner]))}
        assert known == self.tickets.keys()

    def teardown(self) -> None:
        """Whatever happened: when everybody goes, and time passes, it is open."""
        while self.tickets:
            ticket = self.tickets.pop(next(iter(self.tickets)))
            self.granted.discard(ticket.id)
            if ticket.worker in self.members:
                self.members[ticket.worker].tickets.remove(ticket.id)
            self.tell(Gone(ticket.id, self.now))
        assert self.state.phase == OPEN
        assert not any(member.word for member in self.members.values())


TestWalk = Walk.TestCase
TestWalk.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
