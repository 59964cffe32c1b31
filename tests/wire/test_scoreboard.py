"""What connections write into their worker's slot, read as the master reads it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import pyserve
from pyserve.errors import ClientGone
from pyserve.ipc.scoreboard import FIELDS, LATENCY_BUCKETS, REQUEST_LINE, REQUEST_LINES, SLOT_SIZE, WORD, Slot
from pyserve_workers.native.connection import Context
from wire.loop import Server, eventually

pytestmark = pytest.mark.usefixtures("way")


def slot_of(server: Server) -> Slot:
    return Slot(memoryview(server.slot))


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    status = environ["QUERY_STRING"] or "200"
    if status == "raise":
        raise ValueError
    start_response(f"{status} X", [("Content-Length", "9")] if status == "299" else [])
    return [b"hello"]


def test_counts() -> None:
    with Server(app) as server:
        slot = slot_of(server)
        for query in ("200", "201", "302", "404", "raise", "299"):
            with server.connect() as client:
                client.send(f"GET /?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                client.rest()
        with server.connect() as client:
            client.send(b"BAD\r\n\r\n")
            client.rest()
        assert slot.get("requests") == 7
        assert [slot.get("status", i) for i in range(5)] == [0, 3, 1, 2, 1]
        assert slot.get("cut") == 1  # the one that gave less than its Content-Length
        assert slot.get("active") == 0
        assert slot.get("request_start") == 0
        assert sum(slot.get("latency", i) for i in range(LATENCY_BUCKETS)) == 6  # the refused one never was in the app
        assert slot.get("latency_sum") > 0


def test_every_status_counts_in_its_group_or_in_none() -> None:
    """Beside the groups there are other counters: one for a request without an answer was in the bytes sent."""

    def odd(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if not environ["QUERY_STRING"]:
            raise ClientGone
        return app(environ, start_response)

    with Server(odd, access_format="%(s)s") as server:
        slot = slot_of(server)
        received = b""
        for query in ("", "200", "599", "600", "999", ""):
            with server.connect() as client:
                client.send(f"GET /?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
                received += client.rest()
            assert server.access_line() == f"{query or '000'}\n"
        assert received.count(b"HTTP/1.1") == 4
        assert [slot.get("status", i) for i in range(5)] == [0, 1, 0, 0, 3]
        assert slot.get("requests") == 6
        assert slot.get("bytes_out") == len(received)
        assert slot.get("cut") == 0


def test_bytes_are_those_of_the_wire() -> None:
    with Server(app) as server, server.connect() as client:
        request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        client.send(request)
        received = client.rest()
        assert slot_of(server).get("bytes_in") == len(request)
        assert slot_of(server).get("bytes_out") == len(received)


def test_the_request_in_the_app(way: str) -> None:
    timed = way == "sync"  # only of one request there can be the start in one place
    noted: list[Any] = []

    def noting(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        slot = slot_of(server)
        noted.append((slot.get("active"), slot.get("request_start") > 0, *slot.inside))
        start_response("200 OK", [])
        return []

    with Server(noting) as server:
        server.get("/path?query")
        server.get("/" + "x" * 1000)
        server.get("/short")
    assert noted[0] == (1, timed, "GET /path?query")
    assert noted[1][2] == "GET /" + "x" * (REQUEST_LINE - 5)
    assert noted[2] == (1, timed, "GET /short")


def test_a_lost_client_is_cut() -> None:
    def stream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [])
        return (b"x" * 100_000 for _ in range(10_000))

    with Server(stream) as server:
        with server.connect() as client:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            client.take(200_000)
        eventually(lambda: slot_of(server).get("cut") == 1)


def test_a_slot_that_is_too_small_is_refused() -> None:
    server = Server(app)
    with server, pytest.raises(ValueError, match=f"{SLOT_SIZE} bytes, not 8"):
        Context(app, server.context.settings, memoryview(bytearray(8)), server.errors, server.log)


def test_the_header_has_the_same_table() -> None:
    header = (Path(pyserve.__file__).parent / "ipc" / "scoreboard.h").read_text()
    body = header[header.index("typedef struct {") : header.index("} pyserve_slot;")]
    names = re.findall(r"^    (?:uint64_t|char) (\w+)", body, re.MULTILINE)
    assert names == [name for name, _ in FIELDS]
    constants = dict(re.findall(r"#define (PYSERVE_\w+) (\d+)", header))
    assert constants == {
        "PYSERVE_SLOT_SIZE": str(SLOT_SIZE),
        "PYSERVE_LATENCY_BUCKETS": str(LATENCY_BUCKETS),
        "PYSERVE_REQUEST_LINE": str(REQUEST_LINE),
        "PYSERVE_REQUEST_LINES": str(REQUEST_LINES),
    }
    assert sum(count for _, count in FIELDS) * WORD <= SLOT_SIZE
