"""Requests that must be refused, and with what. What follows one of them is never read as a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from fuzz.grammar import BODY, FIELD, FIELDS, HEAD, LINE, Maker


class Fault(NamedTuple):
    make: Callable[[Maker], bytes]
    statuses: tuple[int, ...]
    expects: bool = False  # it may get 100 Continue before


def head(*lines: bytes, start: bytes = b"POST /evil/x HTTP/1.1", host: bytes = b"Host: x") -> bytes:
    return b"\r\n".join([line for line in (start, host) if line] + [*lines, b"", b""])


def always(data: bytes, *statuses: int, expects: bool = False) -> Fault:
    return Fault(lambda _: data, statuses or (400,), expects)


def any_of(*lines: bytes, start: bytes = b"POST /evil/x HTTP/1.1") -> Fault:
    """A sound request but for one of these lines."""
    return Fault(lambda maker: head(maker.random.choice(lines), start=start), (400,))


def body_of(*bodies: bytes) -> Fault:
    """A chunked body that goes wrong."""
    chunked = head(b"Transfer-Encoding: chunked")
    return Fault(
        lambda maker: chunked + maker.random.choice([b"", b"3\r\nabc\r\n"]) + maker.random.choice(bodies), (400,)
    )


CHUNKED = head(b"Transfer-Encoding: chunked")
TOO_LONG = b"Content-Length: %d" % (BODY + 1)

FAULTS: dict[str, Fault] = {
    "no request": Fault(lambda maker: b"\x16\x03\x01" + maker.random.randbytes(60) + b"\r\n", (400,)),
    "HTTP/2": always(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400, 505),
    "another version": always(head(start=b"GET / HTTP/2.0"), 505),
    "a version that is none": Fault(
        lambda maker: head(start=b"GET / " + maker.random.choice([b"HTTP/1.", b"HTTP/1.10", b"http/1.1", b"HTTP/1,1", b"HTTP/1.1 ", b"HTCPCP/1.0"])),
        (400,),
    ),
    "HTTP/0.9": always(b"GET /evil/x\r\n", 400),
    "a method": Fault(lambda maker: head(start=maker.random.choice([b"G\xc4T / HTTP/1.1", b"G(T / HTTP/1.1", b" GET / HTTP/1.1", b"GET\t/ HTTP/1.1"])), (400,)),
    "CONNECT": always(head(start=b"CONNECT x:443 HTTP/1.1"), 501),
    "a target": Fault(
        lambda maker: head(start=b"GET " + maker.random.choice([b"x", b"", b"*", b"//\x7f", b"/#a", b"/\xe9", b"http://", b"/ /", b"ftp://x/"]) + b" HTTP/1.1"),
        (400,),
    ),
    "a long line": Fault(lambda maker: b"GET /evil/x?" + b"a" * (LINE + maker.random.randrange(30_000)) + b" HTTP/1.1\r\nHost: x\r\n\r\n", (414,)),
    "a long field": Fault(lambda maker: head(b"Cookie: " + b"a" * (FIELD + maker.random.randrange(30_000))), (431,)),
    "a long field without end": Fault(lambda maker: head()[:-2] + b"Cookie: " + b"a" * (HEAD + maker.random.randrange(30_000)), (431,)),
    "many fields": Fault(lambda maker: head(*[b"X: 1"] * (FIELDS + maker.random.randrange(1000))), (431,)),
    "a long head": always(head(*[b"X: " + b"a" * (FIELD - 100)] * 6), 431),
    "no Host": always(head(host=b""), 400),
    "a Host": Fault(lambda maker: head(host=b"Host: " + maker.random.choice([b"", b"a@b", b"a b", b"a,b", b"/"])), (400,)),
    "two Hosts": always(head(b"Host: x"), 400),
    "a field name": any_of(b": 1", b"X : 1", b"X\xdf: 1", b"X(: 1", b"X", b"\x0bX: 1"),
    "a field value": any_of(b"X: a\0b", b"X: a\rb", b"X: a\x07", b"X: \x7f"),
    "a folded line": any_of(b"X: a\r\n b", b"X: a\r\n\tb", b" X: a"),
    "bare LF": Fault(lambda maker: head(b"X: 1").replace(b"\r\n", b"\n", maker.random.randrange(1, 5)), (400,)),
    "bare CR": Fault(lambda maker: head(b"X: 1").replace(b"\r\n", b"\r", maker.random.randrange(1, 4)), (400,)),
    "two empty lines": always(b"\r\n\r\n", 400),
    "a length": any_of(*(b"Content-Length: " + value for value in (b"", b"+5", b"-5", b"5, 5", b"0x5", b"5 5", b"9" * 20, b"five", b"\xb2"))),
    "two lengths": any_of(b"Content-Length: 5\r\nContent-Length: 5", b"Content-Length: 5\r\ncontent-length:6"),
    "a length and chunks": any_of(b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Transfer-Encoding: chunked\r\nContent-Length: 0"),
    "a coding that is none": any_of(*(b"Transfer-Encoding: " + value for value in (b"", b"chunked, chunked", b"chunked;a", b",chunked", b"\x0bchunked", b"chunked, identity"))),
    "two codings": any_of(b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
    "another coding": always(head(b"Transfer-Encoding: gzip, chunked"), 501),
    "chunks in HTTP/1.0": any_of(b"Transfer-Encoding: chunked", start=b"POST /evil/x HTTP/1.0"),
    "names with an underscore": any_of(b"Content_Length: 5", b"Transfer_Encoding: chunked"),
    "an expectation": always(head(b"Content-Length: 5", b"Expect: x"), 417),
    "a large body": always(head(TOO_LONG), 413),
    "a large body, expected": always(head(TOO_LONG, b"Expect: 100-continue"), 413),
    "a large chunk": always(CHUNKED + b"%x\r\n" % (BODY + 1) + b"x" * (BODY + 1) + b"\r\n0\r\n\r\n", 413),
    "a huge chunk": always(CHUNKED + b"7fffffffffffffff\r\n" + b"x" * (BODY + 1), 413),
    "many chunks": always(CHUNKED + b"64\r\n%b\r\n" % (b"x" * 100) * (BODY // 100 + 1) + b"0\r\n\r\n", 413),
    "a chunk size": body_of(b"\r\n", b"g\r\n", b"0x5\r\n", b"+5\r\n", b" 5\r\n", b"5 \r\n", b"-1\r\n", b"5\n", b"1" * 17 + b"\r\n", b"8" + b"0" * 15 + b"\r\n"),
    "a chunk's end": body_of(b"3\r\nabcd\r\n", b"3\r\nabc\n\n", b"3\r\nabc\r\r", b"3\r\nabc0\r\n"),
    "a chunk extension": body_of(b"3;\r\nabc\r\n", b"3;=a\r\n", b'3;a="b\r\n', b"3;a=b\rc\r\n", b"3;a=\x01\r\n", b"3 a\r\n"),
    "endless chunk extensions": body_of(b"3;" + b"a" * 50_000 + b"\r\n"),
    "a trailer": body_of(b"0\r\nX : 1\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\n", b"0\r\nHost: x\r\n\r\n", b"0\r\nTransfer-Encoding: chunked\r\n\r\n", b"0\r\n X: 1\r\n\r\n"),
    "endless trailers": Fault(lambda _: CHUNKED + b"0\r\n" + b"X: 1\r\n" * 20_000, (400, 431)),
}  # fmt: skip
