"""An app whose requests run until a file is there, and keep a journal; and what the journal has to show.

GET /NAME?until=FILE                        runs until FILE exists in the app's folder; without, answers at once
GET /NAME?sleep=SECONDS, ?compute=SECONDS   does that in one piece
PUT /NAME?alone=1&until=FILE&on_busy=wait…  the same, but alone; further parameters are pyserve.exclusive's
"""

from __future__ import annotations

import hashlib
import http.client
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import requests

from support import Server, serve
from support.processes import GENEROUS

APP = '''
import hashlib, os, time
from urllib.parse import parse_qsl
import pyserve

journal = os.open("journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
SECONDS = ("drain_timeout", "hold", "timeout")

def note(*words):
    os.write(journal, (" ".join(map(str, words)) + "\\n").encode())

def run(environ, start_response, query, kind):
    """Between its first line and its last one, this request is in the app."""
    name = environ["PATH_INFO"][1:] or "-"
    mark = f"{os.getpid()}.{id(environ)}.{time.monotonic_ns()}"
    def beat():
        note(mark, kind, name, time.monotonic())
    beat()
    try:
        time.sleep(float(query.get("sleep", 0)))
        computed = time.monotonic() + float(query.get("compute", 0))
        while time.monotonic() < computed:
            pass
        if query.get("call"):
            import urllib.error, urllib.request
            try:
                urllib.request.urlopen(f"http://{environ['HTTP_HOST']}/called", timeout=60)
            except urllib.error.HTTPError as error:
                note("called", error.code)
        while "until" in query and not os.path.exists(query["until"]):
            beat()
            time.sleep(0.005)
        if query.get("raise"):
            raise RuntimeError("as this test wants it")
        start_response(query.get("status", "200 OK"), [("Content-Type", "text/plain")])
        yield b"first "
        while "stream" in query and not os.path.exists(query["stream"]):
            beat()
            yield b"."
            time.sleep(0.005)
        yield hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode() + b" "
        yield str(os.getpid()).encode()
    finally:
        beat()

def wsgi(environ, start_response):
    query = dict(parse_qsl(environ["QUERY_STRING"]))
    if "alone" not in query:
        return run(environ, start_response, query, "usual")
    note("asks", os.getpid())
    while "ask_when" in query and not os.path.exists(query["ask_when"]):
        time.sleep(0.005)
    terms = {name: query.pop(name) for name in ("on_busy", "on_stuck", *SECONDS) if name in query}
    terms |= {name: float(terms[name]) for name in SECONDS if name in terms}
    def alone(environ, start_response):
        return run(environ, start_response, query, "alone")
    return pyserve.exclusive(alone, **terms)(environ, start_response)

def configured(environ, start_response):
    kind = "alone" if environ["REQUEST_METHOD"] == "PUT" else "usual"
    return run(environ, start_response, dict(parse_qsl(environ["QUERY_STRING"])), kind)
'''


# Of requests: none to speak of, one that is read with its head, one that is not, and one that is spooled.
BODIES = (b"x", b"abc" * 1000, b"0123456789" * 3000, bytes(range(256)) * 6000)


def digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class Run(NamedTuple):
    kind: str
    name: str
    began: float
    ended: float


