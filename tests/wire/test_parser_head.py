"""The request head: what is accepted and what it means, what is refused and as what.

Each case runs in every way (see parser_ways).
"""

from __future__ import annotations

import pytest

from pyserve_workers.http1.parser import Head
from wire.parser_ways import head, head_in_every_way


def request(*fields: bytes, line: bytes = b"GET / HTTP/1.1", host: bytes | None = b"Host: a") -> bytes:
    lines = [line, *([] if host is None else [host]), *fields]
    return b"".join(each + b"\r\n" for each in [*lines, b""])


VISIBLE_IN_QUERIES = bytes(range(0x21, 0x7F)).replace(b"#", b"")
VISIBLE_IN_PATHS = VISIBLE_IN_QUERIES.replace(b"?", b"")


def accepted(data: bytes, **limits: int) -> Head:
    found = head_in_every_way(data, **limits)
    assert isinstance(found, Head), found
    return found


def value(found: Head, name: bytes) -> bytes:
    (only,) = [field.value for field in found.fields if field.name == name]
    return only


# ---- the request line ----


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/", b"/", None),
        (b"/a/b", b"/a/b", None),
        (b"/a?", b"/a", b""),
        (b"/?a=b&c=d", b"/", b"a=b&c=d"),
        (b"/a?b?c/d", b"/a", b"b?c/d"),
        (b"//evil.example/x", b"//evil.example/x", None),
        (b"/../../etc", b"/../../etc", None),
        (b"/a%20b%2fc%C3%A9", b"/a%20b%2fc%C3%A9", None),
        (b"/-._~!$&'()*+,;=:@", b"/-._~!$&'()*+,;=:@", None),
        (b"/?a=%00", b"/", b"a=%00"),  # the query is the app's to decode
        (b"/?@:/", b"/", b"@:/"),
        (b"/?ids[]=1|2&r=\\d^`{x}", b"/", b"ids[]=1|2&r=\\d^`{x}"),  # as browsers send it
        (b"/[a]|b^`{c}\\", b"/[a]|b^`{c}\\", None),
        (b'/<a>"b"?<c>"d"', b'/<a>"b"', b'<c>"d"'),
        (b"/" + VISIBLE_IN_PATHS + b"?" + VISIBLE_IN_QUERIES, b"/" + VISIBLE_IN_PATHS, VISIBLE_IN_QUERIES),
        # "%" stands for itself where no two hex digits follow
        (b"/100%", b"/100%", None),
        (b"/100%?q=100%", b"/100%", b"q=100%"),
        (b"/%u2713?%u2713", b"/%u2713", b"%u2713"),
        (b"/%zz/%2/%2g/%%", b"/%zz/%2/%2g/%%", None),
        (b"/?utm=50%_off", b"/", b"utm=50%_off"),
        (b"/%2500/%0/0/%%0/%0%0", b"/%2500/%0/0/%%0/%0%0", None),  # nowhere is that a NUL
    ],
)
def test_origin_form(target: bytes, path: bytes, query: bytes | None) -> None:
    data = request(line=b"GET " + target + b" HTTP/1.1")
    found = accepted(data)
    assert (found.form, found.target, found.path, found.query, found.host) == ("origin", target, path, query, b"a")
    assert found.length == len(data)


@pytest.mark.parametrize(
    ("target", "host", "path", "query", "https"),
    [
        (b"http://b/", b"b", b"/", None, False),
        (b"HTTP://b:80/c?d", b"b:80", b"/c", b"d", False),
        (b"hTTps://b.c:443/", b"b.c:443", b"/", None, True),
        (b"http://b", b"b", b"", None, False),
        (b"http://b?q", b"b", b"", b"q", False),
        (b"http://[::1]:8000/", b"[::1]:8000", b"/", None, False),
        (b'http://b/"<\\>%zz?{"%"}', b"b", b'/"<\\>%zz', b'{"%"}', False),
        (b'http://b?"<%', b"b", b"", b'"<%', False),
    ],
)
def test_absolute_form_overrides_host(
    target: bytes, host: bytes, path: bytes, query: bytes | None, https: bool
) -> None:
    found = accepted(request(line=b"GET " + target + b" HTTP/1.1"))
    assert (found.form, found.host, found.path, found.query, found.https) == ("absolute", host, path, query, https)
    assert found.target == target
    assert value(found, b"Host") == b"a"


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (b"/caf\xc3\xa9?q=\xe2\x9c\x93", b"/caf\xc3\xa9", b"q=\xe2\x9c\x93"),
        (b"/%\xe9%e9?%\xff", b"/%\xe9%e9", b"%\xff"),
        (b"http://a/\xe9?\xff", b"/\xe9", b"\xff"),
        (b"/" + bytes(range(0x80, 0x100)), b"/" + bytes(range(0x80, 0x100)), None),
    ],
)
def test_bytes_beyond_ascii_need_a_permit(target: bytes, path: bytes, query: bytes | None) -> None:
    data = request(line=b"GET " + target + b" HTTP/1.1")
    assert head_in_every_way(data) == "TARGET_RAW"
    found = accepted(data, raw_target=True)
    assert (found.target, found.path, found.query) == (target, path, query)


