"""Apps that do what no app should: threads that read or write at once, objects whose methods run when the server only
looks at them, calls after the end. Each gets an error of its own; other clients, and the memory, are untouched."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest

from pyserve.errors import ClientGone
from wire.apps import TEXT, answer, serving
from wire.loop import PATIENCE, Client, Server, eventually, small_window

pytestmark = pytest.mark.usefixtures("way")

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"

# Threads that read one wsgi.input at once.

LINES = [b"%07d %s\n" % (n, b"x" * (n * 7919 % 700)) for n in range(4000)]
BODY = b"".join(LINES)
READERS = 6
ONE_AT_A_TIME = "wsgi.input is being read by another thread"


def into(stream: Any, random: random.Random) -> bytes:
    buffer = bytearray(random.randrange(1, 9000))
    return bytes(buffer[: stream.readinto(buffer)])


WAYS_TO_READ: list[Callable[[Any, random.Random], bytes]] = [
    lambda stream, _: stream.readline(),
    lambda stream, random: stream.readline(random.randrange(1, 300)),
    lambda stream, random: stream.read(random.randrange(1, 90_000)),
    lambda stream, _: next(stream, b""),
    lambda stream, random: b"".join(stream.readlines(random.randrange(1, 3000))),
    into,
]


def post(server: Server, body: bytes) -> Any:
    client = server.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return client


def census(data: bytes) -> dict[int, int]:
    return {byte: data.count(byte) for byte in set(data)}


def read_all(stream: Any, seed: int, pieces: list[bytes], refused: list[str]) -> None:
    chance = random.Random(seed)
    while True:
        try:
            piece = chance.choice(WAYS_TO_READ)(stream, chance)
        except RuntimeError as error:
            refused.append(str(error))
            continue
        if not piece:
            return
        pieces.append(piece)


def in_threads(do: Callable[[int], None]) -> list[threading.Thread]:
    threads = [threading.Thread(target=do, args=(number,), daemon=True) for number in range(READERS)]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.parametrize("limit", [1 << 30, 10], ids=["in memory", "spooled"])
def test_readers_at_once_get_each_byte_once_or_an_error(limit: int) -> None:
    pieces: list[bytes] = []
    refused: list[str] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        stream = environ["wsgi.input"]
        for thread in in_threads(lambda number: read_all(stream, number, pieces, refused)):
            thread.join(PATIENCE)
        start_response("200 OK", TEXT)
        return [stream.read()]

    with serving(app, body_buffer=limit) as server, post(server, BODY * 10) as client:
        response = client.response()
        assert (response.status, response.body) == (200, b"")
    assert census(b"".join(pieces)) == census(BODY * 10)
    assert all(ONE_AT_A_TIME in text for text in refused)


def test_readers_that_go_on_after_the_end() -> None:
    """Each gets whole pieces or an error, and the spool file is closed when the last of them has left it."""
    threads: list[threading.Thread] = []
    ends: list[str] = []
    at_work = threading.Barrier(READERS + 1)

    def read(stream: Any, number: int) -> None:
        at_work.wait(PATIENCE)
        while True:
            try:
                if stream.readline() == b"":
                    ends.append("read to its end")
                    return
            except RuntimeError:
                continue
            except ValueError as error:
                ends.append(str(error))
                return

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        if environ["REQUEST_METHOD"] == "POST":
            stream = environ["wsgi.input"]
            threads.extend(in_threads(lambda number: read(stream, number)))
            at_work.wait(PATIENCE)
        start_response("200 OK", TEXT)
        return [b"ok"]

    with serving(app, body_buffer=10) as server:
        server.get()
        before = descriptors()
        for _ in range(5):
            with post(server, BODY * 5) as client:
                assert client.response().body == b"ok"
                assert server.get().body == b"ok"
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        eventually(lambda: descriptors() <= before)
    assert set(ends) <= {"wsgi.input was read after its request had ended", "read to its end"}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


# Threads that write one response at once.


def test_writers_at_once_keep_the_framing() -> None:
    """Two of them would mix their chunks; one gets an error, and writes its part again."""
    refused: list[str] = []

    def write_all(write: Callable[[bytes], None], number: int) -> None:
        for _ in range(20):
            while True:
                try:
                    write(b"%d" % number * 60_000)
                except RuntimeError as error:
                    refused.append(str(error))
                    time.sleep(0)
                else:
                    break

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", TEXT)
        for thread in in_threads(lambda number: write_all(write, number)):
            thread.join(PATIENCE)
        return []

    with serving(app, response_buffer=65536, response_spool=1 << 20) as server, small_window(server) as client:
        for _ in range(2):
            client.send(GET)
            assert census(client.response().body) == dict.fromkeys(b"012345", 20 * 60_000)
    assert all("while another thread was sending a part of the response" in text for text in refused)


@pytest.mark.parametrize("spool", [0, 1 << 20])
def test_a_writer_that_outlives_its_response_sends_nothing_more(spool: int) -> None:
    """Its chunk would end in the next response, or with another client."""
    threads: list[threading.Thread] = []

    def write_much(write: Callable[[bytes], None]) -> None:
        with contextlib.suppress(RuntimeError):
            write(b"w" * 30_000_000)  # more than the client's and the kernel's buffers hold

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", TEXT)
        if environ["PATH_INFO"] == "/writer":
            threads.append(threading.Thread(target=write_much, args=(write,), daemon=True))
            threads[-1].start()
            with contextlib.suppress(RuntimeError):  # then the other is at it
                while True:
                    write(b"o")
                    time.sleep(0.01)
        return [b"ok"]

    with serving(app, response_buffer=65536, response_spool=spool) as server:
        for _ in range(5):
            with small_window(server) as client:
                client.send(GET.replace(b"/", b"/writer", 1))
                client.take_until(b"\r\n\r\n")
                for _ in range(5):
                    assert server.get().body == b"ok"
                received = client.rest()
                assert not received.endswith(b"0\r\n\r\n")
                assert set(received) <= set(b"0123456789abcdef\r\nwok")
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert not server.context.running
        assert server.get().body == b"ok"
        assert "sending a part of the response" in server.log.texts("error")


# Heads.


class Writing(list[Any]):
    """A list that begins the response when it is only looked at."""

    def __init__(self, items: Any, write: Callable[[], None]) -> None:
        super().__init__(items)
        self.write = write

    def __iter__(self) -> Iterator[Any]:
        self.write()
        return super().__iter__()


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_list_of_headers_that_writes(size: int) -> None:
    """The head was remembered from behind what had been written: from other memory. And the next response had it."""
    fields = [("X-A", "1" * 15_000), ("Content-Type", "text/plain")]

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        response = start_response.__self__  # type: ignore[attr-defined]
        start_response("200 OK", Writing(fields, lambda: response.write(b"w" * size)))
        return [b"ok"]

    with serving(app, response_buffer=65536) as server, small_window(server) as client:
        for _ in range(3):
            client.send(GET)
            response = client.response()
            assert (response.headers["x-a"], response.body) == ("1" * 15_000, b"ok")


LIES = (0, 1, 70_000)


class List(list[Any]):
    lie = 0

    def __len__(self) -> int:
        return self.lie

    def __iter__(self) -> Iterator[Any]:
        return iter([("X-Many", "m" * 1000)] * self.lie)

    def __getitem__(self, _index: Any) -> Any:
        return "not what is in there"


class Tuple(tuple[Any, ...]):
    lie = 0
    __len__ = List.__len__
    __getitem__ = List.__getitem__

    def __iter__(self) -> Iterator[Any]:
        return iter("abc" * self.lie)


class Text(str):
    lie = 0
    __len__ = List.__len__
    __getitem__ = List.__getitem__
    __iter__ = Tuple.__iter__
    __hash__ = List.__len__

    def __eq__(self, _other: object) -> bool:
        return True

    def encode(self, *_: Any) -> bytes:
        return b"y" * self.lie


class Bytes(bytes):
    lie = 0
    __len__ = List.__len__
    __getitem__ = List.__getitem__

    def __iter__(self) -> Iterator[Any]:
        return iter(range(self.lie))

    def __buffer__(self, _flags: int) -> memoryview:
        return memoryview(b"y" * self.lie)


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(
    "body", [[Bytes(b"body")], (Bytes(b"bo"), Bytes(b"dy")), List([b"x"]), [Bytes(b"b" * 40_000)]], ids=repr
)
def test_subclasses_that_lie_about_what_they_hold(lie: int, body: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in (List, Tuple, Text, Bytes):
        monkeypatch.setattr(kind, "lie", lie)
    headers = List([Tuple((Text("X-A"), Text("one"))), Tuple((Text("Content-Type"), Text("text/plain")))])

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response(Text("200 Very well"), headers)
        return body

    response = answer(app)
    if type(body) is List:  # no exact list is iterated over
        assert response.status == (500 if lie else 200)
        return
    assert (response.reason, response.headers["x-a"]) == ("Very well", "one")
    assert response.body == b"".join(bytes.__getitem__(item, slice(None)) for item in body), "what the items hold"
    assert response.open


def test_headers_that_come_back_when_they_are_forgotten() -> None:
    """The last head that was remembered is given up for the next one; what it held may have a __del__."""
    again: list[Callable[..., Any]] = []

    class Mortal(tuple[str, str]):
        def __del__(self) -> None:
            for start_response in again:
                with contextlib.suppress(RuntimeError, ValueError):
                    start_response("200 OK", [("X-Again", "1")], (ValueError, ValueError(), None))

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        mortal = Mortal(("X-Mortal", environ["PATH_INFO"]))
        kept = mortal  # the server remembers a head whose tuples have other owners  # noqa: F841
        again[:] = [start_response]
        start_response("200 OK", [mortal])
        return [b"ok"]

    with serving(app) as server, server.connect() as client:
        for n in range(50):
            client.send(GET.replace(b"/", b"/%d" % n, 1))
            response = client.response()
            assert (response.status, response.body) == (200, b"ok")
        again.clear()


class Spoken:
    """An error's or a header's text that is the app's own code."""

    def __init__(self, say: Callable[[], Any]) -> None:
        self.say = say

    def __repr__(self) -> str:
        self.say()
        return "spoken"


