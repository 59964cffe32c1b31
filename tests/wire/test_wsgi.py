"""PEP 3333 over a real socket: start_response, write(), iterables of every kind, close(), exc_info, faults of apps."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any
from wsgiref.validate import validator

import pytest

from wire.loop import Client, Response, Server

App = Callable[[dict[str, Any], Callable[..., Any]], Any]

TEXT = [("Content-Type", "text/plain")]


def serving(app: App, **settings: Any) -> Server:
    return Server(app, **settings)


def answer(app: App, request: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", method: str = "GET") -> Response:
    """The response to one request, with ``.log`` (errors) and ``.open`` (can the connection be used again?)."""

    def once(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        if environ["REQUEST_METHOD"] != "OPTIONS":
            return app(environ, start_response)
        start_response("200 OK", [])
        return []

    with serving(once) as server, server.connect() as client:
        client.send(request)
        response = client.response(method)
        response.open = response.headers.get("connection") != "close" and still_open(client)
        response.log = server.log.texts("error")
        return response


def still_open(client: Client) -> bool:
    client.send(b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n")
    return client.more()


def simple(status: str = "200 OK", headers: list[Any] | None = None, body: Any = (b"ok",)) -> App:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response(status, TEXT if headers is None else headers)
        return body

    return app


class Closing:
    """An iterable that counts its close()."""

    def __init__(self, chunks: list[Any]) -> None:
        self.chunks = iter(chunks)
        self.closed = 0
        self.given = 0

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> Any:
        chunk = next(self.chunks)
        if isinstance(chunk, BaseException):
            raise chunk
        self.given += 1
        assert chunk is not None
        return chunk

    def close(self) -> None:
        self.closed += 1


class Sized(Closing):
    def __init__(self, chunks: list[Any]) -> None:
        super().__init__(chunks)
        self.size = len(chunks)

    def __len__(self) -> int:
        return self.size


# Framing.


@pytest.mark.parametrize("body", [[b"hello"], (b"hello",), [b"he", b"", b"llo"], Sized([b"hello"])])
def test_a_body_of_known_length_has_a_content_length(body: Any) -> None:
    response = answer(simple(body=body))
    assert response.headers["content-length"] == "5"
    assert response.body == b"hello"
    assert response.open


@pytest.mark.parametrize("body", [[], (), [b""], Closing([]), Closing([b"", b""])])
def test_an_empty_body(body: Any) -> None:
    response = answer(simple(body=body))
    assert response.headers["content-length"] == "0"
    assert response.open


def test_a_stream_is_chunked() -> None:
    response = answer(simple(body=Closing([b"a", b"", b"bc"])))
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.body == b"abc"
    assert response.open


def test_a_sized_iterable_of_several_items_is_chunked() -> None:
    assert answer(simple(body=Sized([b"a", b"b"]))).headers["transfer-encoding"] == "chunked"


def test_a_stream_with_a_content_length() -> None:
    response = answer(simple(headers=[("Content-Length", "3")], body=Closing([b"a", b"bc"])))
    assert response.headers["content-length"] == "3"
    assert response.body == b"abc"
    assert response.open


def test_a_stream_to_http_1_0_ends_with_the_connection() -> None:
    response = answer(
        simple(body=Closing([b"a", b"bc"])), b"GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n"
    )
    assert "transfer-encoding" not in response.headers
    assert response.headers["connection"] == "close"
    assert response.body == b"abc"


def test_http_1_0_keep_alive_is_said() -> None:
    response = answer(simple(), b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert response.headers["connection"] == "keep-alive"
    assert response.open


def test_a_large_list() -> None:
    body = [b"x" * 700_000, b"y" * 300_000]
    assert answer(simple(body=body)).body == b"".join(body)


def test_a_large_item() -> None:
    assert answer(simple(body=[b"z" * 3_000_000])).body == b"z" * 3_000_000


@pytest.mark.parametrize("body", [[b"hello"], Closing([b"he", b"llo"])])
def test_more_than_the_content_length_is_cut_and_logged(body: Any) -> None:
    """Else the rest would be read as the next response."""
    response = answer(simple(headers=[("Content-Length", "3")], body=body))
    assert response.body == b"hel"
    assert "more than its Content-Length of 3" in response.log
    assert response.open


@pytest.mark.parametrize("body", [[b"hello"], Closing([b"he", b"llo"]), Closing([])])
def test_less_than_the_content_length_closes_and_is_logged(body: Any) -> None:
    with serving(simple(headers=[("Content-Length", "9")], body=body)) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        head = client.take_until(b"\r\n\r\n")
        assert b"Content-Length: 9" in head
        assert len(client.rest()) < 9
        assert "its Content-Length is 9; the connection was closed" in server.log.texts("error")


# HEAD and statuses without a body.

HEAD_REQUEST = b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n"


def test_head_of_a_list() -> None:
    response = answer(simple(body=[b"hello"]), HEAD_REQUEST, "HEAD")
    assert response.headers["content-length"] == "5"
    assert response.open


def test_head_of_a_stream_is_not_iterated_but_closed() -> None:
    body = Closing([b"a"] * 100)
    response = answer(simple(body=body), HEAD_REQUEST, "HEAD")
    assert response.headers["transfer-encoding"] == "chunked"
    assert response.open
    assert body.given == 0
    assert body.closed == 1


def test_head_of_a_lazy_generator_is_iterated_to_its_first_item() -> None:
    given = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("404 Not Here", TEXT)
        for i in range(10):
            given.append(i)
            yield b"x"

    response = answer(app, HEAD_REQUEST, "HEAD")
    assert response.status == 404
    assert given == [0]
    assert response.open


@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
@pytest.mark.parametrize("body", [[b"no"], Closing([b"no", b"no"]), []])
def test_statuses_without_a_body(status: str, body: Any) -> None:
    response = answer(simple(status, body=body))
    assert "transfer-encoding" not in response.headers
    assert response.open


def test_204_has_no_content_length() -> None:
    assert "content-length" not in answer(simple("204 No Content", [("Content-Length", "0")], [])).headers


def test_304_keeps_its_content_length() -> None:
    assert answer(simple("304 Not Modified", [("Content-Length", "77")], [])).headers["content-length"] == "77"


def test_205_is_empty() -> None:
    response = answer(simple("205 Reset Content", body=[b"no"]))
    assert response.headers["content-length"] == "0"
    assert response.open


# start_response.


def test_a_lazy_generator_has_its_own_status() -> None:
    """granian sends 200 and loses the headers."""

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("404 Gone Fishing", [("X-A", "1")])
        yield b"a"

    response = answer(app)
    assert (response.status, response.reason, response.headers["x-a"]) == (404, "Gone Fishing", "1")


def test_head_lines_as_the_app_gave_them() -> None:
    response = answer(simple("299 Caf\xe9", [("X-A", "\xfc\t1"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2")]))
    assert response.reason == "Caf\xe9"
    assert b"X-A: \xfc\t1\r\n" in response.head
    assert response.head.count(b"Set-Cookie: ") == 2


def test_server_and_date_are_added() -> None:
    response = answer(simple())
    assert response.headers["server"] == "pyserve"
    assert response.headers["date"].endswith(" GMT")


def test_server_and_date_of_the_app_stay() -> None:
    response = answer(simple(headers=[("Date", "Sun, 06 Nov 1994 08:49:37 GMT"), ("SERVER", "mine")]))
    assert response.headers["date"] == "Sun, 06 Nov 1994 08:49:37 GMT"
    assert response.headers["server"] == "mine"
    assert answer(simple(headers=[("Server", "mine")])).headers["date"]
    assert answer(simple(headers=[("Date", "x")])).headers["server"] == "pyserve"


def test_connection_close_of_the_app_is_honoured() -> None:
    response = answer(simple(headers=[("Connection", "close")]))
    assert response.headers["connection"] == "close"


def test_other_hop_by_hop_fields_of_the_app_are_dropped() -> None:
    fields = [("Transfer-Encoding", "chunked"), ("Keep-Alive", "1"), ("Upgrade", "x"), ("TE", "x"), ("Trailer", "x")]
    response = answer(simple(headers=[*fields, ("Proxy-Connection", "x"), ("X-A", "1")], body=[b"abc"]))
    assert set(response.headers) == {"x-a", "server", "date", "content-length"}
    assert response.body == b"abc"
    assert response.open


BAD_HEADS: list[tuple[Any, Any, str]] = [
    ("200 OK", [("Foo", "Foo\r\nBar: Bar")], "control character"),  # CVE-2018-1000164
    ("200 OK", [("Foo", "a\nb")], "control character"),
    ("200 OK", [("Foo", "a\0b")], "control character"),
    ("200 OK", [("Foo", "a\x7f")], "control character"),
    ("200 OK", [("Foo", "\u20ac")], "not Latin-1"),
    ("200 OK", [("Foo bar", "1")], "not an HTTP token"),
    ("200 OK", [("Foo:", "1")], "not an HTTP token"),
    ("200 OK", [("", "1")], "not an HTTP token"),
    ("200 OK", [("F\xf6o", "1")], "not an HTTP token"),
    ("200 OK", [("\u20ac", "1")], "not an HTTP token"),
    ("200 OK", [("Foo", b"1")], "must be str, not bytes"),
    ("200 OK", [(b"Foo", "1")], "must be str, not bytes"),
    ("200 OK", [("Foo", 1)], "must be str, not int"),
    ("200 OK", [["Foo", "1"]], "must be a tuple"),
    ("200 OK", [("Foo", "1", "2")], "must be a tuple"),
    ("200 OK", (("Foo", "1"),), "must be a list, not tuple"),
    ("200 OK", {"Foo": "1"}, "must be a list, not dict"),
    ("200 OK", [("Content-Length", "abc")], "not a number"),
    ("200 OK", [("Content-Length", "-1")], "not a number"),
    ("200 OK", [("Content-Length", "+1")], "not a number"),
    ("200 OK", [("Content-Length", "")], "not a number"),
    ("200 OK", [("Content-Length", "1" * 30)], "not a number"),
    ("200 OK", [("Content-Length", "1"), ("content-length", "2")], "two different Content-Lengths"),
    (200, [], "must be a str such as '200 OK', not int"),
    (b"200 OK", [], "must be a str such as '200 OK', not bytes"),
    ("200", [], "three digits, a space"),
    ("OK", [], "three digits, a space"),
    ("2000 OK", [], "three digits, a space"),
    ("20x OK", [], "three digits, a space"),
    ("200 O\r\nK", [], "three digits, a space"),
    ("200 \u20ac", [], "three digits, a space"),
    ("100 Continue", [], "must be 200 or more"),
    ("101 Switching Protocols", [], "must be 200 or more"),
    ("099 No", [], "must be 200 or more"),
]


@pytest.mark.parametrize(("status", "headers", "reason"), BAD_HEADS)
def test_a_head_that_cannot_be_sent_is_a_500_with_the_reason_in_the_log(status: Any, headers: Any, reason: str) -> None:
    response = answer(simple(status, headers))
    assert response.status == 500
    assert reason in response.log
    assert "test_wsgi.py" in response.log
    assert response.open


def test_a_bad_head_raises_in_the_app_which_may_give_another() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        try:
            start_response("200 OK", [("X", "a\nb")])
        except ValueError as error:
            start_response("500 Mine", [("X-Why", type(error).__name__)])
        return [b""]

    response = answer(app)
    assert (response.status, response.headers["x-why"]) == (500, "ValueError")
    assert response.log == ""


def test_a_second_call_without_exc_info_is_an_error() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        start_response("201 Created", [])
        return [b""]

    response = answer(app)
    assert response.status == 500
    assert "a second time without exc_info" in response.log


def test_exc_info_before_the_head_was_sent_replaces_it() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("X-First", "1"), ("Content-Length", "100"), ("Connection", "close")])
        try:
            raise ValueError("late")
        except ValueError:
            start_response("503 Busy", [("X-Second", "2")], sys.exc_info())
        return [b"busy"]

    response = answer(app)
    assert (response.status, response.body) == (503, b"busy")
    assert "x-first" not in response.headers
    assert response.headers["x-second"] == "2"
    assert response.headers["content-length"] == "4"


def test_exc_info_after_the_head_was_sent_raises_it_again() -> None:
    raised = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        try:
            raise ValueError("late")
        except ValueError:
            try:
                start_response("500 Sorry", [], sys.exc_info())
            except ValueError as error:
                raised.append(error)
                raise

    with serving(app) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.rest().endswith(b"\r\n\r\n5\r\nfirst\r\n")  # cut: no last chunk
        assert "ValueError: late" in server.log.texts("error")
    assert str(raised[0]) == "late"


@pytest.mark.parametrize("body", [[b"x"], Closing([b"x"]), [], Closing([])])
def test_an_app_that_never_calls_start_response(body: Any) -> None:
    response = answer(lambda *_: body)
    assert response.status == 500
    assert "start_response" in response.log


def test_start_response_of_an_old_request_is_dead() -> None:
    kept: list[Any] = []
    errors: list[str] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        for old in kept:
            try:
                old("200 OK", [("X-Old", "1")])
            except RuntimeError as error:
                errors.append(str(error))
        kept.append(start_response)
        kept.append(start_response("200 OK", []))
        return [b"ok"]

    with serving(app) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.response()
        kept[1:] = []
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "x-old" not in client.response().headers
    assert errors == ["start_response was called after its request had ended"]


# write().


def test_write() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"a")
        write(b"")
        write(b"b" * 20000)
        return [b"c", b"d"]

    response = answer(app)
    assert response.body == b"a" + b"b" * 20000 + b"cd"
    assert response.open


def test_write_with_a_content_length_and_an_empty_iterable() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("Content-Length", "2")])(b"ab")
        return []

    response = answer(app)
    assert response.body == b"ab"
    assert response.open


def test_write_of_text_is_refused() -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])("text")
        return []

    response = answer(app)
    assert response.status == 500
    assert "must consist of bytes, not str" in response.log


# What goes wrong in the app.


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (["text"], "must consist of bytes, not str"),
        ("text", "must consist of bytes, not str"),
        (b"bytes", "must consist of bytes, not int"),
        ([b"a", None], "must consist of bytes, not NoneType"),
        (Closing(["text"]), "must consist of bytes, not str"),
        (None, "returned None"),
        (7, "not iterable"),
    ],
)
def test_a_body_that_is_no_bytes(body: Any, reason: str) -> None:
    response = answer(simple(body=body))
    assert response.status == 500
    assert reason in response.log
    assert response.open


@pytest.mark.parametrize("error", [ValueError("x"), SystemExit(3), KeyboardInterrupt(), GeneratorExit()])
def test_whatever_the_app_raises_is_a_500_with_its_traceback(error: BaseException) -> None:
    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [("X-A", "1")])
        raise error

    response = answer(app, b"GET /broken?x HTTP/1.1\r\nHost: x\r\n\r\n")
    assert response.status == 500
    assert "x-a" not in response.headers
    assert response.body == b"The application failed.\n"
    assert "GET /broken?x from 127.0.0.1: answered with 500" in response.log
    assert "raise error" in response.log
    assert ".pyx" not in response.log
    assert response.open


def test_an_error_in_iteration_before_the_first_byte_is_a_500() -> None:
    body = Closing([b"", ValueError("early")])
    response = answer(simple(body=body))
    assert response.status == 500
    assert "ValueError: early" in response.log
    assert body.closed == 1


def test_an_error_in_iteration_after_the_first_byte_cuts_the_response() -> None:
    body = Closing([b"abc", ValueError("late")])
    with serving(simple(body=body)) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.rest().endswith(b"\r\n\r\n3\r\nabc\r\n")
        assert "cut in the middle of its response" in server.log.texts("error")
        assert "ValueError: late" in server.log.texts("error")
    assert body.closed == 1


def test_an_error_in_close_is_logged() -> None:
    class Bad(Closing):
        def close(self) -> None:
            super().close()
            raise ValueError("in close")

    body = Bad([b"ok"])
    response = answer(simple(body=body))
    assert response.body == b"ok"
    assert response.open
    assert body.closed == 1
    assert "close() of the response raised" in response.log
    assert "ValueError: in close" in response.log


@pytest.mark.parametrize("chunks", [[b"a"], [], [b"a", b"b"], ["no bytes"], [ValueError()], [b"a", ValueError()]])
def test_close_is_called_once(chunks: list[Any]) -> None:
    body = Closing(chunks)
    with serving(simple(body=body)) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        client.rest()
    assert body.closed == 1


def test_close_is_called_when_start_response_never_was() -> None:
    body = Closing([b"a"])
    assert answer(lambda *_: body).status == 500
    assert body.closed == 1


def test_a_request_timeout_is_a_504() -> None:
    from pyserve.errors import RequestTimeout

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        raise RequestTimeout

    response = answer(app)
    assert response.status == 504
    assert "GET / from 127.0.0.1: answered with 504" in response.log
    assert "Traceback" not in response.log


def test_running_is_true_exactly_in_the_app() -> None:
    states: list[bool] = []

    class Body(Closing):
        def __next__(self) -> Any:
            states.append(server.context.running)
            return super().__next__()

        def close(self) -> None:
            states.append(server.context.running)

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        states.append(server.context.running)
        start_response("200 OK", [])
        return Body([b"a"])

    server = serving(app)
    assert not server.context.running
    with server:
        server.get()
    assert states == [True, True, True, True]
    assert not server.context.running


def test_draining_closes_after_the_response() -> None:
    with serving(simple()) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert "connection" not in client.response().headers
        server.context.draining = True
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.response().headers["connection"] == "close"
        assert client.closed()


def test_keep_alive_0_closes_after_each_response() -> None:
    with serving(simple(), keep_alive=0) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert client.response().headers["connection"] == "close"
        assert client.closed()


# The reference validator around apps that use everything.


def everything(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    path = environ["PATH_INFO"]
    stream = environ["wsgi.input"]
    environ["wsgi.errors"].write("noted\n")
    environ["wsgi.errors"].flush()
    if path == "/input":
        body = stream.readline() + stream.read(3) + b"".join(stream.readlines()) + stream.read(10)
        start_response("200 OK", TEXT)
        return [body]
    if path == "/iterate":
        start_response("200 OK", TEXT)
        return [b"|".join(stream)]
    if path == "/write":
        start_response("200 OK", TEXT)(b"written ")
        return [b"and returned"]
    if path == "/exc-info":
        start_response("200 OK", TEXT)
        try:
            raise ValueError
        except ValueError:
            start_response("500 Replaced", TEXT, sys.exc_info())
        return [b"replaced"]
    if path == "/stream":
        start_response("200 OK", TEXT)
        return (b"%d," % i for i in range(50))
    if path == "/empty":
        start_response("204 No Content", [])
        return []
    start_response("200 OK", [*TEXT, ("Content-Length", "5")])
    return [b"hello"]


POST_INPUT = b"POST /input HTTP/1.1\r\nHost: x\r\nContent-Type: a/b\r\nContent-Length: 12\r\n\r\n"
POST_CHUNKED = b"POST /iterate HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("request_", "body"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"hello"),
        (b"GET http://y HTTP/1.1\r\nHost: x\r\n\r\n", b"hello"),
        (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", b"hello"),
        (b"GET / HTTP/1.0\r\n\r\n", b"hello"),
        (POST_INPUT + b"l1\nl2\nl3\nend", b"l1\nl2\nl3\nend"),
        (POST_CHUNKED + b"6\r\na\nb\ncd\r\n0\r\n\r\n", b"a\n|b\n|cd"),
        (b"GET /write HTTP/1.1\r\nHost: x\r\n\r\n", b"written and returned"),
        (b"GET /exc-info HTTP/1.1\r\nHost: x\r\n\r\n", b"replaced"),
        (b"GET /stream HTTP/1.1\r\nHost: x\r\n\r\n", b"".join(b"%d," % i for i in range(50))),
        (b"GET /empty HTTP/1.1\r\nHost: x\r\n\r\n", b""),
    ],
)
def test_wsgiref_validate_has_no_complaint(request_: bytes, body: bytes) -> None:
    with serving(validator(everything)) as server, server.connect() as client:
        client.send(request_)
        assert client.response().body == body
        assert server.log.texts("error") == ""
        assert server.errors.getvalue() == "noted\n"