@pytest.mark.parametrize("byte", range(256))
def test_every_byte_in_every_part_of_a_target(byte: int) -> None:
    """What is refused without the permit or with it, in the middle and at the end."""
    part = bytes([byte])
    lone = {"\n": "BARE_LF", " ": "VERSION"}.get(chr(byte), "TARGET")
    for line in (b"/a%cb", b"/a%c", b"/?a%cb", b"/?a%c", b"http://h/%c", b"http://h?%c"):
        if line.endswith((b"a%c", b"/%c", b"?%c")) and part == b" ":
            continue  # the space before the version
        outcome = head(request(line=b"GET " + line % byte + b" HTTP/1.1"))
        permitted = head(request(line=b"GET " + line % byte + b" HTTP/1.1"), raw_target=True)
        if 0x21 <= byte <= 0x7E and part != b"#":
            assert isinstance(outcome, Head)
            assert permitted == outcome
        elif byte >= 0x80:
            assert outcome == "TARGET_RAW"
            assert isinstance(permitted, Head)
        else:
            assert outcome == permitted == lone


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"GET /a%00b HTTP/1.1", "PERCENT_NUL"),
        (b"GET /%\xe9%00 HTTP/1.1", "PERCENT_NUL"),
        (b"GET /\xe9#b HTTP/1.1", "TARGET"),
        (b"GET /\xe9\x7f HTTP/1.1", "TARGET"),
        (b"GET \xe9 HTTP/1.1", "TARGET"),
        (b"GET http://\xe9/ HTTP/1.1", "HOST"),
        (b"GET http://a\xe9/ HTTP/1.1", "TARGET"),
        (b"OPTIONS *\xe9 HTTP/1.1", "TARGET"),
        (b"GET /\xe9\xa0HTTP/1.1", "TARGET"),  # a space of Latin-1 is none here
        (b"CONNECT a\xe9:443 HTTP/1.1", "CONNECT"),
    ],
)
def test_the_permit_holds_for_path_and_query_alone(line: bytes, error: str) -> None:
    assert head_in_every_way(request(line=line), raw_target=True) == error


def test_asterisk_form() -> None:
    found = accepted(request(line=b"OPTIONS * HTTP/1.1"))
    assert (found.form, found.path, found.query, found.host) == ("asterisk", b"*", None, b"a")


@pytest.mark.parametrize("method", [b"GET", b"get", b"PROPFIND", b"M-SEARCH", b"!#$%&'*+-.^_`|~09Az", b"A" * 32])
def test_any_token_is_a_method(method: bytes) -> None:
    assert accepted(request(line=method + b" / HTTP/1.1")).method == method


@pytest.mark.parametrize(("version", "minor"), [(b"1.0", 0), (b"1.1", 1), (b"1.2", 1), (b"1.9", 1)])
def test_version(version: bytes, minor: int) -> None:
    assert accepted(request(line=b"GET / HTTP/" + version)).minor_version == minor


def test_one_empty_line_before_the_request_line_is_skipped() -> None:
    data = b"\r\n" + request(b"X: y")
    found = accepted(data)
    assert (found.method, found.length, value(found, b"X")) == (b"GET", len(data), b"y")


