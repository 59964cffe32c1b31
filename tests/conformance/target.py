"""The application that the cases are sent to. It speaks for itself only where a server cannot: which methods there are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote

ALLOW = ("Allow", "GET, HEAD, POST, OPTIONS")
TEXT = ("Content-Type", "text/plain")


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    """Any path: 200; a POST body comes back; /echo: the request's fields, a line each; /cookie: its cookies, a line each."""
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    answered = ("X-Request", f"{method} {quote(path, encoding='latin-1')}")
    if method == "OPTIONS":
        start_response("204 No Content", [ALLOW, answered])
        return []
    if method not in ("GET", "HEAD", "POST"):
        start_response("405 Method Not Allowed", [ALLOW, TEXT, answered])
        return [b"no such method\n"]
    if path == "/echo":
        body = "".join(f"{name}: {value}\n" for name, value in fields(environ)).encode("latin-1")
    elif path == "/cookie":
        cookies = environ.get("HTTP_COOKIE", "").split(";")
        body = "".join(cookie.strip() + "\n" for cookie in cookies).encode("latin-1")
    elif method == "POST":
        body = environ["wsgi.input"].read()
    else:
        body = b"hello\n"
    start_response("200 OK", [TEXT, answered])
    return [body]


def fields(environ: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The request's fields as far as an environ tells of them."""
    for key, value in environ.items():
        if key.startswith("HTTP_") or key in ("CONTENT_LENGTH", "CONTENT_TYPE"):
            yield key.removeprefix("HTTP_").replace("_", "-").title(), value
