"""The client's socket, for apps that go on in another protocol than HTTP: WebSockets.

It is in the environ of requests that ask for an upgrade, under the name by which simple-websocket (Flask-Sock,
Flask-SocketIO) looks for it. Nothing happens until it is used: an app that pays it no attention answers as usual. From
its first use on, the connection is the app's, until the app returns.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import Any

ENVIRON_KEY = "gunicorn.socket"


class ClientSocket:
    """Has what a blocking socket.socket has. RuntimeError if it is used too late: the response has begun or is over."""

    __slots__ = ("_response", "_socket")

    def __init__(self, response: Any) -> None:
        self._response = response
        self._socket: socket.socket | None = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # a debugger's look at the environ, or a copy of it, is no use
            raise AttributeError(name)
        if self._socket is None:
            from socket import socket

            self._socket = socket(fileno=self._response.take_over())
            self._socket.setblocking(True)
        return getattr(self._socket, name)