def test_an_error_that_writes_when_it_is_told() -> None:
    """Its response would have two heads."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", [("X-First", "1")])

        class LateError(Exception):
            def __str__(self) -> str:
                write(b"from __str__")
                return "late"

        raise LateError

    with serving(app) as server, server.connect() as client:
        client.send(GET)
        assert client.rest().count(b"HTTP/1.1 ") == 1
        assert "late" in server.log.texts("error")


@pytest.mark.parametrize(
    "headers", [["no tuple"], [("X-A",)], [("X-A", 1)], [("X A", "1")], [("X-A", "\u20ac")], [("X-A", "1\n")]]
)
def test_a_wrong_header_that_speaks(headers: list[Any]) -> None:
    """What names it in the error is the app's code: it may start the response, or write."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        response = start_response.__self__  # type: ignore[attr-defined]
        good = [("X-Good", "1")]

        class Loud(tuple[Any, ...]):
            def __repr__(self) -> str:
                with contextlib.suppress(RuntimeError):
                    start_response("200 OK", good, (ValueError, ValueError("x"), None))
                with contextlib.suppress(RuntimeError):
                    response.write(b"from repr")
                return "loud"

        with contextlib.suppress(TypeError, ValueError):
            start_response(
                "200 OK", [Loud(item) if isinstance(item, tuple) else Spoken(Loud().__repr__) for item in headers]
            )
        return [b"ok"]

    with serving(app) as server, server.connect() as client:
        client.send(GET)
        response = client.response()
        assert response.status in (200, 500)
        client.send(GET)
        assert client.response().status == response.status


