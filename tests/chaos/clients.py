"""Clients that send requests in the ways that clients do, and account for every byte that comes back.

Each request has an id of its own, which its answer must repeat. Before a kept connection is used again it is looked at, as
libraries do; if it has been closed, another is opened and nothing was lost. Nothing is tried again.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import random
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator

from chaos.evidence import ANSWERED, LOST, REFUSED, Fate

PATIENCE = 60.0  # seconds for an answer
STREAMED = 12  # lines of a streamed answer
UPLOAD = b"0123456789abcdef" * 256


class Incomplete(Exception):  # noqa: N818  (not an error of ours)
    """The connection ended before the answer did; the text says how."""


class Answer:
    def __init__(self, status: int, fields: dict[str, str], body: bytes) -> None:
        self.status, self.fields, self.body = status, fields, body

    @property
    def closes(self) -> bool:
        return self.fields.get("connection", "").lower() == "close"


class Wire:
    """One connection."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.data = b""
        self.used = False

    def send(self, data: bytes) -> None:
        """A server that answers early and closes is allowed to: what it has said is then read."""
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.socket.sendall(data)

    def ended(self) -> bool:
        """Has the server closed it, as far as can be known without sending? What came unasked is in ``data``."""
        while select.select([self.socket], [], [], 0)[0]:
            try:
                data = self.socket.recv(65536)
            except OSError:
                return True
            if not data:
                return True
            self.data += data
        return False

    def answer(self) -> Answer:
        """The next one, whole. Raises Incomplete."""
        head = self.until(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")[:-2]
        fields = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        status = int(first.split()[1])
        if status == 100:
            return self.answer()
        if "content-length" in fields:
            body = self.take(int(fields["content-length"]))
        elif fields.get("transfer-encoding") == "chunked":
            body = b"".join(self.chunks())
        else:
            body = self.rest()
            fields["connection"] = "close"
        self.used = True
        return Answer(status, fields, body)

    def chunks(self) -> Iterator[bytes]:
        while size := int(self.until(b"\r\n"), 16):
            yield self.take(size)
            self.take(2)
        self.take(2)

    def until(self, mark: bytes) -> bytes:
        while mark not in self.data:
            self.more()
        found, _, self.data = self.data.partition(mark)
        return found + mark

    def take(self, size: int) -> bytes:
        while len(self.data) < size:
            self.more()
        found, self.data = self.data[:size], self.data[size:]
        return found

    def rest(self) -> bytes:
        with contextlib.suppress(Incomplete):
            while True:
                self.more()
        found, self.data = self.data, b""
        return found

    def more(self) -> None:
        so_far = "after a part of the answer" if self.data else "before an answer"
        try:
            data = self.socket.recv(65536)
        except TimeoutError:
            raise Incomplete(f"nothing came for {PATIENCE:g} s") from None
        except OSError as error:
            raise Incomplete(f"{error.strerror} {so_far}") from None
        if not data:
            raise Incomplete(f"end {so_far}")
        self.data += data

    def close(self) -> None:
        self.socket.close()


class Crowd:
    """``with Crowd(port) as crowd:`` keeps asking in all ways; ``fates`` and ``extra`` are the record."""

    def __init__(self, port: int, name: str = "") -> None:
        """``name`` begins the ids of its requests."""
        self.port, self.name = port, name
        self.fates: list[Fate] = []
        self.extra: list[str] = []
        self.stopped = threading.Event()
        self.numbers = itertools.count(1)
        self.random = random.Random(name)
        self.threads = [threading.Thread(target=self.live, args=way, daemon=True) for way in WAYS]

    def __enter__(self) -> Crowd:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ask no more, and wait for the answers that are due."""
        self.stopped.set()
        for thread in self.threads:
            thread.join(2 * PATIENCE)

    def live(self, name: str, ask: Callable[[Client], None], thought: float, keeps: bool) -> None:
        client = Client(self, name, keeps)
        while not self.stopped.wait(thought * self.random.uniform(0.5, 1.5)):
            client.ask(ask)
        client.leave()

    def poison(self, name: str, times: int) -> None:
        """Beside the others, one client asks for the same again and again, each time from a worker that dies of it."""

        def insist() -> None:
            client = Client(self, "poison", keeps=False)
            for _ in range(times):
                client.ask(lambda client: poison(client, name))

        self.threads.append(threading.Thread(target=insist, daemon=True))
        self.threads[-1].start()


class Client:
    def __init__(self, crowd: Crowd, name: str, keeps: bool) -> None:
        self.crowd, self.name, self.keeps = crowd, name, keeps
        self.wire: Wire | None = None
        self.ident = ""
        self.began = 0.0
        self.fresh = True

    def ask(self, way: Callable[[Client], None]) -> None:
        """One request, whatever comes of it."""
        self.prepare()
        try:
            way(self)
        except OSError:  # from connect
            self.crowd.fates.append(self.fate(self.ident, REFUSED))
            self.crowd.stopped.wait(0.1)
        if not self.keeps:
            self.leave()

    def prepare(self) -> None:
        """A new request, on the connection there is if it is still open."""
        self.began = time.monotonic()  # before the look: its worker may die between that and the sending
        if self.wire and self.wire.ended():
            self.leave()
        self.ident = self.next_ident()
        self.fresh = self.wire is None or not self.wire.used

    def next_ident(self) -> str:
        return f"{self.crowd.name}{next(self.crowd.numbers)}-{self.name}"

    def connected(self) -> Wire:
        if self.wire is None:
            self.wire = Wire(self.crowd.port)
        return self.wire

    def leave(self) -> None:
        """Hang up; what the server has sent without being asked is on record."""
        wire, self.wire = self.wire, None
        if wire is None:
            return
        wire.ended()  # takes what has come
        if wire.data:
            self.crowd.extra.append(f"{self.name}: {wire.data[:200]!r} after the answer to {self.ident}")
        wire.close()

    def head(self, method: str, path: str, *fields: str) -> bytes:
        closing = [] if self.keeps else ["Connection: close"]
        return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: chaos", *fields, *closing, "", ""]).encode()

    def fate(self, ident: str, outcome: str, detail: str = "") -> Fate:
        return Fate(ident, self.name, self.began, time.monotonic(), outcome, fresh=self.fresh, detail=detail)

    def receive(self, ident: str, expected: bytes) -> bool:
        """Read an answer and put it on record; False: there will be no other on this connection."""
        assert self.wire
        try:
            answer = self.wire.answer()
        except Incomplete as error:
            self.crowd.fates.append(self.fate(ident, LOST, str(error)))
            self.leave()
            return False
        fate = self.fate(ident, ANSWERED)
        self.crowd.fates.append(
            fate._replace(
                status=answer.status,
                whole=answer.body == expected,
                pid=int(answer.fields.get("x-pid", 0)),
                retry_after="retry-after" in answer.fields,
            )
        )
        if answer.closes:
            self.wire.data += self.wire.rest()  # to its end: nothing else may come
            self.leave()
        return not answer.closes


def body(ident: str, data: bytes = b"") -> bytes:
    """What the app answers."""
    return f"{ident} {len(data)} {hashlib.sha256(data).hexdigest()}".encode()


# The ways of asking.


def simple(client: Client) -> None:
    client.connected().send(client.head("GET", f"/busy//{client.ident}"))
    client.receive(client.ident, body(client.ident))


def halves(client: Client) -> None:
    """The head in two parts, with a pause between."""
    data = client.head("GET", f"/busy//{client.ident}")
    wire = client.connected()
    wire.send(data[: len(data) // 2])
    client.crowd.stopped.wait(0.3)
    wire.send(data[len(data) // 2 :])
    client.receive(client.ident, body(client.ident))


def upload(client: Client) -> None:
    """A body in many parts."""
    wire = client.connected()
    wire.send(client.head("POST", f"/quick//{client.ident}", f"Content-Length: {len(UPLOAD)}"))
    for start in range(0, len(UPLOAD), len(UPLOAD) // 8):
        time.sleep(0.05)
        wire.send(UPLOAD[start : start + len(UPLOAD) // 8])
    client.receive(client.ident, body(client.ident, UPLOAD))


def stream(client: Client) -> None:
    client.connected().send(client.head("GET", f"/stream//{client.ident}"))
    client.receive(client.ident, "".join(f"{number} {client.ident}\n" for number in range(STREAMED)).encode())


def pipeline(client: Client) -> None:
    """Four requests at once. A server may close after any answer: then the others were not served, and may be sent again."""
    idents = [client.ident, *(client.next_ident() for _ in range(3))]
    client.connected().send(b"".join(client.head("GET", f"/quick//{ident}") for ident in idents))
    for ident in idents:
        if not client.receive(ident, body(ident)):
            break


def forks(client: Client) -> None:
    """The app forks, and answers as ever; how its child ends is the app's doing."""
    child = client.crowd.random.choice(("exits", "sleeps", "process"))
    client.connected().send(client.head("GET", f"/fork/{child}/{client.ident}"))
    client.receive(client.ident, body(client.ident))


def poison(client: Client, name: str) -> None:
    """A request that kills its worker with that signal. The request line is the same each time."""
    client.connected().send(client.head("GET", f"/poison/{name}/?{client.ident}"))
    client.receive(client.ident, b"no answer")


Way = tuple[str, Callable[[Client], None], float, bool]
WAYS: list[Way] = [  # name, how, seconds of thought between two requests, keeps its connection
    ("fresh", simple, 0.02, False),
    ("fresh", simple, 0.05, False),
    ("kept", simple, 0.01, True),
    ("kept", simple, 0.3, True),
    ("kept", simple, 1.2, True),
    ("patient", simple, 4.0, True),
    ("halves", halves, 0.2, True),
    ("upload", upload, 0.1, True),
    ("stream", stream, 0.1, True),
    ("pipeline", pipeline, 0.05, True),
    ("forks", forks, 0.6, True),
    ("forks", forks, 1.0, False),
]
