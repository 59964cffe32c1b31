"""pyserve's parser beside two others: h11, and llhttp (Node's, by way of httptools).

What pyserve does with a request follows from what the others do and from the choices that apply to it (choices.py):

* without what pyserve alone takes its liberty in, the request is the same to pyserve;
* if then both others take it and no refusal applies, pyserve takes it, and reads the same in it;
* if only one takes it, or both, and refusals apply, it is refused as one of these; that no refusal applies and only one
  takes it does not happen: each difference has a reason;
* if both refuse it, pyserve does not take it.

docs/conformance.md has the choices, word for word.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyserve_workers.http1.parser import Head
from wire.choices import REFUSED, TAKEN, refusals, without_liberties
from wire.oracles import Answer, Reading, by_h11, by_llhttp, ours
from wire.parser_ways import head

DOCUMENT = Path(__file__).parents[2] / "docs" / "conformance.md"
EXAMPLES = int(os.environ.get("EXAMPLES", "0"))  # so many, at random; else the same 2,000 in each run


def takes(answer: Answer, whole: bool) -> bool:
    return isinstance(answer, Reading) and (answer.done or not whole)


def same_request(mine: Answer, plain: Answer) -> bool:
    """Is it the same, but for what without_liberties() changes?"""
    if not isinstance(mine, Reading) or not isinstance(plain, Reading):
        return mine == plain
    fields = [(b"x-was-upgrade" if name == b"upgrade" else name, value) for name, value in mine.fields]
    others = [(b"x-was-upgrade" if name == b"upgrade" else name, value) for name, value in plain.fields]
    return mine._replace(method=b"", fields=fields) == plain._replace(method=b"", fields=others)


def check(data: bytes) -> None:
    plain, liberties = without_liberties(data)
    mine, others, reasons = ours(plain), [by_h11(plain), by_llhttp(plain)], refusals(plain)
    assert same_request(ours(data), mine), f"not the same without {liberties}"
    # Who refuses a body has read its head; another may only not have noticed yet.
    whole = isinstance(mine, str) and isinstance(head(plain), Head)
    takers = sum(takes(other, whole) for other in others)
    if takers == 2 and not reasons:
        assert others == [mine, mine], "both others take it"
    elif takers == 0:
        assert not takes(mine, whole=False), "taken, and both others refuse it"
    else:
        assert reasons, "the others differ, and no choice says why"
        assert isinstance(mine, str), f"taken in spite of {reasons}"
        assert mine in reasons


# ---- parts of requests ----

# fmt: off
METHODS = [b"GET", b"POST", b"HEAD", b"OPTIONS", b"PUT", b"get", b"G@T", b"BREW", b"CONNECT", b"GET\0", b"GET:", b"M-SEARCH", b"A" * 33]
TARGETS = [
    b"/a?b", b"*", b"http://a/b", b"http://u@a/", b"http://", b"ftp://a/", b"a", b"a:443", b"",
    b"/%zz", b"/%00", b"/\xe9", b"/\0", b"/#f", b"//", b"/\\", b"/a b", b"/[|]", b"/?`{\\}", b"/?%00", b"/?%", b"/%4",
    b"/%u2713?%u2713", b'/<"^`{|}>', b'/?<"%>', b"/%%00", b"/?\xe9", b"/?#", b'http://a/<%">?%', b'http://a"/',
    b"https://a:443?q", b"http://[::1]:80/", b"http://a:b/", b"http://a,b/", b"http://a/%00", b"http:/a", b"HTTP://A#f", b"**",
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
    b"chunked", b"Chunked", b"chunked ", b"\tchunked", b"chunked\t", b"chunked;a=b", b"xchunked", b"gzip", b"identity", b"",
    b"chunked, chunked", b"gzip, chunked", b"chunked, gzip", b"identity, chunked, identity, chunked", b", chunked", b"chunked,",
    b"\x0bchunked", b"\x0cchunked", b"chunked\0", b"\x1cchunked\x1f", b"\x85chunked", b"chunked\xa0", b"\r\n chunked",
]
IMITATIONS = [
    b"Transfer-Encoding : chunked", b"Transfer-Encoding\xa0: chunked", b"Transfer_Encoding: chunked", b"Content_Length: 5",
]
HOSTS = [b"a", b"a:80", b"", b"u@a", b"a, b", b"[::1]", b"[::1", b"a/b", b"a:b", b"\xe9", b"a:65536", b"a%41", b"a%4", b"[::1]:80", b"[::1]80", b"[a]"]
SOUND = [b"X-Y: z", b"X_Y: z", b"X:", b"Expect: 100-continue", b"Content-Type: a", b"Connection: close", b"Content-Length: 5"]
OTHER_FIELDS = [
    b"X : y", b" X: y", b"X", b": y", b"X\xff: y", b"X: \0", b"X: \x07", b"X: \x7f", b"X: \xff", b"X: a\rb", b"X: a\nb",
    b"Expect: x", b"Expect: 100-Continue, x", b"Expect: ,100-continue", b"Connection: upgrade\r\nUpgrade: x",
]
SIZES = [
    b"5", b"05", b"5 ", b"5\t", b" 5", b"", b"0x5", b"+5", b"-5", b"5_0",
    b"5;a=b", b"5;a", b'5;a="\\""', b"5;", b"5;a=", b"5 ;a", b"5; a = b", b"5;a ;b", b"5;\0", b"5;a[=b", b"5;ext=val\rX", b'5;a="b', b'5;a="\t\xff";b', b'5;a="\x07"', b'5;a="\\', b"5;;a", b"5;a=b=c", b"5;a=b ", b'5;a="b"c',
    b"0000000000000005", b"00000000000000005", b"f" * 16, b"f" * 17,
]
OTHER_CHUNKS = [
    b"5\nhello\r\n", b"5;\nhello\r\n", b"5\r\nhello\n", b"5\r\nhello", b"5\r\nhelloXX", b"5\rhello\r\n",
    b"4\r\nhello\r\n", b"A\r\nhelloworld\r\n",
]
TRAILERS = [b"X: y", b"Content-Type: a\r\nVary: *", b"X: \xff\r\nY:", b"Cookie: a", b"content_type: b", b"TE: trailers", b"Xhost: b", b"Content-Length: 5", b"Host: b", b"Transfer-Encoding: chunked", b" X: y", b"X : y", b"X", b"X: \0", b": y"]
OTHER_ENDS = [b"0\r\n\r\n", b"0;a\r\n\r\n", b"00\r\n\r\n", b"0\n\r\n", b"0\r\n\n", b"0\r\n\rX", b"0\r\n", b""]
# fmt: on

LINES = [
    *(b"%s / HTTP/1.1" % method for method in METHODS),
    *(b"POST %s HTTP/1.1" % target for target in TARGETS),
    *(b"POST / HTTP/%s" % version for version in VERSIONS),
    *OTHER_LINES,
    *(b"OPTIONS %s HTTP/1.1" % target for target in (b"*", b"**", b"*?", b"/", b"http://a", b"")),
    b"CONNECT a:80 HTTP/1.1",
    b"CONNECT a HTTP/2.0",
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


@pytest.mark.parametrize("host", HOSTS)
def test_hosts(host: bytes) -> None:
    check(request(b"Host: " + host))
    check(request(HOST, line=b"GET http://" + host + b"/ HTTP/1.1"))


@pytest.mark.parametrize("line", [b"POST / HTTP/1.0", b"GET / HTTP/1.1"])
def test_framing_with_other_request_lines(line: bytes) -> None:
    for field in FRAMING:
        check(request(HOST, field, line=line, body=b"0\r\n\r\n" + NEXT))


def test_chunks_and_ends() -> None:
    for chunk in CHUNKS:
        for end in ENDS:
            check(request(HOST, CHUNKED, body=chunk + end + NEXT))


# ---- generated ----


BYTE = st.binary(max_size=1) | st.sampled_from([bytes([byte]) for byte in b'\r\n\t ;:,="%/-_0\0'])


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
    host = draw(st.just(HOST) | st.sampled_from(HOSTS).map(b"Host: ".__add__))
    data = request(host, *fields, line=line, body=body + draw(st.sampled_from([b"", NEXT, b"\r\n", b"\0"])))
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 1, 2]))):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(BYTE) + data[at + draw(st.integers(0, 1)) :]
    return data


@settings(max_examples=EXAMPLES or 2000, derandomize=not EXAMPLES, print_blob=True, deadline=None, database=None)
@given(requests())
def test_generated_requests(data: bytes) -> None:
    check(data)


# ---- what the document says ----


class Difference(NamedTuple):
    data: bytes
    takers: str  # which of the others take it for a request
    refused_as: str | None = None  # by pyserve


def chunks(body: bytes) -> bytes:
    return request(HOST, CHUNKED, body=body)


# fmt: off
# For each choice a request that shows it. A parser that changes its mind is noticed.
DIFFERENCES = {
    "an unregistered method": Difference(request(HOST, line=b"BREW / HTTP/1.1"), "h11"),
    "HTTP/1.2 to 1.9": Difference(request(HOST, line=b"GET / HTTP/1.2"), "h11"),
    "an empty line before the request": Difference(b"\r\n" + request(HOST), "llhttp"),
    "whitespace within chunk extensions": Difference(chunks(b"5; a = b\r\nhello\r\n0\r\n\r\n"), "h11"),
    "a tab behind `chunked`": Difference(request(HOST, CHUNKED + b"\t"), "h11"),
    "a request to upgrade": Difference(request(HOST, b"Connection: upgrade", b"Upgrade: x", b"Content-Length: 1", body=b"a"), "h11, llhttp"),
    "a method of 33 bytes": Difference(request(HOST, line=b"A" * 33 + b" / HTTP/1.1"), "h11", "METHOD_TOO_LONG"),
    "two empty lines before the request": Difference(b"\r\n\r\n" + request(HOST), "llhttp", "METHOD"),
    "HTTP/2.0": Difference(request(HOST, line=b"GET / HTTP/2.0"), "h11, llhttp", "UNSUPPORTED_VERSION"),
    "two spaces before the version": Difference(request(HOST, line=b"GET /  HTTP/1.1"), "llhttp", "VERSION"),
    "CONNECT": Difference(request(HOST, line=b"CONNECT a:80 HTTP/1.1"), "h11, llhttp", "CONNECT"),
    "HTTP/0.9": Difference(request(HOST, line=b"GET /"), "llhttp", "TARGET"),
    "a bare LF": Difference(b"GET / HTTP/1.1\nHost: a\n\n", "h11", "BARE_LF"),
    "a CR before the request": Difference(b"\r" + request(HOST), "llhttp", "BARE_CR"),
    "asterisk without OPTIONS": Difference(request(HOST, line=b"GET * HTTP/1.1"), "h11, llhttp", "TARGET"),
    "a fragment": Difference(request(HOST, line=b"GET /#a HTTP/1.1"), "h11, llhttp", "TARGET"),
    "%00 in a path": Difference(request(HOST, line=b"GET /%00 HTTP/1.1"), "h11, llhttp", "PERCENT_NUL"),
    "user information": Difference(request(HOST, line=b"GET http://u@a/ HTTP/1.1"), "h11, llhttp", "USERINFO"),
    "no Host": Difference(request(), "llhttp", "HOST_MISSING"),
    "a Host that is none": Difference(request(b"Host: a/b"), "h11, llhttp", "HOST"),
    "a folded field": Difference(request(HOST, b" b"), "h11", "FIELD_FOLD"),
    "a control character": Difference(request(HOST, b"X: \x07"), "h11", "FIELD_VALUE"),
    "Content-Length twice": Difference(request(HOST, b"Content-Length: 0", b"Content-Length: 0"), "h11", "FIELD_REPEATED"),
    "Content-Length 5, 5": Difference(request(HOST, b"Content-Length: 0, 0"), "h11", "CONTENT_LENGTH"),
    "an imitated name": Difference(request(HOST, b"Content_Length: 5"), "h11, llhttp", "FIELD_UNDERSCORE"),
    "a comma": Difference(request(HOST, b"Transfer-Encoding: , chunked"), "llhttp", "TRANSFER_ENCODING"),
    "another coding": Difference(request(HOST, b"Transfer-Encoding: gzip, chunked"), "llhttp", "TRANSFER_CODING"),
    "chunked in HTTP/1.0": Difference(request(HOST, CHUNKED, line=b"POST / HTTP/1.0"), "h11, llhttp", "TRANSFER_VERSION"),
    "chunked with a length": Difference(request(HOST, CHUNKED, b"Content-Length: 5"), "h11", "LENGTH_CONFLICT"),
    "a length beyond 2^63-1": Difference(request(HOST, b"Content-Length: 9223372036854775808"), "h11, llhttp", "CONTENT_LENGTH_HUGE"),
    "a chunk size of 17 digits": Difference(chunks(b"00000000000000001\r\na\r\n0\r\n\r\n"), "h11, llhttp", "CHUNK_HUGE"),
    "whitespace behind a chunk size": Difference(chunks(b"1 \r\na\r\n0\r\n\r\n"), "h11", "CHUNK_SIZE"),
    "an extension without its value": Difference(chunks(b"1;a=\r\na\r\n0\r\n\r\n"), "h11, llhttp", "CHUNK_EXTENSION"),
    "a trailer with a Host": Difference(chunks(b"0\r\nHost: b\r\n\r\n"), "h11, llhttp", "TRAILER_FORBIDDEN"),
    "another expectation": Difference(request(HOST, b"Expect: x"), "h11, llhttp", "EXPECT"),
}
# fmt: on


@pytest.mark.parametrize("name", DIFFERENCES)
def test_difference(name: str) -> None:
    data, takers, refused_as = DIFFERENCES[name]
    mine, others = ours(data), {"h11": by_h11(data), "llhttp": by_llhttp(data)}
    assert ", ".join(other for other, answer in others.items() if takes(answer, whole=False)) == takers
    if refused_as is None:
        assert [other for other, answer in others.items() if answer != mine] == [TAKEN[name].refused_by]
        assert without_liberties(data)[1] == [name]
    else:
        assert mine == refused_as
        assert mine in refusals(data)
    check(data)


# ---- and the document ----


def rows_of_taken() -> list[str]:
    rows = [f"| {name} | {choice.refused_by} | {choice.rfc} | {choice.why} |" for name, choice in TAKEN.items()]
    return ["| Request | Refused by | RFC | Why it is taken |", "|---|---|---|---|", *rows]


def rows_of_refused() -> list[str]:
    rows = []
    for name, choice in REFUSED.items():
        examples = [each.takers for each in DIFFERENCES.values() if each.refused_as == name]
        takers = ", ".join(other for other in ("h11", "llhttp") if other in " ".join(examples))
        rows.append(f"| `{name}` | {takers} | {choice.rfc} | {choice.why} |")
    return ["| Error | Taken by | RFC | Why it is refused |", "|---|---|---|---|", *rows]


@pytest.mark.parametrize(
    ("heading", "rows"), [("What pyserve takes", rows_of_taken()), ("What pyserve refuses", rows_of_refused())]
)
def test_the_document_has_the_same_choices(heading: str, rows: list[str]) -> None:
    section = DOCUMENT.read_text().partition(f"\n### {heading}\n")[2].partition("\n#")[0]
    assert [line for line in section.splitlines() if line.startswith("|")] == rows
