"""RequestTimeout raised in the thread that runs a request: in the app's code or not at all."""

from __future__ import annotations

import gc
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from pyserve_workers.native.connection import REQUEST, Connection
from pyserve_workers.native.context import Context
from wire.loop import PATIENCE, Server, eventually

GET = b"GET /a?b HTTP/1.1\r\nHost: x\r\n\r\n"
StartResponse = Callable[..., Any]


class Runner:
    """A connection over a socket pair, and a thread that runs one request after the other."""

    def __init__(self, app: Any) -> None:
        self.server = Server(app)
        given = self.server.context
        slot = memoryview(self.server.slot)
        self.context = Context(app, given.settings, slot, given.errors, given.log, None, concurrent=True)
        ours, self.client = socket.socketpair()
        ours.setblocking(False)
        self.client.settimeout(PATIENCE)
        self.connection = Connection(self.context, ours.detach(), self.server.about, ("10.0.0.1", 5))
        self.strays: list[BaseException] = []
        self.statuses: list[bytes] = []

    def end(self) -> None:
        self.connection.close()
        self.client.close()
        with self.server:
            pass

    def run(self, times: int = 1) -> None:
        """Send a request, run it, read the answer."""
        try:
            for _ in range(times):
                self.client.sendall(GET)
                assert self.connection.receive() == REQUEST
                self.connection.run()
                self.statuses.append(self.client.recv(65536).split()[1])
        except BaseException as error:  # noqa: BLE001  (what must not be there)
            self.strays.append(error)

    def start(self, times: int = 1) -> threading.Thread:
        thread = threading.Thread(target=self.run, args=(times,), daemon=True)
        thread.start()
        return thread


@pytest.fixture
def make() -> Iterator[Callable[[Any], Runner]]:
    runners: list[Runner] = []

    def made(app: Any) -> Runner:
        runners.append(Runner(app))
        return runners[-1]

    yield made
    for runner in runners:
        runner.end()


Make = Callable[[Any], Runner]


def endless(_environ: dict[str, Any], _start_response: StartResponse) -> list[bytes]:
    while True:
        time.sleep(0.001)


def test_an_endless_request_is_ended(make: Make) -> None:
    runner = make(endless)
    thread = runner.start()
    eventually(lambda: runner.connection.running)
    assert runner.connection.request_line == "GET /a?b"
    assert thread.ident
    assert runner.connection.interrupt(thread.ident)
    thread.join(PATIENCE)
    assert runner.statuses == [b"504"]
    assert runner.strays == []
    assert runner.connection.request_line == ""


def test_nothing_is_interrupted_when_the_app_does_not_run(make: Make) -> None:
    runner = make(endless)
    assert runner.connection.request_line == ""
    assert not runner.connection.interrupt(threading.get_ident())
    runner.client.sendall(GET)
    assert runner.connection.receive() == REQUEST
    assert not runner.connection.interrupt(threading.get_ident())


class Stream:
    """An iterable whose close() is slow."""

    def __init__(self, entered: threading.Event) -> None:
        self.entered = entered

    def __iter__(self) -> Iterator[bytes]:
        yield b"data"

    def close(self) -> None:
        self.entered.set()
        while True:
            time.sleep(0.001)


def test_a_close_that_does_not_end_is_the_apps_code_too(make: Make) -> None:
    entered = threading.Event()

    def app(_environ: dict[str, Any], start_response: StartResponse) -> Stream:
        start_response("200 OK", [("Content-Length", "4")])
        return Stream(entered)

    runner = make(app)
    thread = runner.start()
    assert entered.wait(PATIENCE)
    assert thread.ident
    assert runner.connection.interrupt(thread.ident)
    thread.join(PATIENCE)
    assert runner.strays == []
    assert runner.statuses == [b"200"]
    assert "close() of the response raised" in runner.server.log.texts("error")


class Yielding(list[bytes]):
    """A body whose close() lets other threads run and is C code: what is raised meanwhile comes up after it, if ever."""

    close = partial(time.sleep, 0)


def quick(_environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", [("Content-Length", "0")])
    return Yielding()


def halting(_environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
    time.sleep(0)
    start_response("200 OK", [("Content-Length", "0")])
    time.sleep(0)
    return []


@pytest.fixture
def eager() -> Iterator[None]:
    """Threads take turns as often as they can; and no garbage is collected, whose destructors would be hit as well."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("app", [quick, halting])
def test_an_interruption_hits_its_request_or_nothing(app: Any, make: Make) -> None:
    """However close to its end: never the next request, nor our code between the two."""
    sent = rounds = 0
    while not sent:  # a busy machine may leave this thread out while the app runs
        rounds += 1
        assert rounds <= 100
        runner = make(app)
        thread = runner.start(times=5000)
        assert thread.ident
        while thread.is_alive():
            sent += runner.connection.interrupt(thread.ident)
        assert runner.strays == []
        assert len(runner.statuses) == 5000
        assert set(runner.statuses) <= {b"200", b"504"}