def test_an_exc_info_that_is_none() -> None:
    class Odd:
        def __getitem__(self, index: int) -> Any:
            raise KeyError(index)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", TEXT, Odd())
        write = start_response("201 Created", TEXT, Odd())
        write(b"begun")
        with pytest.raises(KeyError):
            start_response("500 Oops", TEXT, Odd())
        return []

    response = answer(app)
    assert (response.status, response.body) == (201, b"begun")


def test_headers_that_another_thread_changes() -> None:
    headers: list[Any] = [("X-A", "a" * 100)]
    over = threading.Event()

    def change() -> None:
        while not over.is_set():
            headers.extend([("X-B", "b" * 3000)] * 20)
            time.sleep(0)
            headers[:] = [("X-A", "a" * 100)]

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", headers)
        return [b"ok"]

    thread = threading.Thread(target=change, daemon=True)
    thread.start()
    try:
        with serving(app) as server, server.connect() as client:
            for _ in range(200):
                client.send(GET)
                assert client.response().body == b"ok"
    finally:
        over.set()
        thread.join(PATIENCE)


def test_a_list_of_items_that_another_thread_changes() -> None:
    """Its length is the Content-Length; what is wrong with it then costs this connection alone."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[Any]:
        body: list[Any] = [b"x" * 20_000] * 300
        write = start_response("200 OK", TEXT)

        def change() -> None:
            with contextlib.suppress(RuntimeError):
                while True:
                    body[150:] = [b"y" * 50_000, "no bytes", None]
                    body[150:] = [b"x" * 20_000] * 150
                    write(b"")
                    time.sleep(0)
                    start_response("200 OK", TEXT)

        threading.Thread(target=change, daemon=True).start()
        return body

    with serving(app, response_buffer=65536, response_spool=1 << 20) as server:
        for _ in range(5):
            with small_window(server) as client:
                client.send(GET)
                client.rest() if client.take_until(b"\r\n\r\n").startswith(b"HTTP/1.1 500") else client.more()
        server.log.texts("error")
        with server.connect() as client:
            client.send(b"GET / HTTP/1.0\r\n\r\n")
            assert client.take_until(b" ") == b"HTTP/1.1"


# Iterables.

Step = Callable[[Callable[..., Any], dict[str, Any]], Any]
STEPS: dict[str, Step] = {
    "nothing": lambda start_response, environ: None,
    "start": lambda start_response, environ: start_response("202 Again", [("X-Again", "1")]),
    "restart": lambda start_response, environ: start_response(
        "202 Again", [("X-Again", "1")], (KeyError, KeyError("restarted"), None)
    ),
    "write": lambda start_response, environ: start_response.__self__.write(b"w" * 5),  # type: ignore[attr-defined]
    "write-much": lambda start_response, environ: start_response.__self__.write(b"w" * 100_000),  # type: ignore[attr-defined]
    "read": lambda start_response, environ: environ["wsgi.input"].readline(),
    "raise": lambda start_response, environ: 1 / 0,
    "gone": lambda start_response, environ: gone(),
}


def gone() -> None:
    raise ClientGone


class Body:
    """An iterable whose every method does something of STEPS first."""

    def __init__(self, steps: dict[str, str], start_response: Any, environ: Any, items: list[bytes]) -> None:
        self.steps, self.start_response, self.environ, self.items = steps, start_response, environ, items

    def step(self, where: str) -> None:
        STEPS[self.steps.get(where, "nothing")](self.start_response, self.environ)

    def __iter__(self) -> Iterator[bytes]:
        self.step("iter")
        return self

    def __next__(self) -> bytes:
        self.step("next")
        if not self.items:
            raise StopIteration
        return self.items.pop(0)

    def __len__(self) -> int:
        self.step("len")
        return len(self.items)

    def close(self) -> None:
        self.step("close")

    def __del__(self) -> None:
        with contextlib.suppress(BaseException):
            self.step("del")


METHODS = ["iter", "next", "len", "close", "del"]


@pytest.mark.parametrize("where", METHODS)
def test_an_iterable_that_acts_when_it_is_looked_at(where: str) -> None:
    """Behind pipelined requests, so that there is something in the outbox that may move; each answer is well-formed."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        path = environ["PATH_INFO"]
        if path != "/hostile":
            start_response("200 OK", TEXT)
            return [path.encode()]
        started, step = environ["QUERY_STRING"].split(",")
        if started:
            start_response("200 OK", TEXT)
        return Body({where: step}, start_response, environ, [b"one", b"two"][: 1 if where == "len" else 2])

    def ask(method: str, target: str) -> bytes:
        body = b"Content-Length: 5\r\n\r\nin\nto" if method == "POST" else b"\r\n"
        return f"{method} {target} HTTP/1.1\r\nHost: x\r\n".encode() + body

    with serving(app) as server:
        for started, step, method in product(["", "started"], STEPS, ["GET", "HEAD", "POST"]):
            with server.connect() as client:
                hostile = ask(method, f"/hostile?{started},{step}")
                client.send(ask("GET", "/before") + hostile + ask("GET", "/behind"))
                assert client.response().body == b"/before"
                assert answers(client, method)[1:] in ([], [b"/behind"]), (started, step, method)
        assert server.get("/after").body == b"/after"
        assert "BUG" not in server.log.texts("error")


