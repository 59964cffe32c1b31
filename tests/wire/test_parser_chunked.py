"""Chunked bodies: what is decoded and what is refused. Each case runs in every way (see parser_ways)."""

from __future__ import annotations

import pytest

from pyserve_workers.http1 import parser
from pyserve_workers.http1.parser import Body
from wire.parser_ways import chunked, chunked_in_every_way


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (b"0\r\n\r\n", b""),
        (b"000\r\n\r\n", b""),
        (b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n", b"hello world"),
        (b"A\r\nhelloworld\r\n0\r\n\r\n", b"helloworld"),
        (b"a\r\nhelloworld\r\n0\r\n\r\n", b"helloworld"),
        (b"1a\r\n" + b"x" * 26 + b"\r\n0\r\n\r\n", b"x" * 26),
        (b"0000000000000005\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b"4\r\n\r\n\r\n\r\n0\r\n\r\n", b"\r\n\r\n"),
        (b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", b"0\r\n\r\n"),
        # extensions are dropped
        (b"5;a\r\nhello\r\n0;b\r\n\r\n", b"hello"),
        (b"5;ext=value\r\nhello\r\n0\r\n\r\n", b"hello"),
        (b'5;a="b;\\" c\t\xe9";d\r\nhello\r\n0\r\n\r\n', b"hello"),
        (b'5;a="";b=c;d\r\nhello\r\n0\r\n\r\n', b"hello"),
        (b"5; a = b\t; c\r\nhello\r\n0\r\n\r\n", b"hello"),  # BWS: RFC 9110 5.6.3, must be parsed
        # trailers are dropped
        (b"5\r\nhello\r\n0\r\nX-Checksum: abc\r\n\r\n", b"hello"),
        (b"0\r\nA:\r\nb_c: d e\t\xff\r\n\r\n", b""),
        (b"0\r\n" + b"n" * 100 + b": v\r\n\r\n", b""),
        (b"0\r\nContent-Type: text/evil\r\nVary: *\r\nContent-Encoding: gzip\r\n\r\n", b""),
        (b"0\r\nIf-Match: x\r\nCache-Control: no-store\r\nETag: x\r\nSet-Cookie: a\r\nOrigin: x\r\n\r\n", b""),
    ],
)
def test_decoded(data: bytes, body: bytes) -> None:
    assert chunked_in_every_way(data) == Body(body, len(data), True)
    for length in range(len(data)):
        found = chunked(data[:length])
        assert isinstance(found, Body)
        assert not found.done
        assert body.startswith(found.data)


def test_all_bytes_pass_through() -> None:
    body = bytes(range(256)) * 40
    data = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:1], body[1:300], body[300:])) + b"0\r\n\r\n"
    assert chunked_in_every_way(data) == Body(body, len(data), True)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        # size
        (b"\r\n", "CHUNK_SIZE"),
        (b";a\r\n", "CHUNK_SIZE"),
        (b" 5\r\n", "CHUNK_SIZE"),
        (b"\t5\r\n", "CHUNK_SIZE"),
        (b"+5\r\n", "CHUNK_SIZE"),
        (b"-5\r\n", "CHUNK_SIZE"),
        (b"-0\r\n", "CHUNK_SIZE"),
        (b"0x5\r\n", "CHUNK_SIZE"),
        (b"6_0\r\n", "CHUNK_SIZE"),
        (b"5g\r\n", "CHUNK_SIZE"),
        (b"5,5\r\n", "CHUNK_SIZE"),
        (b"5.0\r\n", "CHUNK_SIZE"),
        (b"5\x0b\r\n", "CHUNK_SIZE"),
        (b"\xef\xbc\x95\r\n", "CHUNK_SIZE"),
        (b"5 \r\n", "CHUNK_SIZE"),
        (b"5\t \r\n", "CHUNK_SIZE"),
        (b"5 ;a\r\n", "CHUNK_SIZE"),
        (b"5 5\r\n", "CHUNK_SIZE"),
        (b"8000000000000000\r\n", "CHUNK_HUGE"),
        (b"ffffffffffffffff\r\n", "CHUNK_HUGE"),
        (b"FFFFFFFFFFFFFFFF0\r\n", "CHUNK_HUGE"),
        (b"00000000000000005\r\n", "CHUNK_HUGE"),
        (b"5\n", "BARE_LF"),
        (b"\n", "BARE_LF"),
        (b"5\rhello", "BARE_CR"),
        (b"5\r\r\n", "BARE_CR"),
        # extensions
        (b"5;\r\n", "CHUNK_EXTENSION"),
        (b"5;;a\r\n", "CHUNK_EXTENSION"),
        (b"5;=a\r\n", "CHUNK_EXTENSION"),
        (b"5; \r\n", "CHUNK_EXTENSION"),
        (b"5;a \r\n", "CHUNK_EXTENSION"),
        (b"5;a b\r\n", "CHUNK_EXTENSION"),
        (b"5;a=\r\n", "CHUNK_EXTENSION"),
        (b"5;a=;b\r\n", "CHUNK_EXTENSION"),
        (b"5;a= \r\n", "CHUNK_EXTENSION"),
        (b"5;a=b=c\r\n", "CHUNK_EXTENSION"),
        (b"5;bad[=x\r\n", "CHUNK_EXTENSION"),
        (b"5;a=b\xe9\r\n", "CHUNK_EXTENSION"),
        (b"5;\x00a\r\n", "CHUNK_EXTENSION"),
        (b'5;a="b\r\n', "CHUNK_EXTENSION"),
        (b'5;a="b\\\r\n', "CHUNK_EXTENSION"),
        (b'5;a="b\x00"\r\n', "CHUNK_EXTENSION"),
        (b'5;a="b"c\r\n', "CHUNK_EXTENSION"),
        (b"5;ext=val\rX", "BARE_CR"),
        (b"5;a\rb\r\n", "BARE_CR"),
        (b"5;a\n", "BARE_LF"),
        (b"5\n;", "BARE_LF"),
        (b"5;\n", "BARE_LF"),
        (b'5;a="\n"\r\n', "BARE_LF"),
        (b"5;a \n", "BARE_LF"),
        # after the data
        (b"5\r\nhello0\r\n\r\n", "CHUNK_END"),
        (b"5\r\nhello!!\r\n", "CHUNK_END"),
        (b"5\r\nhello;\r\n", "CHUNK_END"),
        (b"5\r\nhello\n0\r\n", "BARE_LF"),
        (b"5\r\nhello\r0\r\n", "BARE_CR"),
        (b"5\r\nhello\r\n\r\n", "CHUNK_SIZE"),
        # trailers
        (b"0\r\n\n", "BARE_LF"),
        (b"0\r\n\rX", "BARE_CR"),
        (b"0\r\n X: y\r\n", "FIELD_FOLD"),
        (b"0\r\nX: y\r\n z\r\n", "FIELD_FOLD"),
        (b"0\r\n: y\r\n", "FIELD_NAME"),
        (b"0\r\nX[: y\r\n", "FIELD_NAME"),
        (b"0\r\nX : y\r\n", "FIELD_SPACE"),
        (b"0\r\nX\r\n", "FIELD_COLON"),
        (b"0\r\nX\n", "BARE_LF"),
        (b"0\r\nX: \0\r\n", "FIELD_VALUE"),
        (b"0\r\nX: y\n", "BARE_LF"),
        (b"0\r\nX: y\rz", "BARE_CR"),
        (b"0\r\nContent-Length: 50\r\n", "TRAILER_FORBIDDEN"),
        (b"0\r\ncontent_length: 50\r\n", "TRAILER_FORBIDDEN"),
        (b"0\r\nTransfer-Encoding: chunked\r\n", "TRAILER_FORBIDDEN"),
        (b"0\r\nHost: evil.example.com\r\n", "TRAILER_FORBIDDEN"),
        (b"0\r\nAuthorization: Bearer evil\r\n", "TRAILER_FORBIDDEN"),
        (b"0\r\nVary: *\r\nCookie: a=evil\r\n", "TRAILER_FORBIDDEN"),
        (b"0\r\nX: y\r\nX-FORWARDED_for: 1.2.3.4\r\n", "TRAILER_FORBIDDEN"),
    ],
)
def test_refused(data: bytes, error: str) -> None:
    assert chunked_in_every_way(data) == error


