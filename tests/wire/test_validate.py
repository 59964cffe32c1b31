"""Three validators of WSGI around apps that use everything: none has a complaint of the server.

A validator complains with an AssertionError or a warning, both of which would be in the log with a 500, or, of an
iterable that was never closed, on stderr.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from wsgiref.validate import validator as wsgiref

import pytest
from webtest.lint import middleware as webtest
from werkzeug.middleware.lint import LintMiddleware

from wire.apps import TEXT, App, Closing, Sized, serving, simple
from wire.loop import eventually

pytestmark = pytest.mark.usefixtures("way")

VALIDATORS: dict[str, Callable[[Any], Any]] = {
    "none": lambda app: app,  # the cases themselves are right
    "wsgiref": wsgiref,
    "werkzeug": LintMiddleware,
    "webtest": webtest,
}

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"
LINES = b"l1\nl2\nl3\nend"
POST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 12\r\n\r\n" + LINES
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6\r\na\nb\ncd\r\n0\r\n\r\n"


class Case(NamedTuple):
    app: App
    body: bytes
    status: str = "200 OK"
    request: bytes = GET
    log: str = ""  # what the server says of the app's own fault
    cut: bool = False  # the body ends without its last chunk
    unwelcome: tuple[str, ...] = ()  # validators that forbid the app to do so


def reading(read: Callable[[Any], bytes], request: bytes = POST, unwelcome: tuple[str, ...] = ()) -> Case:
    """An app that answers with what it has read from wsgi.input, which has to be all of it."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        body = read(environ["wsgi.input"])
        start_response("200 OK", TEXT)
        return [body]

    return Case(app, {POST: LINES, CHUNKED: b"a\nb\ncd"}.get(request, b""), request=request, unwelcome=unwelcome)


