"""pyserve's parser beside two others: h11, and llhttp (Node's, by way of httptools).

What pyserve takes for a request, one of them takes for the same request: method, target, fields, body, and so where it
ends. Where they disagree pyserve has made a choice, and docs/conformance.md gives the reason: a refusal is listed
there by the name of its error.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import h11
import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyserve_workers.parser import Head
from wire.parser_ways import chunked, head

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"
Fields = list[tuple[bytes, bytes]]


class Reading(NamedTuple):
    """What a parser makes of the first request in some bytes, if it does not refuse it."""

    method: bytes
    target: bytes
    fields: Fields  # names in lower case
    body: bytes  # as far as it is there
    done: bool  # the body is complete


Answer = Reading | str | None  # a str says why it was refused; None: not even the head is complete


def ours(data: bytes) -> Answer:
    found = head(data)
    if not isinstance(found, Head):
        return found
    fields = [(field.name.lower(), field.value) for field in found.fields]
    body, done = data[found.length :], True
    if found.chunked:
        decoded = chunked(body)
        if isinstance(decoded, str):
            return decoded
        body, done = decoded.data, decoded.done
    else:
        length = found.content_length or 0
        body, done = body[:length], len(body) >= length
    return Reading(found.method, found.target, plain(fields), body, done)


def by_h11(data: bytes) -> Answer:
    reader = h11.Connection(h11.SERVER)
    request, body = None, b""
    try:
        reader.receive_data(data)
        while not isinstance(event := reader.next_event(), h11.EndOfMessage | h11.PAUSED | h11.NEED_DATA):
            if isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
    except h11.RemoteProtocolError as error:
        return str(error)
    if request is None:
        return None
    return Reading(
        request.method, request.target, plain(list(request.headers)), body, isinstance(event, h11.EndOfMessage)
    )


def plain(fields: Fields) -> Fields:
    """h11 gives the name of a coding in lower case."""
    return [(name, value.lower() if name == b"transfer-encoding" else value) for name, value in fields]


class Recorder:
    """The callbacks of httptools, for the first request."""

    def __init__(self) -> None:
        self.target, self.body, self.fields = b"", b"", list[tuple[bytes, bytes]]()
        self.has_head = self.done = False

    def on_url(self, part: bytes) -> None:
        if not self.done:
            self.target += part

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.has_head:  # trailers come here too
            self.fields.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self.has_head = True

    def on_body(self, part: bytes) -> None:
        if not self.done:
            self.body += part

    def on_message_complete(self) -> None:
        self.done = True


def by_llhttp(data: bytes) -> Answer:
    seen = Recorder()
    parser: Any = httptools.HttpRequestParser(seen)
    try:
        # What stands behind the request is not the question; with less than all of it, it is refused or unfinished.
        for at in range(len(data)):
            parser.feed_data(data[at : at + 1])
            if seen.done:
                break
    except httptools.HttpParserUpgrade:
        seen.done = False  # it has not looked at the body: that is another protocol from there on
    except httptools.HttpParserError as error:
        return str(error)
    if not seen.has_head:
        return None
    return Reading(parser.get_method(), seen.target, plain(seen.fields), seen.body, seen.done)


def table(heading: str, key: str) -> dict[str, str]:
    """The rows of a table in the document: ``key`` is the pattern of the first column."""
    section = DOCUMENT.read_text().partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    rows = section.partition("|---|---|\n")[2]
    return dict(re.findall(rf"^\| {key} \| (.+) \|$", rows, re.MULTILINE))


REASONS = table("What pyserve refuses", "`([A-Z_]+)`")
TAKEN = table("What pyserve takes", "([^|]+)")


def takes(answer: Answer, whole: bool) -> bool:
    return isinstance(answer, Reading) and (answer.done or not whole)


# How begins what the others say of requests that pyserve takes, and what the document calls it.
COMPLAINTS = {
    "Invalid method encountered": "an unregistered method",
    "Expected space after method": "an unregistered method",
    "Invalid HTTP version": "HTTP/1.2 to 1.9",
    "Invalid character in chunk extension": "whitespace within chunk extensions",
    "no request line received": "an empty line before the request",
}
UPGRADE = "a request to upgrade"  # llhttp stops at its head


def difference(mine: Reading, other: Answer) -> str | None:
    """What the document calls it that another parser makes something else of a request that pyserve takes."""
    if isinstance(other, str):
        return next((name for complaint, name in COMPLAINTS.items() if other.startswith(complaint)), other)
    if other == mine:
        return None
    assert b"upgrade" in dict(mine.fields), "it reads another request"
    assert other == mine._replace(body=b"", done=False), "it reads another request"
    return UPGRADE


def never_alone(data: bytes) -> None:
    """What pyserve takes, another takes too, and reads the same in it."""
    mine = ours(data)
    if isinstance(mine, Reading):
        differences = {difference(mine, other) for other in (by_h11(data), by_llhttp(data))}
        # Two oddities in one request: each of the others may stumble over another one that is explained.
        apart = len(differences) == 2 and differences <= set(TAKEN)
        assert apart or differences & {None, UPGRADE}, "taken, and both refuse it"


def check(data: bytes) -> None:
    mine, others = ours(data), [by_h11(data), by_llhttp(data)]
    if isinstance(mine, Reading):
        differences = {difference(mine, other) for other in others}
        assert differences & {None, UPGRADE}, "taken, and both refuse it"
        assert differences <= {None, *TAKEN}, f"taken, and {DOCUMENT.name} does not say why"
    elif isinstance(mine, str):
        in_body = isinstance(head(data), Head)  # then another may only not have noticed yet
        assert mine in REASONS or not any(takes(other, whole=in_body) for other in others), (
            f"refused as {mine}, and {DOCUMENT.name} does not say why"
        )


# ---- parts of requests ----

# fmt: off
METHODS = [b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"get", b"G@T", b"BREW", b"CONNECT", b"GET\0", b"GET:"]
TARGETS = [
    b"/a?b", b"*", b"http://a/b", b"http://u@a/", b"http://", b"ftp://a/", b"a", b"a:443", b"",
    b"/%zz", b"/%00", b"/\xe9", b"/\0", b"/#f", b"//", b"/\\", b"/a b",
]
VERSIONS = [b"1.0", b"1.2", b"2.0", b"0.9", b"0.99", b"1.10", b"111", b"1", b" 1.1", b"01.01", b"1.1 ", b"1.1\r"]
OTHER_LINES = [
    b"POST  / HTTP/1.1", b" POST / HTTP/1.1", b"POST\t/ HTTP/1.1", b"POST /", b"POST / http/1.1",
    b"\r\nPOST / HTTP/1.1", b"\r\n\r\nPOST / HTTP/1.1", b"\rPOST / HTTP/1.1", b"\nPOST / HTTP/1.1",
]
LENGTHS = [
    b"5", b"05", b"0", b"5 ", b"\t5", b"", b"+5", b"-0", b"0x5", b"0_1", b"0 1", b"5, 5", b"5, 6",
    b"5\0", b"\x0b5", b"5\xa0",
    b"9223372036854775807", b"9223372036854775808", b"18446744073709551621", b"1" * 30,
]
CODINGS = [
    b"chunked", b"Chunked", b"chunked ", b"\tchunked", b"chunked;a=b", b"xchunked", b"gzip", b"identity", b"",
    b"chunked, chunked", b"gzip, chunked", b"chunked, gzip", b"identity, chunked, identity, chunked", b", chunked", b"chunked,",
    b"\x0bchunked", b"\x0cchunked", b"chunked\0", b"\x1cchunked\x1f", b"\x85chunked", b"chunked\xa0", b"\r\n chunked",
]
IMITATIONS = [
    b"Transfer-Encoding : chunked", b"Transfer-Encoding\xa0: chunked", b"Transfer_Encoding: chunked", b"Content_Length: 5",
]
HOSTS = [b"a", b"a:80", b"", b"u@a", b"a, b", b"[::1]", b"[::1", b"a/b", b"a:b", b"\xe9"]
SOUND = [b"X-Y: z", b"X_Y: z", b"X:", b"Expect: 100-continue", b"Content-Type: a", b"Connection: close", b"Content-Length: 5"]
OTHER_FIELDS = [
    b"X : y", b" X: y", b"X", b": y", b"X\xff: y", b"X: \0", b"X: \x07", b"X: \x7f", b"X: \xff", b"X: a\rb", b"X: a\nb",
    b"Expect: x", b"Connection: upgrade\r\nUpgrade: x",
]
SIZES = [
    b"5", b"05", b"5 ", b"5\t", b" 5", b"", b"0x5", b"+5", b"-5", b"5_0",
    b"5;a=b", b"5;a", b'5;a="\\""', b"5;", b"5;a=", b"5 ;a", b"5; a = b", b"5;a ;b", b"5;\0", b"5;a[=b", b"5;ext=val\rX",
    b"0000000000000005", b"00000000000000005", b"f" * 16, b"f" * 17,
]
OTHER_CHUNKS = [
    b"5\nhello\r\n", b"5;\nhello\r\n", b"5\r\nhello\n", b"5\r\nhello", b"5\r\nhelloXX", b"5\rhello\r\n",
    b"4\r\nhello\r\n", b"A\r\nhelloworld\r\n",
]
TRAILERS = [b"X: y", b"Content-Length: 5", b"Host: b", b"Transfer-Encoding: chunked", b" X: y", b"X : y", b"X", b"X: \0", b": y"]
OTHER_ENDS = [b"0\r\n\r\n", b"0;a\r\n\r\n", b"00\r\n\r\n", b"0\n\r\n", b"0\r\n\n", b"0\r\n\rX", b"0\r\n", b""]
# fmt: on

LINES = [
    *(b"%s / HTTP/1.1" % method for method in METHODS),
    *(b"POST %s HTTP/1.1" % target for target in TARGETS),
    *(b"POST / HTTP/%s" % version for version in VERSIONS),
    *OTHER_LINES,
]
FRAMING = [
    *(b"Content-Length: " + value for value in LENGTHS),
    *(b"Transfer-Encoding: " + value for value in CODINGS),
    *IMITATIONS,
]
FIELDS = [*FRAMING, *(b"Host: " + value for value in HOSTS), *OTHER_FIELDS]
CHUNKS = [*(b"%s\r\nhello\r\n" % size for size in SIZES), *OTHER_CHUNKS]
ENDS = [*(b"0\r\n%s\r\n\r\n" % trailer for trailer in TRAILERS), *OTHER_ENDS]
SOUND_LINE, HOST, CHUNKED = b"POST / HTTP/1.1", b"Host: a", b"Transfer-Encoding: chunked"
NEXT = b"GET / HTTP/1.1\r\nHost: b\r\n\r\n"


def request(*fields: bytes, line: bytes = SOUND_LINE, body: bytes = b"") -> bytes:
    return b"".join(each + b"\r\n" for each in (line, *fields, b"")) + body


# ---- by hand: every part in a request that is sound but for it ----


@pytest.mark.parametrize("line", LINES)
def test_request_lines(line: bytes) -> None:
    check(request(HOST, line=line))
    check(request(line=line))


@pytest.mark.parametrize("field", FIELDS)
def test_pairs_of_fields(field: bytes) -> None:
    for other in [*FIELDS, *SOUND]:
        for body in (b"hello", b"5\r\nhello\r\n0\r\n\r\n"):
            check(request(HOST, field, other, body=body + NEXT))


@pytest.mark.parametrize("line", [b"POST / HTTP/1.0", b"GET / HTTP/1.1"])
def test_framing_with_other_request_lines(line: bytes) -> None:
    for field in FRAMING:
        check(request(HOST, field, line=line, body=b"0\r\n\r\n" + NEXT))


def test_chunks_and_ends() -> None:
    for chunk in CHUNKS:
        for end in ENDS:
            check(request(HOST, CHUNKED, body=chunk + end + NEXT))


# ---- generated ----


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """A request of these parts, half of it sound; every other time with a byte changed, added or lost anywhere."""
    line = draw(st.just(SOUND_LINE) | st.sampled_from(LINES))
    fields = draw(st.lists(st.sampled_from(SOUND) | st.sampled_from(FIELDS), max_size=2))
    if draw(st.booleans()):
        fields.insert(0, CHUNKED)
        body = draw(st.lists(st.sampled_from(CHUNKS), max_size=2).map(b"".join)) + draw(st.sampled_from(ENDS))
    else:
        body = b"hello"
    data = request(HOST, *fields, line=line, body=body + draw(st.sampled_from([b"", NEXT, b"\r\n", b"\0"])))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=1)) + data[at + draw(st.integers(0, 1)) :]
    return data


@settings(max_examples=2000, derandomize=True, deadline=None, database=None)
@given(requests())
def test_what_is_accepted_is_accepted_by_another(data: bytes) -> None:
    never_alone(data)


# ---- what the document says ----


class Difference(NamedTuple):
    data: bytes
    h11: bool  # does it take the same for a request?
    llhttp: bool
    refused_as: str | None = None  # by pyserve


def chunks(body: bytes) -> bytes:
    return request(HOST, CHUNKED, body=body)


# fmt: off
# For each choice a request that shows it. A parser that changes its mind is noticed.
DIFFERENCES = {
    "an unregistered method": Difference(request(HOST, line=b"BREW / HTTP/1.1"), True, False),
    "HTTP/1.2 to 1.9": Difference(request(HOST, line=b"GET / HTTP/1.2"), True, False),
    "an empty line before the request": Difference(b"\r\n" + request(HOST), False, True),
    "whitespace within chunk extensions": Difference(chunks(b"5; a = b\r\nhello\r\n0\r\n\r\n"), True, False),
    "a request to upgrade": Difference(
        request(HOST, b"Connection: upgrade", b"Upgrade: x", b"Content-Length: 1", body=b"a"), True, True
    ),
    "two empty lines before the request": Difference(b"\r\n\r\n" + request(HOST), False, True, "METHOD"),
    "HTTP/2.0": Difference(request(HOST, line=b"GET / HTTP/2.0"), True, True, "UNSUPPORTED_VERSION"),
    "two spaces before the version": Difference(request(HOST, line=b"GET /  HTTP/1.1"), False, True, "VERSION"),
    "CONNECT": Difference(request(HOST, line=b"CONNECT a:80 HTTP/1.1"), True, True, "CONNECT"),
    "HTTP/0.9": Difference(request(HOST, line=b"GET /"), False, True, "TARGET"),
    "a bare LF": Difference(b"GET / HTTP/1.1\nHost: a\n\n", True, False, "BARE_LF"),
    "a CR before the request": Difference(b"\r" + request(HOST), False, True, "BARE_CR"),
    "asterisk without OPTIONS": Difference(request(HOST, line=b"GET * HTTP/1.1"), True, True, "TARGET"),
    "bad percent-encoding": Difference(request(HOST, line=b"GET /%zz HTTP/1.1"), True, True, "PERCENT"),
    "%00 in a path": Difference(request(HOST, line=b"GET /%00 HTTP/1.1"), True, True, "PERCENT_NUL"),
    "user information": Difference(request(HOST, line=b"GET http://u@a/ HTTP/1.1"), True, True, "USERINFO"),
    "no Host": Difference(request(), False, True, "HOST_MISSING"),
    "a Host that is none": Difference(request(b"Host: a/b"), True, True, "HOST"),
    "a folded field": Difference(request(HOST, b" b"), True, False, "FIELD_FOLD"),
    "a control character": Difference(request(HOST, b"X: \x07"), True, False, "FIELD_VALUE"),
    "Content-Length twice": Difference(request(HOST, b"Content-Length: 0", b"Content-Length: 0"), True, False, "FIELD_REPEATED"),
    "Content-Length 5, 5": Difference(request(HOST, b"Content-Length: 0, 0"), True, False, "CONTENT_LENGTH"),
    "an imitated name": Difference(request(HOST, b"Content_Length: 5"), True, True, "FIELD_UNDERSCORE"),
    "a comma": Difference(request(HOST, b"Transfer-Encoding: , chunked"), False, True, "TRANSFER_ENCODING"),
    "another coding": Difference(request(HOST, b"Transfer-Encoding: gzip, chunked"), False, True, "TRANSFER_CODING"),
    "chunked in HTTP/1.0": Difference(request(HOST, CHUNKED, line=b"POST / HTTP/1.0"), True, True, "TRANSFER_VERSION"),
    "chunked with a length": Difference(request(HOST, CHUNKED, b"Content-Length: 5"), True, False, "LENGTH_CONFLICT"),
    "a length beyond 2^63-1": Difference(request(HOST, b"Content-Length: 9223372036854775808"), True, True, "CONTENT_LENGTH_HUGE"),
    "a chunk size of 17 digits": Difference(chunks(b"00000000000000001\r\na\r\n0\r\n\r\n"), True, True, "CHUNK_HUGE"),
    "whitespace behind a chunk size": Difference(chunks(b"1 \r\na\r\n0\r\n\r\n"), True, False, "CHUNK_SIZE"),
    "an extension without its value": Difference(chunks(b"1;a=\r\na\r\n0\r\n\r\n"), True, True, "CHUNK_EXTENSION"),
    "a trailer with a Host": Difference(chunks(b"0\r\nHost: b\r\n\r\n"), True, True, "TRAILER_FORBIDDEN"),
    "another expectation": Difference(request(HOST, b"Expect: x"), True, True, "EXPECT"),
}
# fmt: on


@pytest.mark.parametrize("name", DIFFERENCES)
def test_difference(name: str) -> None:
    data, h11_takes, llhttp_takes, refused_as = DIFFERENCES[name]
    mine = ours(data)
    assert takes(by_h11(data), whole=False) == h11_takes
    assert takes(by_llhttp(data), whole=False) == llhttp_takes
    assert (mine if isinstance(mine, str) else None) == refused_as
    if refused_as is None:
        check(data)


def test_the_document_explains_these_and_no_others() -> None:
    """Each with a request that shows it."""
    assert set(REASONS) == {each.refused_as for each in DIFFERENCES.values() if each.refused_as}
    assert {name for name, each in DIFFERENCES.items() if not each.refused_as} == set(TAKEN)
    assert {*COMPLAINTS.values(), UPGRADE} == set(TAKEN)