# RFC 9110 6.5.1, once more: framing and connection; routing; authentication.
FORBIDDEN = {
    *("content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "trailer"),
    *("upgrade", "expect"),
    *("host", "max-forwards", "forwarded", "x-forwarded-for", "x-forwarded-host", "x-forwarded-port"),
    *("x-forwarded-proto", "x-forwarded-prefix", "x-real-ip", "proxy"),
    *("authorization", "proxy-authorization", "cookie"),
}


@pytest.mark.parametrize("name", [name for name, _, _ in parser.known_fields()])
def test_trailers_that_are_refused_and_those_that_are_dropped(name: str) -> None:
    for spelling in (name, name.title(), name.upper().replace("-", "_")):
        found = chunked(b"0\r\n" + spelling.encode() + b": 1\r\n\r\n")
        assert found == "TRAILER_FORBIDDEN" if name in FORBIDDEN else isinstance(found, Body)


def test_every_trailer_that_is_refused_has_a_name_that_the_parser_knows() -> None:
    assert {name for name, _, forbidden in parser.known_fields() if forbidden} == FORBIDDEN


def test_largest_chunk() -> None:
    assert chunked_in_every_way(b"7fffffffffffffff\r\nabc") == Body(b"abc", 21, False)


def test_extensions_of_a_body_are_bounded_together() -> None:
    """Each extension is short, but there is no end to them."""
    chunk = b"1;a=" + b"b" * 96 + b"\r\nx\r\n"
    bodies = [chunked(chunk * count) for count in range(1, 400)]
    refused = [index for index, found in enumerate(bodies, 1) if not isinstance(found, Body)]
    assert parser.MAX_CHUNK_EXTENSIONS // 100 - 2 < refused[0] < parser.MAX_CHUNK_EXTENSIONS // 96 + 2
    assert chunked_in_every_way(chunk * refused[0]) == "CHUNK_EXTENSIONS_TOO_LARGE"


@pytest.mark.parametrize("start", [b"5;", b"5;a=", b'5;a="', b"5;a ", b"5; "])
def test_endless_extension(start: bytes) -> None:
    filling = b" " if start.endswith(b" ") else b"a"
    assert isinstance(chunked(start + filling * (parser.MAX_CHUNK_EXTENSIONS - 10)), Body)
    assert chunked_in_every_way(start + filling * parser.MAX_CHUNK_EXTENSIONS * 2) == "CHUNK_EXTENSIONS_TOO_LARGE"


def test_number_of_trailers() -> None:
    fits = b"0\r\n" + b"X: y\r\n" * parser.MAX_TRAILERS
    assert chunked_in_every_way(fits + b"\r\n") == Body(b"", len(fits) + 2, True)
    assert chunked_in_every_way(fits + b"X") == "TRAILERS_TOO_LARGE"


def test_size_of_trailers() -> None:
    fits = b"X: " + b"y" * (parser.MAX_TRAILER_BYTES - 7) + b"\r\n"
    assert chunked_in_every_way(b"0\r\n" + fits + b"\r\n") == Body(b"", parser.MAX_TRAILER_BYTES + 3, True)
    assert chunked_in_every_way(b"0\r\nX" + fits + b"\r\n") == "TRAILERS_TOO_LARGE"
    assert chunked(b"0\r\n" + b"n" * (parser.MAX_TRAILER_BYTES + 1)) == "TRAILERS_TOO_LARGE"