def lazy(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("202 Lazy", TEXT)
    yield b"la"
    yield b"zy"


def writing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    write = start_response("200 OK", TEXT)
    write(b"written ")
    write(b"twice ")
    return [b"and returned"]


def replacing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    start_response("200 OK", TEXT)
    try:
        raise ValueError
    except ValueError:
        start_response("500 Replaced", TEXT, sys.exc_info())
    return [b"replaced"]


def too_late(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"first"
    try:
        raise ValueError("too late")
    except ValueError:
        start_response("500 Replaced", TEXT, sys.exc_info())


def noting(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    errors = environ["wsgi.errors"]
    errors.write("noted\n")
    errors.writelines(["and ", "noted\n"])
    errors.flush()
    start_response("200 OK", TEXT)
    return [b"ok"]


def wrapped(make: Callable[[], Any]) -> App:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", TEXT)
        return environ["wsgi.file_wrapper"](make(), 4096)

    return app


def failing(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    raise ValueError("at once")


class BadClose(Closing):
    def close(self) -> None:
        super().close()
        raise ValueError("in close")


def streaming(kind: type[Closing], *chunks: Any) -> App:
    """An app with a new iterable for each request."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", TEXT)
        return kind(list(chunks))

    return app


THIS = Path(__file__)
WERKZEUG = ("werkzeug",)
NO_READ_ALL = ("wsgiref", "werkzeug")  # read() without a size: PEP 333 had no end of input
FAILED = "500 Internal Server Error"
SORRY = b"The application failed.\n"

CASES: dict[str, Case] = {
    # requests
    "absolute target": Case(simple(), b"ok", request=b"GET http://y HTTP/1.1\r\nHost: x\r\n\r\n"),
    "options asterisk": Case(simple(), b"ok", request=b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n"),
    "http/1.0": Case(simple(), b"ok", request=b"GET /?q HTTP/1.0\r\n\r\n"),
    "latin-1 path and fields": Case(simple(), b"ok", request=b"GET /%e9 HTTP/1.1\r\nHost: x\r\nX: \xe9\r\n\r\n"),
    "head of a list": Case(simple(), b"", request=HEAD),
    "head of a stream": Case(streaming(Closing, b"a", b"b"), b"", request=HEAD),
    # iterables
    "list": Case(simple(body=[b"a", b"", b"b"]), b"ab"),
    "tuple": Case(simple(body=(b"a", b"b")), b"ab"),
    "empty list": Case(simple(body=[]), b""),
    "with a length": Case(simple(headers=[*TEXT, ("Content-Length", "5")], body=[b"he", b"llo"]), b"hello"),
    "generator": Case(lambda e, start: start("200 OK", TEXT) and (b"%d," % i for i in range(9)), b"0,1,2,3,4,5,6,7,8,"),
    "lazy start_response": Case(lazy, b"lazy", "202 Lazy"),
    "without __len__": Case(streaming(Closing, b"a", b"", b"bc"), b"abc"),
    "with __len__": Case(streaming(Sized, b"a", b"bc"), b"abc"),
    "with __len__ 1": Case(streaming(Sized, b"abc"), b"abc"),
    "with __len__ 0": Case(streaming(Sized), b""),
    "file of the system": Case(wrapped(lambda: THIS.open("rb")), THIS.read_bytes()),
    "file in memory": Case(wrapped(lambda: io.BytesIO(b"memory" * 999)), b"memory" * 999),
    "no content": Case(simple("204 No Content", [("Content-Length", "0")], []), b"", "204 No Content"),
    "not modified": Case(
        simple("304 Not Modified", [("ETag", '"x"')], []), b"", "304 Not Modified", unwelcome=WERKZEUG
    ),
    # start_response and write()
    "write": Case(writing, b"written twice and returned"),
    "latin-1 in the head": Case(simple("299 Caf\xe9", [*TEXT, ("X-A", "\xfc\xff")]), b"ok", "299 Caf\xe9"),
    "exc_info before the head": Case(replacing, b"replaced", "500 Replaced"),
    "exc_info after the head": Case(too_late, b"5\r\nfirst\r\n", log="ValueError: too late", cut=True),
    # errors
    "wsgi.errors": Case(noting, b"ok"),
    "raises": Case(failing, SORRY, FAILED, log="ValueError: at once"),
    "raises in iteration": Case(streaming(Closing, ValueError("early")), SORRY, FAILED, log="ValueError: early"),
    "raises later": Case(
        streaming(Closing, b"abc", ValueError("late")), b"3\r\nabc\r\n", log="ValueError: late", cut=True
    ),
    "raises in close": Case(streaming(BadClose, b"abc"), b"abc", log="ValueError: in close"),
    # wsgi.input
    "no body": reading(lambda i: bytes(i.read(5)), GET),
    "read with a size": reading(lambda i: b"".join(iter(lambda: i.read(5), b""))),
    "read too much": reading(lambda i: bytes(i.read(1 << 40))),
    "read -1": reading(lambda i: i.read(3) + i.read(-1)),
    "read all": reading(lambda i: i.read(3) + i.read(), unwelcome=NO_READ_ALL),
    "readline": reading(lambda i: b"".join(iter(i.readline, b"")), unwelcome=WERKZEUG),
    "readline with a size": reading(lambda i: b"".join(iter(lambda: i.readline(2), b"")), unwelcome=WERKZEUG),
    "readlines": reading(lambda i: b"".join(i.readlines()), unwelcome=WERKZEUG),  # it has no readlines at all
    "readlines with a hint": reading(lambda i: b"".join(i.readlines(4) + i.readlines()), unwelcome=WERKZEUG),
    "iteration": reading(b"".join),
    "iteration of a chunked body": reading(b"".join, CHUNKED),
    "chunked body": reading(lambda i: bytes(i.read(99)), CHUNKED),
    "mixed": reading(lambda i: i.read(1) + next(iter(i)) + i.read(4) + b"".join(i)),
}


@pytest.mark.parametrize(
    ("validator", "name"),
    [(validator, name) for name in CASES for validator in VALIDATORS if validator not in CASES[name].unwelcome],
)
@pytest.mark.parametrize("body_buffer", [1 << 20, 0], ids=["memory", "spooled"])
def test_no_complaint(validator: str, name: str, body_buffer: int, capsys: pytest.CaptureFixture[str]) -> None:
    case = CASES[name]
    with serving(VALIDATORS[validator](case.app), body_buffer=body_buffer) as server, server.connect() as client:
        client.send(case.request)
        if case.cut:
            assert client.take_until(b"\r\n\r\n").startswith(b"HTTP/1.1 200 ")
            assert client.rest() == case.body
        else:
            response = client.response(case.request.split()[0].decode())
            assert (f"{response.status} {response.reason}", response.body) == (case.status, case.body)
        client.socket.close()
        eventually(lambda: not server.connections)
        log = server.log.texts("error")
        assert case.log in log
        assert bool(log) == bool(case.log)
        assert "AssertionError" not in log
        assert "Warning" not in log
        assert server.errors.getvalue() == ("noted\nand noted\n" if name == "wsgi.errors" else "")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("validator", [name for name in VALIDATORS if name != "none"])
def test_a_complaint_would_be_seen(validator: str) -> None:
    with serving(VALIDATORS[validator](simple(headers=[["X-A", "1"]]))) as server:
        assert server.get().status == 500
        log = server.log.texts("error")
    assert "AssertionError" in log or "Warning" in log