REFUSED_LINES = [
    # method
    (b"", "METHOD"),  # a second empty line
    (b" GET / HTTP/1.1", "METHOD"),
    (b"GET", "METHOD"),
    (b"GET\t/ HTTP/1.1", "METHOD"),
    (b"GET\0 / HTTP/1.1", "METHOD"),
    (b"GET: / HTTP/1.1", "METHOD"),
    (b"G\xc9T / HTTP/1.1", "METHOD"),
    (b"{} / HTTP/1.1", "METHOD"),
    (b"\x16\x03\x01\x02\x00\x01", "METHOD"),  # TLS to a plain port
    (b"A" * 33 + b" / HTTP/1.1", "METHOD_TOO_LONG"),
    (b"CONNECT example.com:443 HTTP/1.1", "CONNECT"),
    (b"CONNECT / HTTP/1.1", "CONNECT"),
    # target
    (b"GET  / HTTP/1.1", "TARGET"),
    (b"GET HTTP/1.1", "TARGET"),
    (b"GET  HTTP/1.1", "TARGET"),
    (b"GET * HTTP/1.1", "TARGET"),
    (b"options * HTTP/1.1", "TARGET"),  # methods are case-sensitive
    (b"OPTIONS *x HTTP/1.1", "TARGET"),
    (b"OPTIONS *?x HTTP/1.1", "TARGET"),
    (b"GET foo/bar HTTP/1.1", "TARGET"),
    (b"GET host:443 HTTP/1.1", "TARGET"),
    (b"GET ?a HTTP/1.1", "TARGET"),
    (b"GET /a#b HTTP/1.1", "TARGET"),
    (b"GET /?a#b HTTP/1.1", "TARGET"),
    (b"GET /%#b HTTP/1.1", "TARGET"),
    (b'GET "/" HTTP/1.1', "TARGET"),
    (b"GET %2f HTTP/1.1", "TARGET"),
    (b"GET \\a HTTP/1.1", "TARGET"),
    (b"GET /\x00 HTTP/1.1", "TARGET"),
    (b"GET /\x7f HTTP/1.1", "TARGET"),
    (b"GET /\t HTTP/1.1", "TARGET"),
    (b"GET /\xe9 HTTP/1.1", "TARGET_RAW"),
    (b"GET /caf\xc3\xa9 HTTP/1.1", "TARGET_RAW"),
    (b"GET /?\xc0\xaf HTTP/1.1", "TARGET_RAW"),
    (b"GET /%\xe9 HTTP/1.1", "TARGET_RAW"),
    (b"GET ftp://a/ HTTP/1.1", "TARGET"),
    (b"GET httpx://a/ HTTP/1.1", "TARGET"),
    (b"GET http:/a HTTP/1.1", "TARGET"),
    (b"GET http:\x0f/a HTTP/1.1", "TARGET"),  # ':' and '/' have no other case
    (b"GET http:///a HTTP/1.1", "HOST"),
    (b"GET http://:80/ HTTP/1.1", "HOST"),
    (b"GET http://a:b/ HTTP/1.1", "HOST"),
    (b"GET http://a:1:2/ HTTP/1.1", "HOST"),
    (b"GET http://[::1/ HTTP/1.1", "HOST"),
    (b"GET http://a%2/ HTTP/1.1", "HOST"),
    (b"GET http://a%zz/ HTTP/1.1", "HOST"),
    (b"GET http://a\\b/ HTTP/1.1", "TARGET"),
    (b"GET http://a\\@b/ HTTP/1.1", "TARGET"),
    (b'GET http://a"b/ HTTP/1.1', "TARGET"),
    (b"GET http://<a>/ HTTP/1.1", "HOST"),
    (b"GET http://a{b}/ HTTP/1.1", "TARGET"),
    (b"GET http://a#b HTTP/1.1", "TARGET"),
    (b"GET http://user@a/ HTTP/1.1", "USERINFO"),
    (b"GET http://user:password@a/ HTTP/1.1", "USERINFO"),
    (b"GET /a%00b HTTP/1.1", "PERCENT_NUL"),
    (b"GET /%%00 HTTP/1.1", "PERCENT_NUL"),
    (b"GET /%0%00 HTTP/1.1", "PERCENT_NUL"),
    (b"GET /%zz%00?q HTTP/1.1", "PERCENT_NUL"),
    (b"GET http://a/%00 HTTP/1.1", "PERCENT_NUL"),
    # version
    (b"GET /", "TARGET"),  # HTTP/0.9
    (b"GET / ", "VERSION"),
    (b"GET /  HTTP/1.1", "VERSION"),
    (b"GET /pa th HTTP/1.1", "VERSION"),
    (b"GET / http/1.1", "VERSION"),
    (b"GET / HTTP/1", "VERSION"),
    (b"GET / HTTP/1.", "VERSION"),
    (b"GET / HTTP/1.1 ", "VERSION"),
    (b"GET / HTTP/1.1\t", "VERSION"),
    (b"GET / HTTP/1.1x", "VERSION"),
    (b"GET / HTTP/01.1", "VERSION"),
    (b"GET / HTTP/01.01", "VERSION"),
    (b"GET / HTTP/ 1.1", "VERSION"),
    (b"GET / HTTP/1,1", "VERSION"),
    (b"GET / HTTP/1.10", "VERSION"),
    (b"GET / HTTP/0.99", "VERSION"),
    (b"GET / HTTP/111", "VERSION"),
    (b"GET / HTTP/-1.1", "VERSION"),
    (b"GET / HTTP/1.\xb2", "VERSION"),
    (b"GET / HTTPS/1.1", "VERSION"),
    (b"GET / ICE/1.0", "VERSION"),
    (b"GET / HTTP/0.9", "UNSUPPORTED_VERSION"),
    (b"GET / HTTP/2.0", "UNSUPPORTED_VERSION"),
    (b"GET / HTTP/9.9", "UNSUPPORTED_VERSION"),
    # line ends
    (b"GET / HTTP/1.1\nHost: a", "BARE_LF"),
    (b"GET / HTTP/2.0\nHost: a", "BARE_LF"),
    (b"GET /\n", "BARE_LF"),
    (b"GET /%\n", "BARE_LF"),
    (b"GET\n", "BARE_LF"),
    (b"\nGET / HTTP/1.1", "BARE_LF"),
    (b"GET / HTTP/1.1\rHost: a", "BARE_CR"),
    (b"\rGET / HTTP/1.1", "BARE_CR"),
    (b"PRI * HTTP/2.0", "TARGET"),
]


