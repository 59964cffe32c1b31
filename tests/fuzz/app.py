"""The app that is served while connections are fuzzed: it writes down each call, and answers in the way that is asked for.

``/KIND/TOKEN?size=N`` is asked, with the token in X-Token too. It uses nothing but what every server has.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

JOURNAL = "journal"
MOST = 400_000  # bytes of an answer
SLOW = 0.03  # seconds: beyond what a sync worker's other clients wait for it (docs/design.md)

journal = -1


class Planted(Exception):  # noqa: N818  (it says nothing of an error)
    """What the app raises on purpose."""


def content(token: str, size: int) -> bytes:
    """What an answer with a body of its own has. No two tokens have the same."""
    line = f"answer {token}\n".encode()
    return (line * (size // len(line) + 1))[:size]


def pieces(data: bytes) -> list[bytes]:
    return [data[start : start + 9000] for start in range(0, len(data), 9000)]


class Request:
    def __init__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> None:
        self.environ, self.start_response = environ, start_response
        self.token = environ.get("HTTP_X_TOKEN", "-")
        self.kind = environ["PATH_INFO"].split("/")[1]
        if self.kind not in ANSWERS:
            self.kind = "echo"  # also what a mutation has made of the others
        self.data = content(self.token, self.size())
        self.body = self.read()

    def size(self) -> int:
        number = self.environ["QUERY_STRING"].partition("size=")[2].partition("&")[0]
        return min(int(number), MOST) if number.isascii() and number.isdecimal() and len(number) < 9 else 100

    def read(self) -> bytes:
        source = self.environ["wsgi.input"]
        if self.kind == "unread":
            return b""
        if self.kind == "half":
            return bytes(source.read(10))
        if self.kind == "lines":
            return b"".join(source)
        return bytes(source.read())

    def write_down(self) -> None:
        global journal
        if journal < 0:
            journal = os.open(JOURNAL, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC)
        environ = self.environ
        call = {
            "peer": environ["REMOTE_ADDR"],
            "method": environ["REQUEST_METHOD"],
            "target": environ["RAW_URI"],
            "version": environ["SERVER_PROTOCOL"],
            "token": self.token,
            "body": hashlib.sha1(self.body).hexdigest(),
            "kind": self.kind,
            "size": len(self.data),
        }
        os.write(journal, json.dumps(call).encode() + b"\n")

    def start(self, status: str = "200 OK", **fields: str) -> Callable[[bytes], Any]:
        named = [(name.replace("_", "-"), value) for name, value in fields.items()]
        write: Callable[[bytes], Any] = self.start_response(status, [("X-Token", self.token), *named])
        return write


def echo(request: Request) -> list[bytes]:
    request.start()
    return [said(request.environ["REQUEST_METHOD"], request.token, request.body)]


def said(method: str, token: str, body: bytes) -> bytes:
    return f"{method} {token} {len(body)} {hashlib.sha1(body).hexdigest()}".encode()


def slow(request: Request) -> list[bytes]:
    time.sleep(SLOW)
    return echo(request)


def item(request: Request) -> list[bytes]:
    request.start()
    return [request.data]


def list_(request: Request) -> list[bytes]:
    request.start()
    return pieces(request.data)


def generator(request: Request) -> Iterator[bytes]:
    request.start()
    yield from pieces(request.data)


def counted(request: Request) -> Iterator[bytes]:
    request.start(Content_Length=str(len(request.data)))
    yield from pieces(request.data)


def written(request: Request) -> list[bytes]:
    write = request.start()
    write(request.data[:1000])
    write(request.data[1000:])
    return [b"", b"end"]


def file(request: Request) -> Any:
    source = tempfile.TemporaryFile()  # noqa: SIM115  (the server closes it)
    source.write(request.data)
    source.flush()
    source.seek(0)
    request.start()
    return request.environ["wsgi.file_wrapper"](source)


def buffer(request: Request) -> Any:
    request.start()
    return request.environ["wsgi.file_wrapper"](io.BytesIO(request.data))


def raise_(request: Request) -> list[bytes]:
    raise Planted


def restart(request: Request) -> Iterator[bytes]:
    request.start()
    yield b""
    raise Planted


def late(request: Request) -> Iterator[bytes]:
    request.start()
    yield from pieces(request.data)
    raise Planted


def close(request: Request) -> list[bytes]:
    request.start(Connection="close")
    return [request.data]


def short(request: Request) -> list[bytes]:
    request.start(Content_Length=str(len(request.data) + 10))
    return [request.data]


def long(request: Request) -> list[bytes]:
    request.start(Content_Length=str(len(request.data) // 2))
    return [request.data]


def empty(request: Request) -> list[bytes]:
    request.start("204 No Content")
    return []


def unchanged(request: Request) -> list[bytes]:
    request.start("304 Not Modified", ETag='"x"')
    return []


ANSWERS: dict[str, Callable[[Request], Any]] = {
    "echo": echo,
    "unread": echo,
    "half": echo,
    "lines": echo,
    "slow": slow,
    "item": item,
    "list": list_,
    "generator": generator,
    "counted": counted,
    "written": written,
    "file": file,
    "buffer": buffer,
    "raise": raise_,
    "restart": restart,
    "late": late,
    "close": close,
    "short": short,
    "long": long,
    "empty": empty,
    "unchanged": unchanged,
}


def wsgi(environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
    request = Request(environ, start_response)
    request.write_down()
    return ANSWERS[request.kind](request)
