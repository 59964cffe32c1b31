"""Which requests a strict reader sees in the bytes of a connection: RFC 9112, with regular expressions.

It is for bytes of which their maker does not know what they are any more. Whoever refuses more than this reader is
cautious; whoever takes more runs what no client has asked for.
"""

from __future__ import annotations

import re
from typing import NamedTuple

MOST = 2**63 - 1  # of a length

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
QUOTED = rb'"(?:[\t \x21\x23-\x5b\x5d-\x7e\x80-\xff]|\\[\t \x21-\x7e\x80-\xff])*"'
VALUE = rb"[\t\x20-\x7e\x80-\xff]*"
# 3 Request Line. Targets that this server knows: a path, http and https, and * (3.2.1, 3.2.2, 3.2.4); no fragment.
REQUEST_LINE = re.compile(
    rb"(?P<method>" + TOKEN + rb") (?P<target>(?:/|(?i:https?)://)[!-\"$-~]*|\*) HTTP/1\.(?P<minor>[0-9])"
)
# 5 Field Syntax: no space before the colon, no folded line
FIELD = re.compile(rb"(?P<name>" + TOKEN + rb"):[ \t]*(?P<value>" + VALUE + rb")")
# 7.1 Chunked Transfer Coding, with the bad whitespace that a recipient must parse in 7.1.1
EXTENSION = rb"[ \t]*;[ \t]*" + TOKEN + rb"(?:[ \t]*=[ \t]*(?:" + TOKEN + rb"|" + QUOTED + rb"))?"
CHUNK_LINE = re.compile(rb"(?P<size>[0-9A-Fa-f]{1,16})(?:" + EXTENSION + rb")*")


class Seen(NamedTuple):
    """A request, and what it says of the connection."""

    method: bytes
    target: bytes
    version: bytes
    fields: list[tuple[bytes, bytes]]  # names in lower case
    body: bytes
    expects: bool  # 100 Continue
    closes: bool

    def values(self, name: bytes) -> list[bytes]:
        return [value for key, value in self.fields if key == name]

    def listed(self, name: bytes) -> list[bytes]:
        return [word.strip().lower() for value in self.values(name) for word in value.split(b",")]


class Reading(NamedTuple):
    requests: list[Seen]
    starts: list[int]  # where each begins
    end: str  # "refused", "incomplete", "closed", or "open" if nothing follows the last one


class Refused(Exception):  # noqa: N818
    """No strict reader takes this, or anything behind it."""


class Incomplete(Exception):  # noqa: N818
    pass


def read(data: bytes) -> Reading:
    requests: list[Seen] = []
    starts: list[int] = []
    at = 0
    try:
        while at < len(data):
            start = at
            if data.startswith(b"\r\n", at):  # 2.2: one empty line is skipped
                at += 2
                if at == len(data):
                    break
            seen, at = read_request(data, at)
            requests.append(seen)
            starts.append(start)
            if seen.closes:
                return Reading(requests, starts, "closed")
    except Refused:
        return Reading(requests, starts, "refused")
    except Incomplete:
        return Reading(requests, starts, "incomplete")
    return Reading(requests, starts, "open")


def line_at(data: bytes, at: int) -> tuple[bytes, int]:
    """A line without its CRLF, and where the next one begins."""
    end = data.find(b"\n", at)
    if end < 0:
        raise Incomplete
    line = data[at:end]
    if not line.endswith(b"\r") or b"\r" in line[:-1]:  # 2.2: bare LF, bare CR
        raise Refused
    return line[:-1], end + 1


def read_request(data: bytes, at: int) -> tuple[Seen, int]:
    line, at = line_at(data, at)
    first = REQUEST_LINE.fullmatch(line)
    if not first:
        raise Refused
    fields, at = read_fields(data, at)
    minor = int(first["minor"])
    seen = Seen(first["method"], first["target"], b"HTTP/1.%d" % minor, fields, b"", expects=False, closes=False)
    hosts = len(seen.values(b"host"))
    if hosts > 1 or (not hosts and minor):  # 3.2
        raise Refused
    body, at = read_body(data, at, seen, minor)
    options = seen.listed(b"connection")
    closes = b"close" in options or (not minor and b"keep-alive" not in options)  # 9.3
    expects = b"100-continue" in seen.listed(b"expect") and minor > 0
    return seen._replace(body=body, closes=closes, expects=expects), at


def read_fields(data: bytes, at: int) -> tuple[list[tuple[bytes, bytes]], int]:
    fields: list[tuple[bytes, bytes]] = []
    while True:
        line, at = line_at(data, at)
        if not line:
            return fields, at
        found = FIELD.fullmatch(line)
        if not found:
            raise Refused
        fields.append((found["name"].lower(), found["value"].strip(b" \t")))


def read_body(data: bytes, at: int, seen: Seen, minor: int) -> tuple[bytes, int]:
    """6 Message Body: of the two framings only one, of each only the plain form."""
    lengths, codings = seen.values(b"content-length"), seen.values(b"transfer-encoding")
    if len(lengths) + len(codings) > 1 or (codings and (not minor or codings[0].lower() != b"chunked")):
        raise Refused
    if codings:
        return read_chunks(data, at)
    if not lengths:
        return b"", at
    if not re.fullmatch(rb"0*[0-9]{1,19}", lengths[0]) or int(lengths[0]) > MOST:
        raise Refused
    end = at + int(lengths[0])
    if end > len(data):
        raise Incomplete
    return data[at:end], end


def read_chunks(data: bytes, at: int) -> tuple[bytes, int]:
    body = b""
    while True:
        line, at = line_at(data, at)
        found = CHUNK_LINE.fullmatch(line)
        size = int(found["size"], 16) if found else -1
        if not 0 <= size <= MOST:
            raise Refused
        if not size:
            _, at = read_fields(data, at)  # the trailers
            return body, at
        chunk, after = data[at : at + size], data[at + size : at + size + 2]
        if after != b"\r\n"[: len(after)]:
            raise Refused
        if len(after) < 2:
            raise Incomplete
        body += chunk
        at += size + 2