@pytest.mark.parametrize(("line", "error"), REFUSED_LINES)
def test_refused_request_line(line: bytes, error: str) -> None:
    data = request(line=line)
    assert head_in_every_way(data if line else b"\r\n" + data) == error


# ---- fields ----


def test_fields_in_order_with_spans_and_known_names() -> None:
    found = accepted(request(b"ACCEPT: */*", b"X-One:1", b"x-one: \t 2 3\t ", b"Empty:", b"Blank: \t", host=b"hOST: a"))
    assert [(field.name, field.value, field.known) for field in found.fields] == [
        (b"hOST", b"a", "host"),
        (b"ACCEPT", b"*/*", "accept"),
        (b"X-One", b"1", None),
        (b"x-one", b"2 3", None),
        (b"Empty", b"", None),
        (b"Blank", b"", None),
    ]


def test_every_allowed_byte_in_names_and_values() -> None:
    name = b"!#$%&'*+-.^`|~0123456789AZaz"
    text = bytes([*range(0x20, 0x7F), 9, *range(0x80, 0x100)]).strip()
    assert value(accepted(request(name + b": " + text)), name) == text


@pytest.mark.parametrize("byte", [byte for byte in range(256) if byte not in b"\t\r\n" and not 0x20 <= byte != 0x7F])
def test_control_characters_in_values(byte: int) -> None:
    for text in (b"%c", b"%cx", b"x%cx", b"x%c", b" %c "):
        assert head_in_every_way(request(b"X: " + text % byte)) == "FIELD_VALUE"


@pytest.mark.parametrize("length", [1, 7, 8, 9, 24])
def test_every_byte_at_every_place_of_a_value(length: int) -> None:
    """Values are read eight bytes a step: no place in a step may be more lenient, or stricter, than another."""
    errors = {b"\n": "BARE_LF", b"\r": "BARE_CR"}
    for place in range(length):
        for byte in (bytes([number]) for number in range(256)):
            text = b"v" * place + byte + b"v" * (length - place - 1)
            found = head(request(b"X: " + text + b"."))
            if byte == b"\t" or (byte >= b" " and byte != b"\x7f"):
                assert isinstance(found, Head)
                assert value(found, b"X") == (text + b".").lstrip(b" \t")
            else:
                assert found == errors.get(byte, "FIELD_VALUE")


TCHAR = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


@pytest.mark.parametrize("byte", [byte for byte in range(256) if byte not in TCHAR + b"\r\n\t :"])
def test_bytes_that_are_in_no_name(byte: int) -> None:
    for name in (b"%cX", b"X%cX", b"X%c", b"Transfer-Encoding%c"):
        assert head_in_every_way(request(name % byte + b": chunked")) == "FIELD_NAME"


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b": x", "FIELD_NAME"),
        (b":", "FIELD_NAME"),
        (b"Bad[Name: x", "FIELD_NAME"),
        (b"X-T\xc3\xa9st: x", "FIELD_NAME"),
        (b"stra\xdfe: x", "FIELD_NAME"),
        (b"no colon here", "FIELD_SPACE"),
        (b"NoColonHere", "FIELD_COLON"),
        (b"X : y", "FIELD_SPACE"),
        (b"X\t: y", "FIELD_SPACE"),
        (b"Transfer-Encoding : chunked", "FIELD_SPACE"),
        (b"Content-Length : 5", "FIELD_SPACE"),
        (b"Content\tLength: 5", "FIELD_SPACE"),
        (b"X: y\r\n folded", "FIELD_FOLD"),
        (b"X: y\r\n\tfolded", "FIELD_FOLD"),
        (b"Transfer-Encoding:\r\n chunked", "TRANSFER_ENCODING"),  # its value is judged, empty, when its line ends
        (b" ", "FIELD_FOLD"),
        (b" X: y", "FIELD_FOLD"),
        (b"X: y\nY: z", "BARE_LF"),
        (b"X: y\n", "BARE_LF"),
        (b"X\n", "BARE_LF"),
        (b"\nX: y", "BARE_LF"),
        (b"X: y\rz", "BARE_CR"),
        (b"X: y\r\r", "BARE_CR"),
        (b"\rX", "BARE_CR"),  # \r\n\rX is not the end of the head (CVE-2025-23167)
        (b"Content_Length: 5", "FIELD_UNDERSCORE"),
        (b"CONTENT_LENGTH: 5", "FIELD_UNDERSCORE"),
        (b"Transfer_Encoding: chunked", "FIELD_UNDERSCORE"),
    ],
)
def test_refused_field_line(line: bytes, error: str) -> None:
    assert head_in_every_way(request(line)) == error
    assert head_in_every_way(request(line, host=None)) == error


