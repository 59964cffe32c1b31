"""start_response over a real socket: what it accepts, what it refuses, exc_info, and the head that is sent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from wire.apps import Closing, answer, serving, simple

pytestmark = pytest.mark.usefixtures("way")


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
    assert "apps.py" in response.log
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
