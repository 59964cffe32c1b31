"""The system's own close, socket, poll and epoll: imported before a zygote lets gevent replace them.

What the server itself does with these must not wait in gevent's hub, and select.epoll is not there at all then.
gevent's close() leaves the descriptor open until its hub has had a turn.
"""

from __future__ import annotations

from posix import close
from select import epoll, poll

TYPE_CHECKING = False
if TYPE_CHECKING:
    from socket import socket, socketpair
else:
    from _socket import socket, socketpair

__all__ = ["close", "epoll", "poll", "socket", "socketpair"]