def test_other_names_with_underscores_are_marked() -> None:
    found = accepted(request(b"X_Forwarded_For: 1.2.3.4", b"X-Forwarded-For: 5.6.7.8"))
    assert [(field.known, field.underscore) for field in found.fields[1:]] == [
        (None, True),
        ("x-forwarded-for", False),
    ]


# ---- Host ----


@pytest.mark.parametrize(
    "host",
    [
        b"a",
        b"example.com",
        b"EXAMPLE.com.",
        b"localhost:8000",
        b"a:",
        b"a:0",
        b"a:65535",
        b"a:00080",
        b"127.0.0.1:80",
        b"[::1]",
        b"[::1]:8000",
        b"[2001:db8::192.0.2.1]:80",
        b"my_service-1",
        b"a%2db",
        b"a;b=c",
    ],
)
def test_host(host: bytes) -> None:
    assert accepted(request(host=b"Host: " + host)).host == host
    assert accepted(request(line=b"GET http://" + host + b"/ HTTP/1.1")).host == host


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b" ",
        b":80",
        b"user@a",
        b"user:password@a",
        b"a/path",
        b"a?b",
        b"a#b",
        b"a b",
        b"a:80 b",
        b"a:8o",
        b"a:+80",
        b"a:-1",
        b"a:65536",
        b"a:99999999999999999999",
        b"a:80:80",
        b"a,b",
        b"a, b",
        b"http://a",
        b"a\\b",
        b"a%",
        b"a%2",
        b"a%zz",
        b"a\xe9",
        b"<a>",
        b"::1",
        b"[::1",
        b"[::1]x",
        b"[::1]:x",
        b"[::1]]",
        b"[]",
        b"[:80",
        b"[1.2.3.4]",
        b"[v1.a]",
        b"[fe80::1%25eth0]",
        b"[1:2:3:4:5:6:7:8:9]",
        b"[::12345]",
        b"[" + b"1" * 100 + b"]",
        b"[::1]a[::1]",
    ],
)
def test_refused_host(host: bytes) -> None:
    assert head_in_every_way(request(host=b"Host: " + host)) == "HOST"
    assert head_in_every_way(request(host=b"Host: " + host, line=b"GET http://ok/ HTTP/1.1")) == "HOST"


@pytest.mark.parametrize(
    ("version", "hosts", "outcome"),
    [
        (b"1.1", [], "HOST_MISSING"),
        (b"1.1", [b"a", b"a"], "FIELD_REPEATED"),
        (b"1.1", [b"a", b"b"], "FIELD_REPEATED"),
        (b"1.0", [], b""),
        (b"1.0", [b"a"], b"a"),
        (b"1.0", [b"a", b"a"], "FIELD_REPEATED"),
    ],
)
def test_number_of_hosts(version: bytes, hosts: list[bytes], outcome: bytes | str) -> None:
    fields = [b"Host: " + host for host in hosts]
    found = head_in_every_way(request(*fields, host=None, line=b"GET / HTTP/" + version))
    assert (found.host if isinstance(found, Head) else found) == outcome


def test_the_absolute_form_does_not_replace_host() -> None:
    assert head_in_every_way(request(host=None, line=b"GET http://a/ HTTP/1.1")) == "HOST_MISSING"
    assert accepted(request(host=None, line=b"GET http://a/ HTTP/1.0")).host == b"a"


# ---- body length ----


@pytest.mark.parametrize(
    ("text", "length"),
    [
        (b"0", 0),
        (b"5", 5),
        (b" 5\t", 5),
        (b"00", 0),
        (b"0010", 10),
        (b"9223372036854775807", 2**63 - 1),
        (b"0" * 50 + b"1", 1),
    ],
)
def test_content_length(text: bytes, length: int) -> None:
    found = accepted(request(b"content-LENGTH:" + text))
    assert (found.content_length, found.chunked) == (length, False)


