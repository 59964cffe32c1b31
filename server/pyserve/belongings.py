"""What the master opens once, at its start, and keeps for good: over reloads, and over its own re-exec."""

from __future__ import annotations

from pyserve.listeners import Listener
from pyserve.logs import LogFiles
from pyserve.scoreboard import Scoreboard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyserve.controlsocket import ControlSocket
    from pyserve.pidfile import Pidfile


class Belongings:
    """The log files, the listeners and the scoreboard; control socket and pidfile, if there are to be any."""

    def __init__(
        self,
        logs: LogFiles,
        listeners: list[Listener],
        scoreboard: Scoreboard,
        control_socket: ControlSocket | None = None,
        pidfile: Pidfile | None = None,
    ) -> None:
        self.logs = logs
        self.listeners = listeners
        self.scoreboard = scoreboard
        self.control_socket = control_socket
        self.pidfile = pidfile

    def put_away(self) -> None:
        """Close the sockets, and remove the files that are of no use without this process."""
        for listener in self.listeners:
            listener.close(unlink=True)
        if self.control_socket:
            self.control_socket.close()
        if self.pidfile:
            self.pidfile.remove()

    def carried(self) -> dict[str, Any]:
        return {
            "logs": self.logs.carried(),
            "listeners": [listener.carried() for listener in self.listeners],
            "scoreboard": {"fd": self.scoreboard.fd},
            "control_socket": self.control_socket and self.control_socket.carried(),
            "pidfile": self.pidfile and self.pidfile.path,
        }

    @classmethod
    def resume(cls, record: dict[str, Any]) -> Belongings:
        logs = LogFiles.resume(record["logs"])
        listeners = [Listener.resume(each) for each in record["listeners"]]
        belongings = cls(logs, listeners, Scoreboard(record["scoreboard"]["fd"]))
        if record["control_socket"]:
            from pyserve.controlsocket import ControlSocket

            belongings.control_socket = ControlSocket.resume(record["control_socket"])
        if record["pidfile"]:
            from pyserve.pidfile import Pidfile

            belongings.pidfile = Pidfile(record["pidfile"])
        return belongings
