"""Where parsers of HTTP/1.1 differ, what pyserve has chosen, and why: docs/conformance.md has the same tables.

Each choice says of any bytes whether it applies to them. It finds that out for itself, with regular expressions over
the lines, and not from a parser: so a test can predict what pyserve does from what other parsers do.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from typing import NamedTuple

# ---- bytes as lines, in the most lenient reading ----


class View(NamedTuple):
    before: bytes  # empty lines before the request line
    lines: list[bytes]  # of the head, without LF: a CR should be there
    end: bytes  # the empty line, without LF
    body: bytes  # and what follows it

    @property
    def texts(self) -> list[bytes]:
        return [line.removesuffix(b"\r") for line in self.lines]

    def part(self, number: int) -> bytes:
        """Of the request line: method, target, version."""
        parts = self.texts[0].split(b" ", 2)
        return parts[number] if number < len(parts) else b""

    @property
    def minor(self) -> int:
        """The minor version; 1 if there is none."""
        found = re.fullmatch(rb"HTTP/1\.(\d)", self.part(2))
        return int(found[1]) if found else 1

    def values(self, name: bytes) -> list[bytes]:
        fields = [text.partition(b":") for text in self.texts[1:]]
        return [value.strip(b" \t") for key, _, value in fields if key.lower() == name]

    @property
    def size_lines(self) -> list[tuple[int, bytes]]:
        """Those of a chunked body, without LF, and where in it they are; as far as there is sense in them."""
        found: list[tuple[int, bytes]] = []
        at = 0
        while self.values(b"transfer-encoding") and (end := self.body.find(b"\n", at)) >= 0:
            found.append((at, self.body[at:end]))
            size = int(digits(self.body[at:end]) or b"0", 16)
            at = end + 1 + size
            if size == 0 or self.body[at : at + 2] != b"\r\n":
                break
            at += 2
        return found

    @property
    def trailers(self) -> list[bytes]:
        """The lines behind the last chunk, without LF."""
        sizes = self.size_lines
        if not sizes or int(digits(sizes[-1][1]) or b"1", 16):
            return []
        at, last = sizes[-1]
        found = re.match(rb"(?:[^\n]*[^\r\n][^\n]*\n)*(?:\r?\n)?", self.body[at + len(last) + 1 :])
        return found[0].split(b"\n")[:-1] if found else []

    @property
    def field_texts(self) -> list[bytes]:
        """The lines of fields, trailers too, without CR and LF."""
        return [*self.texts[1:], *(line.removesuffix(b"\r") for line in self.trailers)]


def digits(line: bytes) -> bytes:
    """The chunk size with which a line begins."""
    found = re.match(rb"[0-9a-fA-F]*", line)
    return found[0] if found else b""


def view(data: bytes) -> View | None:
    """None if no head is complete."""
    before = re.match(rb"[\r\n]*", data)
    assert before
    found = re.match(rb"(.*?)\n(\r?)\n", data[before.end() :], re.DOTALL)
    if not found:
        return None
    return View(before[0], found[1].split(b"\n"), found[2], data[before.end() + found.end() :])


# ---- what pyserve refuses although h11 or llhttp takes it: does it apply? ----

TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
ENCODED = rb"%[0-9a-fA-F]{2}"
REG_NAME = rb"(?:[-A-Za-z0-9._~!$&'()*+;=]|" + ENCODED + rb")+"  # without the comma
FORM = rb"(?:/|(?i:https?)://[-\w.~!$&'()*+,;=%:@\[\]]*(?=[/?]|$))"
CONTROL = rb"[\x00-\x08\x0b-\x1f\x7f]"
QUOTED = rb'"(?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[^\x00-\x08\x0a-\x1f\x7f])*"'
BWS = rb"[ \t]*"
EXTENSION = rb";" + BWS + TOKEN + rb"(?:" + BWS + rb"=" + BWS + rb"(?:" + TOKEN + rb"|" + QUOTED + rb"))?"
EXTENSIONS = rb"(?:" + EXTENSION + BWS + rb"(?=;))*" + EXTENSION
MOST = 2**63 - 1


def all_lines(v: View) -> list[bytes]:
    return [*v.lines, v.end, *(line for _, line in v.size_lines), *v.trailers]


def has_bare_lf(v: View) -> bool:
    return bool(re.search(rb"(?<!\r)\n", v.before)) or not all(line.endswith(b"\r") for line in all_lines(v))


def has_bare_cr(v: View) -> bool:
    return bool(re.search(rb"\r(?!\n)", v.before)) or any(b"\r" in line.removesuffix(b"\r") for line in all_lines(v))


def is_not_a_target(v: View) -> bool:
    target = v.part(1)
    if len(v.texts[0].split(b" ")) < 3:
        return True  # HTTP/0.9
    if target == b"*":
        return v.part(0) != b"OPTIONS"
    return b"#" in target or not re.fullmatch(FORM + rb"[!-~]*", target)


def is_not_an_authority(text: bytes) -> bool:
    found = re.fullmatch(rb"(\[[^]]*\]|" + REG_NAME + rb")(?::(\d*))?", text)
    if not found or int(found[2] or 0) > 65535:
        return True
    return found[1].startswith(b"[") and not is_ipv6(found[1][1:-1])


def is_ipv6(text: bytes) -> bool:
    try:
        return bool(socket.inet_pton(socket.AF_INET6, text.decode("latin-1")))
    except (OSError, ValueError):
        return False


def authority(v: View) -> bytes | None:
    found = re.match(rb"(?i:https?)://([^/?#]*)", v.part(1))
    return found[1] if found else None


def has_a_bad_host(v: View) -> bool:
    hosts = [*v.values(b"host"), *([] if authority(v) is None else [authority(v) or b""])]
    return any(map(is_not_an_authority, hosts))


def is_repeated(v: View) -> bool:
    return any(len(v.values(name)) > 1 for name in (b"host", b"content-length", b"transfer-encoding", b"content-type"))


def imitates_framing(v: View) -> bool:
    names = [text.partition(b":")[0].lower() for text in v.texts[1:]]
    return b"content_length" in names or b"transfer_encoding" in names


def codings(value: bytes) -> list[bytes]:
    return [coding.strip(b" \t").lower() for coding in value.split(b",")]


def is_framed(value: bytes) -> bool:
    """Are these codings of which chunked, and nothing but chunked, is the last?"""
    names = codings(value)
    return (
        names.index(b"chunked") == len(names) - 1 and all(map(re.compile(TOKEN).fullmatch, names))
        if b"chunked" in names
        else False
    )


def names_another_coding(v: View) -> bool:
    return any(is_framed(value) and codings(value) != [b"chunked"] for value in v.values(b"transfer-encoding"))


def is_not_chunked(v: View) -> bool:
    return not all(map(is_framed, v.values(b"transfer-encoding")))


def expects_something_else(v: View) -> bool:
    expected = [each.strip(b" \t").lower() for value in v.values(b"expect") for each in value.split(b",")]
    return v.minor > 0 and any(each not in (b"", b"100-continue") for each in expected)


def size_texts(v: View) -> list[bytes]:
    return [line.removesuffix(b"\r") for _, line in v.size_lines]


def has_a_huge_chunk(v: View) -> bool:
    return any(len(digits(text)) > 16 or int(digits(text) or b"0", 16) > MOST for text in size_texts(v))


def has_a_bad_extension(v: View) -> bool:
    extensions = [text[len(digits(text)) :] for text in size_texts(v)]
    return any(text.startswith(b";") and not re.fullmatch(EXTENSIONS, text) for text in extensions)


FORBIDDEN = re.compile(
    rb"(?i:host|content[-_]length|transfer[-_]encoding|connection|trailer|te|expect|upgrade|cookie)[ \t]*:"
)


def has_a_forbidden_trailer(v: View) -> bool:
    return any(map(FORBIDDEN.match, v.trailers))


class Refusal(NamedTuple):
    applies: Callable[[View], bool]
    rfc: str
    why: str


# By the names of the parser's errors (workers/pyserve_workers/http1/http1.h).
REFUSED: dict[str, Refusal] = {
    "BARE_LF": Refusal(
        has_bare_lf,
        "9112 2.2",
        "A line may be taken to end in LF alone. Proxies disagree about it, and it decides where a head ends.",
    ),
    "BARE_CR": Refusal(
        has_bare_cr,
        "9112 2.2",
        "CR without LF is invalid everywhere, also inside chunk extensions and before a request.",
    ),
    "METHOD": Refusal(
        lambda v: v.before.startswith(b"\r\n\r"),
        "9112 2.2",
        "A second empty line before a request is not skipped: one is asked for, and who sends more may send them for ever.",
    ),
    "METHOD_TOO_LONG": Refusal(
        lambda v: len(v.part(0)) > 32,
        "9110 9.1",
        "No registered method is longer than 32 bytes; the length of a token has no limit.",
    ),
    "TARGET": Refusal(
        is_not_a_target,
        "9112 3.2",
        "Only these forms: a path, http or https with an authority, `*` with OPTIONS. No fragment: it is the client's own, and readers disagree whether it belongs to the path. HTTP/0.9 has no version and ends here.",
    ),
    "VERSION": Refusal(
        lambda v: not re.fullmatch(rb"HTTP/\d\.\d", v.part(2)),
        "9112 3",
        "One space stands before the version. A reader that takes more may take them for a part of the target.",
    ),
    "UNSUPPORTED_VERSION": Refusal(
        lambda v: bool(re.fullmatch(rb"HTTP/[02-9]\.\d", v.part(2))),
        "9110 15.6.6",
        "Another major version is another protocol: 505.",
    ),
    "CONNECT": Refusal(
        lambda v: v.part(0) == b"CONNECT",
        "9110 9.3.6",
        "It asks for a tunnel; an origin server has none to offer: 501.",
    ),
    "PERCENT_NUL": Refusal(
        lambda v: b"%00" in v.part(1).partition(b"?")[0],
        "3986 7.3",
        "The path is decoded for the application and often names a file. In a query it is taken.",
    ),
    "USERINFO": Refusal(
        lambda v: b"@" in (authority(v) or b""),
        "9110 4.2.4",
        "User information in a target most likely hides the true authority.",
    ),
    "HOST_MISSING": Refusal(
        lambda v: v.minor > 0 and not v.values(b"host"),
        "9112 3.2",
        "400 is a MUST with HTTP/1.1. It is left to the user of llhttp.",
    ),
    "HOST": Refusal(
        has_a_bad_host,
        "9112 3.2",
        "An invalid Host is 400, a MUST. Both leave the grammar to their user. Empty is invalid too: an http URI has a host.",
    ),
    "FIELD_FOLD": Refusal(
        lambda v: any(text[:1] in (b" ", b"\t") for text in v.field_texts),
        "9112 5.2",
        "Refuse it or replace it by spaces; refused, since it hides field lines from others.",
    ),
    "FIELD_VALUE": Refusal(
        lambda v: any(re.search(CONTROL, text.partition(b":")[2]) for text in v.field_texts),
        "9110 5.5",
        "CR, LF and NUL are dangerous; the other control characters are in no value's grammar. HTAB and bytes above 0x7f are taken.",
    ),
    "FIELD_REPEATED": Refusal(
        is_repeated,
        "9112 3.2, 9110 8.6",
        "One Host is a MUST. Content-Length (even with the same value), Transfer-Encoding and Content-Type twice let a proxy and the application see different things.",
    ),
    "FIELD_UNDERSCORE": Refusal(
        imitates_framing,
        "3875 4.1.18",
        "In an environ `Content_Length` is Content-Length, which a proxy in front has not seen. Other names with `_` are dropped, not refused.",
    ),
    "CONTENT_LENGTH": Refusal(
        lambda v: any(not re.fullmatch(rb"[0-9]+", value) for value in v.values(b"content-length")),
        "9110 8.6",
        "A list of equal numbers (`5, 5`) may be refused or merged. Nobody sends it in earnest.",
    ),
    "CONTENT_LENGTH_HUGE": Refusal(
        lambda v: any(value.isdigit() and int(value) > MOST for value in v.values(b"content-length")),
        "9110 8.6",
        "Beyond 2^63-1 a length does not fit where others keep it.",
    ),
    "TRANSFER_ENCODING": Refusal(
        is_not_chunked,
        "9112 6.1",
        "chunked must be the last coding and occur once. A list with empty elements or parameters is refused as well: no sender has a use for it, but smugglers do.",
    ),
    "TRANSFER_CODING": Refusal(
        names_another_coding,
        "9112 6.1",
        "A coding that is not known is 501. The message could be framed, but not understood.",
    ),
    "TRANSFER_VERSION": Refusal(
        lambda v: v.minor == 0 and bool(v.values(b"transfer-encoding")),
        "9112 6.1",
        "HTTP/1.0 knows no Transfer-Encoding: its framing is to be treated as faulty.",
    ),
    "LENGTH_CONFLICT": Refusal(
        lambda v: bool(v.values(b"transfer-encoding") and v.values(b"content-length")),
        "9112 6.1",
        "Both framing fields may be an attempt to smuggle a request: refusing is allowed, and the safe choice.",
    ),
    "EXPECT": Refusal(
        expects_something_else,
        "9110 10.1.1",
        "417 for what is not 100-continue (MAY): whoever expects something would wait for it.",
    ),
    "CHUNK_SIZE": Refusal(
        lambda v: any(not re.fullmatch(rb"[0-9a-fA-F]+(;.*)?", text, re.DOTALL) for text in size_texts(v)),
        "9112 7.1.1",
        "The size ends at CRLF or `;`. Whitespace there is bad whitespace that a recipient must parse before `;`, but llhttp, and h11 before an extension, no longer do: it has been used to smuggle requests.",
    ),
    "CHUNK_HUGE": Refusal(
        has_a_huge_chunk,
        "9112 7.1",
        "At most 16 digits, leading zeros included, and at most 2^63-1: endless zeros would be endless work.",
    ),
    "CHUNK_EXTENSION": Refusal(
        has_a_bad_extension, "9112 7.1.1", "`;` needs a name, `=` a value. Both take an extension without its value."
    ),
    "TRAILER_FORBIDDEN": Refusal(
        has_a_forbidden_trailer,
        "9110 6.5.1",
        "Framing, routing and authentication are settled before the content comes. Such trailers could be dropped, as all others are; whoever sends them hopes that somebody merges them.",
    ),
}


def refusals(data: bytes) -> set[str]:
    """The names of those that apply."""
    seen = view(data)
    return set() if seen is None else {name for name, choice in REFUSED.items() if choice.applies(seen)}


# ---- what pyserve takes although one of them refuses it: the same bytes without that ----

REGISTERED = set(
    b"DELETE GET HEAD POST PUT CONNECT OPTIONS TRACE COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND UNBIND ACL"
    b" REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PATCH PURGE MKCALENDAR LINK UNLINK QUERY".split()
)


def with_a_registered_method(data: bytes) -> bytes:
    found = re.match(rb"(?:\r\n)?(" + TOKEN + rb") ", data)
    return (
        data
        if not found or len(found[1]) > 32 or found[1] in REGISTERED
        else data[: found.start(1)] + b"POST" + data[found.end(1) :]
    )


def with_version_1_1(data: bytes) -> bytes:
    return re.sub(rb"\A((?:\r\n)?[^\r\n]* HTTP/1\.)[2-9]\r\n", rb"\g<1>1\r\n", data)


def without_an_empty_line(data: bytes) -> bytes:
    return re.sub(rb"\A\r\n(?![\r\n])", b"", data)


def without_whitespace_in_extensions(data: bytes) -> bytes:
    seen = view(data)
    if seen is None:
        return data
    start = len(data) - len(seen.body)
    for at, line in reversed(seen.size_lines):
        if re.fullmatch(rb"[0-9a-fA-F]+" + EXTENSIONS + rb"\r", line):
            without = re.sub(rb"(" + QUOTED + rb")|[ \t]+", rb"\1", line)
            data = data[: start + at] + without + data[start + at + len(line) :]
    return data


def without_upgrade(data: bytes) -> bytes:
    seen = view(data)
    if seen is None or b"upgrade" not in b",".join(seen.values(b"connection")).lower():
        return data
    head = data[: len(data) - len(seen.body)]
    return re.sub(rb"(?i)\nUpgrade:", b"\nX-Was-Upgrade:", head) + seen.body


def without_a_tab_behind_chunked(data: bytes) -> bytes:
    return re.sub(rb"(?i)(\nTransfer-Encoding:[ \t]*chunked)[ \t]+\r\n", rb"\1\r\n", data)


class Liberty(NamedTuple):
    without: Callable[[bytes], bytes]
    refused_by: str
    rfc: str
    why: str


TAKEN: dict[str, Liberty] = {
    "an unregistered method": Liberty(
        with_a_registered_method,
        "llhttp",
        "9110 9.1",
        "The application decides which methods it has; it must be a token of at most 32 bytes. Others have a list.",
    ),
    "HTTP/1.2 to 1.9": Liberty(
        with_version_1_1,
        "llhttp",
        "9110 2.5",
        "A higher minor version is to be processed as the highest that is known.",
    ),
    "an empty line before the request": Liberty(
        without_an_empty_line,
        "h11",
        "9112 2.2",
        "One CRLF is skipped (SHOULD): old clients end a POST body with one too many.",
    ),
    "whitespace within chunk extensions": Liberty(
        without_whitespace_in_extensions,
        "llhttp",
        "9112 7.1.1, 9110 5.6.3",
        "Behind `;` and around `=` a recipient must parse it.",
    ),
    "a tab behind `chunked`": Liberty(
        without_a_tab_behind_chunked,
        "llhttp",
        "9110 5.5, 5.6.3",
        "Whitespace around a value, HTAB too, is no part of it.",
    ),
    "a request to upgrade": Liberty(
        without_upgrade,
        "llhttp",
        "9110 7.8",
        "pyserve speaks HTTP/1.1 only and ignores Upgrade; the request is served. The other one stops at its head.",
    ),
}


def without_liberties(data: bytes) -> tuple[bytes, list[str]]:
    """The same request without what only some take, and what that was."""
    applied = []
    for name, liberty in TAKEN.items():
        plainer = liberty.without(data)
        if plainer != data:
            applied.append(name)
        data = plainer
    return data, applied