def test_no_content_length() -> None:
    assert accepted(request()).content_length is None


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ([b"abc"], "CONTENT_LENGTH"),
        ([b""], "CONTENT_LENGTH"),
        ([b"+1"], "CONTENT_LENGTH"),
        ([b"-0"], "CONTENT_LENGTH"),
        ([b"-1"], "CONTENT_LENGTH"),
        ([b"0_1"], "CONTENT_LENGTH"),
        ([b"1_0"], "CONTENT_LENGTH"),
        ([b"0 1"], "CONTENT_LENGTH"),
        ([b"0x5"], "CONTENT_LENGTH"),
        ([b"0o5"], "CONTENT_LENGTH"),
        ([b"5.0"], "CONTENT_LENGTH"),
        ([b"1e3"], "CONTENT_LENGTH"),
        ([b"5,"], "CONTENT_LENGTH"),
        ([b"5, 5"], "CONTENT_LENGTH"),
        ([b"5, 10"], "CONTENT_LENGTH"),
        ([b"\xb2"], "CONTENT_LENGTH"),
        ([b"99999999999999999999x"], "CONTENT_LENGTH"),
        ([b"5", b"5"], "FIELD_REPEATED"),
        ([b"5", b"10"], "FIELD_REPEATED"),
        ([b"9223372036854775808"], "CONTENT_LENGTH_HUGE"),
        ([b"18446744073709551621"], "CONTENT_LENGTH_HUGE"),  # 2^64+5
        ([b"99999999999999999999999999999999999999"], "CONTENT_LENGTH_HUGE"),
    ],
)
def test_refused_content_length(fields: list[bytes], error: str) -> None:
    assert head_in_every_way(request(*[b"Content-Length: " + text for text in fields])) == error


@pytest.mark.parametrize("text", [b"chunked", b"Chunked", b"CHUNKED", b"\tchunked \t"])
def test_chunked(text: bytes) -> None:
    found = accepted(request(b"Transfer-Encoding:" + text))
    assert (found.chunked, found.content_length) == (True, None)


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ([b"gzip, chunked"], "TRANSFER_CODING"),
        ([b"identity,chunked"], "TRANSFER_CODING"),
        ([b"gzip ,\tdeflate , Chunked"], "TRANSFER_CODING"),
        ([b"gzip"], "TRANSFER_ENCODING"),
        ([b"identity"], "TRANSFER_ENCODING"),
        ([b"xchunked"], "TRANSFER_ENCODING"),
        ([b"chunkedx"], "TRANSFER_ENCODING"),
        ([b""], "TRANSFER_ENCODING"),
        ([b","], "TRANSFER_ENCODING"),
        ([b",chunked"], "TRANSFER_ENCODING"),
        ([b", chunked"], "TRANSFER_ENCODING"),
        ([b"chunked,"], "TRANSFER_ENCODING"),
        ([b"gzip,,chunked"], "TRANSFER_ENCODING"),
        ([b"chunked, chunked"], "TRANSFER_ENCODING"),
        ([b"chunked, gzip"], "TRANSFER_ENCODING"),
        ([b"identity, chunked, identity, chunked"], "TRANSFER_ENCODING"),
        ([b"chunked;a=b"], "TRANSFER_ENCODING"),
        ([b"gzip;q=1, chunked"], "TRANSFER_ENCODING"),
        ([b'"chunked"'], "TRANSFER_ENCODING"),
        ([b"chunked chunked"], "TRANSFER_ENCODING"),
        ([b"ch\xfcnked"], "TRANSFER_ENCODING"),
        ([b"\x85chunked"], "TRANSFER_ENCODING"),
        ([b"\xa0chunked\xa0"], "TRANSFER_ENCODING"),
        ([b"\x0bchunked"], "FIELD_VALUE"),
        ([b"chunked\x0c"], "FIELD_VALUE"),
        ([b"\x1cchunked\x1f"], "FIELD_VALUE"),
        ([b"chunked\0"], "FIELD_VALUE"),
        ([b"chunked", b"chunked"], "FIELD_REPEATED"),
        ([b"chunked", b"gzip"], "FIELD_REPEATED"),
        ([b"chunked", b"identity"], "FIELD_REPEATED"),
    ],
)
def test_refused_transfer_encoding(fields: list[bytes], error: str) -> None:
    lines = [b"Transfer-Encoding: " + text for text in fields]
    assert head_in_every_way(request(*lines)) == error
    assert head_in_every_way(request(b"Content-Length: 5", *lines)) == error


def test_both_lengths_are_refused_in_either_order() -> None:
    lines = [b"Transfer-Encoding: chunked", b"Content-Length: 5"]
    assert head_in_every_way(request(*lines)) == "LENGTH_CONFLICT"
    assert head_in_every_way(request(*reversed(lines))) == "LENGTH_CONFLICT"


