"""pyserve.exclusive where there is no server, and what it refuses at once."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

import pyserve
from pyserve.app import alone


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alone, "_keeper", alone._Lock())


def environ(method: str = "PUT", path: str = "/api/sync") -> dict[str, Any]:
    return {"wsgi.version": (1, 0), "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": path}


class Recorder:
    """start_response, which remembers."""

    def __init__(self) -> None:
        self.status = ""
        self.fields: dict[str, str] = {}

    def __call__(self, status: str, fields: list[tuple[str, str]]) -> None:
        self.status, self.fields = status, dict(fields)


def test_it_is_a_decorator_with_and_without_arguments() -> None:
    @pyserve.exclusive
    def bare(number: int) -> int:
        """A view."""
        return number + 1

    @pyserve.exclusive(on_busy="wait", drain_timeout=1)
    def told(number: int) -> int:
        return number + 2

    assert (bare(1), told(1)) == (2, 3)
    assert (bare.__name__, bare.__doc__) == ("bare", "A view.")


def test_without_a_server_it_says_once_what_it_does_not_do(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="pyserve"):
        for _ in range(3):
            assert pyserve.exclusive(lambda: "done")() == "done"
    assert len(caplog.records) == 1
    assert "not served by pyserve" in caplog.text


def test_without_a_server_one_is_kept_from_the_other() -> None:
    inside, leave = threading.Event(), threading.Event()

    @pyserve.exclusive
    def first() -> None:
        inside.set()
        leave.wait(60)

    @pyserve.exclusive(on_busy="reject")
    def second() -> str:
        return "ran"

    @pyserve.exclusive(on_busy="wait", drain_timeout=60)
    def third() -> str:
        return "ran"

    thread = threading.Thread(target=first)
    thread.start()
    inside.wait(60)
    with pytest.raises(pyserve.Refused, match="another exclusive request runs") as refused:
        second()
    assert refused.value.retry_after == 5
    leave.set()
    assert third() == "ran"
    thread.join()
    assert second() == "ran"


def test_a_view_that_raises_is_not_alone_any_more() -> None:
    @pyserve.exclusive
    def fails() -> None:
        raise KeyError("as this test wants it")

    for _ in range(2):
        with pytest.raises(KeyError):
            fails()


def test_a_wsgi_callable_is_alone_until_its_response_is_closed() -> None:
    closed: list[bool] = []

    class Body:
        def __iter__(self) -> Iterator[bytes]:
            return iter([b"a", b"b"])

        def close(self) -> None:
            closed.append(True)

    @pyserve.exclusive
    def app(_environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return Body()

    body = app(environ(), Recorder())
    assert b"".join(body) == b"ab"
    refused = Recorder()
    assert b"cannot be done now" in b"".join(app(environ(), refused))
    assert (refused.status, refused.fields["Retry-After"]) == ("503 Service Unavailable", "5")
    body.close()
    assert closed == [True]
    app(environ(), Recorder()).close()


def test_requests_named_in_the_configuration_and_no_others() -> None:
    def app(_environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"ok"]

    guarded = alone.exclusively(app, ["PUT /api/sync", "POST /größe", "GET /report", "HEAD /state"])
    held = guarded(environ(), Recorder())
    for method, path, status in (
        ("PUT", "/api/sync", "503 Service Unavailable"),
        ("POST", "/größe".encode().decode("latin-1"), "503 Service Unavailable"),
        ("GET", "/api/sync", "200 OK"),
        ("HEAD", "/api/sync", "200 OK"),
        ("PUT", "/api/sync/", "200 OK"),
        ("GET", "/report", "503 Service Unavailable"),
        ("HEAD", "/report", "503 Service Unavailable"),
        ("HEAD", "/state", "503 Service Unavailable"),
        ("GET", "/state", "200 OK"),
    ):
        recorder = Recorder()
        guarded(environ(method, path), recorder)
        assert recorder.status == status, path
    held.close()


def test_flask_and_django_answer_in_their_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    import flask
    import werkzeug.exceptions
    from django.conf import settings
    from django.http import HttpRequest

    if not settings.configured:
        settings.configure()

    @pyserve.exclusive
    def view(*_request: Any) -> str:
        return "ran"

    def busy(_terms: alone.Terms) -> None:
        raise pyserve.Refused("another has the gate", 7)

    monkeypatch.setattr(alone._keeper, "enter_alone", busy)
    response: Any = view(HttpRequest())
    assert (response.status_code, response["Retry-After"]) == (503, "7")
    with pytest.raises(pyserve.Refused):
        view()  # no view of Flask's, although that is imported
    with flask.Flask("shop").test_request_context():
        with pytest.raises(werkzeug.exceptions.ServiceUnavailable) as raised:
            view()
    assert raised.value.get_response().headers["Retry-After"] == "7"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"on_busy": "queue"}, "on_busy is 'reject' or 'wait', not 'queue'"),
        ({"on_stuck": "wait"}, "on_stuck is 'refuse' or 'kill'"),
        ({"drain_timeout": -1}, "drain_timeout is a number of seconds, not -1"),
        ({"hold": "5s"}, "hold is a number of seconds, not '5s'"),
        ({"hold": float("inf")}, "hold is a number of seconds, not inf"),
    ],
)
def test_arguments_that_cannot_be_right(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        pyserve.exclusive(**arguments)


def test_what_cannot_be_decorated() -> None:
    async def view() -> None: ...

    with pytest.raises(TypeError, match="coroutine function"):
        pyserve.exclusive(view)
    with pytest.raises(TypeError, match="takes a view or a WSGI callable, not 3"):
        pyserve.exclusive(3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="not <class 'type'>"):
        pyserve.exclusive(type)
