"""Streams and the limits of a request: ``timeout`` counts from the last part that was given, request_deadline does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from support import Server, serve
from support.processes import GENEROUS

APP = """
import time

def wsgi(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/silent":
        time.sleep(60)
    write = start_response("200 OK", [("Content-Type", "text/event-stream")])
    return {"/events": events, "/stops": stops, "/written": written}[path](write)

def events(write):
    for number in range(20):
        time.sleep(0.1)
        yield b"data: %d\\n\\n" % number

def stops(write):
    yield b"data: 0\\n\\n"
    for _ in range(600):
        time.sleep(0.1)

def written(write):
    for part in events(write):
        write(part)
    return []
"""
WHOLE = "".join(f"data: {number}\n\n" for number in range(20))


@contextmanager
def serving(folder: Path, kind: str, *options: str) -> Iterator[Server]:
    (folder / "streams.py").write_text(APP)
    with serve("streams:wsgi", "-k", kind, "--workers", "1", *options, cwd=folder) as server:
        yield server


@pytest.mark.parametrize("path", ["/events", "/written"])
def test_a_stream_that_goes_on_has_no_limit(tmp_path: Path, concurrent: str, path: str) -> None:
    """Server-sent events, for four times as long as a request may be silent."""
    with serving(tmp_path, concurrent, "--timeout", "0.5") as server:
        assert server.get(path).text == WHOLE
        assert "interrupted" not in server.log


def test_one_that_has_stopped_is_cut(tmp_path: Path, concurrent: str) -> None:
    with serving(tmp_path, concurrent, "--timeout", "1") as server:
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            server.get("/stops")
        server.wait_for_log(r"GET /stops has given nothing for \S+ s \(timeout is 1 s\); it is interrupted")


def test_request_deadline(tmp_path: Path, concurrent: str) -> None:
    """Whatever is given meanwhile."""
    with serving(tmp_path, concurrent, "--request-deadline", "1") as server:
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            server.get("/events")
        server.wait_for_log(r"GET /events has run for \S+ s \(request_deadline is 1 s\); it is interrupted")


@pytest.mark.usefixtures("worker_class")
@pytest.mark.parametrize("limits", [("0", "1"), ("1", "0"), ("60", "1")])
def test_a_request_that_gives_nothing(tmp_path: Path, limits: tuple[str, str]) -> None:
    (tmp_path / "streams.py").write_text(APP)
    options = ("--timeout", limits[0], "--request-deadline", limits[1])
    with serve("streams:wsgi", "--workers", "1", *options, cwd=tmp_path) as server:
        assert server.get("/silent", timeout=GENEROUS).status_code == 504
        name = "timeout" if limits == ("1", "0") else "request_deadline"
        server.wait_for_log(rf"GET /silent has run for \S+ s \({name} is 1 s\)")


@pytest.mark.parametrize("options", [("--timeout", "1"), ("--request-deadline", "1")])
def test_all_of_a_sync_workers_request_counts(tmp_path: Path, options: tuple[str, str]) -> None:
    with serving(tmp_path, "sync", *options) as server:
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            server.get("/events")
        server.wait_for_log(r"GET /events has run for \S+ s \((timeout|request_deadline) is 1 s\)")