@pytest.mark.parametrize("text", [b"chunked", b"gzip", b""])
def test_transfer_encoding_in_http_1_0(text: bytes) -> None:
    data = request(b"Transfer-Encoding: " + text, line=b"POST / HTTP/1.0")
    assert head_in_every_way(data) == "TRANSFER_VERSION"


def test_one_content_type() -> None:
    assert accepted(request(b"Content-Type: text/plain")).fields[1].known == "content-type"
    assert head_in_every_way(request(b"Content-Type: text/plain", b"content-type: a/b")) == "FIELD_REPEATED"


# ---- Connection, Expect, Upgrade ----


@pytest.mark.parametrize(
    ("version", "fields", "keep_alive"),
    [
        (b"1.1", [], True),
        (b"1.1", [b"close"], False),
        (b"1.1", [b"foo, CLOSE"], False),
        (b"1.1", [b"foo", b"Close"], False),
        (b"1.1", [b",, close\t,"], False),
        (b"1.1", [b"closed, not-close, close it"], True),
        (b"1.1", [b"keep-alive"], True),
        (b"1.1", [b"keep-alive, close"], False),
        (b"1.1", [b"close", b"keep-alive"], False),
        (b"1.1", [b""], True),
        (b"1.0", [], False),
        (b"1.0", [b"Keep-Alive"], True),
        (b"1.0", [b"foo ,keep-alive"], True),
        (b"1.0", [b"keep-alive", b"close"], False),
        (b"1.0", [b"foo"], False),
    ],
)
def test_keep_alive(version: bytes, fields: list[bytes], keep_alive: bool) -> None:
    lines = [b"Connection: " + text for text in fields]
    assert accepted(request(*lines, line=b"GET / HTTP/" + version)).keep_alive is keep_alive


@pytest.mark.parametrize(
    ("version", "fields", "upgrade"),
    [
        (b"1.1", [b"Connection: Upgrade", b"Upgrade: websocket"], True),
        (b"1.1", [b"Upgrade: h2c", b"Connection: keep-alive, upgrade"], True),
        (b"1.1", [b"Upgrade: websocket"], False),
        (b"1.1", [b"Connection: upgrade"], False),
        (b"1.0", [b"Connection: Upgrade", b"Upgrade: websocket"], False),
    ],
)
def test_upgrade(version: bytes, fields: list[bytes], upgrade: bool) -> None:
    assert accepted(request(*fields, line=b"GET / HTTP/" + version)).upgrade is upgrade


@pytest.mark.parametrize(
    ("version", "fields", "outcome"),
    [
        (b"1.1", [], False),
        (b"1.1", [b"100-continue"], True),
        (b"1.1", [b"100-Continue"], True),
        (b"1.1", [b"100-continue", b"100-continue,"], True),
        (b"1.1", [b""], False),
        (b"1.1", [b"100"], "EXPECT"),
        (b"1.1", [b"200-ok"], "EXPECT"),
        (b"1.1", [b"100-continue, 200-ok"], "EXPECT"),
        (b"1.1", [b"100-continue", b"x=y"], "EXPECT"),
        (b"1.0", [b"100-continue"], False),
        (b"1.0", [b"200-ok"], False),
    ],
)
def test_expect(version: bytes, fields: list[bytes], outcome: bool | str) -> None:
    found = head_in_every_way(request(*[b"Expect: " + text for text in fields], line=b"POST / HTTP/" + version))
    assert (found.expect_continue if isinstance(found, Head) else found) == outcome


# ---- when ----


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"\n", "BARE_LF"),
        (b"\0", "METHOD"),
        (b"\r\n\r", "METHOD"),
        (b"GET / HTTP/1.1\n", "BARE_LF"),
        (b"GET / HTTP/1.1\rH", "BARE_CR"),
        (b"GET /\x00", "TARGET"),
        (b"GET /%00", "PERCENT_NUL"),
        (b"GET /%0\xe9", "TARGET_RAW"),
        (b"CONNECT ", "CONNECT"),
        (b"GET / HTTP/2.0\r\n", "UNSUPPORTED_VERSION"),
        (b"GET / HTTP/1.1\r\n ", "FIELD_FOLD"),
        (b"GET / HTTP/1.1\r\nX\n", "BARE_LF"),
        (b"GET / HTTP/1.1\r\nX ", "FIELD_SPACE"),
        (b"GET / HTTP/1.1\r\nX: \0", "FIELD_VALUE"),
        (b"GET / HTTP/1.1\r\nX: y\n", "BARE_LF"),
        (b"GET / HTTP/1.1\r\nHost: \r\n", "HOST"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n", "CONTENT_LENGTH"),
        (b"GET / HTTP/1.1\r\n\r\n", "HOST_MISSING"),
        (b"GET / HTTP/1.1\r\n\r\r", "BARE_CR"),
    ],
)
def test_a_fault_is_refused_when_its_byte_arrives(data: bytes, error: str) -> None:
    """A client that waits for an answer (after a bare LF, say) gets it at once and not after a timeout."""
    assert head(data[:-1]) is None
    assert head_in_every_way(data) == error


