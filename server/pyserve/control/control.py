"""The control: what clients of the control socket ask, answered by the master in the turns of its loop.

A client sends one line of JSON, and gets lines of JSON, of which the last has the event ``end``:

    {"version": 1, "command": "reload", "wait": true}

    {"version": 1, "event": "log", "level": "info", "text": "reload: generation 2 is being prepared"}
    {"version": 1, "event": "end", "ok": true, "text": "generation 2 serves"}

While a command runs, its client is told what the master logs, so that a refusal or a traceback is the same text there
and in the log. Nothing that a client does, or does not do, takes the master more than a few system calls: reads and
writes never block, and the bytes, the clients and their time have limits.
"""

from __future__ import annotations

import json
import select
import socket
import time

from pyserve.control.commands import ANY_NUMBER, COMMANDS, RANGES
from pyserve.control.conversation import VERSION
from pyserve.errors import BindError
from pyserve.master.controlsocket import ForbiddenError
from pyserve.master.parts import NEVER, Part

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyserve.control.conversation import Conversation
    from pyserve.master.controlsocket import ControlSocket
    from pyserve.master.master import Master

REQUEST_LIMIT = 64 << 10  # bytes
OUTBOX_LIMIT = 1 << 20  # bytes that may wait for a client before it is given up
OUTBOX_ENOUGH = 64 << 10  # bytes that wait for a client before its command goes on
CLIENTS_LIMIT = 32
ASKING_LIMIT = 5.0  # seconds that a client has for its request
TAKING_LIMIT = 15.0  # seconds that a client has to take the next bytes of its answer
DEAF_TIME = 1.0  # seconds without accept() when there is no descriptor for another client


class RequestError(Exception):
    """A request that cannot be understood; the text says why."""


def parse(line: bytes) -> tuple[str, dict[str, Any]]:
    """The command of a request and all its arguments. RequestError says what is wrong."""
    try:
        request = json.loads(line)
    except (ValueError, RecursionError):
        raise RequestError("not a line of JSON") from None
    if not isinstance(request, dict):
        raise RequestError("not a JSON object")
    version = request.pop("version", None)
    if version != VERSION:
        said = type(version).__name__ if isinstance(version, (list, dict)) else json.dumps(version)[:40]
        raise RequestError(f"this server speaks version {VERSION} of the protocol, not {said}")
    command = request.pop("command", None)
    if not isinstance(command, str) or command not in COMMANDS:
        raise RequestError(f"no such command here; there are {', '.join(COMMANDS)}")
    arguments = COMMANDS[command].arguments
    for name, value in request.items():
        if name not in arguments:
            raise RequestError(f"{command} has no argument {name[:40]}")
        if fault := fault_of(value, arguments[name], RANGES.get(name, ANY_NUMBER)):
            raise RequestError(f"{command}: {name} {fault}")
    return command, {**arguments, **request}


def fault_of(value: Any, default: Any, bounds: tuple[int, int]) -> str:
    """What is wrong with an argument that is to be like its default; empty if nothing is."""
    if type(value) is not type(default):
        return f"is to be of the type {type(default).__name__}"
    texts = value if isinstance(value, list) else [value] if isinstance(value, str) else []
    if not all(isinstance(text, str) for text in texts):
        return "is to be a list of texts"
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return "is no text: half a surrogate pair is in it"
    if type(value) in (int, float) and not bounds[0] <= value <= bounds[1]:  # also true of NaN
        return f"is to be {bounds[0]} to {bounds[1]}"
    return ""


def line(event: str, fields: dict[str, Any]) -> bytes:
    return json.dumps({"version": VERSION, "event": event, **fields}).encode("ascii") + b"\n"


