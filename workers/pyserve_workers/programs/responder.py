"""The responder: a sync worker without an app, which answers 503 while no worker can answer.

It is a process of its own, started by the master without the help of a zygote, whose app may be what is broken. The
master says when it is to accept, and when the next worker is to be expected. For a request of its own the gate is never
open: whatever it has accepted it refuses, and then closes the connection, so that the client's next one is a worker's.
But requests that wait for their turn to be alone it holds, and gives to the hand-off queue when a worker can answer.
"""

from __future__ import annotations

import contextlib
import faulthandler
import math
import os
import time

from pyserve.app.alone import as_get
from pyserve.errors import ConfigError
from pyserve.ipc import CHANNEL_FD
from pyserve.ipc.channel import Channel
from pyserve.ipc.scoreboard import RESPONDERS_SLOT
from pyserve.system import descriptors
from pyserve.system.accounts import become
from pyserve.system.signals import DUMP
from pyserve_workers.classes.gatekeeper import refusal
from pyserve_workers.classes.sync import SyncWorker
from pyserve_workers.life.generation import Generation
from pyserve_workers.native.connection import HELD
from pyserve_workers.native.system import socket
from pyserve_workers.programs.zygote import heed_no_signals, leave

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from pyserve.config.config import Config
    from pyserve.ipc.channel import Message
    from pyserve_workers.native.connection import Connection

PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>Service unavailable</title>
<h1>Service unavailable</h1>
<p>This service cannot answer at the moment. Please try again in {seconds} s.</p>
</html>
"""


def main() -> None:
    heed_no_signals()
    os.set_inheritable(CHANNEL_FD, False)
    channel = Channel(socket(fileno=CHANNEL_FD))
    message = channel.receive()
    if message is None:
        return
    generation = Generation(message)
    faulthandler.register(DUMP, file=generation.log.fd, all_threads=True)
    responder = Responder(generation, channel)
    descriptors.take(generation.config.limit_connections)
    become(generation.config.user, generation.config.group)
    with contextlib.suppress(ConfigError):  # the zygotes say it
        generation.try_spool_dir()
    leave(responder.run())


def never(_environ: object, _start_response: object) -> NoReturn:
    """The app."""
    raise AssertionError("BUG: a request has entered the responder's app")


class ClosedGate:
    """As the gatekeeper of the responder's connections, called in native code."""

    def __init__(self, config: Config) -> None:
        self.holds = config.handoff_timeout > 0  # else nothing could go from here to a worker
        self.said: Message | None = None  # the last RESPOND

    def patience(self, _connection: Connection, line: str, waited: float) -> float:
        """For how many seconds a request (``line``: its method and path), which has waited for some already, is to wait
        for a worker; 0: it is refused."""
        if self.said is None or as_get(line) != self.said["line"] or not self.holds:
            return 0.0
        hold: float = self.said["line_hold"]
        return max(0.0, hold - waited)

    def refusal(self) -> tuple[str, list[tuple[str, str]], bytes]:
        """Status, header fields and body of the answer."""
        seconds, page = 1, ""
        if self.said is not None:
            seconds = max(self.said["retry_after"], math.ceil(self.said["retry_at"] - time.monotonic()))
            page = self.said["page"]
        return refusal(seconds, page or PAGE.format(seconds=seconds))


class Responder(SyncWorker):
    role = "responder"
    never_busy = True

    def __init__(self, generation: Generation, channel: Channel) -> None:
        super().__init__(generation, channel, number=0, slot=RESPONDERS_SLOT)
        self.log.rename(f"responder pid {self.pid}")
        self.stacks_fd = generation.log.fd
        self.gate = ClosedGate(generation.config)
        generation.app = never
        self.released = True  # nobody waits for a successor

    def prepare(self) -> None:
        super().prepare()
        self.context.draining = True  # each response is the last of its connection
        self.context.gatekeeper = self.gate
        self.slot.set("gate", 1)

    def set_title(self, _state: str) -> None:
        from setproctitle import setproctitle

        setproctitle(f"pyserve: responder [{self.generation.title}]")

    def obey(self, message: Message | None) -> None:
        if message is None or message.kind != "RESPOND":
            super().obey(message)
            return
        self.gate.said = message
        if self.state == "ready":
            self.become("serving")
        if message["on"] and self.state == "serving" and not self.listeners:
            self.listen()
        elif not message["on"]:
            self.leave_alone()

    def stop_accepting(self) -> None:
        super().stop_accepting()
        if self.final:
            self.refuse_held()

    def serve_rest(self) -> None:
        super().serve_rest()
        self.refuse_held()

    def refuse_held(self) -> None:
        self.gate.said = None
        held = [connection for connection in self.connections.values() if connection.state == HELD]
        for connection in held:
            connection.resume()
        self.go_on(held)

    def leave_alone(self) -> None:
        """Accept nothing more; the queues are the workers' again, and so are the connections that idle or wait here."""
        for fd in self.listeners.keys() - set(self.paused):
            self.epoll.unregister(fd)
        self.listeners.clear()
        self.paused.clear()
        self.handoff.give_all()