def test_the_first_fault_decides() -> None:
    assert head_in_every_way(request(b"X: \0", b"Y : z", host=None)) == "FIELD_VALUE"
    assert head_in_every_way(request(b"Content-Length: x", b"Host: b")) == "CONTENT_LENGTH"
    assert head_in_every_way(request(b"Host: b", b"Content-Length: x")) == "FIELD_REPEATED"
    assert head_in_every_way(request(b"Content-Length: 5", b"Transfer-Encoding: chunked", host=None)) == "HOST_MISSING"


def test_every_beginning_of_a_head_is_incomplete() -> None:
    data = b"\r\n" + request(b"Transfer-Encoding: chunked", line=b"POST http://b:1/c%20d?e HTTP/1.1")
    assert [length for length in range(len(data)) if head(data[:length]) is not None] == []
    assert isinstance(head(data), Head)


# ---- limits ----


@pytest.mark.parametrize(
    ("line", "error"),
    [
        (b"GET /%s HTTP/1.1", "LINE_TOO_LONG"),
        (b"GET /?%s HTTP/1.1", "LINE_TOO_LONG"),
        (b"GET http://%s/ HTTP/1.1", "LINE_TOO_LONG"),
        (b"GET http://h/%s HTTP/1.1", "LINE_TOO_LONG"),
    ],
)
def test_longest_request_line(line: bytes, error: str) -> None:
    fits = line % (b"a" * (202 - len(line)))
    assert len(fits) == 200
    accepted(request(line=fits), line=200)
    assert head_in_every_way(request(line=line % (b"a" * (203 - len(line)))), line=200) == error
    assert head(fits[:-9] + b"a" * 10, line=200) == error  # by its length alone, at once
    for limit in range(200):
        assert head_in_every_way(request(line=fits), line=limit) == error


def test_longest_field_line() -> None:
    fits = b"X-Name: " + b"v" * 192
    accepted(request(fits), field_size=200)
    assert head_in_every_way(request(fits + b"v"), field_size=200) == "FIELD_TOO_LONG"
    assert head_in_every_way(request(fits + b" "), field_size=200) == "FIELD_TOO_LONG"
    assert head_in_every_way(request(b"n" * 201 + b": v"), field_size=200) == "FIELD_TOO_LONG"
    assert head(b"GET / HTTP/1.1\r\n" + fits + b"v", field_size=200) == "FIELD_TOO_LONG"
    assert head(b"GET / HTTP/1.1\r\n" + fits, field_size=200) is None


def test_most_fields() -> None:
    fields = [b"X: %d" % number for number in range(9)]
    assert len(accepted(request(*fields), fields=10).fields) == 10
    assert head_in_every_way(request(*fields, b"Y: z"), fields=10) == "TOO_MANY_FIELDS"
    assert head(request(*fields)[:-2] + b"Y", fields=10) == "TOO_MANY_FIELDS"
    assert head_in_every_way(request(), fields=0) == "TOO_MANY_FIELDS"


def test_the_limit_of_fields_cannot_exceed_the_room_for_them() -> None:
    fields = [b"X: %d" % number for number in range(255)]
    assert len(accepted(request(*fields), fields=10_000).fields) == 256
    assert head_in_every_way(request(*fields, b"Y: z"), fields=10_000) == "TOO_MANY_FIELDS"


def test_largest_head() -> None:
    data = b"\r\n" + request(b"X: y", b"Y: " + b"z" * 100)
    accepted(data, head=len(data))
    for limit in range(len(data)):
        assert head_in_every_way(data, head=limit) == "HEAD_TOO_LARGE"
    # A head that has used up its bytes is refused, even if it would fill a buffer exactly (CVE-2024-49768).
    assert head(data[:100], head=100) == "HEAD_TOO_LARGE"
    assert head(data[:99], head=100) is None


def test_default_limits() -> None:
    accepted(request(line=b"GET /%s HTTP/1.1" % (b"a" * (8190 - 14))))
    assert head_in_every_way(request(line=b"GET /%s HTTP/1.1" % (b"a" * (8191 - 14)))) == "LINE_TOO_LONG"
    assert head_in_every_way(request(*[b"X: " + b"y" * 8000] * 9)) == "HEAD_TOO_LARGE"
