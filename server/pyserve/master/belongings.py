"""What the master opens once, at its start, and keeps for good: over reloads, and over its own re-exec."""

from __future__ import annotations

from pyserve.ipc.handoff import HandoffQueue
from pyserve.ipc.logs import LogFiles
from pyserve.ipc.scoreboard import Scoreboard
from pyserve.master.listeners import Listener

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyserve.master.controlsocket import ControlSocket
    from pyserve.master.pidfile import Pidfile


class Belongings:
    """Log files, listeners, scoreboard and hand-off queue; control socket and pidfile, if there are to be any."""

    def __init__(
        self,
        logs: LogFiles,
        listeners: list[Listener],
        scoreboard: Scoreboard,
        queue: HandoffQueue,
        control_socket: ControlSocket | None = None,
        pidfile: Pidfile | None = None,
    ) -> None:
        self.logs = logs
        self.listeners = listeners
        self.scoreboard = scoreboard
        self.queue = queue
        self.control_socket = control_socket
        self.pidfile = pidfile

    def put_away(self) -> None:
        """Close the sockets, and remove the files that are of no use without this process."""
        for listener in self.listeners:
            listener.close(unlink=True)
        self.queue.close()
        if self.control_socket:
            self.control_socket.close()
        if self.pidfile:
            self.pidfile.remove()

    def carried(self) -> dict[str, Any]:
        return {
            "logs": self.logs.carried(),
            "listeners": [listener.carried() for listener in self.listeners],
            "scoreboard": {"fd": self.scoreboard.fd},
            "queue": self.queue.carried(),
            "control_socket": self.control_socket and self.control_socket.carried(),
            "pidfile": self.pidfile and self.pidfile.carried(),
        }

    @classmethod
    def resume(cls, record: dict[str, Any]) -> Belongings:
        logs = LogFiles.resume(record["logs"])
        listeners = [Listener.resume(each) for each in record["listeners"]]
        scoreboard = Scoreboard(record["scoreboard"]["fd"])
        belongings = cls(logs, listeners, scoreboard, HandoffQueue.resume(record["queue"]))
        if record["control_socket"]:
            from pyserve.master.controlsocket import ControlSocket

            belongings.control_socket = ControlSocket.resume(record["control_socket"])
        if record["pidfile"]:
            from pyserve.master.pidfile import Pidfile

            belongings.pidfile = Pidfile.resume(record["pidfile"])
        return belongings
