"""What pyserve and its service manager tell each other: systemd's notify protocol and its socket activation.

Messages are datagrams to the socket that ``NOTIFY_SOCKET`` names (sd_notify(3)). Without that variable, or when nobody
listens any more, nothing is sent and nothing is raised: a service manager that went away is no reason to stop serving.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, MutableMapping

FIRST_FD = 3  # SD_LISTEN_FDS_START


class Notifier:
    """The master's line to the service manager. Every method sends one message at most and never raises or blocks.

    watchdog_interval: seconds within which ``watchdog`` is to be called again; half of what the manager allows, as
    sd_watchdog_enabled(3) asks for. None if it does not watch this process.
    """

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        environ = os.environ if environ is None else environ
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self.watchdog_interval = _watchdog_interval(environ, os.getpid()) if self._address else None
        self._stopping = False

    def ready(self, status: str) -> None:
        """Start-up, or a reload, has ended and this process is the one to watch. Not said by one that is stopping."""
        if not self._stopping:
            self._send("READY=1", f"MAINPID={os.getpid()}", f"STATUS={status}")

    def reloading(self) -> None:
        """A reload has begun; ``ready`` tells its end, however it went. The time tells the manager which one it is."""
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send("RELOADING=1", f"MONOTONIC_USEC={microseconds}", "STATUS=reloading")

    def stopping(self) -> None:
        self._stopping = True
        self._send("STOPPING=1", "STATUS=stopping: finishing the requests under way")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``."""
        self._send(f"STATUS={text}")

    def watchdog(self) -> None:
        """This process's loop still turns."""
        if self.watchdog_interval is not None:
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if not self._address:
            return
        message = "\n".join(line.replace("\n", " ") for line in lines)
        # Every failure means the same: the manager does not hear us now. It may later (it restarts, its queue is full).
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(message.encode("utf-8", "surrogateescape"), self._address)


def listen_fds(environ: MutableMapping[str, str], pid: int) -> list[int]:
    """The listening sockets that the service manager opened for process ``pid``: descriptors 3, 4, ...; often none.

    They are marked close-on-exec and the variables taken out of ``environ``: no child is to mistake them for its own.
    """
    meant_for = environ.pop("LISTEN_PID", "")
    count = environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if meant_for != str(pid) or not count.isdecimal():
        return []
    fds = list(range(FIRST_FD, FIRST_FD + int(count)))
    for fd in fds:
        os.set_inheritable(fd, False)
    return fds


def _address(text: str) -> str:
    """NOTIFY_SOCKET as a socket's address: a path, or ``@name`` in the abstract namespace. Empty for others (vsock)."""
    if text.startswith("@"):
        return "\0" + text[1:]
    return text if text.startswith("/") else ""


def _watchdog_interval(environ: Mapping[str, str], pid: int) -> float | None:
    allowed = environ.get("WATCHDOG_USEC", "")
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid) or not allowed.isdecimal() or int(allowed) == 0:
        return None
    return int(allowed) / 1e6 / 2
