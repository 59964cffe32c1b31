"""What ends a connection, and rows of complete requests that a client sends behind it: none of them may run.

A row is ``DELETE /evil`` again and again, each padded to 128 bytes, and moved by 0, 8, 16 … 120 bytes: whatever part of it
a server drops, and wherever it then goes on to read, in one of the 16 it comes upon the beginning of a request.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NamedTuple

from wire.loop import Client

LIMIT_BODY = 1000  # the limit_request_body that these are for; other limits are the defaults
EVIL = b"DELETE /evil HTTP/1.1\r\nHost: x\r\nX-Padding: "
EVIL += b"." * (128 - len(EVIL) - 4) + b"\r\n\r\n"
SHIFTS = range(0, len(EVIL), 8)
SIZE = 200_000
LINGERS = 1.5  # seconds for which a server certainly reads on, and drops it
GET = b"GET /good HTTP/1.1\r\nHost: x\r\n\r\n"


def row(shift: int, size: int = SIZE) -> bytes:
    return b"x" * shift + EVIL * ((size - shift) // len(EVIL))


class End(NamedTuple):
    """``sent`` gets an answer of that status, and nothing behind it is a request any more."""

    sent: bytes
    status: int
    whole: bool = True  # the answer is


def head(*lines: bytes, start: bytes = b"POST /upload HTTP/1.1") -> bytes:
    return b"\r\n".join([start, b"Host: x", *lines, b"", b""])


CHUNKED = head(b"Transfer-Encoding: chunked")
LENGTH = head(b"Content-Length: 512000")  # the row is the body

REFUSED: dict[str, End] = {
    "413 a length that is too large": End(LENGTH, 413),
    "413 and 100-continue was expected": End(head(b"Content-Length: 512000", b"Expect: 100-continue"), 413),
    "413 a chunk that is too large": End(CHUNKED + b"7d000\r\n", 413),
    "413 many chunks": End(CHUNKED + b"64\r\n" + b"x" * 100 + b"\r\n" + b"384\r\n" + b"x" * 900 + b"\r\n7d000\r\n", 413),
    "400 a chunk size": End(CHUNKED + b"zz\r\n", 400),
    "400 a chunk that is longer than its size": End(CHUNKED + b"5\r\nhelloXX0\r\n\r\n", 400),
    "400 chunk extensions without end": End(CHUNKED + b"5;" + b"a" * 20_000 + b"\r\n", 400),
    "400 a trailer that frames": End(CHUNKED + b"1\r\na\r\n0\r\nContent-Length: 5\r\n\r\n", 400),
    "431 trailers": End(CHUNKED + b"1\r\na\r\n0\r\n" + b"A: b\r\n" * 3000, 431),
    "414 a line": End(head(start=b"GET /" + b"a" * 8190 + b" HTTP/1.1"), 414),
    "431 a field": End(head(b"Cookie: " + b"a" * 9000), 431),
    "431 a field that has no end": End(head()[:-2] + b"Cookie: " + b"a" * 9000, 431),
    "431 the number of fields": End(head(*[b"X: 1"] * 100), 431),
    "431 a head": End(head(*[b"X: " + b"a" * 8000] * 9), 431),
    "431 a field and a length": End(head(b"Content-Length: 512000", b"X: " + b"a" * 8190), 431),
    "400 a field name": End(head(b"X(: 1"), 400),
    "400 a space before the colon, and a length": End(head(b"X : 1", b"Content-Length: 512000"), 400),
    "400 a field value": End(head(b"X: a\0b"), 400),
    "400 no Host": End(b"POST /upload HTTP/1.1\r\nContent-Length: 512000\r\n\r\n", 400),
    "400 two Hosts": End(head(b"Host: y"), 400),
    "400 two lengths": End(head(b"Content-Length: 5", b"Content-Length: 512000"), 400),
    "400 a length and chunked": End(head(b"Content-Length: 5", b"Transfer-Encoding: chunked") + b"0\r\n\r\n", 400),
    "400 bare LF": End(head().replace(b"\r", b""), 400),
    "400 no request at all": End(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(200)), 400),
    "501 a coding": End(head(b"Transfer-Encoding: gzip, chunked"), 501),
    "501 CONNECT": End(head(start=b"CONNECT x:443 HTTP/1.1"), 501),
    "400 another protocol": End(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "505 a version": End(head(start=b"GET / HTTP/2.0"), 505),
    "417 an expectation": End(head(b"Content-Length: 512000", b"Expect: x"), 417),
}  # fmt: skip

# The last request of a connection, which the app answers. /cut raises behind the beginning of its body, /short gives less
# than its Content-Length, /close says Connection: close.
LAST: dict[str, End] = {
    "Connection: close": End(head(b"Connection: close", start=b"GET /good HTTP/1.1"), 200),
    "Connection: close, and a body": End(head(b"Connection: close", b"Content-Length: 5") + b"hello", 200),
    "Connection: close, and chunks": End(
        head(b"Connection: close", b"Transfer-Encoding: chunked") + b"5\r\nhello\r\n0\r\n\r\n", 200
    ),
    "Connection: close, and a large answer": End(head(b"Connection: close", start=b"GET /large HTTP/1.1"), 200),
    "HTTP/1.0": End(b"GET /good HTTP/1.0\r\n\r\n", 200),
    "HTTP/1.0 and a stream": End(b"GET /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", 200),
    "the app closes": End(head(start=b"GET /close HTTP/1.1"), 200),
    "an answer that is cut": End(head(start=b"GET /cut HTTP/1.1"), 200, whole=False),
    "an answer that is too short": End(head(start=b"GET /short HTTP/1.1"), 200, whole=False),
}

# The beginning of a request whose rest does not come in time.
LATE: dict[str, End] = {
    "408 a head": End(head()[:-2], 408),
    "408 a line": End(b"POST /upl", 408),
    "408 a body": End(head(b"Content-Length: 999") + b"beginning", 408),
    "408 a body that has not begun": End(head(b"Content-Length: 999"), 408),
    "408 a chunk": End(CHUNKED + b"3e7\r\nbeginning", 408),
    "408 trailers": End(CHUNKED + b"3\r\nabc\r\n0\r\nX: y\r\n", 408),
}


def pieces(data: bytes) -> Iterator[bytes]:
    """A few, of sizes that agree with no buffer's."""
    cuts = [0, 5001, 30_011, 131_073, len(data)]
    for start, end in pairwise(cuts):
        yield data[start:end]


def send(client: Client, data: bytes, pause: Callable[[], object] | None = None) -> None:
    """At once, or in pieces with pauses between. A client that cannot send any more can still read."""
    try:
        for piece in [data] if pause is None else pieces(data):
            client.send(piece)
            if pause:
                pause()
    except (BrokenPipeError, ConnectionResetError):
        return


def check_end(client: Client, end: End, began: float) -> None:
    """The last answer comes, and nothing behind it: no reset either, if this machine has not stood still since it began."""
    if end.whole:
        answer = client.response()
        assert answer.status == end.status, answer.head
    else:
        assert client.take_until(b"\r\n\r\n").startswith(b"HTTP/1.1 %d " % end.status)
        client.rest()
    if time.monotonic() - began < LINGERS:
        assert client.closed()
