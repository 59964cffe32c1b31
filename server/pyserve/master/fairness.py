"""Connections that wait behind a long request: the master sees them on the scoreboard, their worker gives them away.

A sync worker runs one request at a time, so while that takes long, the other connections that it has accepted wait,
though siblings may have time. When there is such a worker, its bell is rung: a native thread of it (relief.pyx) gives
what waits to the hand-off queue. A request costs nothing for that. Nor does an idle server: it is looked at closely
only while requests take long.

A request that is alone, or waits to be, keeps its worker for long by its nature. Others cannot run what waits behind
it, but can say so at once; when no worker can, the responder does.
"""

from __future__ import annotations

from pyserve.master.parts import NEVER, Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple

    from pyserve.master.population import Population
else:
    from pyserve.records import NamedTuple

LONG = 0.02  # seconds in the app, from which on others should not wait for it
CLOSELY = 0.02  # seconds between two looks, while there have lately been long requests
USUALLY = 0.2  # seconds between two looks while there are requests
SELDOM = 1.0  # and while there are none
LATELY = 5.0  # seconds


class Load(NamedTuple):
    """A worker, in so far as it matters here."""

    id: int
    since: float  # when the request that keeps it began to, CLOCK_MONOTONIC seconds; 0: none does
    takes: bool  # connections from the queue
    connections: int  # that it keeps; one that has just come, and whose first request it runs, is none of them yet


def to_relieve(loads: Iterable[Load], now: float, helped: bool) -> tuple[list[int], bool]:
    """Whose connections should go to others, and is there a long request at all? ``helped``: by the responder."""
    loads = list(loads)
    busy = [load for load in loads if load.since and now - load.since >= LONG]
    if not helped and all(load in busy for load in loads if load.takes):  # nobody has time for what others give away
        return [], bool(busy)
    return [load.id for load in busy if load.connections], bool(busy)


class Fairness(Part):
    def __init__(self, population: Population) -> None:
        self.population = population
        self.last_look = self.next_look = 0.0
        self.requests = 0  # that have ended, when it was last looked at
        self.closely_until = 0.0

    def soonest(self, now: float) -> float:
        sooner = self.last_look + CLOSELY if self.population.exclusion.detained else NEVER
        return min(self.next_look, sooner)

    def turn(self, now: float) -> None:
        if self.soonest(now) > now:
            return
        workers = self.population.workers
        considered = self.population.takers | self.population.exclusion.detained.keys()
        loads = [self.load(worker_id) for worker_id in considered if worker_id in workers]
        wanted, long = to_relieve(loads, now, self.population.helped)
        self.last_look = now
        requests = sum(process.slot.get("requests") for process in workers.values())
        if long:
            self.closely_until = now + LATELY
        if now < self.closely_until:
            self.next_look = now + CLOSELY
        else:
            self.next_look = now + (SELDOM if requests == self.requests else USUALLY)
        self.requests = requests
        for worker_id in wanted:
            workers[worker_id].ring()

    def load(self, worker_id: int) -> Load:
        slot = self.population.workers[worker_id].slot
        since = self.population.exclusion.detained.get(worker_id) or slot.get("request_start") / 1e9
        return Load(worker_id, since, worker_id in self.population.takers, slot.get("connections"))