def answers(client: Client, method: str) -> list[bytes]:
    """The bodies of a client's remaining responses; None for one that is cut, which must be the last."""
    bodies: list[bytes] = []
    client.socket.shutdown(socket.SHUT_WR)
    while client.buffer or client.more():
        try:
            bodies.append(client.response("GET" if bodies else method).body)
        except AssertionError as error:
            if not str(error).startswith("closed in the middle"):
                raise
            break
    return bodies


def test_what_is_written_in_close_comes_too_late() -> None:
    """Behind the last chunk it would be the beginning of the next response."""
    told: list[str] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        write = start_response("200 OK", [] if environ["PATH_INFO"] == "/chunked" else [("Content-Length", "5")])

        class Late:
            def __iter__(self) -> Iterator[bytes]:
                return iter([b"whole"])

            def close(self) -> None:
                try:
                    write(b"late")
                except RuntimeError as error:
                    told.append(str(error))
                    raise

        return Late()

    with serving(app) as server, server.connect() as client:
        for path in ("/chunked", "/length", "/chunked"):
            client.send(GET.replace(b"/", path.encode(), 1))
            assert client.response().body == b"whole"
        assert told == ["write() was called after its response had ended"] * 3
        assert "close() of the response raised" in server.log.texts("error")


# What the server looks at when the app has returned or raised.


