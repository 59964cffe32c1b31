"""What arrives is understood or refused: bytes sent, how they were split, what was answered, and what the app has seen.

Each case runs whole, byte by byte and in two unequal parts, over a real socket. The advisories that a case comes from
are named beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from wire.loop import Client, Server

pytestmark = pytest.mark.usefixtures("way")

Seen = tuple[str, str, bytes]  # method, PATH_INFO, body


class Case(NamedTuple):
    request: bytes
    statuses: list[int]
    seen: list[Seen]
    closes: bool


def accepted(request: bytes, *seen: Seen, closes: bool = False) -> Case:
    return Case(request, [200] * len(seen), list(seen), closes)


def refused(request: bytes, status: int, *before: Seen) -> Case:
    return Case(request, [200] * len(before) + [status], list(before), True)


def head(*lines: bytes, start: bytes = b"GET / HTTP/1.1") -> bytes:
    """A request head with Host."""
    return b"\r\n".join([start, b"Host: x", *lines, b"", b""])


def post(*lines: bytes) -> bytes:
    return head(*lines, start=b"POST / HTTP/1.1")


def chunked(body: bytes) -> bytes:
    return post(b"Transfer-Encoding: chunked") + body


GET: Seen = ("GET", "/", b"")

CASES: dict[str, Case] = {
    # plain requests
    "get": accepted(head(), GET),
    "two pipelined gets": accepted(head() * 2, GET, GET),
    "an empty line before the request": accepted(b"\r\n" + head(), GET),
    "an absolute target": accepted(head(start=b"GET http://y/p HTTP/1.1"), ("GET", "/p", b"")),
    "an absolute target without a path": accepted(head(start=b"GET http://y HTTP/1.1"), GET),
    "options asterisk": accepted(head(start=b"OPTIONS * HTTP/1.1"), ("OPTIONS", "/", b"")),
    "percent-encoded": accepted(head(start=b"GET /a%20b%2Fc%e9 HTTP/1.1"), ("GET", "/a b/c\xe9", b"")),
    "a target with stray percent signs": accepted(head(start=b"GET /%zz%?q=100% HTTP/1.1"), ("GET", "/%zz%", b"")),
    "a target with what others encode": accepted(
        head(start=b'GET /<"\\^`{|}?<"> HTTP/1.1'), ("GET", '/<"\\^`{|}', b"")
    ),
    "http/1.0 closes": accepted(b"GET / HTTP/1.0\r\n\r\n", GET, closes=True),
    "http/1.0 with keep-alive": accepted(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", GET),
    "connection close": accepted(head(b"Connection: close"), GET, closes=True),
    "connection as a list in capitals": accepted(head(b"Connection: foo, CLOSE"), GET, closes=True),
    "connection in two fields": accepted(head(b"Connection: keep-alive", b"connection: \tClose ,"), GET, closes=True),
    "connection with a word that only begins so": accepted(head(b"Connection: closed, x-close"), GET),
    "a value beyond ASCII (CVE-2026-42544)": accepted(head(b"X: \xe9\xff"), GET),
    "an unknown method": accepted(head(start=b"BREW / HTTP/1.1"), ("BREW", "/", b"")),
    # bodies
    "content-length": accepted(post(b"Content-Length: 5") + b"hello", ("POST", "/", b"hello")),
    "content-length 0": accepted(post(b"Content-Length: 0"), ("POST", "/", b"")),
    "a post without a length has no body": accepted(post() + head(), ("POST", "/", b""), GET),  # never 411
    "content-length with leading zeros": accepted(post(b"Content-Length: 005") + b"hello", ("POST", "/", b"hello")),
    "equal content-lengths in one field are refused": refused(post(b"Content-Length: 5, 5"), 400),
    "body and a pipelined get": accepted(
        post(b"Content-Length: 5") + b"hello" + head(), ("POST", "/", b"hello"), ("GET", "/", b"")
    ),
    "chunked": accepted(chunked(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"), ("POST", "/", b"hello world")),
    "chunked, then a pipelined get": accepted(
        chunked(b"1\r\na\r\n0\r\n\r\n") + head(), ("POST", "/", b"a"), ("GET", "/", b"")
    ),
    "a chunk extension": accepted(chunked(b'5;a=b;c="d"\r\nhello\r\n0\r\n\r\n'), ("POST", "/", b"hello")),
    "a trailer is dropped": accepted(chunked(b"1\r\na\r\n0\r\nX-Sum: 1\r\n\r\n"), ("POST", "/", b"a")),
    "a trailer that must not be merged is dropped": accepted(
        chunked(b"1\r\na\r\n0\r\nContent-Type: text/evil\r\nVary: *\r\n\r\n") + head(), ("POST", "/", b"a"), GET
    ),
    "a 32 KiB body": accepted(post(b"Content-Length: 32768") + b"x" * 32768, ("POST", "/", b"x" * 32768)),
    "a body larger than body_buffer": accepted(
        post(b"Content-Length: 100000") + b"y" * 100000, ("POST", "/", b"y" * 100000)
    ),
    "a chunked body larger than body_buffer": accepted(
        chunked(b"c350\r\n" + b"z" * 50000 + b"\r\nc350\r\n" + b"z" * 50000 + b"\r\n0\r\n\r\n"),
        ("POST", "/", b"z" * 100000),
    ),
    "a body larger than limit_request_body": refused(post(b"Content-Length: 200001") + b"x", 413),
    "a chunked body larger than limit_request_body": refused(
        chunked(b"30d41\r\n" + b"x" * 200001 + b"\r\n0\r\n\r\n"), 413
    ),
    # the request line
    "a method with NUL": refused(head(start=b"GET\0 / HTTP/1.1"), 400),
    "a method with a colon": refused(head(start=b"GET: / HTTP/1.1"), 400),
    "a target with NUL": refused(head(start=b"GET /\x00 HTTP/1.1"), 400),
    "a target with a raw byte above ASCII": refused(head(start=b"GET /\xe9 HTTP/1.1"), 400),
    "a target without a slash": refused(head(start=b"GET foo/bar HTTP/1.1"), 400),
    "a target with userinfo": refused(head(start=b"GET http://a@x/ HTTP/1.1"), 400),
    "a target with a host that is none": refused(head(start=b"GET http://a:b/ HTTP/1.1"), 400),
    "a target with a fragment": refused(head(start=b"GET /#f HTTP/1.1"), 400),
    "a target that decodes to NUL": refused(head(start=b"GET /%00 HTTP/1.1"), 400),
    "a target that decodes to NUL behind a stray percent sign": refused(head(start=b"GET /%%00 HTTP/1.1"), 400),
    "a target with DEL": refused(head(start=b"GET /?\x7f HTTP/1.1"), 400),
    "get asterisk": refused(head(start=b"GET * HTTP/1.1"), 400),
    "an authority as target": refused(head(start=b"GET host:443 HTTP/1.1"), 400),
    "connect": refused(head(start=b"CONNECT host:443 HTTP/1.1"), 501),
    "http/0.99": refused(head(start=b"GET / HTTP/0.99"), 400),
    "http/1.10": refused(head(start=b"GET / HTTP/1.10"), 400),
    "http/2.0": refused(head(start=b"GET / HTTP/2.0"), 505),
    "http/111": refused(head(start=b"GET / HTTP/111"), 400),
    "a line that is too long": refused(head(start=b"GET /" + b"a" * 8190 + b" HTTP/1.1"), 414),
    # fields
    "no host": refused(b"GET / HTTP/1.1\r\n\r\n", 400),
    "no host but in the target": refused(b"GET http://x/ HTTP/1.1\r\n\r\n", 400),
    "an empty host": refused(b"GET / HTTP/1.1\r\nHost:\r\n\r\n", 400),
    "two hosts": refused(head(b"Host: y"), 400),
    "userinfo in host": refused(b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    "bare LF": refused(b"GET / HTTP/1.1\nHost: x\n\n", 400),
    "bare LF in the middle": refused(head(b"X: a\nY: b"), 400),
    "bare CR": refused(b"GET / HTTP/1.1\rHost: x\r\r", 400),
    "a space before the colon": refused(head(b"X : 1"), 400),
    "a no-break space before the colon": refused(head(b"Transfer-Encoding\xa0: chunked"), 400),
    "an empty name": refused(head(b": 1"), 400),
    "a name beyond ASCII (CVE: sharp s becomes SS)": refused(head(b"Hos\xdft: 1"), 400),
    "NUL in a value": refused(head(b"X: a\0b"), 400),
    "CR in a value": refused(head(b"X: a\rb"), 400),
    "BEL in a value": refused(head(b"X: a\x07b"), 400),
    "DEL in a value": refused(head(b"X: a\x7fb"), 400),
    "obs-fold": refused(head(b"X: a", b" b"), 400),
    "CR LF CR X for the end of the head (CVE-2025-23167)": refused(b"GET / HTTP/1.1\r\nHost: x\r\n\rX", 400),
    "a field that is too long": refused(head(b"X: " + b"a" * 8190), 431),
    "too many fields": refused(head(*[b"X: 1"] * 100), 431),
    "thousands of repeats of one field": refused(head(*[b"X: 1"] * 5000), 431),
    "two content types": refused(head(b"Content-Type: a/b", b"Content-Type: c/d"), 400),
    "an imitated content-length": refused(post(b"Content_Length: 5"), 400),
    "an imitated transfer-encoding": refused(post(b"Transfer_Encoding: chunked"), 400),
    "a head that is too large": refused(head(*[b"X: " + b"a" * 8000] * 9), 431),
    "an unknown expectation": refused(head(b"Expect: tea"), 417),
    # framing (CVE-2024-1135, CVE-2024-6827)
    "chunked, then gzip": refused(post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: gzip"), 400),
    "chunked, then identity": refused(post(b"Transfer-Encoding: chunked", b"Transfer-Encoding: identity"), 400),
    "identity, chunked, identity, chunked": refused(
        post(b"Transfer-Encoding: identity, chunked, identity, chunked"), 400
    ),
    "a comma before chunked": refused(post(b"Transfer-Encoding: ,chunked"), 400),
    "an unknown coding and a length": refused(post(b"Transfer-Encoding: gzip", b"Content-Length: 1"), 400),
    "an unknown coding": refused(post(b"Transfer-Encoding: gzip, chunked"), 501),
    **{
        f"transfer-encoding {value!r}": refused(post(b"Transfer-Encoding: " + value) + b"0\r\n\r\n" + head(), 400)
        for space in (b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", b"\x1f", b"\x85", b"\xa0")
        for value in (space + b"chunked", b"chunked" + space, space + b"chunked" + space)
    },
    "chunked on http/1.0": refused(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked and a length": refused(post(b"Transfer-Encoding: chunked", b"Content-Length: 5"), 400),
    "two lengths": refused(post(b"Content-Length: 5", b"Content-Length: 6"), 400),
    "the same length twice": refused(post(b"Content-Length: 5", b"Content-Length: 5"), 400),
    **{
        f"content-length {value!r}": refused(
            post(b"Content-Length: " + value) + head(start=b"GET /smuggled HTTP/1.1"), 400
        )
        for value in (b"abc", b"+1", b"-0", b"0_1", b"0 1", b"0x5", b"", b"18446744073709551621", b"9" * 40)
    },
    # chunks
    **{
        f"chunk size {size!r}": refused(chunked(size + b"\r\nhello\r\n0\r\n\r\n"), 400)
        for size in (b"6_0", b"0x5", b"+5", b"-5", b"5 ", b" 5", b"", b"5\n;", b"5;ext=val\rX", b"f" * 17, b"0" * 17)
    },
    "no CRLF behind the chunk's data (CVE-2025-43859)": refused(chunked(b"5\r\nhelloXX0\r\n\r\n"), 400),
    "endless chunk extensions (CVE-2024-21647)": refused(chunked(b"5;" + b"a" * 20000), 400),
    "endless chunk extensions, a few in each chunk": refused(chunked((b"1;" + b"a" * 999 + b"\r\nx\r\n") * 20), 400),
    "endless trailers": refused(chunked(b"0\r\n" + b"A: b\r\n" * 3000), 431),
    "a trailer with a length": refused(chunked(b"0\r\nContent-Length: 5\r\n\r\n"), 400),
    "a trailer with credentials": refused(chunked(b"0\r\nVary: *\r\nAuthorization: Basic eA==\r\n\r\n"), 400),
    "a trailer with a host": refused(chunked(b"0\r\nHost: y\r\n\r\n"), 400),
    "a trailer with a transfer-encoding": refused(chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400),
    "a trailer with a folded line": refused(chunked(b"0\r\nA: b\r\n c\r\n\r\n"), 400),
    "a fault behind a good request": refused(head() + b"BAD\r\n\r\n", 400, GET),
}


class Recorder:
    """An app that answers with what it has got, and remembers it."""

    def __init__(self) -> None:
        self.seen: list[Seen] = []

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        body = environ["wsgi.input"].read()
        self.seen.append((environ["REQUEST_METHOD"], environ["PATH_INFO"], body))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"%d" % len(body)]


RECORDER = Recorder()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server(RECORDER, body_buffer=50000, limit_request_body=200000) as server:
        yield server


def whole(data: bytes) -> list[bytes]:
    return [data]


def bytewise(data: bytes) -> list[bytes]:
    """Every byte for itself, as far as is bearable."""
    return [data[i : i + 1] for i in range(min(len(data), 700))] + [data[700:]]


def halves(data: bytes) -> list[bytes]:
    return [data[: len(data) // 3], data[len(data) // 3 :]]


def send_all(client: Client, parts: list[bytes]) -> None:
    """Sends until the server has closed: what it refuses it need not read to the end."""
    try:
        for part in parts:
            client.send(part)
    except (BrokenPipeError, ConnectionResetError):
        return


@pytest.mark.parametrize("split", [whole, bytewise, halves])
@pytest.mark.parametrize("name", CASES)
def test_request(server: Server, name: str, split: Callable[[bytes], list[bytes]]) -> None:
    case = CASES[name]
    RECORDER.seen.clear()
    errors = len(server.log.texts("error"))
    with server.connect() as client:
        send_all(client, split(case.request))
        responses = [client.response() for _ in case.statuses]
        assert [response.status for response in responses] == case.statuses
        assert all("date" in response.headers for response in responses)
        assert RECORDER.seen == case.seen
        if case.closes:
            assert responses[-1].headers["connection"] == "close"
            assert client.closed()
        else:
            client.send(head(start=b"GET /still-here HTTP/1.1"))
            assert client.response().status == 200
            assert RECORDER.seen[-1] == ("GET", "/still-here", b"")
    assert len(server.log.texts("error")) == errors


def test_a_refused_request_that_fills_the_buffer_exactly(server: Server) -> None:
    """CVE-2024-49768: what came behind a refused request was served."""
    RECORDER.seen.clear()
    for size in range(17000, 19000, 97):
        bad = head(b"X : 1", b"Y: " + b"a" * 8000, b"Z: " + b"a" * (size - 8100))
        with server.connect() as client:
            send_all(client, [bad + head(start=b"GET /smuggled HTTP/1.1")])
            assert client.response().status in (400, 431)
            assert client.closed()
    assert RECORDER.seen == []


def test_a_body_that_ends_early_never_reaches_the_app(server: Server) -> None:
    """gunicorn and cheroot pass it on as if it were whole."""
    RECORDER.seen.clear()
    with server.connect() as client:
        client.send(post(b"Content-Length: 10") + b"hello")
        client.socket.shutdown(1)
        assert client.response().status == 400
        assert client.closed()
    assert RECORDER.seen == []


def test_expect_100_continue(server: Server) -> None:
    with server.connect() as client:
        client.send(post(b"Content-Length: 5", b"Expect: 100-continue"))
        assert client.take_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue"
        client.send(b"hello")
        assert client.response().body == b"5"


def test_no_100_when_the_body_has_begun(server: Server) -> None:
    with server.connect() as client:
        client.send(post(b"Content-Length: 5", b"Expect: 100-continue") + b"he")
        client.send(b"llo")
        assert client.response().status == 200


def test_no_100_for_a_body_that_is_too_large(server: Server) -> None:
    with server.connect() as client:
        client.send(post(b"Content-Length: 500000", b"Expect: 100-continue"))
        assert client.response().status == 413
        assert client.closed()


def test_no_100_without_a_body(server: Server) -> None:
    with server.connect() as client:
        client.send(head(b"Expect: 100-continue"))
        assert client.response().status == 200


READABLE = {
    400: head(b"X : 1"),
    413: post(b"Content-Length: 9000000"),
    414: head(start=b"GET /" + b"a" * 8190 + b" HTTP/1.1"),
    417: post(b"Expect: tea"),
    431: head(b"X: " + b"a" * 8190),
    501: head(start=b"CONNECT host:443 HTTP/1.1"),
    505: head(start=b"GET / HTTP/2.0"),
}


@pytest.mark.parametrize("status", READABLE)
def test_a_client_that_goes_on_sending_can_read_why_it_was_refused(server: Server, status: int) -> None:
    """A close with unread input resets the connection, and the answer is lost (RFC 9112, 9.6)."""
    RECORDER.seen.clear()
    with server.connect() as client:
        send_all(client, [READABLE[status], head(start=b"GET /smuggled HTTP/1.1"), b"x" * 4000000])
        response = client.response()
        assert (response.status, response.headers["connection"]) == (status, "close")
        assert client.closed()
    assert RECORDER.seen == []


def test_a_refusal_is_logged_with_peer_and_reason() -> None:
    with Server(RECORDER) as server, server.connect() as client:
        host, port = client.socket.getsockname()
        client.send(head(b"X : 1"))
        assert client.response().body == b"Whitespace between a field name and the colon.\n"
        assert client.closed()
        assert f"{host}:{port}: refused with 400: whitespace between" in server.log.texts("info")


def test_the_refusal_of_a_raw_target_says_what_to_do(server: Server) -> None:
    with server.connect() as client:
        client.send(head(start="GET /café HTTP/1.1".encode()))
        assert client.response().status == 400
        assert client.closed()
    said = "refused with 400: a byte above 0x7f in the request target: percent-encode it, or set permit_raw_target"
    assert said in server.log.texts("info")