class Client:
    """One client, from its connection to the end of the answer. ``gone`` once there is nothing left to do for it."""

    def __init__(self, sock: socket.socket, now: float) -> None:
        self.socket = sock
        self.inbox = b""
        self.outbox = b""
        self.conversation: Conversation | None = None
        self.overhears = False  # the log is a part of the answer
        self.answered = False  # the last line is in the outbox
        self.gone = False
        self.limit = now + ASKING_LIMIT
        self.wake_at = NEVER  # when the conversation wants to be looked at, at the latest

    @property
    def asking(self) -> bool:
        return self.conversation is None and not self.answered

    def say(self, event: str, fields: dict[str, Any], now: float) -> None:
        if not self.outbox:
            self.limit = now + TAKING_LIMIT
        self.outbox += line(event, fields)
        if len(self.outbox) > OUTBOX_LIMIT:
            self.gone = True

    def end(self, fields: dict[str, Any], now: float) -> None:
        self.say("end", fields, now)
        self.conversation = None
        self.answered = True

    def refuse(self, text: str, now: float) -> None:
        self.end({"ok": False, "text": text}, now)

    def read(self, now: float) -> None:
        """Take what has come of the request."""
        try:
            data = self.socket.recv(REQUEST_LIMIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.inbox += data
        if b"\n" not in self.inbox:
            if len(self.inbox) > REQUEST_LIMIT:
                self.refuse(f"a request has at most {REQUEST_LIMIT} bytes", now)
            self.gone = not data

    def write(self, now: float) -> None:
        """Send what can be sent now."""
        try:
            while self.outbox and (sent := self.socket.send(self.outbox)):
                self.outbox = self.outbox[sent:]
                self.limit = now + TAKING_LIMIT
        except BlockingIOError:
            return
        except OSError:
            self.gone = True
        self.gone = self.gone or self.answered

    def late(self, now: float) -> bool:
        return now > self.limit and (self.asking or bool(self.outbox))

    def close(self) -> None:
        self.gone = True
        if self.conversation is not None:
            self.conversation.close()
        self.socket.close()


class Control(Part):
    """All clients."""

    name = "control"

    def __init__(self, control_socket: ControlSocket, master: Master) -> None:
        self.socket = control_socket
        self.master = master
        self.watch = master.watch
        self.log = master.log
        self.clients: dict[int, Client] = {}
        self.deaf_until = 0.0  # not 0: there were no descriptors

    def begin(self) -> None:
        self.listen()
        self.log.overheard = self.overhear
        if self.socket.is_there():
            self.log.info(f"control socket: {self.socket.path}")

    def listen(self) -> None:
        self.watch.add(self.socket.fileno(), lambda _events: self.accept(time.monotonic()))

    def renew(self) -> None:
        """Make the socket again if its file has vanished."""
        if self.socket.is_there():
            return
        self.watch.drop(self.socket.fileno())
        self.deaf_until = 0.0
        try:
            self.socket.renew()
        except BindError as error:
            self.log.error(f"the control socket has vanished, and pyserve serves without one: {error.message}")
        else:
            self.log.warning(f"the control socket {self.socket.path} had vanished; it is there again")
        finally:
            self.listen()

    def soonest(self, now: float) -> float:
        return min([NEVER, *(client.wake_at for client in self.clients.values())])

    def hear(self, client: Client, events: int) -> None:
        """Take what has come from a client."""
        now = time.monotonic()
        if events & (select.EPOLLHUP | select.EPOLLERR):
            client.gone = True
        elif events & select.EPOLLIN and client.asking:
            client.read(now)
            self.begin_conversation(client, now)

    def welcome(self, client: Client) -> None:
        self.clients[client.socket.fileno()] = client
        self.watch.add(client.socket.fileno(), lambda events: self.hear(client, events))

    def accept(self, now: float) -> None:
        """One new client a turn, so that many of them at once leave the master time for its children."""
        try:
            sock = self.socket.accept()
        except BlockingIOError:
            return
        except ForbiddenError as error:
            self.log.warning(f"control socket: {error} was refused: only root and uid {self.master_uid} may use it")
            return
        except OSError as error:
            self.log.error(f"control socket: no more clients for now: {error.strerror}")
            self.watch.drop(self.socket.fileno())  # it would be ready again and again
            self.deaf_until = now + DEAF_TIME
            return
        if len(self.clients) >= CLIENTS_LIMIT:
            self.make_room()
        client = Client(sock, now)
        self.welcome(client)
        if len(self.clients) > CLIENTS_LIMIT:
            client.refuse(f"{CLIENTS_LIMIT} others are being served", now)

    @property
    def master_uid(self) -> int:
        import os

        return os.geteuid()

    def make_room(self) -> None:
        """Give up the client that has had the longest time to ask, and has not."""
        waiting = [fd for fd, client in self.clients.items() if client.asking]
        if waiting:
            self.drop(waiting[0])

    def drop(self, fd: int) -> None:
        self.watch.drop(fd)
        self.clients.pop(fd).close()

    def begin_conversation(self, client: Client, now: float) -> None:
        request, found, _ = client.inbox.partition(b"\n")
        if not found or client.answered:
            return
        client.inbox = b""
        try:
            command, arguments = parse(request)
        except RequestError as error:
            client.refuse(str(error), now)
            return
        client.overhears = COMMANDS[command].overhears
        done = COMMANDS[command].run(self.master, **arguments)
        if isinstance(done, dict):
            client.end(done, now)
        else:
            client.conversation = done

    def overhear(self, level: str, text: str) -> None:
        """Tell what the master logs to those whose commands run. It is sent in ``turn``: this may be in any code."""
        for client in self.clients.values():
            if client.overhears and not client.answered:
                client.say("log", {"level": level, "text": text}, time.monotonic())

    def turn(self, now: float) -> None:
        """Let every command go on, send what can be sent, and give up who is late."""
        for fd, client in list(self.clients.items()):
            self.advance(client, now)
            self.send(fd, client, now)
            if client.gone or client.late(now):
                self.drop(fd)
        if self.deaf_until and now >= self.deaf_until:
            self.deaf_until = 0.0
            self.listen()

    def advance(self, client: Client, now: float) -> None:
        client.wake_at = NEVER
        while client.conversation is not None and not client.gone and len(client.outbox) < OUTBOX_ENOUGH:
            try:
                said = next(client.conversation)
            except StopIteration as end:
                client.end(end.value, now)
            except Exception as error:  # noqa: BLE001  (no client, whatever it asks, may end a server that serves)
                client.refuse(f"BUG: {error!r}", now)
                self.log.error(f"BUG: control socket: {error!r}")
            else:
                if isinstance(said, float):
                    client.wake_at = now + said
                    return
                client.say(*said, now)

    def send(self, fd: int, client: Client, now: float) -> None:
        if client.outbox and not client.gone:
            client.write(now)
        # A client that has asked is not listened to any more; that it hangs up is always told.
        waits_for = select.EPOLLIN if client.asking else select.EPOLLOUT if client.outbox else 0
        self.watch.change(fd, waits_for)

    def carried(self) -> list[dict[str, Any]]:
        """The clients that have not been understood yet: the next program hears them out."""
        asking = [client for client in self.clients.values() if client.asking]
        return [{"fd": client.socket.fileno(), "inbox": client.inbox.decode("latin-1")} for client in asking]

    def resume(self, record: list[dict[str, Any]]) -> None:
        for each in record:
            client = Client(socket.socket(fileno=each["fd"]), time.monotonic())
            client.inbox = each["inbox"].encode("latin-1")
            self.welcome(client)

    def finish(self, exit_code: int) -> None:
        """The last word to everyone. The process hangs up when it ends."""
        self.log.overheard = None
        self.last_word({"ok": exit_code == 0, "text": "the server has stopped", "exit_code": exit_code})

    def hand_over(self) -> None:
        """The next program knows nothing of what this one is at."""
        self.last_word({"ok": False, "text": "pyserve is being upgraded: ask again"})
        for fd in [fd for fd, client in self.clients.items() if not client.asking]:
            self.drop(fd)

    def last_word(self, fields: dict[str, Any]) -> None:
        now = time.monotonic()
        for client in self.clients.values():
            if client.conversation is not None:
                client.end(fields, now)
            client.write(now)
