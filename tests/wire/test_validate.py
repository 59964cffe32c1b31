"""wsgiref's validator around an app that uses everything has no complaint."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any
from wsgiref.validate import validator

import pytest

from wire.apps import TEXT, serving


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
