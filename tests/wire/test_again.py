"""What comes again is not looked at again: the same field lines of a client, the same head of an app. Nobody may notice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from wire.loop import Client, Response, Server

pytestmark = pytest.mark.usefixtures("way")

FIELDS = "Host: h\r\nCookie: a=1\r\nX-Some: thing\r\n"


class Keeper:
    """Keeps a copy of each environ, and then spoils it."""

    def __init__(self) -> None:
        self.environs: list[dict[str, Any]] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        self.environs.append(dict(environ))
        environ.update(dict.fromkeys(environ, "spoiled"), added="by the app")
        start_response("200 OK", [])
        return []


def ask(client: Client, request: str) -> Response:
    client.send(request.encode("latin-1"))
    return client.response(request.partition(" ")[0])


def request_side(environ: dict[str, Any]) -> dict[str, Any]:
    """The entries that a request decides about."""
    return {key: value for key, value in environ.items() if key.isupper()} | {"scheme": environ["wsgi.url_scheme"]}


REQUESTS = [
    f"GET / HTTP/1.1\r\n{FIELDS}\r\n",
    f"GET /a%20b?q=1 HTTP/1.1\r\n{FIELDS}\r\n",
    f"POST /a%20b HTTP/1.1\r\n{FIELDS}\r\n",
    f"HEAD /a%20b?q=2 HTTP/1.1\r\n{FIELDS}\r\n",
    f"OPTIONS * HTTP/1.1\r\n{FIELDS}\r\n",
    f"GET http://other:81/x HTTP/1.1\r\n{FIELDS}\r\n",
    f"GET / HTTP/1.0\r\nConnection: keep-alive\r\n{FIELDS}\r\n",
    f"PUT /up HTTP/1.1\r\n{FIELDS}Content-Length: 2\r\n\r\nab",
    f"PUT /up HTTP/1.1\r\n{FIELDS}Content-Length: 2\r\n\r\ncd",
    f"PUT /up HTTP/1.1\r\n{FIELDS}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    f"GET / HTTP/1.1\r\n{FIELDS}X-Forwarded-Proto: https\r\n\r\n",
    f"GET / HTTP/1.1\r\n{FIELDS}X_Some: forged\r\nProxy: p\r\n\r\n",
    f"GET / HTTP/1.1\r\n{FIELDS}Cookie: b=2\r\nX-Some: more\r\n\r\n",
]


def environ_of_first(request: str) -> dict[str, Any]:
    """As a server makes it that has seen no other request."""
    app = Keeper()
    with Server(app) as server, server.connect() as client:
        assert ask(client, request).status == 200
    return app.environs[0]


def test_an_environ_does_not_depend_on_the_requests_before() -> None:
    expected = [request_side(environ_of_first(request)) for request in REQUESTS]
    app = Keeper()
    with Server(app) as server, server.connect() as one, server.connect() as other:
        for client in (one, other):
            for times in (1, 2, 4):
                for request in REQUESTS:
                    for _ in range(times):
                        assert ask(client, request).status == 200
        ports = [str(client.socket.getsockname()[1]) for client in (one, other)]
    rounds = [request for _ in ports for times in (1, 2, 4) for request in REQUESTS for _ in range(times)]
    for number, (request, environ) in enumerate(zip(rounds, app.environs, strict=True)):
        found = request_side(environ)
        assert found.pop("REMOTE_PORT") == ports[2 * number // len(rounds)]
        wanted = {**expected[REQUESTS.index(request)]}
        wanted.pop("REMOTE_PORT")
        assert found == wanted, request


def test_each_body_is_its_own() -> None:
    bodies: list[bytes] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        bodies.append(environ["wsgi.input"].read())
        start_response("200 OK", [])
        return []

    with Server(app) as server, server.connect() as client:
        for body in ("ab", "cd", "ef", "gh"):
            ask(client, f"PUT / HTTP/1.1\r\n{FIELDS}Content-Length: 2\r\n\r\n{body}")
        ask(client, f"GET / HTTP/1.1\r\n{FIELDS}\r\n")
    assert bodies == [b"ab", b"cd", b"ef", b"gh", b""]


def test_known_field_lines_obey_the_limit_of_the_whole_head() -> None:
    lines = f"Host: h\r\nX: {'x' * 60}\r\n\r\n"
    most = len(f"GET /1234 HTTP/1.1\r\n{lines}")
    with Server(Keeper(), limit_request_head=most) as server, server.connect() as client:
        for _ in range(4):
            assert ask(client, f"GET /1234 HTTP/1.1\r\n{lines}").status == 200
        assert ask(client, f"GET /12345 HTTP/1.1\r\n{lines}").status == 431


def test_a_head_that_is_constant() -> None:
    """The same objects, but another method, another version, another body."""
    status, fields = "200 OK", [("X-A", "1"), ("Content-Length", "3")]
    bodies = iter([b"abc", b"def", b"ghi", b"jkl", b"too long", b"no"])

    def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response(status, fields)
        return [next(bodies)]

    with Server(app) as server, server.connect() as client:
        assert ask(client, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").body == b"abc"
        assert ask(client, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").body == b"def"
        head = ask(client, "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert (head.body, head.headers["content-length"], head.headers["x-a"]) == (b"", "3", "1")
        old = ask(client, "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
        assert (old.body, old.headers["connection"]) == (b"jkl", "keep-alive")
        assert ask(client, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").body == b"too"
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.rest().endswith(b"\r\n\r\nno"), "it is closed after what is short"


def test_a_head_that_the_app_changes() -> None:
    """The list may be the app's own, and be different the next time."""
    kept = [("X-A", "1")]
    statuses = iter(["200 OK", "200 OK", "200 OK", "201 Made", "204 None", "200 OK"])
    changes = iter([None, None, ("X-B", "2"), None, None, ("Connection", "close")])

    def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        change = next(changes)
        if change:
            kept.append(change)
        start_response(next(statuses), kept)
        return []

    with Server(app) as server, server.connect() as client:
        found = [ask(client, "GET / HTTP/1.1\r\nHost: h\r\n\r\n") for _ in range(6)]
    assert [response.status for response in found] == [200, 200, 200, 201, 204, 200]
    assert ["x-b" in response.headers for response in found] == [False, False, True, True, True, True]
    assert [response.headers.get("content-length") for response in found] == ["0", "0", "0", "0", None, "0"]
    assert [response.headers.get("connection") for response in found] == [None] * 5 + ["close"]


def test_a_bad_head_is_refused_each_time() -> None:
    fields = [("X-A", "split\r\nSet-Cookie: x")]

    def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", fields)
        return []

    with Server(app) as server, server.connect() as client:
        for _ in range(3):
            assert ask(client, "GET / HTTP/1.1\r\nHost: h\r\n\r\n").status == 500


def test_callables_that_the_app_keeps_do_not_reach_a_later_response() -> None:
    kept: list[Callable[..., Any]] = []
    refusals: list[str] = []

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        for late in kept:
            try:
                late(b"late") if late.__name__ == "write" else late("200 OK", [])
            except RuntimeError as error:
                refusals.append(str(error))
        write = start_response("200 OK", [])
        if environ["PATH_INFO"] != "/keep":
            return [b"body"]
        kept.append(write)
        if environ["QUERY_STRING"]:
            kept.append(start_response)
        return [b"body"]

    with Server(app) as server, server.connect() as client:
        for target in ("/", "/keep", "/", "/keep?both", "/", "/"):
            assert ask(client, f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n").body == b"body"
    assert len(refusals) == 1 + 1 + 3 + 3
