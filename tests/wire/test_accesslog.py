"""The access log: formats, and that no client can forge a line."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from pyserve.errors import ConfigError
from pyserve_workers.native.accesslog import AccessLog
from support.processes import wait_for
from wire.loop import Server

pytestmark = pytest.mark.usefixtures("way")


class Broken:
    def __str__(self) -> str:
        raise ValueError


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    environ["app.user"] = 'j\u00e4n "x"'
    environ["app.broken"] = Broken()
    start_response("200 OK", [("X-Out", "v\xe9\t"), ("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/empty":
        return []
    if environ["PATH_INFO"] == "/cut":
        return half_a_page()
    if environ["PATH_INFO"] == "/short":
        start_response("200 OK", [("Content-Length", "9")], sys.exc_info())
    if environ["PATH_INFO"] == "/raise":
        raise ValueError
    return [b"hello"]


def half_a_page() -> Iterator[bytes]:
    yield b"half"
    raise ValueError


REQUEST = (
    b"GET /p%20q?a=b HTTP/1.1\r\nHost: x\r\nReferer: http://r/\r\nUser-Agent: agent/1\r\nX-In: in\r\n"
    b"Authorization: Basic dXNlcjpwYXNz\r\n\r\n"
)


def line_of(format_: str, request: bytes = REQUEST, **settings: Any) -> str:
    with Server(app, access_format=format_, **settings) as server, server.connect() as client:
        client.send(request)
        client.response()
        line = server.access_line()
        assert line.endswith("\n")
        return line[:-1]


def test_combined() -> None:
    pattern = (
        r"127\.0\.0\.1 - user \[\d\d/[A-Z][a-z]{2}/20\d\d:\d\d:\d\d:\d\d [+-]\d{4}\] "
        r'"GET /p%20q\?a=b HTTP/1\.1" 200 5 "http://r/" "agent/1"'
    )
    assert re.fullmatch(pattern, line_of("combined"))


@pytest.mark.parametrize(
    ("atom", "pattern"),
    [
        ("%(h)s", "127.0.0.1"),
        ("%(l)s", "-"),
        ("%(u)s", "user"),
        ("%(r)s", r"GET /p%20q\?a=b HTTP/1.1"),
        ("%(m)s", "GET"),
        ("%(U)s", "/p%20q"),
        ("%(q)s", "a=b"),
        ("%(X)s", r"\+"),
        ("%(H)s", "HTTP/1.1"),
        ("%(s)s", "200"),
        ("%(B)s", "5"),
        ("%(b)s", "5"),
        ("%(f)s", "http://r/"),
        ("%(a)s", "agent/1"),
        ("%(T)s", "0"),
        ("%(D)s", r"\d+"),
        ("%(M)s", r"\d+"),
        ("%(L)s", r"0\.\d{6}"),
        # Processes that share the tests must agree on their names.
        pytest.param("%(p)s", f"<{os.getpid()}>", id="%(p)s"),
        ("%({X-In}i)s", "in"),
        ("%({x-in}i)s", "in"),
        ("%({X-None}i)s", "-"),
        ("%({X-Out}o)s", r"v\\xe9\\x09"),
        ("%({X-None}o)s", "-"),
        ("%({app.user}e)s", r"j\\xc3\\xa4n \\x22x\\x22"),
        ("%({REQUEST_METHOD}e)s", "GET"),
        ("%({none}e)s", "-"),
        ("%({app.broken}e)s", "-"),  # costs its word in the line, not the response
        ("100%% of %(s)s \u00e9", "100% of 200 \u00e9"),
    ],
)
def test_atoms(atom: str, pattern: str) -> None:
    assert re.fullmatch(pattern, line_of(atom))


@pytest.mark.parametrize(("path", "b", "big_b"), [("/empty", "-", "0"), ("/", "5", "5")])
def test_sizes(path: str, b: str, big_b: str) -> None:
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    assert line_of("%(b)s %(B)s", request) == f"{b} {big_b}"


@pytest.mark.parametrize("unknown", ["%(x)s", "%(h)d", "%h", "%({X}z)s", "%({}i)s", "%", "a %(h"])
def test_an_unknown_atom_is_named(unknown: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(unknown.removeprefix("a ")[:8])):
        AccessLog(1, unknown)


@pytest.mark.parametrize("silent", ["jsno", "JSON", "", "100%%", "(h)s"])
def test_a_format_without_a_single_atom_is_refused(silent: str) -> None:
    """Its lines would all be the same; it is "json", mistyped, or a percent sign is missing."""
    with pytest.raises(ConfigError, match=rf"^access_logformat: {re.escape(repr(silent))} says nothing of a request; "):
        AccessLog(1, silent)


def test_json() -> None:
    line = line_of("json")
    entry = json.loads(line)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", entry.pop("time"))
    assert 0 <= entry.pop("duration") < 10
    assert entry == {
        "peer": "127.0.0.1",
        "method": "GET",
        "path": "/p%20q",
        "query": "a=b",
        "protocol": "HTTP/1.1",
        "status": 200,
        "bytes": 5,
        "referer": "http://r/",
        "user_agent": "agent/1",
        "host": "x",
    }


EVIL = b'a"b\\c\td\xe9\x80 "} {"x":1}'


def test_json_cannot_be_forged() -> None:
    entry = json.loads(line_of("json", b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: " + EVIL + b"\r\n\r\n"))
    assert entry["user_agent"] == EVIL.decode("latin-1")


def test_combined_cannot_be_forged() -> None:
    line = line_of("combined", b"GET / HTTP/1.1\r\nHost: x\r\nUser-Agent: " + EVIL + b"\r\n\r\n")
    assert line.endswith(r'"a\x22b\x5cc\x09d\xe9\x80 \x22} {\x22x\x22:1}"')


def test_a_target_cannot_forge_a_line() -> None:
    """Quotes and backslashes may stand in it as they are, and with permit_raw_target any byte above 0x7f."""
    request = b'GET /"},{"?\\" HTTP/1.1\r\nHost: x\r\n\r\n'
    assert line_of('"%(r)s" "%(U)s"', request) == r'"GET /\x22},{\x22?\x5c\x22 HTTP/1.1" "/\x22},{\x22"'
    entry = json.loads(line_of("json", request))
    assert (entry["path"], entry["query"]) == ('/"},{"', '\\"')
    request = b"GET /\xe9\x9b2J?\x9b HTTP/1.1\r\nHost: x\r\n\r\n"
    assert line_of("%(U)s %(q)s", request, permit_raw_target=True) == r"/\xe9\x9b2J \x9b"
    assert json.loads(line_of("json", request, permit_raw_target=True))["path"] == "/\xe9\x9b2J"


def test_a_user_cannot_forge_a_line() -> None:
    from base64 import b64encode

    request = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic " + b64encode(b'a\n"b:pw') + b"\r\n\r\n"
    assert line_of("%(u)s", request) == r"a\x0a\x22b"
    assert line_of("%(u)s", b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Basic !\r\n\r\n") == "-"
    assert line_of("%(u)s", b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer abc\r\n\r\n") == "-"


@pytest.mark.parametrize("format_", ["combined", "json", "%(r)s %(m)s %(H)s %(s)s %({X-Out}o)s %({x}e)s %(a)s"])
def test_refused_requests_have_a_line(format_: str) -> None:
    line = line_of(format_, b'\r\nBAD "\x01\n\r\nX: 1\r\n\r\n')
    assert "400" in line
    assert "\x01" not in line
    if format_ == "json":
        assert json.loads(line)["line"] == 'BAD "\x01\n'
    elif format_ == "combined":
        assert r'"BAD \x22\x01\x0a" 400 ' in line


def test_a_refused_head_with_a_good_request_line() -> None:
    line = line_of("%(m)s %(U)s %(r)s %(s)s %(a)s", b"GET /p HTTP/1.1\r\nUser-Agent: x\r\n\r\n")
    assert line == "GET /p GET /p HTTP/1.1 400 -"


def test_an_app_that_raises_has_a_line() -> None:
    assert line_of("%(U)s %(s)s", b"GET /raise HTTP/1.1\r\nHost: x\r\n\r\n") == "/raise 500"


def test_lines_of_one_turn_are_written_together_and_large_ones_before() -> None:
    with Server(app, access_format="%(s)s %({x}i)s") as server, server.connect() as client:
        client.send((b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 8000 + b"\r\n\r\n") * 8)
        for _ in range(8):
            client.response()
        assert all(server.access_line() == f"200 {'y' * 8000}\n" for _ in range(8))


@pytest.fixture
def full_pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, b"x" * 65536)
    except BlockingIOError:
        pass
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_a_log_that_cannot_be_written_harms_no_request(full_pipe: tuple[int, int]) -> None:
    with Server(app, access_format="combined") as server:
        os.dup2(full_pipe[1], server.access_write)
        assert server.get().status == 200
        assert server.access_log is not None
        assert server.get().status == 200
    assert server.access_log.dropped >= 1


@pytest.mark.parametrize(("path", "sent"), [("/cut", 4), ("/short", 5)])
def test_a_response_that_was_cut_says_so(path: str, sent: int) -> None:
    """Its status is that of a head that went out when all was well."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    for format_, expected in (("%(s)s %(B)s %(X)s", f"200 {sent} X"), ("json", None)):
        with Server(app, access_format=format_) as server, server.connect() as client:
            client.send(request)
            client.rest()
            line = server.access_line().rstrip()
            if expected:
                assert line == expected
            else:
                entry = json.loads(line)
                assert (entry["status"], entry["bytes"], entry["cut"]) == (200, sent, True)


def test_a_whole_response_is_not_called_cut() -> None:
    assert "cut" not in json.loads(line_of("json"))
    assert line_of("%(X)s", b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") == "-"


def test_what_nobody_reads_is_dropped_line_by_line() -> None:
    """A pipe that others have open, too, so without O_NONBLOCK. Whole lines are written, and each lost one is counted."""
    with Server(app, access_format="%(m)s %(U)s %({X-Filler}i)s") as server, server.connect() as client:
        log = server.access_log
        assert log is not None
        asked = 0
        while not log.dropped:
            client.send(b"GET / HTTP/1.1\r\nHost: x\r\nX-Filler: " + b"f" * 3000 + b"\r\n\r\n")
            client.response()
            asked += 1
        assert os.get_blocking(server.access_write)
        assert log.error == errno.EAGAIN
        os.set_blocking(server.access_read, False)
        received = b""

        def accounted() -> bool:
            """The last turn of the loop may not have come to its end when its answers are here."""
            nonlocal received
            with contextlib.suppress(BlockingIOError):
                while data := os.read(server.access_read, 1 << 16):
                    received += data
            return received.count(b"\n") + log.dropped == asked

        wait_for(accounted)
        assert set(received.decode().splitlines()) == {"GET / " + "f" * 3000}