class Gated:
    """The app's folder, and the requests that a test has under way."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "app.py").write_text(APP)
        (folder / "journal").touch()
        self.pool = ThreadPoolExecutor(64)
        self.kept: list[http.client.HTTPConnection] = []

    def close(self) -> None:
        self.hang_up()
        self.pool.shutdown()

    def hang_up(self) -> None:
        for connection in self.kept:
            connection.close()

    @contextmanager
    def serving(self, *options: str, workers: str = "2") -> Iterator[Server]:
        """A server of the app. At the end everything is as it was before, unless the server has ended."""
        with serve("app:wsgi", "--workers", workers, *options, cwd=self.folder) as server:
            yield server
            self.hang_up()
            if server.process.poll() is None:
                self.assert_open(server)

    def runs(self) -> list[Run]:
        """Each request that was in the app, from its first line in the journal to its last; in order."""
        found: dict[str, Run] = {}
        for line in (self.folder / "journal").read_text().splitlines():
            words = line.split()
            if len(words) == 4:
                mark, kind, name, now = words[0], words[1], words[2], float(words[3])
                found[mark] = Run(kind, name, found[mark].began if mark in found else now, now)
        return sorted(found.values(), key=lambda run: run.began)

    def runs_of(self, name: str) -> list[Run]:
        return [run for run in self.runs() if run.name == name]

    def said(self, word: str) -> list[int]:
        """The numbers that requests have written behind this word: ``asks`` the pid of each that asks to be alone,
        ``called`` the status that a request has got from its own server."""
        lines = [line.split() for line in (self.folder / "journal").read_text().splitlines()]
        return [int(words[1]) for words in lines if words[0] == word]

    def entered(self, name: str) -> bool:
        """Has a request of this name entered the app?"""
        return bool(self.runs_of(name))

    def let_go(self, file: str) -> None:
        (self.folder / file).touch()

    def assert_alone(self) -> None:
        """Nothing was in the app while a request was to be alone in it."""
        runs = self.runs()
        for alone in [run for run in runs if run.kind == "alone"]:
            others = [run for run in runs if run is not alone and run.began < alone.ended and alone.began < run.ended]
            assert not others, f"{alone} was not alone: {others}"

    def ask(self, server: Server, path: str, **options: Any) -> Future[requests.Response]:
        """A PUT that is to run alone, when it is in the app and about to ask for that."""
        asked = len(self.said("asks"))
        sent = self.send(server, "PUT", path, **options)
        server.wait_for(lambda: len(self.said("asks")) > asked or sent.done())
        return sent

    def enter(self, server: Server, path: str, method: str = "GET", **options: Any) -> Future[requests.Response]:
        """A request, when it is in the app."""
        sent = self.send(server, method, path, **options)
        name = path[1:].partition("?")[0]
        server.wait_for(lambda: self.entered(name) or sent.done())
        assert self.entered(name), sent.result().status_code
        return sent

    def keep(self, server: Server) -> http.client.HTTPConnection:
        """A kept connection to some worker."""
        connection = self.new(server)
        connection.request("GET", "/")
        assert connection.getresponse().read()
        return connection

    def connect(self, server: Server, pid: int) -> http.client.HTTPConnection:
        """A kept connection to this worker."""
        while True:
            connection = self.new(server)
            connection.request("GET", "/")
            if int(connection.getresponse().read().split()[-1]) == pid:
                return connection
            connection.close()

    def new(self, server: Server) -> http.client.HTTPConnection:
        """A connection that is made by its first request."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=GENEROUS)
        self.kept.append(connection)
        return connection

    def put_on(
        self, connection: http.client.HTTPConnection, path: str, body: bytes, chunked: bool = False
    ) -> Future[tuple[int, str]]:
        """The status of the response to a PUT, and what the app says of its body (see ``digest``; else empty)."""

        def ask() -> tuple[int, str]:
            data = iter([body[:100], body[100:]]) if chunked else body
            connection.request("PUT", path, data, encode_chunked=chunked)
            response = connection.getresponse()
            words = response.read().decode().split()
            return response.status, words[1] if response.status == 200 else ""

        return self.pool.submit(ask)

    def send_on(self, connection: http.client.HTTPConnection, method: str, path: str) -> Future[int]:
        """The status of the response, when it is there."""

        def ask() -> int:
            try:
                connection.request(method, path)
                response = connection.getresponse()
                response.read()
                return response.status
            finally:
                connection.close()

        return self.pool.submit(ask)

    def send(self, server: Server, method: str, path: str, **options: Any) -> Future[requests.Response]:
        options.setdefault("headers", {"Connection": "close"})  # a worker that leaves would wait for its next request
        return self.pool.submit(server.request, method, path, **options)

    def assert_open(self, server: Server) -> None:
        """Everything is as it was: the gate is open, a request is answered, and none was where it must not be."""
        server.wait_for(lambda: server.get("/").status_code == 200)
        self.assert_alone()


def eventually(server: Server, ask: Callable[[], requests.Response], status: int) -> requests.Response:
    """The first response of this status."""
    found: list[requests.Response] = []

    def asked() -> bool:
        found.append(ask())
        return found[-1].status_code == status

    server.wait_for(asked)
    return found[-1]


def status_on(connection: http.client.HTTPConnection, path: str) -> int:
    connection.request("GET", path)
    response = connection.getresponse()
    response.read()
    return response.status
