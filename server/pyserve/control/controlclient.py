"""The other side of the control socket: finding the server, asking it, reading its answer line by line."""

from __future__ import annotations

import glob
import json
import os
import socket
import struct
from collections.abc import Iterator
from typing import Any

from pyserve.config import config
from pyserve.control.conversation import VERSION
from pyserve.errors import PyserveError
from pyserve.system.socketfile import credentials

PATIENCE = 30  # seconds for a server to take a client, and to say the next thing if it is to answer at once
PLACES = ("/run/pyserve.ctl", "/run/*/pyserve.ctl")
LIMIT = struct.pack("@ll", PATIENCE, 0)  # struct timeval
USER_PLACES = ("pyserve.ctl", "*/pyserve.ctl")  # in $XDG_RUNTIME_DIR


class UnavailableError(PyserveError):
    """There is no server to talk to, or it went away."""

    exit_code = 69  # EX_UNAVAILABLE


class Answer:
    """A connection with a request on its way. Iterate for the lines of the answer; the last has the event ``end``."""

    def __init__(self, sock: socket.socket, path: str) -> None:
        self.socket = sock
        self.path = path

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Each line. UnavailableError if the last does not come."""
        complete = False
        with self.socket, self.socket.makefile("rb") as lines:
            try:
                for line in lines:  # until the server hangs up: after its own end, if it was told to stop
                    said: dict[str, Any] = json.loads(line)
                    complete = complete or said.get("event") == "end"
                    yield said
            except OSError as error:
                if not complete:
                    raise UnavailableError(f"{self.path}: {reason(error)}") from None
        if not complete:
            raise UnavailableError(f"{self.path}: the server went away before it had answered")


def connect(path: str) -> socket.socket:
    """A connection to the server at ``path``. UnavailableError says in one line why there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Not settimeout(): a unix socket that does not block is refused while others are before it.
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, LIMIT)
    try:
        sock.connect(path)
    except OSError as error:
        sock.close()
        raise UnavailableError(f"{path}: {reason(error)}") from None
    _, owner = credentials(sock)
    if os.geteuid() not in (0, owner):
        sock.close()
        raise UnavailableError(f"{path}: only root and uid {owner}, which the server runs as, may use it")
    return sock


def reason(error: OSError) -> str:
    """Why there is no connection, in words for an operator."""
    if isinstance(error, FileNotFoundError):
        return "not there"
    if isinstance(error, ConnectionRefusedError):
        return "nobody listens there any more"
    if isinstance(error, BlockingIOError):
        return f"the server does not answer; it has had {PATIENCE} s"
    if isinstance(error, PermissionError):
        return "permission denied; only root and the user that the server runs as may use it"
    return (error.strerror or str(error)).lower()


def ask(sock: socket.socket, path: str, command: str, *, patient: bool = False, **arguments: Any) -> Answer:
    """Send a request; one with ``wait``, or if the caller is ``patient``, may take as long as it wants."""
    if not (patient or arguments.get("wait")):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, LIMIT)
    request = json.dumps({"version": VERSION, "command": command, **arguments})
    try:
        sock.sendall(request.encode() + b"\n")
    except OSError as error:
        raise UnavailableError(f"{path}: {reason(error)}") from None
    return Answer(sock, path)


def find(environ: dict[str, str], cwd: str) -> tuple[str, socket.socket]:
    """The one server there is, and a connection to it. UnavailableError says where it was looked for.

    First where the configuration of the working directory and the environment says; if that names no socket, in /run
    and the user's own runtime directory.
    """
    configured, problem = configured_socket(environ, cwd)
    if configured:
        return configured, connect(configured)
    found: dict[str, tuple[str, socket.socket]] = {}
    looked = [problem]
    for path in candidates(environ):
        try:
            found.setdefault(os.path.realpath(path), (path, connect(path)))
        except UnavailableError as error:
            looked.append(error.message)
    if len(found) == 1:
        return found.popitem()[1]
    for _, sock in found.values():
        sock.close()
    if found:
        raise UnavailableError(
            "several servers run here, say which with --socket:", "\n".join(path for path, _ in found.values())
        )
    looked += [f"{place}: not there" for place in places(environ) if not glob.glob(place)]
    raise UnavailableError("no running server was found; name its control socket with --socket", "\n".join(looked))


def configured_socket(environ: dict[str, str], cwd: str) -> tuple[str | None, str]:
    """The control socket that the configuration names; else why there is none."""
    try:
        here = config.load({}, environ, cwd, need_app=False)
    except PyserveError as error:
        return None, error.message
    return here.control_socket, f"{cwd}: no configuration with a control_socket"


def places(environ: dict[str, str]) -> list[str]:
    own = environ.get("XDG_RUNTIME_DIR")
    return [*PLACES, *(os.path.join(own, place) for place in USER_PLACES if own)]


def candidates(environ: dict[str, str]) -> list[str]:
    return sorted(path for place in places(environ) for path in glob.glob(place))