class Raising:
    """Whatever is done with it raises, and tells first that it was done."""

    def __init__(self, error: type[BaseException] = ZeroDivisionError) -> None:
        self.error = error

    def fail(self, *_: object) -> Any:
        raise self.error("from the app")

    __str__ = __repr__ = __format__ = __eq__ = __len__ = __iter__ = __call__ = fail

    def __hash__(self) -> int:
        return hash("REQUEST_METHOD")


@pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt])
def test_an_environ_that_raises(error: type[BaseException]) -> None:
    """It is read again for the log, and for the access log."""

    def app(environ: dict[Any, Any], start_response: Callable[..., Any]) -> list[bytes]:
        environ["REMOTE_ADDR"] = environ["RAW_URI"] = environ["logged"] = Raising(error)
        if environ["PATH_INFO"] == "/keys":
            environ.pop("REQUEST_METHOD")
            environ[Raising(error)] = "GET"
        if environ["QUERY_STRING"]:
            raise ValueError("the app's own")
        start_response("200 OK", TEXT)
        return [b"ok"]

    with serving(app, access_format="%(s)s %({logged}e)s %({REQUEST_METHOD}e)s") as server, server.connect() as client:
        for path, status in [("/", 200), ("/keys", 200), ("/?fail", 500), ("/keys?fail", 500), ("/", 200)]:
            client.send(GET.replace(b"/", path.encode(), 1))
            assert client.response().status == status
            assert server.access_line().startswith(f"{status} - ")
        assert server.log.texts("error").count("ValueError: the app's own") == 2
        assert "BUG" not in server.log.texts("error")


def test_an_error_that_says_that_it_is_another() -> None:
    class ShyError(Exception):
        @property  # type: ignore[misc]  # it is read-write, but not here
        def __class__(self) -> Any:
            raise ZeroDivisionError("asked for its class")

    class MuteError(Exception):
        __str__ = __repr__ = Raising().fail
        __cause__ = property(Raising().fail)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise ShyError if environ["PATH_INFO"] == "/shy" else MuteError

    with serving(app) as server, server.connect() as client:
        for path in (b"/shy", b"/mute"):
            client.send(GET.replace(b"/", path, 1))
            assert client.response().status == 500
        assert "ShyError" in server.log.texts("error")
        assert "MuteError" in server.log.texts("error")
        assert "BUG" not in server.log.texts("error")


def test_a_buffer_that_reads_the_input_it_is_to_be_filled_from() -> None:
    class Target(bytearray):
        def __init__(self, stream: Any) -> None:
            super().__init__(10)
            self.stream = stream

        def __buffer__(self, flags: int) -> memoryview:  # from Python 3.12 on
            self.stream.readline()
            return super().__buffer__(flags)

    class Size:
        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __index__(self) -> int:
            self.stream.readline()
            return 10

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        stream = environ["wsgi.input"]
        stream.readinto(Target(stream))
        for read in (stream.read, stream.readline, stream.readlines):
            read(Size(stream))
        start_response("200 OK", TEXT)
        return [stream.read()]

    for limit in (10, 1 << 30):
        with serving(app, body_buffer=limit) as server, post(server, BODY) as client:
            assert BODY.endswith(client.response().body)


def test_a_socket_that_is_taken_over_when_its_client_has_gone() -> None:
    """The head lay behind an earlier answer, whose loss it shares."""
    gone, staged = threading.Event(), threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", TEXT)
        if environ["PATH_INFO"] == "/take":
            staged.set()
            assert gone.wait(PATIENCE)
            with contextlib.suppress(RuntimeError):
                while True:
                    os.close(start_response.__self__.take_over())  # type: ignore[attr-defined]
        return [b"ok"]

    with serving(app) as server:
        with server.connect() as client:
            client.send(GET + GET.replace(b"/", b"/take", 1) + GET)
            assert staged.wait(PATIENCE)
            client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        gone.set()
        assert server.get().body == b"ok"
        assert "BUG" not in server.log.texts("error")
