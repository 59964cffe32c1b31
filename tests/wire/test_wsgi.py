"""PEP 3333 over a real socket: framing by the body's kind, write(), close(), and what goes wrong in apps."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from copy import deepcopy as copy  # of bodies that can be iterated over once, for each way
from typing import Any

import pytest

from wire.apps import TEXT, Closing, Sized, answer, serving, simple
from wire.loop import PATIENCE

pytestmark = pytest.mark.usefixtures("way")

# Framing.


@pytest.mark.parametrize("body", [[b"hello"], (b"hello",), [b"he", b"", b"llo"], Sized([b"hello"])])
def test_a_body_of_known_length_has_a_content_length(body: Any) -> None:
    response = answer(simple(body=copy(body)))
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


def test_a_stream_comes_piece_by_piece() -> None:
    """fastpysgi takes 49 pieces before it sends the first, freastal takes them all."""
    received = threading.Event()

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterator[bytes]:
        start_response("200 OK", TEXT)(b"written")
        for piece in (b"first", b"second"):
            assert received.wait(PATIENCE)
            received.clear()
            yield piece

    with serving(app) as server, server.connect() as client:
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        client.take_until(b"\r\n\r\n")
        for part in (b"7\r\nwritten\r\n", b"5\r\nfirst\r\n", b"6\r\nsecond\r\n0\r\n\r\n"):
            assert client.take(len(part)) == part
            received.set()


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
    response = answer(simple(headers=[("Content-Length", "3")], body=copy(body)))
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
    assert "content-length" not in response.headers
    assert response.open
    assert body.given == 0
    assert body.closed == 1


@pytest.mark.parametrize("body", [[], (), Closing([]), Closing([b""])])
@pytest.mark.parametrize("request_", [HEAD_REQUEST, b"HEAD / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"])
def test_head_of_nothing_says_no_length(body: Any, request_: bytes) -> None:
    """Frameworks give no content to HEAD. A Content-Length of 0 would be that of GET, and wrong (RFC 9110 8.6)."""
    response = answer(simple(body=body), request_, "HEAD")
    assert "content-length" not in response.headers
    assert response.open


def test_head_with_a_length_of_the_app() -> None:
    response = answer(simple(headers=[("Content-Length", "77")], body=[]), HEAD_REQUEST, "HEAD")
    assert response.headers["content-length"] == "77"
    assert response.log == ""
    assert response.open


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
    response = answer(simple(body=copy(body)))
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
