"""What a client that speaks over its own socket is answered."""

from __future__ import annotations

import http.client
import socket


def status(client: socket.socket) -> int:
    """Of the next response; 0 if the connection ends without one."""
    response = http.client.HTTPResponse(client)
    try:
        response.begin()
        response.read()
    except (ConnectionError, http.client.HTTPException):
        return 0
    return response.status


def last(client: socket.socket) -> int:
    """The same of a client's last response: it closes the connection."""
    with client:
        return status(client)
