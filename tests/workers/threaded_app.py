"""An app whose requests can be told from each other, held back, and asked about their threads."""

from __future__ import annotations

import contextvars
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyserve

StartResponse = Callable[[str, list[tuple[str, str]]], Any]

GATE = Path(os.environ["GATE"])  # while it does not exist, /wait waits
local = threading.local()
variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)
closed = 0  # streams whose close() was called
hook_threads: list[str] = []


@pyserve.on_init
@pyserve.on_bootstrap
def note_start() -> None:
    hook_threads.append(threading.current_thread().name)


@pyserve.on_destroy
@pyserve.before_shutdown
@pyserve.on_shutdown
def note_stop(signal: str) -> None:
    print(f"stop hook ({signal}) in {threading.current_thread().name}", flush=True)


class Farewell:
    """Lives in a thread's locals."""

    def __del__(self) -> None:
        print("a thread's locals are released", flush=True)


def wait() -> str:
    while not GATE.exists():
        time.sleep(0.005)
    return "waited"


def stubborn() -> str:
    """The same, and swallows what would end it."""
    while not GATE.exists():
        try:
            wait()
        except BaseException:  # noqa: BLE001
            print("swallowed", flush=True)
    return "stubborn"


def who() -> str:
    """The thread, the requests that it has run, and what the request before has left in a context variable."""
    local.count = getattr(local, "count", 0) + 1
    local.farewell = getattr(local, "farewell", None) or Farewell()
    left = variable.get()
    variable.set(local.count)
    return f"{threading.current_thread().name} {local.count} {left}"


class Stream:
    """Parts of 64 KiB, many of them."""

    def __iter__(self) -> Iterator[bytes]:
        for _ in range(512):
            yield b"x" * 65536

    def close(self) -> None:
        global closed
        closed += 1


def half() -> Iterator[bytes]:
    yield b"half"
    stubborn()


PAGES: dict[str, Callable[[], str]] = {
    "/": lambda: "hello",
    "/pid": lambda: str(os.getpid()),
    "/wait": wait,
    "/stubborn": stubborn,
    "/who": who,
    "/closed": lambda: str(closed),
    "/hooks": lambda: ",".join(hook_threads),
}


def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    path = environ["PATH_INFO"]
    if path == "/stream":
        start_response("200 OK", [])
        return Stream()
    if path == "/half":
        start_response("200 OK", [])
        return half()
    if path == "/multithread":
        text = str(environ["wsgi.multithread"])
    elif path == "/sleep":
        time.sleep(float(environ["QUERY_STRING"]))  # one call of C code, which nothing interrupts in a thread
        text = "slept"
    else:
        text = PAGES[path]()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [text.encode()]
