"""Ending: the master's side of the shutdown, which does what each phase begins with. ``shutdown`` says when that is.

The port is closed while requests are still under way, so that who connects is refused at once and goes elsewhere. So
that nobody who has connected is reset, the master is the last to have the listening sockets: it accepts what is in
their queues, and leaves it to the workers in the hand-off queue.
"""

from __future__ import annotations

import select
import time

from pyserve.failpoint import failpoint
from pyserve.master.listeners import handshakes_under_way
from pyserve.master.parts import Part
from pyserve.rules import rollout, shutdown
from pyserve.system import linux
from pyserve.words import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pyserve.master.belongings import Belongings
    from pyserve.master.listeners import Listener
    from pyserve.master.parts import Situation
    from pyserve.master.population import Population
    from pyserve.master.responder import Responder


def last_words(cut: int, lost: int) -> str:
    """What became of the requests. cut: those of which we know; lost: other connections that ended with a worker that
    was killed, of which nobody knows whether they had sent one."""
    if cut:
        more = f", and {count(lost, 'other connection')} ended with killed workers" if lost else ""
        return f"{count(cut, 'request')} had to be cut{more}"
    if lost:
        return f"no request is known to be cut, but {count(lost, 'connection')} ended with killed workers"
    return "the stop cut no request"


AT_ONCE = 65_536  # connections: no queue of a listener is longer


class Ending(Part):
    def __init__(
        self,
        belongings: Belongings,
        situation: Situation,
        population: Population,
        responder: Responder,
        tell: Callable[[rollout.Event], None],
        stop: Callable[[], None],
    ) -> None:
        """``stop`` is called when it begins."""
        self.listeners = belongings.listeners
        self.queue = belongings.queue
        self.log = belongings.logs.error
        self.situation = situation
        self.population = population
        self.responder = responder
        self.tell = tell
        self.tell_parts = stop
        self.left = False  # workers were told that nothing more comes
        self.patience = 0.0  # until then workers may close their copies of the listening sockets by themselves

    def begin_graceful(self, cause: str) -> None:
        """Begin the graceful shutdown; repeats change nothing. The deadline counts from here."""
        if self.state.begun:
            return
        config = self.situation.config
        delay = f"; serving on for {config.drain_delay:g} s of them" if config.drain_delay else ""
        self.log.info(f"stopping ({cause}): requests under way have {config.graceful_timeout:g} s{delay}")
        now = time.monotonic()
        self.enter(shutdown.begin(self.state, cause, now, config.drain_delay, config.graceful_timeout))
        self.turn(now)

    def cut_short(self, cause: str) -> None:
        """Begin the fast one."""
        self.enter(shutdown.fast(self.state, cause, time.monotonic()))

    @property
    def state(self) -> shutdown.Shutdown:
        return self.situation.shutdown

    def soonest(self, now: float) -> float:
        return self.state.look_again(now)

    def turn(self, now: float) -> None:
        """Enter every phase for which it is time."""
        while self.state.moving:
            held = self.state.phase == shutdown.DRAINING and self.clear(now)
            handshakes = self.state.phase == shutdown.HANDSHAKES and self.handshakes_under_way()
            after = shutdown.step(self.state, now, held, handshakes)
            if after == self.state:
                break
            self.enter(after)
        if self.state.phase == shutdown.CLOSED and not self.left:
            self.left = self.population.let_leave()
        nobody = not self.population.takers and self.population.responder is None
        if self.state.final and (nobody or now >= self.state.deadline):
            self.queue.answer_rest()

    def put_off(self, seconds: float) -> None:
        self.situation.shutdown = shutdown.put_off(self.state, seconds)

    def enter(self, after: shutdown.Shutdown) -> None:
        before, self.situation.shutdown = self.state, after
        if not before.begun:
            self.tell_parts()
        if before.phase != after.phase:
            failpoint(f"master.{after.phase}")
            PHASES[after.phase](self)

    # Who has connected.

    def owned(self) -> list[Listener]:
        """The listeners that were bound here and are open. Others are their makers', and so are who waits there."""
        return [listener for listener in self.listeners if listener.owned]

    def anybody(self) -> bool:
        """Does a client wait in one of the queues?"""
        looks = select.poll()
        for fd in [self.queue.inlet.fileno(), *(listener.fileno() for listener in self.owned())]:
            looks.register(fd, select.POLLIN)
        return bool(looks.poll(0))

    def take_in(self) -> None:
        """Whoever has connected goes into the hand-off queue, as long as there is room."""
        try:
            for number, listener in enumerate(self.listeners):
                for _ in range(AT_ONCE):
                    arrived = listener.accept() if listener.owned and self.queue.has_room() else None
                    if arrived is None:
                        break
                    self.queue.put(number, *arrived)
        except OSError as error:
            self.log.debug(f"who has connected has to wait: {error.strerror}")

    def clear(self, now: float) -> bool:
        """Has another process a listening socket? Who comes meanwhile is left to workers that serve the sockets' queues
        themselves."""
        if now >= self.patience:
            self.patience = shutdown.NEVER
            self.population.let_go()
        if self.population.able:
            self.take_in()
        return bool(self.owned() and self.population.listening())

    def refuse_rest(self) -> None:
        """No worker is left: refuse everybody who waits."""
        self.close()
        self.queue.end()
        self.queue.answer_rest()
        self.queue.has_room()  # not any more: so who had to stay outside is refused as well

    # The phases.

    def delay(self) -> None:
        """Everything is served as before."""

    def drain(self) -> None:
        """Drain everything; workers that leave already have no more time than the others. Those that boot are waited
        for if clients are, and nobody else can answer them; but not at the first start."""
        self.patience = time.monotonic() + shutdown.TICK
        starting = self.situation.state.phase == rollout.STARTING
        boots = not starting and not self.responder.on and self.anybody()
        self.population.drain_all(self.state.deadline, boots=boots)
        self.tell(rollout.Stop())

    def wait_for_handshakes(self) -> None:
        """Nothing: ``handshakes_under_way`` does it, if there are any."""

    def handshakes_under_way(self) -> bool:
        """To look takes the kernel 20 ms. So new ones are held off only if some are there: a client whose first packet
        is dropped sends it again after a second."""
        self.take_in()
        found = any(handshakes_under_way(listener) for listener in self.owned() if listener.tcp)
        if found:
            self.hold_off()
        return found

    def hold_off(self) -> None:
        """No new handshake begins."""
        for listener in self.owned():
            try:
                if listener.tcp:
                    linux.drop_new_handshakes(listener.fileno())
            except OSError as error:  # recent kernels want CAP_NET_ADMIN for it
                self.log.debug(
                    f"{listener.url}: new handshakes cannot be held off ({error.strerror}): "
                    "one that ends in the moment in which the socket is closed is reset"
                )

    def close(self) -> None:
        """From here on who connects is refused."""
        self.hold_off()
        self.take_in()
        for listener in self.owned():
            listener.close(unlink=True)

    def cut(self) -> None:
        self.population.quit()
        self.tell(rollout.Stop())


PHASES: dict[str, Callable[[Ending], None]] = {
    shutdown.DELAYING: Ending.delay,
    shutdown.DRAINING: Ending.drain,
    shutdown.HANDSHAKES: Ending.wait_for_handshakes,
    shutdown.CLOSED: Ending.close,
    shutdown.CUTTING: Ending.cut,
}
